"""Attention of one query token over a sequence's blocks, with a softmax that is kept up online."""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv._demand import on_demand_twins
from nbkv._jit import kernel, outlined_kernel, wrapping_kernel
from nbkv.pools.copy_kernels import Words
from nbkv.pools.host_kernels import (
    Floats,
    load_floats,
    load_fp8,
    load_int8,
    row_address,
    scale_address,
)

#: Codes of `nbkv.pools.checks.FLOAT_CODES` go on: what a pool's rows are made of.
FP8: Final = 3
INT8: Final = 4
#: An attention's shape.
BLOCK_SIZE, NUM_KV_HEADS, KIND, VALUE_PLANE, VALUE_DIM = range(5)

_LANES: Final = 4
_ZERO: Final = np.float32(0.0)
_LEAST: Final = -math.inf
#: Query, place, block tables, lengths, shape, scales, scale, row, state, out, start, stop.
_DECODE: Final = (
    "void(float32[:, :, ::1], int64[::1], int64[:, ::1], int64[::1], int64[::1], float32[::1],"
    " float64, float32[::1], float64[:, ::1], float32[:, :, ::1], int64, int64)"
)


@wrapping_kernel
def load_row(
    row: Floats,
    place: Words,
    plane: int,
    block: int,
    token: int,
    head: int,
    shape: Words,
    scales: Floats,
) -> None:
    """Read one row of a pool of any dtype as float32.

    Parameters
    ----------
    row : float32, shape (head_dim,)
        Takes it.
    place : int64
        One layer of the pool.
    plane, block, token, head : int
    shape : int64
        `BLOCK_SIZE` to `VALUE_DIM`.
    scales : float32
        fp8's, of each plane and head.
    """
    address = row_address(place, plane, block, token, head)
    kind = shape[KIND]
    if kind == FP8:
        load_fp8(row, address, scales[plane * shape[NUM_KV_HEADS] + head])
    elif kind == INT8:
        load_int8(row, address, scale_address(place, plane, block, token, head))
    else:
        load_floats(row, address, kind)


@kernel
def dot(a: Floats, b: Floats) -> float:
    """Multiply two rows of one length in float64, in lanes: they become vector code."""
    s0 = s1 = s2 = s3 = 0.0
    whole = a.size - a.size % _LANES
    for i in range(0, whole, _LANES):
        s0 += np.float64(a[i]) * np.float64(b[i])
        s1 += np.float64(a[i + 1]) * np.float64(b[i + 1])
        s2 += np.float64(a[i + 2]) * np.float64(b[i + 2])
        s3 += np.float64(a[i + 3]) * np.float64(b[i + 3])
    total = (s0 + s1) + (s2 + s3)
    for i in range(whole, a.size):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@kernel
def add_scaled(target: Floats, row: Floats, factor: float) -> None:
    """Add a multiple of the beginning of a row."""
    for i in range(target.size):
        target[i] += row[i] * factor


@kernel
def rescale(target: Floats, factor: float) -> None:
    """Multiply a row in place."""
    for i in range(target.size):
        target[i] *= factor


@outlined_kernel
def attend_block(
    queries: Floats,
    place: Words,
    block: int,
    head: int,
    num_tokens: int,
    shape: Words,
    scales: Floats,
    scale: float,
    row: Floats,
    state: npt.NDArray[np.float64],
    out: Floats,
) -> None:
    """Take a block's tokens into the attention of the queries that share one KV head.

    Parameters
    ----------
    queries : float32, shape (group, head_dim)
    place, shape, scales
        As `load_row` has them.
    block, head, num_tokens : int
    scale : float
        Scores are multiplied by it.
    row : float32, shape (head_dim,)
        Scratch.
    state : float64, shape (group, 2 + block_size)
        Each query's largest score so far, the sum of weights relative to it, and this block's
        scores: in float32 a score of hundreds would be off by what shows in its weight.
    out : float32, shape (group, value_dim)
        Weighted values so far.
    """
    group = queries.shape[0]
    for token in range(num_tokens):
        load_row(row, place, 0, block, token, head, shape, scales)
        for g in range(group):
            state[g, 2 + token] = dot(queries[g], row) * scale
    for g in range(group):
        most = state[g, 0]
        for token in range(num_tokens):
            most = max(most, state[g, 2 + token])
        # Nothing so far: the sum is 0, and its factor may be anything finite.
        factor = math.exp(state[g, 0] - most) if state[g, 0] > _LEAST else 0.0
        state[g, 0] = most
        state[g, 1] *= factor
        rescale(out[g], np.float32(factor))
        for token in range(num_tokens):
            weight = math.exp(state[g, 2 + token] - most)
            state[g, 1] += weight
            state[g, 2 + token] = weight
    for token in range(num_tokens):
        load_row(row, place, shape[VALUE_PLANE], block, token, head, shape, scales)
        for g in range(group):
            add_scaled(out[g], row, np.float32(state[g, 2 + token]))


@outlined_kernel
def decode_sequences(
    query: Floats,
    place: Words,
    block_table: Words,
    seq_lens: Words,
    shape: Words,
    scales: Floats,
    scale: float,
    row: Floats,
    state: npt.NDArray[np.float64],
    out: Floats,
    start: int,
    stop: int,
) -> None:
    """Attend over some sequences' blocks: see `nbkv.attention.decode`.

    Parameters
    ----------
    query : float32, shape (num_sequences, num_heads, head_dim)
    place, shape, scales, scale, row, state
        As `attend_block` has them.
    block_table : int64, shape (num_sequences, width)
        All checked; NO_BLOCK is left out.
    seq_lens : int64, shape (num_sequences,)
    out : float32, shape (num_sequences, num_heads, value_dim)
    start, stop : int
        Which sequences.
    """
    kv_heads, block_size = shape[NUM_KV_HEADS], shape[BLOCK_SIZE]
    group = query.shape[1] // kv_heads
    for sequence in range(start, stop):
        length = seq_lens[sequence]
        for head in range(kv_heads):
            first = head * group
            queries = query[sequence, first : first + group]
            target = out[sequence, first : first + group]
            target[:] = _ZERO
            state[:, 0] = _LEAST
            state[:, 1] = 0.0
            for column in range((length + block_size - 1) // block_size):
                block = block_table[sequence, column]
                if block < 0:
                    continue
                count = min(block_size, length - column * block_size)
                attend_block(
                    queries, place, block, head, count, shape, scales, scale, row, state, target
                )
            for g in range(group):
                if state[g, 1] > 0.0:
                    rescale(target[g], np.float32(1.0 / state[g, 1]))


@on_demand_twins(_DECODE)
def decode_rows(
    query: Any,
    place: Any,
    block_table: Any,
    seq_lens: Any,
    shape: Any,
    scales: Any,
    scale: Any,
    row: Any,
    state: Any,
    out: Any,
    start: Any,
    stop: Any,
) -> None:
    """Attend: see `decode_sequences`."""
    decode_sequences(
        query,
        place,
        block_table,
        seq_lens,
        shape,
        scales,
        scale,
        row,
        state,
        out,
        start,
        stop,
    )
