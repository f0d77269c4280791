"""Page tables as lists: pages one after another, lengths, slots.

An emitter goes over its batch twice: `check_batch` refuses or counts, then everything is
written. Subscripts of long runs are unsigned: a signed one may count from the end, and
asking whether it does costs ten times the copy.
"""

import numpy as np

from nbkv._intrinsics import prefetch
from nbkv._jit import entry, kernel, outlined_kernel
from nbkv.kernels.index import find_row
from nbkv.kernels.rows import row_of
from nbkv.kernels.state import Arena, Records, State, open_state
from nbkv.layout import (
    NO_BLOCK,
    OK,
    OUT_OVERLAPS,
    OUT_TOO_SMALL,
    TOO_MANY_TOKENS,
    UNKNOWN_SEQUENCE,
)

_ROW_MASK = 0xFFFFFFFF
# How many sequences ahead their rows are fetched.
_AHEAD = 12
#: For emitters whose output has no width.
ANY_WIDTH = 2**62


@kernel
def overlaps(out: Records, names: Records, one: Records, other: Records) -> bool:
    """Tell whether an output shares memory with an input: the second pass would read it."""
    first = out.ctypes.data
    end = first + out.nbytes
    if names.ctypes.data < end and first < names.ctypes.data + names.nbytes:
        return True
    if one.ctypes.data < end and first < one.ctypes.data + one.nbytes:
        return True
    return other.ctypes.data < end and first < other.ctypes.data + other.nbytes


@outlined_kernel
def _row_by_id(state: State, seq_id: int) -> int:
    row = np.int64(find_row(state, np.uint64(seq_id)))
    return row if row >= 0 else np.int64(UNKNOWN_SEQUENCE)


@kernel
def row_at(state: State, names: Records, by_id: bool, i: int) -> int:
    """Find the row of one sequence of a batch.

    Parameters
    ----------
    state : State
    names : int64, shape (n,)
        Handles; or the bits of seq_ids.
    by_id : bool
        They are seq_ids.
    i : int

    Returns
    -------
    int
        A row, ``STALE_HANDLE`` or ``UNKNOWN_SEQUENCE``.
    """
    if by_id:
        return np.int64(_row_by_id(state, names[i]))
    return np.int64(row_of(state, names[i]))


@kernel
def length_at(state: State, row: int, num_tokens: Records, i: int) -> int:
    """Find how many tokens of a sequence to cover.

    Parameters
    ----------
    state : State
    row : int
    num_tokens : int32, shape (n,) or (0,)
        What the caller asks for; all tokens when there are none.
    i : int

    Returns
    -------
    int
        Tokens, or ``TOO_MANY_TOKENS``.
    """
    present = np.int64(state.sequences["num_tokens"][row])
    if num_tokens.size == 0:
        return present
    wanted = np.int64(num_tokens[i])
    if wanted < 0 or wanted > present:
        return np.int64(TOO_MANY_TOKENS)
    return wanted


@kernel
def count_columns(state: State, length: int) -> int:
    """Count the table columns that tokens take."""
    block_size = np.uint64(state.header["block_size"][0])
    return np.int64((np.uint64(length) + block_size - np.uint64(1)) // block_size)


@kernel
def first_column(state: State, row: int, num_columns: int) -> int:
    """Find the first column that is no hole, at most `num_columns`."""
    return min(np.int64(state.sequences["first_block"][row]), num_columns)


@kernel
def table_start(state: State, row: int) -> int:
    """Find where a row's table begins in the tables section."""
    return np.int64(row) * np.int64(state.header["table_stride"][0])


@outlined_kernel
def check_batch(
    state: State, names: Records, by_id: bool, num_tokens: Records, counts: Records, width: int
) -> tuple[int, int]:
    """Check every sequence of a batch; a refusal leaves its position in the runtime's detail.

    Parameters
    ----------
    state : State
    names : int64, shape (n,)
    by_id : bool
    num_tokens : int32, shape (n,) or (0,)
        See `length_at`.
    counts : int32, shape (n,), (1,) or (0,)
        How many of the last tokens are asked for; no more than are covered.
    width : int
        Columns that the output has.

    Returns
    -------
    tuple of int
        Pages (holes excluded) and tokens asked for; or a status and 0.
    """
    step = 1 if counts.size > 1 else 0
    num_pages = np.int64(0)
    total = np.int64(0)
    status = np.int64(OK)
    for i in range(names.size):
        if not by_id and i + _AHEAD < names.size:
            prefetch(state.sequences, names[i + _AHEAD] & _ROW_MASK)
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i) if row >= 0 else row
        if length < 0:
            status = length
        elif counts.size > 0:
            count = np.int64(counts[i * step])
            total += count
            if count < 0 or count > length:
                status = np.int64(TOO_MANY_TOKENS)
        if status == OK:
            num_columns = count_columns(state, length)
            num_pages += num_columns - first_column(state, row, num_columns)
            if num_columns > width:
                status = np.int64(OUT_TOO_SMALL)
        if status < 0:
            state.runtime["detail"][0] = i
            return status, np.int64(0)
    return num_pages, total


@outlined_kernel
def write_slots(
    state: State, row: int, start: int, count: int, stride: int, out: Records, at: int
) -> None:
    """Write the slots of a sequence's positions, -1 in holes.

    Parameters
    ----------
    state : State
    row : int
    start : int
        First position.
    count : int
    stride : int
        Slots from one block to the next.
    out : int64 or int32
    at : int
        Where in `out` the first one goes.
    """
    block_size = np.int64(state.header["block_size"][0])
    column = np.int64(start) // block_size
    source = table_start(state, row) + column
    offset = np.int64(start) - column * block_size
    target = np.uint64(at)
    left = np.int64(count)
    while left > 0:
        run = min(block_size - offset, left)
        block_id = np.int64(state.tables[source])
        if block_id == NO_BLOCK:
            for j in range(np.uint64(run)):
                out[target + j] = -1
        else:
            first = block_id * stride + offset
            for j in range(np.uint64(run)):
                out[target + j] = first + np.int64(j)
        target += np.uint64(run)
        left -= run
        source += 1
        offset = np.int64(0)


@entry("int64(uint8[::1], int64[::1], boolean, int32[::1])")
def seq_lens(arena: Arena, names: Records, by_id: bool, out: Records) -> int:
    """Write how many tokens each sequence of a batch has.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    out : int32
        At least n long.

    Returns
    -------
    int
        n, or a status.
    """
    state = open_state(arena)
    if overlaps(out, names, names, names):
        return np.int64(OUT_OVERLAPS)
    status, _ = check_batch(state, names, by_id, out[:0], out[:0], ANY_WIDTH)
    if status < 0:
        return status
    for i in range(names.size):
        out[i] = state.sequences["num_tokens"][row_at(state, names, by_id, i)]
    return np.int64(names.size)


@outlined_kernel
def _check_csr(
    state: State,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    counts: Records,
    num_indices: int,
    num_slots: int,
) -> int:
    """Check a batch and that its pages and slots fit; a status, or OK."""
    num_pages, total = check_batch(state, names, by_id, num_tokens, counts, ANY_WIDTH)
    if num_pages < 0:
        return num_pages
    if num_pages > num_indices or total > num_slots:
        state.runtime["detail"][0] = num_pages
        return np.int64(OUT_TOO_SMALL)
    return np.int64(OK)


@entry(
    "UniTuple(int64, 2)(uint8[::1], int64[::1], boolean, int32[::1], int32[::1],"
    " int32[::1], int32[::1], int32[::1], int32[::1], int64[::1])"
)
def csr(
    arena: Arena,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    counts: Records,
    indptr: Records,
    indices: Records,
    last_page_len: Records,
    lengths: Records,
    slots: Records,
) -> tuple[int, int]:
    """Write the pages of a batch one after another; and lengths and slots, if asked.

    The loop hands no array on, but where it must: counting that reference costs 13 ns.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    num_tokens, counts : int32
        See `check_batch`.
    indptr, indices, last_page_len : int32
        At least n + 1 long, as long as it takes, and n.
    lengths : int32
        At least n long, or empty.
    slots : int64
        Takes those of the last `counts` tokens of each sequence.

    Returns
    -------
    tuple of int
        Pages and slots written, or a status and 0.
    """
    state = open_state(arena)
    num_shared = overlaps(indptr, names, num_tokens, counts)
    num_shared += overlaps(indices, names, num_tokens, counts)
    num_shared += overlaps(last_page_len, names, num_tokens, counts)
    num_shared += overlaps(lengths, names, num_tokens, counts)
    num_shared += overlaps(slots, names, num_tokens, counts)
    if num_shared > 0:
        return np.int64(OUT_OVERLAPS), np.int64(0)
    status = _check_csr(state, names, by_id, num_tokens, counts, indices.size, slots.size)
    if status < 0:
        return np.int64(status), np.int64(0)
    block_size = np.int64(state.header["block_size"][0])
    tables = state.tables
    step = 1 if counts.size > 1 else 0
    page = np.int64(0)
    slot = np.int64(0)
    indptr[0] = 0
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        num_columns = count_columns(state, length)
        first = first_column(state, row, num_columns)
        start = table_start(state, row)
        source, target = np.uint64(start + first), np.uint64(page)
        for j in range(np.uint64(num_columns - first)):
            indices[target + j] = tables[source + j]
        page += num_columns - first
        indptr[i + 1] = page
        last = length - (num_columns - 1) * block_size if num_columns > first else np.int64(0)
        last_page_len[i] = last
        if lengths.size > 0:
            lengths[i] = length
        count = np.int64(counts[i * step]) if counts.size > 0 else np.int64(0)
        if 0 < count <= last:
            value = np.int64(tables[start + num_columns - 1]) * block_size + last - count
            for j in range(np.uint64(count)):
                slots[np.uint64(slot) + j] = value + np.int64(j)
        elif count > 0:
            write_slots(state, row, length - count, count, block_size, slots, slot)
        slot += count
    return page, slot


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
