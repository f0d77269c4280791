"""Withdrawing steps that failed on the device: nothing they computed may be found or used."""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.commit import advance_fence
from nbkv.kernels.fence import is_past
from nbkv.kernels.forget import free_if_unfindable
from nbkv.kernels.names import drop_names_over
from nbkv.kernels.prefix import unindex_block
from nbkv.kernels.rows import cut_row, handle_of, has_planned, least_tokens
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.layout import FREE, INDEXED, ROW_ACTIVE
from nbkv.statuses import STEP_UNKNOWN, STEPS_UNCOMMITTED


@kernel
def _is_tainted(state: State, block_id: int, step_id: int) -> bool:
    """Tell whether a block's content comes from a withdrawn step."""
    return not is_past(state.blocks["ready_step"][block_id], step_id - 1)


@entry("int64(uint8[::1], int64, int64[::1])")
def fail_step(arena: Arena, step_id: int, out: Records) -> int:
    """Withdraw a step and all after it.

    Parameters
    ----------
    arena : uint8, C-contiguous
    step_id : int
        All before it are committed, it is not completed.
    out : int64, shape (max_sequences,)
        Takes the handles of the sequences that lost tokens.

    Returns
    -------
    int
        Handles written, or a status; nothing has changed then.
    """
    state = open_state(arena)
    header = state.header
    if not header["completed_step"][0] < step_id <= header["num_steps"][0]:
        state.runtime["detail"][0] = header["num_steps"][0]
        return STEP_UNKNOWN
    if header["committed_step"][0] < step_id - 1:
        state.runtime["detail"][0] = header["committed_step"][0] + 1
        return STEPS_UNCOMMITTED
    begin_report(state)
    if header["committed_step"][0] >= step_id:
        _forget_blocks(state, step_id)
    count = np.int64(0)
    for row in range(header["num_fresh_rows"][0]):
        if state.sequences["state"][row] != ROW_ACTIVE:
            continue
        if _withdraw(state, np.int64(row), step_id):
            out[count] = handle_of(state, np.int64(row))
            count += 1
    header["committed_step"][0] = header["num_steps"][0]
    advance_fence(state, header["num_steps"][0])
    return count


@kernel
def _forget_blocks(state: State, step_id: int) -> None:
    """Make tainted blocks unfindable, with the names over them.

    Whoever leads to one is older, whoever follows it is tainted too.
    """
    blocks = state.blocks
    for i in range(state.header["num_fresh_blocks"][0]):
        block_id = np.int64(i)
        if blocks["state"][block_id] == FREE or not _is_tainted(state, block_id, step_id):
            continue
        drop_names_over(state, block_id)
        if blocks["flags"][block_id] & INDEXED != 0:
            unindex_block(state, block_id)
            free_if_unfindable(state, block_id)


@kernel
def _withdraw(state: State, row: int, step_id: int) -> bool:
    """Cut a sequence to what no withdrawn step has touched; tells whether it lost tokens."""
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    base = row * state.header["table_stride"][0]
    committed = np.int64(sequences["num_committed"][row])
    kept = committed
    touched = not is_past(sequences["last_step"][row], step_id - 1)
    if touched and state.header["committed_step"][0] >= step_id:
        # How much of its last block is older, the records do not say.
        kept = committed // block_size * block_size
    column = np.int64(sequences["first_block"][row])
    while column * block_size < kept:
        block_id = np.int64(state.tables[base + column])
        if _is_tainted(state, block_id, step_id):
            kept = column * block_size
        column += 1
    if 0 < kept < committed and kept < least_tokens(state, row):
        kept = np.int64(0)
    if kept == committed and not (touched and has_planned(state, row)):
        return False
    cut_row(state, row, kept)
    return True
