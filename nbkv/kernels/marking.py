"""What a call needs, counted for every sequence of it before anything changes.

`plan_row` counts and marks, `undo_rows` takes the marks back.
"""

import numpy as np

from nbkv._jit import kernel
from nbkv.kernels.fence import num_usable
from nbkv.kernels.state import State
from nbkv.kernels.tails import must_copy
from nbkv.layout import COPY_TAIL, IN_BATCH, PARTIAL_HIT, TAIL_OPEN
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
