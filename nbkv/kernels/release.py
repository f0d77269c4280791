"""External holds given back: orphans are cut, parents wait for their children."""

import numpy as np

from nbkv._jit import entry, kernel, outlined_kernel
from nbkv.kernels.external import BLOCK_MASK, block_of, change_holds, is_orphan
from nbkv.kernels.fence import must_fence
from nbkv.kernels.free_list import release_free
from nbkv.kernels.prefix import detach_block
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.kernels.victim import insert_cached
from nbkv.layout import HELD, INDEXED, NAMED, NO_BLOCK
from nbkv.statuses import BLOCK_NOT_HELD, PARENT_NOT_HELD

_LINKED = INDEXED | NAMED
# In the link of a block let go, until it is CACHED: its turn is over, it has been counted,
# and from _CHILD on how many children it waits for.
_PASSED = 1
_COUNTED = 2
_CHILD = 4


@entry("int64(uint8[::1], int64[::1], boolean)")
def release_blocks(arena: Arena, block_ids: Records, by_handle: bool) -> int:
    """Take an external hold from each block, all or nothing.

    Blocks that become FREE go in the order given, those that become CACHED enter the
    policy's order in reverse, but none before its children.

    Parameters
    ----------
    arena : uint8, C-contiguous
    block_ids : int64
        Handles or block ids; a block may stand in it as often as it is held.
    by_handle : bool

    Returns
    -------
    int
        0, or a status, and the runtime's detail says at which position; nothing has
        changed then.
    """
    state = open_state(arena)
    size = np.int64(block_ids.size)
    for i in range(size):
        block_id = np.int64(block_of(state, block_ids[i], by_handle))
        if block_id >= 0 and state.external_holds[block_id] == 0:
            block_id = np.int64(BLOCK_NOT_HELD)
        if block_id < 0:
            state.runtime["detail"][0] = i
            change_holds(state, block_ids, i, 1)
            return block_id
        state.external_holds[block_id] -= 1
    num_orphans = np.int64(0)
    if _may_orphan(state, block_ids):
        num_orphans = np.int64(_count_orphans(state, block_ids))
    if num_orphans < 0:
        change_holds(state, block_ids, size, 1)
        return num_orphans
    begin_report(state)
    if num_orphans > 0:
        _cut_orphans(state, num_orphans)
    state.header["num_external_holds"][0] -= size
    state.header["total_deallocations"][0] += size
    _let_go(state, block_ids)
    return np.int64(0)


@kernel
def _may_orphan(state: State, block_ids: Records) -> bool:
    """Tell whether a block just released may have a child with external holds left."""
    if state.header["num_external_holds"][0] == block_ids.size:
        return False
    blocks = state.blocks
    for i in range(block_ids.size):
        block_id = block_ids[i] & BLOCK_MASK
        if state.external_holds[block_id] > 0 or blocks["num_children"][block_id] == 0:
            continue
        child = np.int64(blocks["child"][block_id])
        if blocks["num_children"][block_id] > 1 or child == NO_BLOCK:
            return True
        if state.external_holds[child] > 0:
            return True
    return False


@outlined_kernel
def _count_orphans(state: State, block_ids: Records) -> int:
    """Count the blocks that a release leaves without their parent: there is no list of children.

    Reads two bytes a block, up to the last one with external holds.

    Returns
    -------
    int
        Or ``PARENT_NOT_HELD`` if a name covers one of them.
    """
    count = np.int64(0)
    block_id = np.int64(-1)
    left = state.header["num_external_holds"][0] - block_ids.size
    while left > 0:
        block_id += 1
        left -= np.int64(state.external_holds[block_id])
        if is_orphan(state, block_id):
            if state.blocks["flags"][block_id] & NAMED != 0:
                at = np.int64(0)
                while block_ids[at] & BLOCK_MASK != state.blocks["parent"][block_id]:
                    at += 1
                state.runtime["detail"][0] = at
                return np.int64(PARENT_NOT_HELD)
            count += 1
    return count


@outlined_kernel
def _cut_orphans(state: State, count: int) -> None:
    left = np.int64(count)
    block_id = np.int64(0)
    while left > 0:
        if is_orphan(state, block_id):
            detach_block(state, block_id)
            left -= 1
        block_id += 1


@kernel
def _is_let_go(state: State, block_id: int) -> bool:
    """Tell whether a block has lost its last holder in this call and is not CACHED yet."""
    blocks = state.blocks
    held = blocks["ref_count"][block_id] + blocks["pin_count"][block_id]
    return held == 0 and blocks["state"][block_id] == HELD


@outlined_kernel
def _let_go(state: State, block_ids: Records) -> None:
    """Give back the references of a call's blocks."""
    blocks = state.blocks
    fenced = must_fence(state)
    num_kept = 0
    for i in range(block_ids.size):
        block_id = block_ids[i] & BLOCK_MASK
        blocks["ref_count"][block_id] -= 1
        if not _is_let_go(state, block_id):
            continue
        if blocks["flags"][block_id] & _LINKED != 0:
            blocks["link"][block_id] = 0
            num_kept += 1
        else:
            state.header["num_held_blocks"][0] -= 1
            release_free(state, block_id, fenced)
    if num_kept > 0:
        _keep_cached(state, block_ids)


@kernel
def _keep_cached(state: State, block_ids: Records) -> None:
    """Make CACHED what a release has let go: last first, but a parent after its children."""
    blocks = state.blocks
    for i in range(block_ids.size):
        block_id = block_ids[i] & BLOCK_MASK
        if _is_let_go(state, block_id) and blocks["link"][block_id] & _COUNTED == 0:
            blocks["link"][block_id] |= _COUNTED
            parent = np.int64(blocks["parent"][block_id])
            if parent != NO_BLOCK and _is_let_go(state, parent):
                blocks["link"][parent] += _CHILD
    for i in range(block_ids.size - 1, -1, -1):
        block_id = block_ids[i] & BLOCK_MASK
        if _is_let_go(state, block_id):
            blocks["link"][block_id] |= _PASSED
        # A parent whose turn came too early follows the last of its children.
        while block_id != NO_BLOCK and _is_let_go(state, block_id):
            if blocks["link"][block_id] >= _CHILD or blocks["link"][block_id] & _PASSED == 0:
                break
            state.header["num_held_blocks"][0] -= 1
            insert_cached(state, block_id)
            block_id = np.int64(blocks["parent"][block_id])
            if block_id != NO_BLOCK and _is_let_go(state, block_id):
                blocks["link"][block_id] -= _CHILD
