"""What all emitters of page tables do: find a batch's sequences, check them, write slots.

An emitter goes over its batch twice: `check_batch` refuses or counts, then everything is
written. Two things keep the second pass at the speed of a copy: subscripts of runs are
unsigned, because a signed one may count from the end and is asked whether it does; and its
loop hands no array on where it can do without, because that counts a reference, 13 ns.
"""

import numpy as np

from nbkv._intrinsics import prefetch
from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.index import find_row
from nbkv.kernels.rows import row_of
from nbkv.kernels.state import Records, State
from nbkv.layout import NO_BLOCK
from nbkv.statuses import OK, OUT_TOO_SMALL, TOO_MANY_TOKENS, UNKNOWN_SEQUENCE

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
    if out.size == 0:
        return False
    if names.size > 0 and names.ctypes.data < end and first < names.ctypes.data + names.nbytes:
        return True
    if one.size > 0 and one.ctypes.data < end and first < one.ctypes.data + one.nbytes:
        return True
    if other.size == 0:
        return False
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


@kernel
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
    column = np.int64(np.uint64(start) // np.uint64(block_size))
    source = np.int64(row) * np.int64(state.header["table_stride"][0]) + column
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
