"""Beam search: sequences of a batch go on as others of it, sharing blocks instead of copying.

Only tables and references change here. A partial tail that several now share is copied by
the next plan, except for the last of them, which writes on in place.
"""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.extras import same_identity
from nbkv.kernels.fence import must_fence
from nbkv.kernels.free_list import release_free
from nbkv.kernels.holding import hold_block
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.kernels.steps import check_handles
from nbkv.kernels.tails import close_tail
from nbkv.kernels.victim import insert_cached
from nbkv.layout import HELD, INDEXED, NAMED, NO_BLOCK, PARTIAL_HIT, TAIL_OPEN, UNINDEXABLE
from nbkv.statuses import DIFFERENT_PROMPTS

_LINKED = INDEXED | NAMED
_TAKEN_FLAGS = UNINDEXABLE | PARTIAL_HIT
_OWN_FLAGS = 255 - _TAKEN_FLAGS
_ROW_MASK = 0xFFFFFFFF


@entry("int64(uint8[::1], int64[::1], int32[::1])")
def reorder_rows(arena: Arena, handles: Records, parents: Records) -> int:
    """Let each sequence go on as another one of the batch, from its committed tokens.

    Parameters
    ----------
    arena : uint8, C-contiguous
    handles : int64, shape (n,)
    parents : int32, shape (n,)
        Positions in `handles`, 0 to n - 1.

    Returns
    -------
    int
        0, or a status; nothing has changed then.
    """
    state = open_state(arena)
    status = np.int64(check_handles(state, handles, handles[:0]))
    if status < 0:
        return status
    size = np.int64(handles.size)
    longest = np.int64(0)
    for i in range(size):
        row, parent = handles[i] & _ROW_MASK, handles[parents[i]] & _ROW_MASK
        if not same_identity(state, row, parent):
            state.runtime["detail"][0] = i
            return DIFFERENT_PROMPTS
        longest = max(longest, np.int64(_num_taken(state, parent)))
    begin_report(state)
    for i in range(size):
        if parents[i] != i:
            _hold_parent(state, handles[i] & _ROW_MASK, handles[parents[i]] & _ROW_MASK)
    for i in range(size):
        if parents[i] != i:
            _release_own(state, handles[i] & _ROW_MASK, handles[parents[i]] & _ROW_MASK)
    for column in range(longest):
        _take_column(state, handles, parents, column)
    _take_fields(state, handles, parents)
    return np.int64(0)


@kernel
def _num_taken(state: State, parent: int) -> int:
    """Count the table columns with committed tokens."""
    block_size = state.header["block_size"][0]
    return (np.int64(state.sequences["num_committed"][parent]) + block_size - 1) // block_size


@kernel
def _hold_parent(state: State, row: int, parent: int) -> None:
    """Take references to the blocks of a parent that the sequence has not got in that place."""
    stride = state.header["table_stride"][0]
    own = np.int64(state.sequences["num_blocks"][row])
    for column in range(_num_taken(state, parent)):
        block_id = np.int64(state.tables[parent * stride + column])
        if block_id == NO_BLOCK:
            continue
        if column >= own or state.tables[row * stride + column] != block_id:
            hold_block(state, block_id)


@kernel
def _release_own(state: State, row: int, parent: int) -> None:
    """Give back the blocks of a sequence that its parent has not got in that place."""
    if state.sequences["flags"][row] & TAIL_OPEN != 0:
        close_tail(state, row)
    stride = state.header["table_stride"][0]
    taken = np.int64(_num_taken(state, parent))
    own = np.int64(state.sequences["num_blocks"][row])
    blocks, tables = state.blocks, state.tables
    fenced = must_fence(state)
    for column in range(own):
        block_id = np.int64(tables[row * stride + column])
        kept = column < taken and tables[parent * stride + column] == block_id
        if block_id == NO_BLOCK or kept:
            continue
        blocks["ref_count"][block_id] -= 1
        held = blocks["ref_count"][block_id] + blocks["pin_count"][block_id]
        if held == 0 and blocks["flags"][block_id] & _LINKED == 0:
            state.header["num_held_blocks"][0] -= 1
            release_free(state, block_id, fenced)
    for column in range(own - 1, -1, -1):
        block_id = np.int64(tables[row * stride + column])
        kept = column < taken and tables[parent * stride + column] == block_id
        if block_id == NO_BLOCK or kept:
            continue
        held = blocks["ref_count"][block_id] + blocks["pin_count"][block_id]
        if held == 0 and blocks["state"][block_id] == HELD:
            state.header["num_held_blocks"][0] -= 1
            insert_cached(state, block_id)


@kernel
def _take_column(state: State, handles: Records, parents: Records, column: int) -> None:
    """Write one column of every table that changes; read all before writing any."""
    stride = state.header["table_stride"][0]
    for i in range(handles.size):
        state.scratch[i] = state.tables[(handles[i] & _ROW_MASK) * stride + column]
    for i in range(handles.size):
        parent = np.int64(parents[i])
        if parent != i and column < _num_taken(state, handles[parent] & _ROW_MASK):
            state.tables[(handles[i] & _ROW_MASK) * stride + column] = state.scratch[parent]


@kernel
def _take_field(field: Records, state: State, handles: Records, parents: Records) -> None:
    """Give the sequences that change their parents' value of a field; read before writing."""
    for i in range(handles.size):
        state.scratch[i] = field[handles[i] & _ROW_MASK]
    for i in range(handles.size):
        if parents[i] != i:
            field[handles[i] & _ROW_MASK] = state.scratch[parents[i]]


@kernel
def _take_fields(state: State, handles: Records, parents: Records) -> None:
    """Give the sequences that change what describes their parents' committed tokens."""
    sequences, scratch = state.sequences, state.scratch
    for i in range(handles.size):
        scratch[i] = sequences["flags"][handles[i] & _ROW_MASK]
    for i in range(handles.size):
        if parents[i] != i:
            row = handles[i] & _ROW_MASK
            taken = np.uint8(scratch[parents[i]]) & np.uint8(_TAKEN_FLAGS)
            sequences["flags"][row] = (sequences["flags"][row] & np.uint8(_OWN_FLAGS)) | taken
    _take_field(sequences["num_known"], state, handles, parents)
    _take_field(sequences["first_block"], state, handles, parents)
    _take_field(sequences["last_step"], state, handles, parents)
    _take_field(sequences["num_hit_tokens"], state, handles, parents)
    _take_field(sequences["num_committed"], state, handles, parents)
    for i in range(handles.size):
        if parents[i] != i:
            row = handles[i] & _ROW_MASK
            sequences["num_tokens"][row] = sequences["num_committed"][row]
            sequences["num_blocks"][row] = _num_taken(state, row)
            sequences["void_step"][row] = state.header["num_steps"][0]
