"""What a pool's calls have the kernels do, as arrays."""

from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from nbkv._demand import ready
from nbkv.pools import copy_kernels, host_kernels
from nbkv.pools.foreign import Foreign
from nbkv.pools.geometry import FIRST_BASE, PoolGeometry
from nbkv.pools.threads import run_over

Words = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

#: Bytes from which copies go past the caches, to memory that is not read soon.
STREAM_FROM: Final = 8 * 2**20
#: Bytes from which threads are worth it: copies are bound by memory, quantising is not.
SPREAD_COPIES_FROM: Final = 16 * 2**20
SPREAD_NUMBERS_FROM: Final = 2**19

ENCODE: Final = host_kernels.encode
DECODE: Final = host_kernels.decode


def tensor_place(tensor: Foreign, addresses: list[int], block_size: int) -> Words:
    """Describe tensors as a place (`nbkv.pools.copy_kernels`).

    Parameters
    ----------
    tensor : Foreign
        Gives the strides: its last axes are tokens, heads and head_dim.
    addresses : list of int
        Of each plane's first row.
    block_size : int

    Returns
    -------
    int64 array
    """
    by_token, by_head = tensor.strides[-3:-1]
    return np.array([block_size * by_token, by_token, by_head, 0, 0, 0, *addresses], np.int64)


def block_pieces(block_ids: Words, block_size: int, num_tokens: int, into: bool) -> Words:
    """List the pieces between a row of blocks and a tensor of their tokens.

    Parameters
    ----------
    block_ids : int64 array
    block_size : int
    num_tokens : int
        Of all of them; the last block that has any may be partly filled.
    into : bool
        The blocks are the destination, not the source.

    Returns
    -------
    int64 array, shape (n, 3)
    """
    pieces = np.empty((block_ids.size, 3), np.int64)
    list_blocks = ready(copy_kernels.list_blocks)
    return pieces[: list_blocks(block_ids, block_size, num_tokens, int(into), pieces)]


def pair_pieces(pairs: Words, scale: int, num_tokens: Words | int) -> Words:
    """List the pieces of pairs of blocks: source, destination, tokens."""
    pieces = np.empty((len(pairs), 3), np.int64)
    pieces[:, :2] = pairs if scale == 1 else pairs * scale
    pieces[:, 2] = num_tokens
    return pieces


def make_shape(geometry: PoolGeometry, num_planes: int) -> Words:
    """Describe what is common to a pool and a tensor, or to two pools."""
    g = geometry
    scaled = int(g.scale_offset > 0)
    return np.array([num_planes, g.block_size, g.num_kv_heads, g.row_bytes, scaled, 0], np.int64)


class WholeBlocks(NamedTuple):
    """How whole blocks go from pool to pool: in runs as long as both allow."""

    source: Words
    destination: Words
    shape: Words
    scale: int
    bytes_per_block: int

    @classmethod
    def between(cls, source: PoolGeometry, destination: PoolGeometry) -> Self:
        """Compare two pools of the same shape, or take one twice."""
        g, fro, to = source, source.as_words(), destination.as_words()
        planes = fro.size - FIRST_BASE
        num_bytes = planes * g.chunk_bytes
        alike = bool((fro[1:FIRST_BASE] == to[1:FIRST_BASE]).all())
        if alike and g.is_block_contiguous and destination.is_block_contiguous:
            return cls(fro, to, np.array([1, 1, 1, num_bytes, 0, 0], np.int64), 1, num_bytes)
        if alike and g.is_chunk_contiguous and destination.is_chunk_contiguous:
            shape = np.array([planes, 1, 1, g.chunk_bytes, 0, 0], np.int64)
            return cls(fro, to, shape, 1, num_bytes)
        return cls(fro, to, make_shape(g, planes), g.block_size, num_bytes)

    def copy(self, pairs: Words, num_threads: int) -> Words:
        """Copy blocks, (n, 2) source and destination; return their pieces."""
        pieces = pair_pieces(pairs, self.scale, self.scale)
        num_bytes = len(pairs) * self.bytes_per_block
        copy_pieces(pieces, self.source, self.destination, self.shape, num_bytes, num_threads)
        return pieces


def copy_pieces(
    pieces: Words,
    source: Words,
    destination: Words,
    shape: Words,
    num_bytes: int,
    num_threads: int,
) -> None:
    """Copy pieces of about so many bytes from place to place."""
    shape[copy_kernels.STREAMS] = num_bytes >= STREAM_FROM
    run_over(
        copy_kernels.move,
        lambda: (pieces, source, destination, shape),
        len(pieces) * int(shape[copy_kernels.NUM_PLANES]),
        num_bytes,
        num_threads,
        SPREAD_COPIES_FROM,
    )


def convert_pieces(
    kernels: tuple[Any, Any],
    pieces: Words,
    source: Words,
    destination: Words,
    shape: Words,
    num_numbers: int,
    scales: Floats,
    code: int,
    num_threads: int,
) -> None:
    """Quantise or widen pieces from place to place.

    Parameters
    ----------
    kernels : pair of callable
        `ENCODE` or `DECODE`.
    pieces, source, destination : int64 array
    shape : int64 array
    num_numbers : int
        About how many there are.
    scales : float32 array
        fp8: of each plane and head, or their inverses to quantise. int8: empty.
    code : int
        The tensor's dtype.
    num_threads : int
    """
    head_dim = int(shape[copy_kernels.ROW_BYTES])  # of one byte each
    run_over(
        kernels,
        lambda: (
            pieces,
            source,
            destination,
            shape,
            scales,
            np.empty(head_dim, np.float32),
            code,
        ),
        len(pieces) * (source.size - FIRST_BASE),
        num_numbers,
        num_threads,
        SPREAD_NUMBERS_FROM,
    )
