"""What `CudaPool`'s calls check of their arguments, and how they become launches."""

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv._arguments import refuse
from nbkv._demand import ready
from nbkv.pools import checks, cuda_moves, cuda_shapes, moves
from nbkv.pools.calls import Words
from nbkv.pools.check_kernels import mark_written
from nbkv.pools.cuda_addressing import BLOCKS_32, SLOTS_32, SLOTS_64
from nbkv.pools.cuda_device import Memory
from nbkv.pools.cuda_memory import CudaMemory
from nbkv.pools.cuda_shapes import Indices, Rows
from nbkv.pools.foreign import Foreign, describe, row_major
from nbkv.pools.host_memory import HostMemory
from nbkv.pools.memory import copy_written

_QUANTISED_ALIGNMENT = 16
_ALIGNMENT = 8


class CudaSources(CudaMemory):
    """Checks what others hand in and launches: see `CudaPool`."""

    def _layers(self, layer: int | None) -> tuple[int, int]:
        """Return the first layer of a call and how many it is about."""
        return (0, self.geometry.num_layers) if layer is None else (layer, 1)

    def _check_rows(self, name: str, array: object, leading: tuple[int | None, ...]) -> Foreign:
        """Check keys, values or what takes them, in device memory."""
        g = self.geometry
        alignment = _QUANTISED_ALIGNMENT if g.dtype in checks.QUANTISED else _ALIGNMENT
        found = checks.check_rows(name, array, g, leading, alignment)
        if not self._device.reaches(found):
            refuse(name, "in the CPU's memory", "in a device's; numba.cuda.to_device copies it")
        return found

    def _append(self, layer: int | None, sources: list[Foreign], slot_mapping: object) -> None:
        """Write checked keys and values to slots that are not."""
        key, *rest = map(Rows.of, sources)
        value = rest[0] if rest else None
        first, layers = self._layers(layer)
        num_tokens = sources[0].shape[-3]
        at = self._device_slots(slot_mapping, num_tokens)
        if at is not None:
            stream = self._ordered_stream()
            cuda_moves.append(self._place, first, layers, key, value, at, stream)
            return
        slots = checks.check_slots(slot_mapping, num_tokens, self._slot_marks)
        stream = self._ordered_stream()
        (address,) = self._staged(stream).put(stream, slots)
        at = Indices(address, SLOTS_64, num_tokens)
        cuda_moves.append(self._place, first, layers, key, value, at, stream)
        ready(mark_written)(slots, self._slot_marks)

    def _device_slots(self, slot_mapping: object, num_tokens: int) -> Indices | None:
        """Describe slots in device memory; None where they are on the host."""
        if isinstance(slot_mapping, (np.ndarray, list, tuple)):
            return None
        found = describe("slot_mapping", slot_mapping)
        if not found.on_cuda:
            return None
        kinds = {"int64": (SLOTS_64, 8), "int32": (SLOTS_32, 4)}
        if found.dtype_name not in kinds:
            refuse("slot_mapping's dtype", found.dtype_name, "int64 or int32")
        kind, item = kinds[found.dtype_name]
        if found.shape != (num_tokens,):
            refuse("slot_mapping's shape", found.shape, f"({num_tokens},)")
        if num_tokens > 1 and found.strides != (item,):
            refuse("slot_mapping's stride", found.strides[0], f"{item} bytes: contiguous")
        if found.address % item:
            refuse("slot_mapping's address", found.address, f"a multiple of {item}")
        return Indices(found.address, kind, num_tokens)

    def _block_indices(
        self,
        block_ids: Words,
        num_tokens: int,
        stream: Any,  # noqa: ANN401
    ) -> Indices:
        """Upload the block_ids of consecutive tokens."""
        (address,) = self._staged(stream).put(stream, block_ids.astype(np.int32))
        return Indices(address, BLOCKS_32, num_tokens)

    def _new_rows(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Any:  # noqa: ANN401
        strides = row_major(shape, dtype.itemsize)
        memory = self._device.allocate(strides[0] * shape[0])
        return self._device.view(memory.address, shape, strides, dtype, memory)

    def _copy_blocks(self, pairs: Words) -> tuple[Words, int]:
        stream = self._ordered_stream()
        narrow = pairs.astype(np.int32)
        cuda_moves.copy_blocks(self._place, self._staged(stream), narrow, stream)
        return moves.pair_pieces(pairs, 1, 1), self.geometry.block_size

    def _copy_tokens(self, pairs: Words, counts: Words) -> Words:
        stream = self._ordered_stream()
        staging, short = self._staged(stream), counts.astype(np.int32)
        cuda_moves.copy_rows(self._place, staging, pairs.astype(np.int32), short, stream)
        return moves.pair_pieces(pairs * self.geometry.block_size, 1, counts)

    def _read(self, layer: int | None, block_ids: Words, target: Foreign) -> None:
        stream = self._ordered_stream()
        at = self._block_indices(block_ids, target.shape[-3], stream)
        rows, by_kv = cuda_shapes.planes_of(target)
        first, layers = self._layers(layer)
        cuda_moves.gather(self._place, first, layers, rows, by_kv, at, stream)

    def _write(self, layer: int | None, block_ids: Words, source: Foreign) -> None:
        stream = self._ordered_stream()
        at = self._block_indices(block_ids, source.shape[-3], stream)
        key, by_kv = cuda_shapes.planes_of(source)
        has_value = self.geometry.kv_factor > 1
        value = replace(key, address=key.address + by_kv) if has_value else None
        first, layers = self._layers(layer)
        cuda_moves.append(self._place, first, layers, key, value, at, stream)

    def _zero(self, block_ids: Words) -> None:
        stream = self._ordered_stream()
        # Twice the same block would be two stores to one place.
        narrow = np.unique(block_ids).astype(np.int32)
        cuda_moves.zero(self._place, self._staged(stream), narrow, stream)

    def _check_swap(
        self, block_ids: object, host_pool: object, host_block_ids: object, is_in: bool
    ) -> npt.NDArray[np.int32]:
        """Check an exchange with a pool on the host and return its pairs."""
        if not isinstance(host_pool, HostMemory):
            raise TypeError(f"host_pool is {host_pool!r}; it must be a nbkv.HostPool")
        own, other = self.geometry, host_pool.geometry
        checks.check_same_shape("host_pool", other, own)
        if own.dtype == "fp8" and not np.array_equal(host_pool.scales, self._scales):
            refuse("host_pool's scales", host_pool.scales, "those of this pool")
        for name, g in (("this pool", own), ("host_pool", other)):
            if not g.is_chunk_contiguous:
                refuse(name, "with rows that lie apart", "without gaps in a block of a layer")
        if own.num_kv_heads > 1 and own.block_size > 1 and own.token_order != other.token_order:
            refuse("host_pool's token_order", other.token_order, own.token_order)
        fro = checks.check_block_ids("block_ids", block_ids, own.num_blocks, is_in)
        to = checks.check_block_ids("host_block_ids", host_block_ids, other.num_blocks, not is_in)
        if fro.size != to.size:
            refuse("host_block_ids", f"{to.size} blocks", f"as many as block_ids, {fro.size}")
        pairs = (to, fro) if is_in else (fro, to)
        return np.stack(pairs, axis=1).astype(np.int32)

    def _host_words(self, host_pool: HostMemory) -> int:
        """Return the address of a host pool's words on this device, uploaded once."""
        known = _host_words.setdefault(host_pool, {})
        memory = known.get(self._device)
        if memory is None:
            start = int(host_pool.geometry.bases.min())
            mapped = self._device.mapped_address(start)
            if mapped is None:
                refuse("host_pool", "not page-locked", "HostPool(..., pinned=True)")
            words = cuda_shapes.make_words(host_pool.geometry)
            words[-host_pool.geometry.bases.size :] += mapped - start
            memory = self._device.allocate(words.nbytes)
            self._device.upload(memory.address, words, self._stream)
            known[self._device] = memory
        return memory.address

    def _swap(
        self,
        host_pool: HostMemory,
        pairs: npt.NDArray[np.int32],
        stream: Any,  # noqa: ANN401
        is_in: bool,
    ) -> Any:  # noqa: ANN401
        """Launch an exchange and return the event behind it."""
        host_words, device = self._host_words(host_pool), self._device
        if stream is None:
            if self._side_stream is None:
                self._side_stream = device.new_stream()
            chosen = self._side_stream
            device.wait(chosen, device.record(self._stream))
        else:
            chosen = device.as_stream(stream)
        words = (host_words, self._words.address) if is_in else (self._words.address, host_words)
        run = cuda_shapes.common_run(self.geometry, host_pool.geometry)
        cuda_moves.swap(self._place, *words, run, self._staged(chosen), pairs, chosen)
        done = device.record(chosen)
        if stream is None:
            self._pending.append(done)
        source, destination = (host_pool, self) if is_in else (self, host_pool)
        copy_written(source, destination, pairs)
        return done


#: Host pools' words by pool and device; a pool that goes takes its own along.
_host_words: "weakref.WeakKeyDictionary[HostMemory, dict[Any, Memory]]" = (
    weakref.WeakKeyDictionary()
)
