"""Slots of a batch's tokens: of any positions, of the last ones, of all that attention reads."""

import numpy as np

from nbkv._jit import entry, kernel, outlined_kernel
from nbkv.kernels.emit_batch import (
    ANY_WIDTH,
    check_batch,
    count_columns,
    first_column,
    length_at,
    overlaps,
    row_at,
    write_slots,
)
from nbkv.kernels.state import Arena, Records, State, open_state
from nbkv.statuses import OUT_OVERLAPS, OUT_TOO_SMALL, TOO_MANY_TOKENS


@outlined_kernel
def write_last(
    state: State,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    counts: Records,
    stride: int,
    out: Records,
) -> int:
    """Write the slots of the last tokens of each sequence of a checked batch.

    Parameters
    ----------
    state : State
    names : int64, shape (n,)
    by_id : bool
    num_tokens, counts : int32
        See `nbkv.kernels.emit_batch.check_batch`.
    stride : int
        Slots from one block to the next.
    out : int64

    Returns
    -------
    int
        Slots written.
    """
    step = 1 if counts.size > 1 else 0
    at = np.int64(0)
    for i in range(names.size if counts.size > 0 else 0):
        row = row_at(state, names, by_id, i)
        count = np.int64(counts[i * step])
        write_slots(
            state, row, length_at(state, row, num_tokens, i) - count, count, stride, out, at
        )
        at += count
    return at


@outlined_kernel
def _check_spans(
    state: State, names: Records, by_id: bool, starts: Records, counts: Records
) -> int:
    """Check positions of a batch: how many, or a status and the position in detail."""
    start_step = 1 if starts.size > 1 else 0
    count_step = 1 if counts.size > 1 else 0
    total = np.int64(0)
    for i in range(names.size):
        status = row_at(state, names, by_id, i)
        if status >= 0:
            start = np.int64(starts[i * start_step])
            count = np.int64(counts[i * count_step])
            total += count
            if min(start, count) < 0 or start + count > state.sequences["num_tokens"][status]:
                status = np.int64(TOO_MANY_TOKENS)
        if status < 0:
            state.runtime["detail"][0] = i
            return status
    return total


@outlined_kernel
def _emit_slots(
    state: State, names: Records, by_id: bool, starts: Records, counts: Records, out: Records
) -> int:
    if overlaps(out, names, starts, counts):
        return np.int64(OUT_OVERLAPS)
    total = _check_spans(state, names, by_id, starts, counts)
    if total > out.size:
        state.runtime["detail"][0] = total
        return np.int64(OUT_TOO_SMALL)
    if total < 0:
        return np.int64(total)
    block_size = np.int64(state.header["block_size"][0])
    start_step = 1 if starts.size > 1 else 0
    count_step = 1 if counts.size > 1 else 0
    at = np.int64(0)
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        start = np.int64(starts[i * start_step])
        count = np.int64(counts[i * count_step])
        write_slots(state, row, start, count, block_size, out, at)
        at += count
    return at


@entry("int64(uint8[::1], int64[::1], boolean, int32[::1], int32[::1], int64[::1])")
def slots_int64(
    arena: Arena, names: Records, by_id: bool, starts: Records, counts: Records, out: Records
) -> int:
    """Write the slots of some positions of each sequence of a batch, -1 in holes.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    starts, counts : int32, shape (n,) or (1,)
        First position and how many, within the sequence's tokens.
    out : int64

    Returns
    -------
    int
        Slots written, or a status.
    """
    return _emit_slots(open_state(arena), names, by_id, starts, counts, out)


@entry("int64(uint8[::1], int64[::1], boolean, int32[::1], int32[::1], int32[::1])")
def slots_int32(
    arena: Arena, names: Records, by_id: bool, starts: Records, counts: Records, out: Records
) -> int:
    """Write the slots of some positions as int32: see `slots_int64`.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    starts, counts : int32, shape (n,) or (1,)
    out : int32

    Returns
    -------
    int
    """
    return _emit_slots(open_state(arena), names, by_id, starts, counts, out)


@kernel
def _first_position(state: State, row: int, length: int) -> int:
    """Find the first position that is not in a hole, at most `length`."""
    first = first_column(state, row, count_columns(state, length))
    return min(first * np.int64(state.header["block_size"][0]), length)


@outlined_kernel
def _count_reads(state: State, names: Records, by_id: bool, num_tokens: Records) -> int:
    """Count the tokens of a checked batch that are not in holes."""
    total = np.int64(0)
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        total += length - _first_position(state, row, length)
    return total


@entry(
    "UniTuple(int64, 2)(uint8[::1], int64[::1], boolean, int32[::1], int32[::1], int64,"
    " int64[::1], int64[::1])"
)
def token_rows(
    arena: Arena,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    counts: Records,
    stride: int,
    writes: Records,
    reads: Records,
) -> tuple[int, int]:
    """Write the rows of each sequence's last tokens, and of all its tokens outside holes.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    num_tokens, counts : int32
        See `nbkv.kernels.emit.check_batch`.
    stride : int
        Rows from one block to the next.
    writes, reads : int64

    Returns
    -------
    tuple of int
        How many of both, or a status and 0.
    """
    state = open_state(arena)
    num_shared = overlaps(writes, names, num_tokens, counts)
    num_shared += overlaps(reads, names, num_tokens, counts)
    if num_shared > 0:
        return np.int64(OUT_OVERLAPS), np.int64(0)
    status, num_writes = check_batch(state, names, by_id, num_tokens, counts, ANY_WIDTH)
    if status < 0:
        return np.int64(status), np.int64(0)
    num_reads = _count_reads(state, names, by_id, num_tokens)
    if num_writes > writes.size or num_reads > reads.size:
        state.runtime["detail"][0] = num_reads
        return np.int64(OUT_TOO_SMALL), np.int64(0)
    read = np.int64(0)
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        first = _first_position(state, row, length)
        write_slots(state, row, first, length - first, stride, reads, read)
        read += length - first
    return write_last(state, names, by_id, num_tokens, counts, stride, writes), read
