"""Blocks held by adapters, in no sequence's table: external holds.

An external hold is a reference like a table's entry. All of them count as one holder, and
what a holder holds is prefix-closed: a block held without its parent is cut from it. So a
parent that nobody holds any more has no held child, whoever lets go of it last.
"""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.free_list import allocate
from nbkv.kernels.holding import hold_block, make_room
from nbkv.kernels.marking import check_room
from nbkv.kernels.prefix import detach_block
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.layout import FREE, INDEXED, NAMED, NO_BLOCK, NO_ROW
from nbkv.statuses import (
    BLOCK_IS_EMPTY,
    BLOCK_IS_FREE,
    BLOCK_OUT_OF_RANGE,
    HELD_TOO_OFTEN,
    PARENT_NOT_HELD,
    STALE_BLOCK,
)

_LINKED = INDEXED | NAMED
_HOLDS_MAX = 2**15 - 1
_GENERATION_MASK = 2**31 - 1
_BLOCK_BITS = 32
#: The block_id in a handle.
BLOCK_MASK = 0xFFFFFFFF


@kernel
def block_handle(state: State, block_id: int) -> int:
    """Return the handle of a block: generation << 32 | block_id."""
    generation = np.int64(state.blocks["generation"][block_id]) & _GENERATION_MASK
    return (generation << _BLOCK_BITS) | np.int64(block_id)


@kernel
def block_of(state: State, value: int, by_handle: bool) -> int:
    """Find the block of a handle or of a plain block_id.

    Parameters
    ----------
    state : State
    value : int64
        Anything: nothing about it is trusted.
    by_handle : bool

    Returns
    -------
    int
        A block_id, HELD or CACHED, or a status.
    """
    number = np.int64(value)
    num_fresh = state.header["num_fresh_blocks"][0]
    if by_handle:
        block_id = number & BLOCK_MASK
        if block_id >= num_fresh or state.blocks["state"][block_id] == FREE:
            return np.int64(STALE_BLOCK)
        if number != block_handle(state, block_id):
            return np.int64(STALE_BLOCK)
        return block_id
    if number < 0 or number >= state.header["num_blocks"][0]:
        return np.int64(BLOCK_OUT_OF_RANGE)
    if number >= num_fresh or state.blocks["state"][number] == FREE:
        return np.int64(BLOCK_IS_FREE)
    return number


@kernel
def change_holds(state: State, block_ids: Records, count: int, change: int) -> None:
    """Change how many external holds the first blocks of a call have, references aside.

    Parameters
    ----------
    state : State
    block_ids : int64
        Handles or block ids.
    count : int
        How many of them.
    change : int
        1 or -1.
    """
    for i in range(count):
        state.external_holds[block_ids[i] & BLOCK_MASK] += change


@kernel
def stands_alone(state: State, block_id: int, parent: int) -> bool:
    """Tell whether a block must not be linked to a parent: it alone has external holds.

    Parameters
    ----------
    state : State
    block_id : int
    parent : int
        Or NO_BLOCK.

    Returns
    -------
    bool
    """
    if parent == NO_BLOCK or state.external_holds[block_id] == 0:
        return False
    return state.external_holds[parent] == 0


@kernel
def is_orphan(state: State, block_id: int) -> bool:
    """Tell whether a block has external holds, but the parent that it is linked to has none.

    Parameters
    ----------
    state : State
    block_id : int

    Returns
    -------
    bool
    """
    # First what lies close together: this is asked of all blocks in turn.
    if state.external_holds[block_id] == 0 or state.blocks["flags"][block_id] & _LINKED == 0:
        return False
    return stands_alone(state, block_id, np.int64(state.blocks["parent"][block_id]))


@entry("int64(uint8[::1], int64, int64[::1])")
def allocate_blocks(arena: Arena, count: int, out: Records) -> int:
    """Hand out blocks with one external hold each, evicting where needed.

    Parameters
    ----------
    arena : uint8, C-contiguous
    count : int
        At least 0.
    out : int64
        Takes their handles; at least `count` long if there are as many blocks.

    Returns
    -------
    int
        0, or ``OUT_OF_BLOCKS``; nothing has changed then.
    """
    state = open_state(arena)
    status = np.int64(check_room(state, count))
    if status < 0:
        return status
    begin_report(state)
    make_room(state, count)
    for i in range(count):
        block_id = np.int64(allocate(state))
        state.external_holds[block_id] = 1
        out[i] = block_handle(state, block_id)
    state.header["num_external_holds"][0] += count
    state.header["total_allocations"][0] += count
    return np.int64(0)


@entry("int64(uint8[::1], int64[::1], boolean)")
def acquire_blocks(arena: Arena, block_ids: Records, by_handle: bool) -> int:
    """Add an external hold to each block, all or nothing.

    Parameters
    ----------
    arena : uint8, C-contiguous
    block_ids : int64
        Handles or block ids; a block may stand in it more than once.
    by_handle : bool

    Returns
    -------
    int
        0, or a status, and the runtime's detail says at which position; nothing has
        changed then.
    """
    state = open_state(arena)
    status = np.int64(_add_holds(state, block_ids, by_handle))
    if status < 0:
        return status
    begin_report(state)
    for i in range(block_ids.size):
        hold_block(state, block_ids[i] & BLOCK_MASK)
    for i in range(block_ids.size):
        block_id = block_ids[i] & BLOCK_MASK
        if is_orphan(state, block_id):
            detach_block(state, block_id)
    state.header["num_external_holds"][0] += block_ids.size
    return np.int64(0)


@kernel
def _add_holds(state: State, block_ids: Records, by_handle: bool) -> int:
    """Count the holds of a call, or refuse it: 0 or a status."""
    status = np.int64(0)
    size = np.int64(block_ids.size)
    for i in range(size):
        status = np.int64(_check_acquired(state, block_ids[i], by_handle))
        if status < 0:
            state.runtime["detail"][0] = i
            change_holds(state, block_ids, i, -1)
            return status
        state.external_holds[block_ids[i] & BLOCK_MASK] += 1
    # Only now it shows which parents are held as well.
    for i in range(size):
        block_id = block_ids[i] & BLOCK_MASK
        if state.blocks["flags"][block_id] & NAMED != 0 and is_orphan(state, block_id):
            state.runtime["detail"][0] = i
            change_holds(state, block_ids, size, -1)
            return np.int64(PARENT_NOT_HELD)
    return np.int64(0)


@kernel
def _check_acquired(state: State, value: int, by_handle: bool) -> int:
    """Tell whether a block can have one more external hold: its id, or a status."""
    block_id = np.int64(block_of(state, value, by_handle))
    if block_id < 0:
        return block_id
    holds = state.external_holds[block_id]
    if holds >= _HOLDS_MAX:
        return np.int64(HELD_TOO_OFTEN)
    # A sequence writes to blocks kept for later tokens without asking who else holds them.
    if holds == 0 and state.blocks["num_tokens"][block_id] == 0:
        if state.blocks["writer"][block_id] == NO_ROW:
            return np.int64(BLOCK_IS_EMPTY)
    return block_id
