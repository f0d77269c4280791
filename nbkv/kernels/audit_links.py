"""Audit of the prefix tree: parents, children, and no way back to where one came from."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.audit_notes import DEPTHS, KIDS, NIL, note
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    BLOCK_DTYPE,
    CACHED,
    CALLER_KEYED,
    DETACHED,
    FREE,
    HELD,
    INDEXED,
    NAMED,
    NO_BLOCK,
)
from nbkv.violations import (
    BLOCKS,
    CHILD,
    CHILDREN,
    CYCLE,
    MUST_BE,
    PARENT_KIND,
    PARENT_LET_GO,
    PARENT_LOOSE,
    PARENT_NOT_HELD,
    PARENT_ORDER,
    field_of,
)

_LINKED = INDEXED | NAMED
_KEYED = INDEXED | CALLER_KEYED

_PARENT = field_of(BLOCK_DTYPE, "parent")
_CHILD = field_of(BLOCK_DTYPE, "child")
_NUM_CHILDREN = field_of(BLOCK_DTYPE, "num_children")
_FLAGS = field_of(BLOCK_DTYPE, "flags")


@outlined_kernel
def audit_links(state: State, work: Records, found: Records) -> int:
    """Audit the links of blocks that are not FREE.

    Parameters
    ----------
    state : State
        Parents and children are in range.
    work : int32, shape (WORK_ROWS, num_blocks)
        Takes KIDS and DEPTHS.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    blocks = state.blocks
    num_fresh = state.header["num_fresh_blocks"][0]
    for i in range(num_fresh):
        block_id = np.int64(i)
        if blocks["state"][block_id] != FREE:
            code = np.int64(_audit_parent(state, work, block_id, found))
            if code != 0:
                return code
    for i in range(num_fresh):
        block_id = np.int64(i)
        if blocks["state"][block_id] != FREE:
            code = np.int64(_audit_children(state, work, block_id, found))
            if code == 0 and work[DEPTHS, block_id] == 0:
                code = np.int64(_measure_depth(state, work, block_id, found))
            if code != 0:
                return code
    return np.int64(0)


@kernel
def _audit_parent(state: State, work: Records, block_id: int, found: Records) -> int:
    """Audit a block's parent and count the block as its child."""
    blocks = state.blocks
    flags = np.int64(blocks["flags"][block_id])
    parent = np.int64(blocks["parent"][block_id])
    if parent == NO_BLOCK:
        if flags & DETACHED != 0 and flags & NAMED != 0:
            return note(found, MUST_BE, BLOCKS, block_id, _FLAGS, flags, flags - DETACHED, NIL)
        return np.int64(0)
    if flags & _LINKED == 0 or flags & DETACHED != 0:
        return note(found, MUST_BE, BLOCKS, block_id, _PARENT, parent, NO_BLOCK, NIL)
    above = np.int64(blocks["flags"][parent])
    if blocks["state"][parent] == FREE or above & _LINKED == 0:
        return note(found, PARENT_LOOSE, BLOCKS, block_id, _PARENT, parent, NIL, NIL)
    if flags & NAMED != 0 and above & NAMED == 0:
        return note(found, PARENT_LOOSE, BLOCKS, block_id, _PARENT, parent, NIL, NIL)
    if flags & INDEXED != 0 and above & INDEXED != 0 and (flags ^ above) & CALLER_KEYED != 0:
        return note(found, PARENT_KIND, BLOCKS, block_id, _PARENT, parent, NIL, NIL)
    if blocks["state"][block_id] == HELD:
        if blocks["state"][parent] != HELD:
            return note(found, PARENT_LET_GO, BLOCKS, block_id, _PARENT, parent, NIL, NIL)
        if state.external_holds[block_id] > 0 and state.external_holds[parent] == 0:
            return note(found, PARENT_NOT_HELD, BLOCKS, block_id, _PARENT, parent, NIL, NIL)
    elif blocks["state"][parent] == CACHED:
        if blocks["last_access"][parent] < blocks["last_access"][block_id]:
            return note(found, PARENT_ORDER, BLOCKS, block_id, _PARENT, parent, NIL, NIL)
    work[KIDS, parent] += 1
    return np.int64(0)


@kernel
def _audit_children(state: State, work: Records, block_id: int, found: Records) -> int:
    """Audit how many children a block says it has, and the one it names."""
    blocks = state.blocks
    claimed = np.int64(blocks["num_children"][block_id])
    if claimed != work[KIDS, block_id]:
        kids = np.int64(work[KIDS, block_id])
        return note(found, CHILDREN, BLOCKS, block_id, _NUM_CHILDREN, claimed, kids, NIL)
    child = np.int64(blocks["child"][block_id])
    if child == NO_BLOCK:
        return np.int64(0)
    if blocks["state"][child] == FREE or blocks["parent"][child] != block_id:
        return note(found, CHILD, BLOCKS, block_id, _CHILD, child, NIL, NIL)
    return np.int64(0)


@kernel
def _measure_depth(state: State, work: Records, block_id: int, found: Records) -> int:
    """Note how far a block and those above it are from their roots."""
    parents = state.blocks["parent"]
    steps = np.int64(0)
    at = np.int64(block_id)
    while at != NO_BLOCK and work[DEPTHS, at] == 0:
        work[DEPTHS, at] = -1
        steps += 1
        at = np.int64(parents[at])
    depth = steps
    if at != NO_BLOCK:
        if work[DEPTHS, at] < 0:
            return note(found, CYCLE, BLOCKS, block_id, _PARENT, at, NIL, NIL)
        depth += np.int64(work[DEPTHS, at])
    at = np.int64(block_id)
    for i in range(steps):
        work[DEPTHS, at] = depth - i
        at = np.int64(parents[at])
    return np.int64(0)
