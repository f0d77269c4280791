"""Blocks of adapters under hashes of their own making: made findable, and found."""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.external import BLOCK_MASK, block_handle, block_of
from nbkv.kernels.prefix import find_child, index_block
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.layout import CALLER_KEYED, DETACHED, INDEXED, NAMED, NO_BLOCK
from nbkv.statuses import BAD_PARENT, NOT_INDEXABLE

_LINKED = INDEXED | NAMED
_KINDS = INDEXED | CALLER_KEYED | DETACHED
_KEYED = INDEXED | CALLER_KEYED
_NOT_KEYED = 255 - _KEYED
_NOT_DETACHED = 0xFF & ~DETACHED
_NOT_FOUND = -1


@entry("int64(uint8[::1], int64[::1], boolean, uint64[::1], int64[::1], boolean, boolean[::1])")
def index_blocks(
    arena: Arena,
    block_ids: Records,
    by_handle: bool,
    hashes: Records,
    parents: Records,
    parents_by_handle: bool,
    out: Records,
) -> int:
    """Make full blocks findable under caller-made hashes, all or nothing.

    Parameters
    ----------
    arena : uint8, C-contiguous
    block_ids : int64, shape (n,)
        Handles or block ids.
    by_handle : bool
    hashes : uint64, shape (n,)
    parents : int64, shape (n,)
        Handles or block ids, or NO_BLOCK.
    parents_by_handle : bool
    out : bool, shape (n,)
        Takes which of them are indexed now: not those whose key another block has under
        the same parent, nor what follows them.

    Returns
    -------
    int
        0, or a status, and the runtime's detail says at which position; nothing has
        changed then.
    """
    state = open_state(arena)
    size = np.int64(block_ids.size)
    block_size = state.header["block_size"][0]
    status = np.int64(0)
    marked = np.int64(0)
    while marked < size and status == 0:
        status = np.int64(_check_indexed(state, block_ids[marked], by_handle))
        if status == 0:
            status = np.int64(_check_parent(state, parents[marked], parents_by_handle))
        if status == 0:
            _mark(state, block_ids[marked] & BLOCK_MASK, block_size)
            marked += 1
    for i in range(marked):
        _unmark(state, block_ids[i] & BLOCK_MASK)
    if status < 0:
        state.runtime["detail"][0] = marked
        return status
    begin_report(state)
    for i in range(size):
        parent = np.int64(parents[i])
        if parent != NO_BLOCK:
            parent &= BLOCK_MASK
        out[i] = _index(state, block_ids[i] & BLOCK_MASK, parent, hashes[i])
    return np.int64(0)


@kernel
def _check_indexed(state: State, value: int, by_handle: bool) -> int:
    """Tell whether a block can be indexed: 0 or a status."""
    block_id = np.int64(block_of(state, value, by_handle))
    if block_id < 0:
        return block_id
    blocks = state.blocks
    holds = np.int64(state.external_holds[block_id])
    # Another holder would have to hold the parent as well.
    alone = blocks["ref_count"][block_id] == holds and blocks["pin_count"][block_id] == 0
    if holds == 0 or not alone or blocks["flags"][block_id] & _LINKED != 0:
        return np.int64(NOT_INDEXABLE)
    return np.int64(0)


@kernel
def _check_parent(state: State, value: int, by_handle: bool) -> int:
    """Tell whether a block, or NO_BLOCK, can be the parent of one: 0 or a status."""
    if value == NO_BLOCK:
        return np.int64(0)
    block_id = np.int64(block_of(state, value, by_handle))
    if block_id < 0 or state.external_holds[block_id] == 0:
        return np.int64(BAD_PARENT)
    if state.blocks["flags"][block_id] & _KINDS != _KEYED:
        return np.int64(BAD_PARENT)
    if state.keys["num_keyed_tokens"][block_id] != state.header["block_size"][0]:
        return np.int64(BAD_PARENT)
    return np.int64(0)


@kernel
def _mark(state: State, block_id: int, block_size: int) -> None:
    """Let a block pass for indexed, for the checks that follow."""
    state.blocks["flags"][block_id] |= np.uint8(_KEYED)
    state.keys["num_keyed_tokens"][block_id] = block_size


@kernel
def _unmark(state: State, block_id: int) -> None:
    state.blocks["flags"][block_id] &= np.uint8(_NOT_KEYED)
    state.keys["num_keyed_tokens"][block_id] = 0


@kernel
def _index(state: State, block_id: int, parent: int, key: int) -> bool:
    """Index a block unless there is one like it, or its parent has stayed private."""
    if parent != NO_BLOCK and state.blocks["flags"][parent] & _KEYED != _KEYED:
        return False
    block_size = state.header["block_size"][0]
    if find_child(state, parent, key, block_size, False) != NO_BLOCK:
        return False
    # A window may have cut it from what was before it in a table; that is not its parent now.
    state.blocks["flags"][block_id] &= np.uint8(_NOT_DETACHED)
    index_block(state, block_id, parent, key, block_size)
    state.blocks["num_tokens"][block_id] = block_size
    return True


@entry("int64(uint8[::1], uint64[::1], int64[::1], boolean, boolean, int64[::1])")
def find_blocks(
    arena: Arena,
    hashes: Records,
    parents: Records,
    by_handle: bool,
    in_chain: bool,
    out: Records,
) -> int:
    """Find full blocks by caller-made hashes; nothing changes.

    Parameters
    ----------
    arena : uint8, C-contiguous
    hashes : uint64, shape (n,)
    parents : int64, shape (n,) or (0,)
        Handles or block ids, or NO_BLOCK; not read in a chain.
    by_handle : bool
    in_chain : bool
        Look each hash up under the block found for the one before.
    out : int64, shape (n,)
        Takes handles, -1 where there is none.

    Returns
    -------
    int
        Blocks found, or a status, and the runtime's detail says which parent it is for.
    """
    state = open_state(arena)
    block_size = state.header["block_size"][0]
    found = np.int64(0)
    before = np.int64(NO_BLOCK)
    for i in range(hashes.size):
        out[i] = _NOT_FOUND
        if not in_chain:
            before = np.int64(parents[i])
            if before != NO_BLOCK:
                before = np.int64(block_of(state, before, by_handle))
                if before < 0:
                    state.runtime["detail"][0] = i
                    return before
        elif found < i:
            continue
        block_id = np.int64(find_child(state, before, hashes[i], block_size, False))
        if block_id != NO_BLOCK:
            out[i] = block_handle(state, block_id)
            before = block_id
            found += 1
    return found
