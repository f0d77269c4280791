"""Copies vectors between two places of any strides: pool and pool, or pool and tensor.

A *place* is `PoolGeometry.as_words`'s array. A tensor is one whose block is any number of
tokens. A *piece* is a run of tokens within one block of either place.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv._demand import on_demand, on_demand_twins
from nbkv._jit import kernel, outlined_kernel
from nbkv._memory import copy_bytes, order_streams, stream_bytes
from nbkv.pools.geometry import (
    BLOCK_STRIDE,
    FIRST_BASE,
    HEAD_STRIDE,
    SCALE_BYTES,
    SCALE_HEAD_STRIDE,
    SCALE_OFFSET,
    SCALE_TOKEN_STRIDE,
    TOKEN_STRIDE,
)

Words = npt.NDArray[np.int64]

#: A shape: what two places have in common, and how the bytes are to go.
NUM_PLANES, BLOCK_SIZE, NUM_HEADS, ROW_BYTES, HAS_SCALES, STREAMS = range(6)
_LINE_BYTES: Final = 64
_MOVE: Final = "void(int64[:, ::1], int64[::1], int64[::1], int64[::1], int64, int64)"


@on_demand("int64(int64[::1], int64, int64[:, ::1])")
def find_runs(slots: Words, block_size: int, pieces: Words) -> int:
    """Join slots that follow one another within a block.

    Parameters
    ----------
    slots : int64, C-contiguous
        In range, or -1: skipped.
    block_size : int
    pieces : int64, C-contiguous, shape (at least as many, 3)
        Takes each run: its first position in `slots`, its first slot, its length.

    Returns
    -------
    int
        Runs.
    """
    count = np.int64(0)
    at = np.int64(0)
    while at < slots.size:
        first = slots[at]
        length = np.int64(1)
        if first >= 0:
            most = min(slots.size - at, block_size - first % block_size)
            while length < most and slots[at + length] == first + length:
                length += 1
            pieces[count, 0] = at
            pieces[count, 1] = first
            pieces[count, 2] = length
            count += 1
        at += length
    return count


@on_demand("int64(int64[::1], int64, int64, int64, int64[:, ::1])")
def list_blocks(
    block_ids: Words, block_size: int, num_tokens: int, into: int, pieces: Words
) -> int:
    """List the pieces between a row of blocks and a tensor of their tokens.

    Parameters
    ----------
    block_ids : int64, C-contiguous
    block_size : int
    num_tokens : int
        Of all of them; the last block that has any may be partly filled.
    into : int
        1 where the blocks are the destination.
    pieces : int64, C-contiguous, shape (at least as many as blocks, 3)

    Returns
    -------
    int
        Pieces.
    """
    count = (num_tokens + block_size - 1) // block_size
    for i in range(count):
        pieces[i, into] = block_ids[i] * block_size
        pieces[i, 1 - into] = i * block_size
        pieces[i, 2] = min(block_size, num_tokens - i * block_size)
    return count


@kernel
def copy_run(destination: int, source: int, count: int, streams: int) -> None:
    """Copy one run of bytes, past the caches where that is wanted."""
    if streams:
        stream_bytes(destination, source, count)
    else:
        copy_bytes(destination, source, count)


@kernel
def copy_rows(
    destination: int,
    source: int,
    to_token: int,
    to_head: int,
    from_token: int,
    from_head: int,
    num_tokens: int,
    num_heads: int,
    row_bytes: int,
    streams: int,
) -> None:
    """Copy the rows of a few tokens, in runs as long as both places allow.

    Parameters
    ----------
    destination, source : int
        Addresses of the first token's first head.
    to_token, to_head, from_token, from_head : int
        Strides in bytes.
    num_tokens, num_heads : int
    row_bytes : int
    streams : int
        1 to go past the caches.
    """
    run, tokens, heads = np.int64(row_bytes), np.int64(num_tokens), np.int64(num_heads)
    if (to_head == row_bytes and from_head == row_bytes) or num_heads == 1:
        run, heads = np.int64(row_bytes * num_heads), np.int64(1)
        if (to_token == run and from_token == run) or num_tokens == 1:
            run, tokens = np.int64(run * num_tokens), np.int64(1)
    elif (to_token == row_bytes and from_token == row_bytes) or num_tokens == 1:
        run, tokens = np.int64(row_bytes * num_tokens), np.int64(1)
    # In the order of the destination's addresses, so that a line of it is written at once. Whole
    # lines that go past the caches are so anyway: the source is then read in its order.
    lines = streams and (run | destination | to_token | to_head) % _LINE_BYTES == 0
    by_token = from_token > from_head if lines else to_token > to_head
    num_outer, num_inner = heads, tokens
    to_outer, to_inner, from_outer, from_inner = to_head, to_token, from_head, from_token
    if by_token:
        num_outer, num_inner = tokens, heads
        to_outer, to_inner, from_outer, from_inner = to_token, to_head, from_token, from_head
    for outer in range(num_outer):
        to, fro = destination + outer * to_outer, source + outer * from_outer
        for inner in range(num_inner):
            copy_run(to + inner * to_inner, fro + inner * from_inner, run, streams)


@outlined_kernel
def copy_pieces(
    pieces: Words, source: Words, destination: Words, shape: Words, start: int, stop: int
) -> None:
    """Copy pieces, each in all planes.

    Parameters
    ----------
    pieces : int64, C-contiguous, shape (n, 3)
        First slot in the source, first slot in the destination, number of tokens.
    source, destination : int64, C-contiguous
        Places.
    shape : int64, C-contiguous
        `NUM_PLANES` to `STREAMS`; block_size is that of both.
    start, stop : int
        Which of the n * num_planes; piece by piece.
    """
    planes, block_size = shape[NUM_PLANES], shape[BLOCK_SIZE]
    heads, streams = shape[NUM_HEADS], shape[STREAMS]
    for item in range(start, stop):
        piece, plane = item // planes, item % planes
        tokens = pieces[piece, 2]
        from_block, from_token = pieces[piece, 0] // block_size, pieces[piece, 0] % block_size
        to_block, to_token = pieces[piece, 1] // block_size, pieces[piece, 1] % block_size
        fro = source[FIRST_BASE + plane] + from_block * source[BLOCK_STRIDE]
        to = destination[FIRST_BASE + plane] + to_block * destination[BLOCK_STRIDE]
        copy_rows(
            to + to_token * destination[TOKEN_STRIDE],
            fro + from_token * source[TOKEN_STRIDE],
            destination[TOKEN_STRIDE],
            destination[HEAD_STRIDE],
            source[TOKEN_STRIDE],
            source[HEAD_STRIDE],
            tokens,
            heads,
            shape[ROW_BYTES],
            streams,
        )
        if shape[HAS_SCALES]:
            to += destination[SCALE_OFFSET] + to_token * destination[SCALE_TOKEN_STRIDE]
            fro += source[SCALE_OFFSET] + from_token * source[SCALE_TOKEN_STRIDE]
            copy_rows(
                to,
                fro,
                destination[SCALE_TOKEN_STRIDE],
                destination[SCALE_HEAD_STRIDE],
                source[SCALE_TOKEN_STRIDE],
                source[SCALE_HEAD_STRIDE],
                tokens,
                heads,
                SCALE_BYTES,
                np.int64(0),
            )
    if streams:
        order_streams()


@on_demand_twins(_MOVE)
def move(
    pieces: Words, source: Words, destination: Words, shape: Words, start: int, stop: int
) -> None:
    """Copy pieces: see `copy_pieces`."""
    copy_pieces(pieces, source, destination, shape, start, stop)
