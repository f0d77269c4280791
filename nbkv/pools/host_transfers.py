"""How `HostPool`'s calls become pieces for kernels."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv._arguments import refuse
from nbkv._demand import ready
from nbkv.pools import checks, moves
from nbkv.pools.check_kernels import mark_written
from nbkv.pools.copy_kernels import find_runs
from nbkv.pools.foreign import Foreign, address_of
from nbkv.pools.geometry import FIRST_BASE
from nbkv.pools.host_memory import HostMemory
from nbkv.pools.memory import copy_written

Words = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_NO_SCALES: Final = np.empty(0, np.float32)


class HostTransfers(HostMemory):
    """Moves vectors between a pool and tensors, given what is checked already."""

    def _check_rows(self, name: str, array: object, leading: tuple[int | None, ...]) -> Foreign:
        found = checks.check_rows(name, array, self.geometry, leading)
        checks.check_on_host(name, found)
        return found

    def _new_rows(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> npt.NDArray[Any]:
        return np.empty(shape, dtype)

    def _plain_sources(
        self, first: object, second: object, leading: tuple[int, ...]
    ) -> list[Foreign]:
        """Describe keys and values that nothing can be wrong with: the hot path; or none."""
        if type(first) is not np.ndarray or type(second) is not np.ndarray:
            return []
        shape, dtype, name = first.shape, first.dtype, self._plain_names.get(first.dtype)
        if second.shape != shape or second.dtype is not dtype or name is None:
            return []
        fits = shape[:-3] == leading and shape[-2:] == self.geometry.row_shape
        if not (fits and first.flags.carray and second.flags.carray and first.size):
            return []
        strides = first.strides
        return [
            Foreign(address_of(array), shape, strides, name, False, False, array)
            for array in (first, second)
        ]

    def _append(self, layer: int | None, sources: list[Foreign], slot_mapping: object) -> None:
        """Write checked keys and values to slots that are not."""
        g = self.geometry
        slots = checks.check_slots(slot_mapping, sources[0].shape[-3], self._slot_marks)
        pieces = np.empty((slots.size, 3), np.int64)
        pieces = pieces[: ready(find_runs)(slots, g.block_size, pieces)]
        first = sources[0]
        last = sources[-1]
        alike = last.strides == first.strides and last.dtype_name == first.dtype_name
        layers = range(g.num_layers if layer is None else 1)
        by_layer = first.strides[0] if layer is None else 0
        count = slots.size
        if alike:
            addresses = [source.address + i * by_layer for i in layers for source in sources]
            self._transfer(layer, None, pieces, count, first, addresses, into=True)
        else:
            for kv, source in enumerate(sources):
                by_layer = source.strides[0] if layer is None else 0
                addresses = [source.address + i * by_layer for i in layers]
                self._transfer(layer, kv, pieces, count, source, addresses, into=True)
        ready(mark_written)(slots, self._slot_marks)

    def _copy_blocks(self, pairs: Words) -> tuple[Words, int]:
        pieces = self._whole_blocks.copy(pairs, self.num_threads)
        return pieces, self.geometry.block_size // self._whole_blocks.scale

    def _copy_tokens(self, pairs: Words, counts: Words) -> Words:
        size = self.geometry.block_size
        place, shape = self._place(None, None), self._shape(None, None)
        pieces = moves.pair_pieces(pairs * size, 1, counts)
        num_bytes = int(counts.sum()) * self.config.bytes_per_block // size
        moves.copy_pieces(pieces, place, place, shape, num_bytes, self.num_threads)
        return pieces

    def _read(self, layer: int | None, block_ids: Words, target: Foreign) -> None:
        self._transfer_blocks(layer, block_ids, target, into=False)

    def _write(self, layer: int | None, block_ids: Words, source: Foreign) -> None:
        self._transfer_blocks(layer, block_ids, source, into=True)

    def _transfer_blocks(
        self, layer: int | None, block_ids: Words, tensor: Foreign, into: bool
    ) -> None:
        """Move the tokens of a row of blocks to or from a tensor of all their planes."""
        count = tensor.shape[-3]
        pieces = moves.block_pieces(block_ids, self.geometry.block_size, count, into)
        self._transfer(layer, None, pieces, count, tensor, self._addresses(tensor), into)

    def _zero(self, block_ids: Words) -> None:
        for layer, kv in np.ndindex(self.geometry.bases.shape):
            self.layer(layer, kv)[block_ids] = 0
        if self.geometry.dtype == "int8":
            self.scales[block_ids] = 0

    def _addresses(self, tensor: Foreign) -> list[int]:
        """Return where each plane begins in a tensor (..., kv, tokens, heads, head_dim)."""
        *by_layer, by_kv = tensor.strides[:-3]
        *layers, planes = tensor.shape[:-3]
        starts = [tensor.address + i * by_layer[0] for i in range(layers[0])] if layers else None
        return [start + k * by_kv for start in starts or [tensor.address] for k in range(planes)]

    def _place(self, layer: int | None, kv: int | None) -> Words:
        """Describe this pool, or a part of its planes, as a place."""
        place = self._places.get((layer, kv))
        if place is None:
            whole = self.geometry.as_words(layer)
            bases = whole[FIRST_BASE:].reshape(-1, self.geometry.kv_factor)
            chosen = bases if kv is None else bases[:, kv]
            place = np.concatenate((whole[:FIRST_BASE], chosen.ravel()))
            self._places[(layer, kv)] = place
        return place

    def _shape(self, layer: int | None, kv: int | None) -> Words:
        """Describe what this pool has in common with a tensor of a part of its planes."""
        is_one = layer is not None, kv is not None
        shape = self._shapes.get(is_one)
        if shape is None:
            g = self.geometry
            planes = (1 if is_one[0] else g.num_layers) * (1 if is_one[1] else g.kv_factor)
            shape = self._shapes[is_one] = moves.make_shape(g, planes)
        return shape

    def _transfer(
        self,
        layer: int | None,
        kv: int | None,
        pieces: Words,
        num_tokens: int,
        tensor: Foreign,
        addresses: list[int],
        into: bool,
    ) -> None:
        """Move pieces between the pool and a tensor whose planes begin at these addresses."""
        g = self.geometry
        place = self._place(layer, kv)
        other = moves.tensor_place(tensor, addresses, g.block_size)
        source, destination = (other, place) if into else (place, other)
        shape = self._shape(layer, kv)
        row = num_tokens * len(addresses) * g.num_kv_heads
        if g.dtype not in checks.QUANTISED:
            num_bytes = row * g.row_bytes
            moves.copy_pieces(pieces, source, destination, shape, num_bytes, self.num_threads)
            return
        scales = _NO_SCALES
        if g.dtype == "fp8":
            full = self._inverse_scales if into else self._scales
            chosen = full if layer is None else full[layer : layer + 1]
            scales = np.ascontiguousarray(chosen if kv is None else chosen[:, kv]).ravel()
        kernels = moves.ENCODE if into else moves.DECODE
        code = checks.FLOAT_CODES[tensor.dtype_name]
        moves.convert_pieces(
            kernels,
            pieces,
            source,
            destination,
            shape,
            row * g.head_dim,
            scales,
            code,
            self.num_threads,
        )


def check_peer(pool: HostMemory, other: object, stream: object) -> None:
    """Check that two pools can exchange blocks."""
    if not isinstance(other, HostMemory):
        raise TypeError(f"host_pool is {other!r}; it must be a nbkv.HostPool")
    if other is pool:
        refuse("host_pool", "this pool", "another one; see copy_blocks")
    if stream is not None:
        refuse("stream", stream, "None: no device has part in this")
    checks.check_same_shape("host_pool", other.geometry, pool.geometry)
    if pool.config.dtype == "fp8" and not np.array_equal(other.scales, pool.scales):
        refuse("host_pool's scales", other.scales, "those of this pool")


def copy_between(
    source: HostMemory, destination: HostMemory, ids: tuple[str, Any], to: tuple[str, Any]
) -> None:
    """Copy whole blocks from pool to pool; each side's ids come with their name."""
    (from_name, from_ids), (to_name, to_ids) = ids, to
    num_from, num_to = source.config.num_blocks, destination.config.num_blocks
    fro = checks.check_block_ids(from_name, from_ids, num_from, is_written=False)
    target = checks.check_block_ids(to_name, to_ids, num_to, is_written=True)
    if fro.size != target.size:
        refuse(to_name, f"{target.size} blocks", f"as many as {from_name}, {fro.size}")
    pairs = np.stack((fro, target), axis=1)
    whole = moves.WholeBlocks.between(source.geometry, destination.geometry)
    whole.copy(pairs, destination.num_threads)
    copy_written(source, destination, pairs)
