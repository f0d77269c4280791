"""Slots for new tokens, given out: blocks have been counted and made free, nothing can fail."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.free_list import allocate, allocate_run
from nbkv.kernels.holding import settle_block
from nbkv.kernels.state import Records, State
from nbkv.kernels.tails import close_tail, open_tail, set_tail
from nbkv.layout import COPY_FIELDS, HELD, TAIL_OPEN


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
