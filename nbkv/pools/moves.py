"""What a pool's calls have the kernels do, as arrays."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

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

_COPY: Final = (copy_kernels.move, copy_kernels.move_apart)
ENCODE: Final = (host_kernels.encode, host_kernels.encode_apart)
DECODE: Final = (host_kernels.decode, host_kernels.decode_apart)


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
    count = -(-num_tokens // block_size)
    pieces = np.empty((count, 3), np.int64)
    first = block_size * np.arange(count, dtype=np.int64)
    pieces[:, 1 if into else 0] = block_ids[:count] * block_size
    pieces[:, 0 if into else 1] = first
    pieces[:, 2] = np.minimum(num_tokens - first, block_size)
    return pieces


def whole_pieces(pairs: Words, scale: int, num_tokens: Words | int) -> Words:
    """List the pieces of pairs of blocks: source, destination, tokens."""
    pieces = np.empty((len(pairs), 3), np.int64)
    pieces[:, :2] = pairs * scale
    pieces[:, 2] = num_tokens
    return pieces


def shape_words(geometry: PoolGeometry, num_planes: int, streams: bool) -> Words:
    """Describe what is common to a pool and a tensor, or to two pools."""
    g = geometry
    scaled = int(g.scale_offset > 0)
    row = (num_planes, g.block_size, g.num_kv_heads, g.row_bytes, scaled, int(streams))
    return np.array(row, np.int64)


def copy_pieces(
    pieces: Words, source: Words, destination: Words, shape: Words, num_threads: int
) -> None:
    """Copy pieces from place to place."""
    num_planes = int(shape[copy_kernels.NUM_PLANES])
    token_bytes = int(shape[copy_kernels.NUM_HEADS] * shape[copy_kernels.ROW_BYTES])
    num_bytes = int(pieces[:, 2].sum()) * num_planes * token_bytes
    shape[copy_kernels.STREAMS] = int(num_bytes >= STREAM_FROM)
    run_over(
        _COPY,
        lambda: (pieces, source, destination, shape),
        len(pieces) * num_planes,
        num_bytes,
        num_threads,
        SPREAD_COPIES_FROM,
    )


def convert_pieces(
    kernels: tuple[Any, Any],
    pieces: Words,
    source: Words,
    destination: Words,
    geometry: PoolGeometry,
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
    geometry : PoolGeometry
        The pool's.
    scales : float32 array
        fp8: of each plane and head, or their inverses to quantise. int8: empty.
    code : int
        The tensor's dtype.
    num_threads : int
    """
    num_planes = source.size - FIRST_BASE
    shape = shape_words(geometry, num_planes, streams=False)
    numbers = int(pieces[:, 2].sum()) * num_planes * geometry.num_kv_heads * geometry.head_dim
    run_over(
        kernels,
        lambda: (
            pieces,
            source,
            destination,
            shape,
            scales,
            np.empty(geometry.head_dim, np.float32),
            code,
        ),
        len(pieces) * num_planes,
        numbers,
        num_threads,
        SPREAD_NUMBERS_FROM,
    )


def copy_whole_blocks(
    pairs: Words, source: PoolGeometry, destination: PoolGeometry, num_threads: int
) -> None:
    """Copy whole blocks, in runs as long as both pools allow.

    Parameters
    ----------
    pairs : int64 array, shape (n, 2)
    source, destination : PoolGeometry
        Of the same shape; the same object within one pool.
    num_threads : int
    """
    fro, to = source.as_words(), destination.as_words()
    alike = source is destination or bool((fro[1:FIRST_BASE] == to[1:FIRST_BASE]).all())
    planes, g = fro.size - FIRST_BASE, source
    if alike and source.is_block_contiguous and destination.is_block_contiguous:
        shape = np.array([1, 1, 1, planes * g.chunk_bytes, 0, 0], np.int64)
        pieces = whole_pieces(pairs, 1, 1)
    elif alike and source.is_chunk_contiguous and destination.is_chunk_contiguous:
        shape = np.array([planes, 1, 1, g.chunk_bytes, 0, 0], np.int64)
        pieces = whole_pieces(pairs, 1, 1)
    else:
        shape = shape_words(g, planes, streams=False)
        pieces = whole_pieces(pairs, g.block_size, g.block_size)
    copy_pieces(pieces, fro, to, shape, num_threads)
