"""Appending to one sequence: a token, a number of tokens, an empty block."""

import numpy as np

from nbkv._jit import entry, outlined_kernel
from nbkv.kernels.holding import make_room
from nbkv.kernels.index import find_row
from nbkv.kernels.marking import check_room, plan_row, undo_row
from nbkv.kernels.rows import has_planned, has_room, open_row
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.kernels.writing import append_block, append_open, settle_copies, write_row
from nbkv.layout import TAIL_OPEN
from nbkv.statuses import TOKENS_PLANNED, TOO_MANY_BLOCKS, TOO_MANY_SEQUENCES


@outlined_kernel
def write_tokens(state: State, seq_id: int, num_tokens: int) -> int:
    """Append tokens to one sequence, opening it if unknown.

    Parameters
    ----------
    state : State
    seq_id : uint64
    num_tokens : int
        At least 1.

    Returns
    -------
    int
        Its row, or a status; nothing has changed then.
    """
    row = np.int64(find_row(state, seq_id))
    if row < 0:
        if not has_room(state):
            return TOO_MANY_SEQUENCES
        block_size = state.header["block_size"][0]
        needed = (np.int64(num_tokens) + block_size - 1) // block_size
        if state.header["max_blocks_per_sequence"][0] < needed <= state.header["num_blocks"][0]:
            return TOO_MANY_BLOCKS
    else:
        if has_planned(state, row):
            return TOKENS_PLANNED
        needed = np.int64(plan_row(state, row, num_tokens, 0))
        if needed < 0:
            return needed
    status = check_room(state, needed)
    if status < 0:
        if row >= 0:
            undo_row(state, row)
        return status
    begin_report(state)
    make_room(state, needed)
    if row < 0:
        row = np.int64(open_row(state, seq_id))
    write_row(state, row, num_tokens)
    state.sequences["num_committed"][row] = state.sequences["num_tokens"][row]
    settle_copies(state)
    return row


@entry("int64(uint8[::1], uint64)")
def append_token(arena: Arena, seq_id: int) -> int:
    """Append one token to a sequence, opening it if unknown.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64

    Returns
    -------
    int
        The block_id that the token lies in, or a status; nothing has changed then.
    """
    state = open_state(arena)
    sequences = state.sequences
    row = np.int64(find_row(state, np.uint64(seq_id)))
    if row >= 0 and sequences["flags"][row] & TAIL_OPEN != 0 and not has_planned(state, row):
        begin_report(state)
        block_id = np.int64(sequences["tail_block"][row])
        append_open(state, row, 1)
        sequences["num_committed"][row] = sequences["num_tokens"][row]
        return block_id
    row = np.int64(write_tokens(state, np.uint64(seq_id), 1))
    if row < 0:
        return row
    column = (np.int64(sequences["num_tokens"][row]) - 1) // state.header["block_size"][0]
    return np.int64(state.tables[row * state.header["table_stride"][0] + column])


@entry("int64(uint8[::1], uint64)")
def allocate_block(arena: Arena, seq_id: int) -> int:
    """Add an empty block to the end of a sequence's table, opening it if unknown.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64

    Returns
    -------
    int
        Its block_id, or a status; nothing has changed then.
    """
    state = open_state(arena)
    row = np.int64(find_row(state, np.uint64(seq_id)))
    status = check_room(state, 1)
    if status < 0:
        return status
    if row < 0 and not has_room(state):
        return TOO_MANY_SEQUENCES
    if row >= 0:
        if has_planned(state, row):
            return TOKENS_PLANNED
        width = state.header["max_blocks_per_sequence"][0]
        if state.sequences["num_blocks"][row] >= width:
            return TOO_MANY_BLOCKS
    begin_report(state)
    make_room(state, 1)
    if row < 0:
        row = np.int64(open_row(state, np.uint64(seq_id)))
    return np.int64(append_block(state, row))


@entry("int64(uint8[::1], uint64, int64, int32[::1])")
def allocate_for_tokens(arena: Arena, seq_id: int, num_tokens: int, out: Records) -> int:
    """Append tokens to one sequence and say which blocks its table gained.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64
        Opened if unknown.
    num_tokens : int
        At least 1.
    out : int32
        Room for the new ids: min(ceil(num_tokens / block_size), num_blocks) suffice.

    Returns
    -------
    int
        New ids written, or a status; nothing has changed then.
    """
    state = open_state(arena)
    allocated = state.header["total_allocations"][0]
    row = np.int64(write_tokens(state, np.uint64(seq_id), num_tokens))
    if row < 0:
        return row
    # Its new blocks are the last of its table.
    count = state.header["total_allocations"][0] - allocated
    end = row * state.header["table_stride"][0] + np.int64(state.sequences["num_blocks"][row])
    tables = state.tables
    # Unsigned, the subscripts are known not to count from the end: several a turn.
    for i in range(count):
        out[np.uint64(i)] = tables[np.uint64(end - count + i)]
    return count
