"""Slots for new tokens: first counted for every sequence of a call, then given out.

`plan_row` counts and marks, `undo_rows` takes the marks back, `write_row` cannot fail.
"""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.fence import num_usable
from nbkv.kernels.free_list import allocate, allocate_run
from nbkv.kernels.holding import settle_block
from nbkv.kernels.state import Records, State
from nbkv.kernels.tails import close_tail, must_copy, open_tail, set_tail
from nbkv.layout import COPY_FIELDS, COPY_TAIL, HELD, IN_BATCH, PARTIAL_HIT, TAIL_OPEN
from nbkv.statuses import DUPLICATE_SEQUENCE, NEGATIVE_COUNT, OUT_OF_BLOCKS, TOO_MANY_BLOCKS

_NOT_MARKED = 255 - IN_BATCH - COPY_TAIL


@kernel
def plan_row(state: State, row: int, num_tokens: int, num_ahead: int) -> int:
    """Count the blocks that a sequence needs for more tokens, and mark a copy.

    A tail that must be copied gives its reference back here, so that the last of several
    sharers in one batch finds itself alone and writes in place.

    Parameters
    ----------
    state : State
    row : int
    num_tokens : int
        At least 0.
    num_ahead : int
        Tokens behind those for which blocks are wanted, but nothing is written.

    Returns
    -------
    int
        New blocks and copies, or ``TOO_MANY_BLOCKS``.
    """
    sequences = state.sequences
    header = state.header
    block_size = header["block_size"][0]
    is_open = sequences["flags"][row] & TAIL_OPEN != 0
    reach = num_tokens + num_ahead
    if reach == 0 or (is_open and sequences["tail_fill"][row] + reach <= block_size):
        return 0
    present = np.int64(sequences["num_tokens"][row])
    num_blocks = np.int64(sequences["num_blocks"][row])
    capacity = num_blocks * block_size
    # Mostly the table is full and one block will do: said without a division.
    wanted = num_blocks + 1
    if present != capacity or reach > block_size:
        wanted = (present + reach + block_size - 1) // block_size
    # More than the whole pool is for the caller's count of blocks to refuse.
    if wanted > header["max_blocks_per_sequence"][0]:
        if wanted - np.int64(sequences["first_block"][row]) <= header["num_blocks"][0]:
            return TOO_MANY_BLOCKS
    needed = np.int64(max(wanted - num_blocks, 0))
    if num_tokens > 0 and not is_open and present < capacity:
        column = present // block_size
        block_id = state.tables[row * header["table_stride"][0] + column]
        partial = sequences["flags"][row] & PARTIAL_HIT != 0
        if partial or must_copy(state, block_id, present - column * block_size):
            mark_copy(state, row, block_id)
            needed += 1
    return needed


@kernel
def mark_row(state: State, position: int, row: int, num_tokens: int, num_ahead: int) -> int:
    """Take a sequence into a batch: see `plan_row`.

    Parameters
    ----------
    state : State
    position : int
        In the batch: where ``scratch`` takes the row.
    row : int
        Or a status, which is passed on.
    num_tokens, num_ahead : int

    Returns
    -------
    int
        Blocks that it needs, or a status; it is not taken then.
    """
    if row < 0:
        return row
    flags = state.sequences["flags"][row]
    if flags & IN_BATCH != 0:
        return DUPLICATE_SEQUENCE
    if num_tokens < 0:
        return NEGATIVE_COUNT
    needed = np.int64(0)
    reach = np.int64(state.sequences["tail_fill"][row]) + num_tokens + num_ahead
    if flags & TAIL_OPEN == 0 or reach > state.header["block_size"][0]:
        needed = np.int64(plan_row(state, row, num_tokens, num_ahead))
        if needed < 0:
            return needed
    state.sequences["flags"][row] |= np.uint8(IN_BATCH)
    state.scratch[position] = row
    return needed


@kernel
def undo_rows(state: State, first: int, end: int) -> None:
    """Take back the marks of a part of a batch.

    Parameters
    ----------
    state : State
    first, end : int
        Positions.
    """
    for i in range(first, end):
        undo_row(state, state.scratch[i])


@kernel
def mark_copy(state: State, row: int, block_id: int) -> None:
    """Note that a sequence's tail will be copied, and give back its reference."""
    state.sequences["flags"][row] |= np.uint8(COPY_TAIL)
    state.blocks["ref_count"][block_id] -= 1


@kernel
def undo_row(state: State, row: int) -> None:
    """Take back what `plan_row` and a batch marked.

    Parameters
    ----------
    state : State
    row : int
    """
    sequences = state.sequences
    if sequences["flags"][row] & COPY_TAIL != 0:
        column = np.int64(sequences["num_tokens"][row]) // state.header["block_size"][0]
        block_id = state.tables[row * state.header["table_stride"][0] + column]
        state.blocks["ref_count"][block_id] += 1
    sequences["flags"][row] &= np.uint8(_NOT_MARKED)


@kernel
def check_room(state: State, num_needed: int) -> int:
    """Tell whether blocks suffice; a refusal leaves `num_needed` in the runtime's detail.

    Parameters
    ----------
    state : State
    num_needed : int

    Returns
    -------
    int
        0, or ``OUT_OF_BLOCKS``.
    """
    if num_needed > num_usable(state):
        state.runtime["detail"][0] = num_needed
        state.runtime["set_aside"][0] = 0
        return OUT_OF_BLOCKS
    return 0


@kernel
def fill_tail(state: State, row: int, num_tokens: int) -> int:
    """Put tokens into an open tail, closing it when full.

    Parameters
    ----------
    state : State
    row : int
        With TAIL_OPEN.
    num_tokens : int

    Returns
    -------
    int
        Tokens that fitted.
    """
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    fill = np.int64(sequences["tail_fill"][row])
    taken = min(block_size - fill, num_tokens)
    sequences["tail_fill"][row] = fill + taken
    sequences["num_tokens"][row] += taken
    if fill + taken == block_size:
        close_tail(state, row)
    return taken


@kernel
def append_open(state: State, row: int, count: int) -> None:
    """Append to an open tail that has room for all of it.

    Parameters
    ----------
    state : State
    row : int
    count : int
        At least 1.
    """
    sequences = state.sequences
    fill = np.int64(sequences["tail_fill"][row]) + count
    sequences["tail_fill"][row] = fill
    sequences["tail_writes"][row] += 1
    sequences["num_tokens"][row] += count
    if fill == state.header["block_size"][0]:
        close_tail(state, row)


@kernel
def append_block(state: State, row: int) -> int:
    """Allocate a block at the end of a table.

    Parameters
    ----------
    state : State
    row : int

    Returns
    -------
    int
        Its block_id.
    """
    column = np.int64(state.sequences["num_blocks"][row])
    block_id = allocate(state)
    state.tables[row * state.header["table_stride"][0] + column] = block_id
    state.sequences["num_blocks"][row] = column + 1
    state.header["total_allocations"][0] += 1
    return block_id


@kernel
def _append_full(state: State, row: int, count: int) -> None:
    """Allocate blocks at the end of a table and count all their tokens as written."""
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    num_blocks = np.int64(sequences["num_blocks"][row])
    start = row * state.header["table_stride"][0] + num_blocks
    allocate_run(state, state.tables, start, count, block_size)
    sequences["num_blocks"][row] = num_blocks + count
    sequences["num_tokens"][row] += count * block_size
    state.header["total_allocations"][0] += count


@outlined_kernel
def write_row(state: State, row: int, num_tokens: int) -> None:
    """Give a sequence's next tokens their places; the blocks have been counted and are free.

    Parameters
    ----------
    state : State
    row : int
        Marked by `plan_row`.
    num_tokens : int
    """
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    rest = np.int64(num_tokens)
    if rest > 0 and sequences["flags"][row] & TAIL_OPEN != 0:
        sequences["tail_writes"][row] += 1
        rest -= fill_tail(state, row, rest)
    if rest == 0:
        return
    # Blocks the table has already: a partial one, or capacity allocated ahead.
    present = np.int64(sequences["num_tokens"][row])
    if present < np.int64(sequences["num_blocks"][row]) * block_size:
        column = present // block_size
        offset = present - column * block_size
        while rest > 0 and column < sequences["num_blocks"][row]:
            open_tail(state, row, column, offset)
            rest -= fill_tail(state, row, rest)
            column += 1
            offset = 0
    if rest >= block_size:
        num_full = rest // block_size
        _append_full(state, row, num_full)
        rest -= num_full * block_size
    if rest > 0:
        set_tail(state, row, append_block(state, row), rest, 0)
        sequences["num_tokens"][row] += rest


@kernel
def emit_slots(state: State, row: int, start: int, num_tokens: int, out: Records, at: int) -> None:
    """Write the slots of a sequence's positions.

    Parameters
    ----------
    state : State
    row : int
    start : int
        First position.
    num_tokens : int
    out : int64
    at : int
        Where in `out` the first one goes.
    """
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    offset = np.int64(sequences["tail_fill"][row]) - (sequences["num_tokens"][row] - start)
    if sequences["flags"][row] & TAIL_OPEN != 0 and offset >= 0:
        # From `start` on they all lie in the tail: no division, no look at the table.
        entry = np.int64(0)
        first = np.int64(sequences["tail_block"][row]) * block_size
    else:
        column = np.int64(start) // block_size
        offset = np.int64(start) - column * block_size
        entry = row * state.header["table_stride"][0] + column
        first = np.int64(state.tables[entry]) * block_size
    # Unsigned, a subscript is known not to count from the end, and a block is one copy.
    place = np.uint64(at)
    end = place + np.uint64(num_tokens)
    while place < end:
        taken = min(np.uint64(block_size - offset), end - place)
        slot = first + offset
        for i in range(taken):
            out[place + i] = slot + np.int64(i)
        place += taken
        entry += 1
        offset = np.int64(0)
        if place < end:
            first = np.int64(state.tables[entry]) * block_size


@outlined_kernel
def settle_copies(state: State) -> None:
    """Release the sources of this call's copies that nobody holds any more.

    Last of all: a block that is the source of a copy is not handed out by the same call.
    """
    for i in range(state.runtime["num_copies"][0]):
        source = state.copies[COPY_FIELDS * i]
        held = state.blocks["ref_count"][source] + state.blocks["pin_count"][source]
        if held == 0 and state.blocks["state"][source] == HELD:
            settle_block(state, source)
