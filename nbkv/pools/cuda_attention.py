"""How decode attention over a CudaPool is checked and launched."""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv._arguments import refuse
from nbkv.errors import ConfigError
from nbkv.layout import NO_BLOCK
from nbkv.pools import checks, cuda_decode, cuda_partials, cuda_shapes
from nbkv.pools.cuda_sources import CudaSources
from nbkv.pools.foreign import Foreign, describe, row_major

#: Tokens that one thread block goes through, and blocks a sequence is split into at most.
_TOKENS_PER_SPLIT: Final = 256
_MAX_SPLITS: Final = 64
_KINDS: Final = {
    "float32": checks.FLOAT32,
    "float16": checks.FLOAT16,
    "bfloat16": checks.BFLOAT16,
    "fp8": cuda_decode.FP8,
    "int8": cuda_decode.INT8,
}
_EIGHT: Final = 8
_WARP: Final = 32


class CudaAttention(CudaSources):
    """Attends to what a pool has: see `CudaPool`."""

    def attend(
        self,
        layer: int,
        query: Any,  # noqa: ANN401
        block_table: Any,  # noqa: ANN401
        seq_lens: Any,  # noqa: ANN401
        *,
        scale: float | None = None,
        out: Any = None,  # noqa: ANN401
        tokens_per_split: int | None = None,
    ) -> Any:  # noqa: ANN401
        """Attend from one token of each sequence to the first tokens of its blocks.

        A reference to compare with, in float32 inside; attention libraries are faster.

        Parameters
        ----------
        layer : int
        query : array, shape (num_sequences, num_heads, head_dim)
            In device memory, contiguous, float32, float16 or bfloat16 (uint16); num_heads is a
            multiple of num_kv_heads, head_dim of 8.
        block_table : int32 array, shape (num_sequences, width)
            On the host, where it is checked, or contiguous in device memory, where it is taken
            on trust. Tokens of holes, NO_BLOCK, are left out.
        seq_lens : int32 array, shape (num_sequences,)
            How many tokens each sequence has; the same. A sequence with none gives zeros.
        scale : float, optional
            ``1 / sqrt(head_dim)`` when omitted.
        out : array, optional
            As `query`, of any of its dtypes; new and float32 when omitted.
        tokens_per_split : int, optional
            Tokens that one thread block goes through.

        Returns
        -------
        array
            `out`.

        Raises
        ------
        TypeError, ArgumentError, ConfigError
        """
        number = checks.check_layer(self.geometry, layer)
        asked = self._check_vectors("query", query)
        if out is None:
            out = self._new_vectors(asked)
        target = self._check_vectors("out", out, asked.shape)
        table, lengths, width, longest = self._check_tables(block_table, seq_lens, asked.shape[0])
        stream = self._ordered_stream()
        staging = self._staged(stream)
        addresses = [entry.address for entry in (table, lengths) if isinstance(entry, Foreign)]
        host = [entry for entry in (table, lengths) if not isinstance(entry, Foreign)]
        uploaded = iter(staging.put(stream, *host)) if host else iter(())
        given = iter(addresses)
        places = [next(given if isinstance(e, Foreign) else uploaded) for e in (table, lengths)]
        step = tokens_per_split or _TOKENS_PER_SPLIT
        step = max(step, -(-longest // _MAX_SPLITS), 1)
        splits = max(1, -(-longest // step))
        factor = (scale if scale is not None else 1 / math.sqrt(self.geometry.head_dim)) * (
            math.log2(math.e)
        )
        self._launch_decode(
            number, asked, target, (places[0], width, places[1]), (splits, step), factor, stream
        )
        return out

    def _launch_decode(
        self,
        layer: int,
        query: Foreign,
        out: Foreign,
        tables: tuple[int, int, int],
        splits: tuple[int, int],
        factor: float,
        stream: Any,  # noqa: ANN401
    ) -> None:
        """Launch both kernels."""
        g, device = self.geometry, self._device
        sequences, heads, head_dim = query.shape
        lanes = cuda_shapes.power_up_to(head_dim // _EIGHT, _WARP)
        floats = cuda_partials.PARTIAL_HEAD + head_dim
        room = 4 * sequences * heads * splits[0] * floats
        partials = self._partials_of(stream).room(room)
        first = layer * g.kv_factor
        args = (
            self._words.address,
            first,
            first + g.kv_factor - 1,
            query.address,
            checks.FLOAT_CODES[query.dtype_name],
            *tables[:2],
            tables[2],
            partials,
            heads // g.num_kv_heads,
            head_dim,
            lanes.bit_length() - 1,
            splits[1],
            _KINDS[g.dtype],
            checks.item_bytes(query.dtype_name),
            factor,
        )
        grid = (sequences, g.num_kv_heads, splits[0])
        threads = min(device.max_threads, cuda_decode.MAX_THREADS)
        device.launch(cuda_decode.decode, grid, (threads, 1, 1), stream, args)
        tail = (splits[0], head_dim, checks.FLOAT_CODES[out.dtype_name])
        device.launch(
            cuda_partials.combine,
            (sequences, heads, 1),
            (_WARP, 1, 1),
            stream,
            (partials, out.address, *tail),
        )

    def _check_vectors(
        self, name: str, array: object, shape: tuple[int, ...] | None = None
    ) -> Foreign:
        """Check queries, or what takes the result."""
        g = self.geometry
        found = describe(name, array)
        if g.head_dim % _EIGHT:
            raise ConfigError(f"head_dim is {g.head_dim}; to attend it must be a multiple of 8")
        if not self._device.reaches(found):
            refuse(name, "in the CPU's memory", "in a device's")
        if found.dtype_name not in checks.FLOAT_CODES:
            refuse(f"{name}'s dtype", found.dtype_name, f"one of {', '.join(checks.FLOAT_CODES)}")
        heads = found.shape[1] if len(found.shape) == 3 else 0
        fits = found.shape == shape if shape is not None else heads % g.num_kv_heads == 0 < heads
        if not fits or found.shape[2] != g.head_dim:
            wanted = shape or ("num_sequences", f"a multiple of {g.num_kv_heads}", g.head_dim)
            refuse(f"{name}'s shape", found.shape, str(wanted))
        if found.strides != row_major(found.shape, checks.item_bytes(found.dtype_name)):
            refuse(f"{name}'s strides", found.strides, "those of a contiguous array")
        if found.address % 16:
            refuse(f"{name}'s address", found.address, "a multiple of 16")
        if shape is not None and found.is_read_only:
            refuse(name, "read-only", "writable")
        return found

    def _new_vectors(self, query: Foreign) -> Any:  # noqa: ANN401
        """Allocate a float32 array of the queries' shape."""
        dtype = np.dtype(np.float32)
        strides = row_major(query.shape, dtype.itemsize)
        memory = self._device.allocate(strides[0] * query.shape[0])
        return self._device.view(memory.address, query.shape, strides, dtype, memory)

    def _check_tables(
        self, block_table: object, seq_lens: object, num_sequences: int
    ) -> tuple[Any, Any, int, int]:
        """Check the table and the lengths; where they are, the width, the longest sequence."""
        g = self.geometry
        on_device = self._device_table("block_table", block_table, (num_sequences, None))
        table: Any = on_device or checks.as_integers("block_table", block_table, 2)
        if table.shape[0] != num_sequences:
            refuse("block_table", f"{table.shape[0]} rows", f"one for each of {num_sequences}")
        width = int(table.shape[1])
        most = width * g.block_size
        lengths = self._device_table("seq_lens", seq_lens, (num_sequences,))
        if lengths is not None:
            if on_device is None:
                _check_ids(table, np.full(num_sequences, width), g.num_blocks)
                table = np.ascontiguousarray(table, np.int32)
            return table, lengths, width, most
        counts = checks.check_num_tokens("seq_lens", seq_lens, num_sequences, most)
        if on_device is None:
            _check_ids(table, -(-counts // g.block_size), g.num_blocks)
            table = table.astype(np.int32)
        longest = int(counts.max()) if counts.size else 0
        return table, counts.astype(np.int32), width, longest

    def _device_table(
        self, name: str, array: object, shape: tuple[int | None, ...]
    ) -> Foreign | None:
        """Describe integers in device memory; None where they are on the host."""
        if isinstance(array, (np.ndarray, list, tuple)):
            return None
        found = describe(name, array)
        if not found.on_cuda:
            return None
        if found.dtype_name != "int32":
            refuse(f"{name}'s dtype", found.dtype_name, "int32")
        if len(found.shape) != len(shape) or found.strides != row_major(found.shape, 4):
            refuse(f"{name}'s shape", found.shape, f"of {len(shape)} dimensions, contiguous")
        if found.shape[0] != shape[0]:
            refuse(f"{name}'s shape", found.shape, f"{shape[0]} rows")
        return found


def _check_ids(table: npt.NDArray[np.int64], num_used: npt.NDArray[Any], num_blocks: int) -> None:
    """Check the entries of a block table that are used."""
    used = np.arange(table.shape[1]) < num_used[:, None]
    wrong = used & ((table < NO_BLOCK) | (table >= num_blocks))
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        refuse(
            f"block_table[{row}, {column}]",
            int(table[row, column]),
            f"NO_BLOCK or 0 to {num_blocks - 1}",
        )
