"""The tail of a sequence: where the next token goes, and copy-on-write before it.

An open tail is a block its sequence may write to without looking at the block's record:
no other reference, no pin and no key or name over the tokens to come. Whoever changes one
of these closes it first (`hold_block` does). Its fill and access count live in the
sequence row meanwhile.
"""

import numpy as np

from nbkv._jit import kernel
from nbkv.kernels.free_list import allocate
from nbkv.kernels.prefix import unindex_block
from nbkv.kernels.state import State
from nbkv.layout import COPY_FIELDS, COPY_TAIL, INDEXED, NAMED, NO_ROW, PARTIAL_HIT, TAIL_OPEN

_NOT_OPEN = 255 - TAIL_OPEN
_NOT_COPY = 255 - COPY_TAIL - PARTIAL_HIT


@kernel
def close_tail(state: State, row: int) -> None:
    """Settle what an open tail's block is owed.

    Parameters
    ----------
    state : State
    row : int
        A sequence with TAIL_OPEN.
    """
    sequences = state.sequences
    block_id = sequences["tail_block"][row]
    state.blocks["num_tokens"][block_id] = sequences["tail_fill"][row]
    state.blocks["access_count"][block_id] += sequences["tail_writes"][row]
    state.blocks["writer"][block_id] = NO_ROW
    sequences["flags"][row] &= np.uint8(_NOT_OPEN)


@kernel
def must_copy(state: State, block_id: int, offset: int) -> bool:
    """Tell whether a write at an offset of a block must go to a copy.

    Parameters
    ----------
    state : State
    block_id : int
        In the writer's table.
    offset : int
        0 to block_size - 1.

    Returns
    -------
    bool
    """
    blocks = state.blocks
    if blocks["ref_count"][block_id] > 1:
        return True
    if blocks["pin_count"][block_id] > 0 and offset < blocks["num_tokens"][block_id]:
        return True
    flags = blocks["flags"][block_id]
    if flags & NAMED != 0:  # names cover full blocks, so every offset
        return True
    covered = flags & INDEXED != 0 and state.keys["num_keyed_tokens"][block_id] > offset
    return covered and blocks["num_children"][block_id] > 0


@kernel
def open_tail(state: State, row: int, column: int, offset: int) -> None:
    """Make the existing block of the next token writable, by a copy if it was marked.

    Parameters
    ----------
    state : State
    row : int
        With COPY_TAIL if `must_copy` said so and a free block is set aside for it.
    column : int
        Table column of the next token.
    offset : int
        The next token's offset in it.
    """
    sequences = state.sequences
    entry = row * state.header["table_stride"][0] + column
    block_id = np.int64(state.tables[entry])
    writes = 1
    if sequences["flags"][row] & COPY_TAIL != 0:
        sequences["flags"][row] &= np.uint8(_NOT_COPY)
        source = block_id
        block_id = _copy_block(state, source, offset)
        state.tables[entry] = block_id
        writes = 0
        if sequences["num_known"][row] > column * state.header["block_size"][0]:
            _copy_tokens(state, block_id, source, offset)
    elif state.blocks["flags"][block_id] & INDEXED != 0:
        if state.keys["num_keyed_tokens"][block_id] > offset:
            unindex_block(state, block_id)
    set_tail(state, row, block_id, offset, writes)


@kernel
def _copy_block(state: State, source: int, num_tokens: int) -> int:
    """Allocate and report a copy; the source's reference is settled at the call's end."""
    copy = allocate(state)
    state.blocks["num_tokens"][copy] = num_tokens
    state.blocks["access_count"][copy] = 2
    # What is copied is there when this step has run, and not if it fails.
    state.blocks["ready_step"][copy] = state.header["num_steps"][0]
    # A copy is not an allocation: the seed counts it in cow_copies alone.
    state.header["cow_copies"][0] += 1
    at = state.runtime["num_copies"][0]
    state.copies[COPY_FIELDS * at] = source
    state.copies[COPY_FIELDS * at + 1] = copy
    state.copies[COPY_FIELDS * at + 2] = num_tokens
    state.runtime["num_copies"][0] = at + 1
    return copy


@kernel
def _copy_tokens(state: State, block_id: int, source: int, num_tokens: int) -> None:
    """Copy the ids of a block's first tokens along with their keys and values."""
    block_size = state.header["block_size"][0]
    tokens = state.tokens
    for i in range(num_tokens):
        tokens[block_id * block_size + i] = tokens[source * block_size + i]


@kernel
def set_tail(state: State, row: int, block_id: int, offset: int, writes: int) -> None:
    """Open a tail.

    Parameters
    ----------
    state : State
    row, block_id : int
    offset : int
        Where its next token goes.
    writes : int
        Calls that count as a write into it so far and are not in its access_count.
    """
    sequences = state.sequences
    sequences["tail_block"][row] = block_id
    sequences["tail_fill"][row] = offset
    sequences["tail_writes"][row] = writes
    sequences["flags"][row] |= np.uint8(TAIL_OPEN)
    state.blocks["writer"][block_id] = row
