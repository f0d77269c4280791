"""Which cached block goes first: one small interface over the policies.

``lru`` gives up what was released longest ago. Held sets are prefix-closed and cached
blocks enter tail first, so that block is always a leaf. ``fifo`` takes the smallest
alloc_order, ``frequency`` the smallest (access_count, last_access), both among leaves: the
heap holds only blocks without linked children, and a parent enters when its last one goes.
"""

import numpy as np

from nbkv._intrinsics import prefetch
from nbkv._jit import kernel
from nbkv.kernels.fence import enter_fence, leave_fence, must_fence
from nbkv.kernels.heap import heap_first, heap_insert, heap_remove, heap_replace_first
from nbkv.kernels.index import mix_tag
from nbkv.kernels.ring import ring_insert, ring_pop, ring_remove
from nbkv.kernels.state import State
from nbkv.layout import CACHED, FENCED, FIFO, INDEX_WAYS, LRU, NO_BLOCK


@kernel
def _rank(state: State, block_id: int) -> tuple[int, int]:
    """Return what the heap orders a block by, as (primary, secondary)."""
    blocks = state.blocks
    if state.header["policy"][0] == FIFO:
        return np.int64(0), np.int64(blocks["alloc_order"][block_id])
    return np.int64(blocks["access_count"][block_id]), np.int64(blocks["last_access"][block_id])


@kernel
def insert_cached(state: State, block_id: int) -> None:
    """Make a block CACHED: nobody holds it any more, its content can be found.

    Parameters
    ----------
    state : State
    block_id : int
        INDEXED or NAMED; its old state's counter has been lowered by the caller.
    """
    header = state.header
    header["num_cached_blocks"][0] += 1
    header["recency"][0] += 1
    state.blocks["state"][block_id] = CACHED
    state.blocks["last_access"][block_id] = header["recency"][0]
    state.blocks["link"][block_id] = NO_BLOCK
    if must_fence(state):
        enter_fence(state, block_id)
    else:
        rank_cached(state, block_id)


@kernel
def rank_cached(state: State, block_id: int) -> None:
    """Let a CACHED block into the policy's order, if it may be a victim.

    Parameters
    ----------
    state : State
    block_id : int
        CACHED, past the fence.
    """
    if state.header["policy"][0] == LRU:
        ring_insert(state, block_id)
    elif state.blocks["num_children"][block_id] == 0:
        primary, secondary = _rank(state, block_id)
        heap_insert(state, primary, secondary, block_id)


@kernel
def remove_cached(state: State, block_id: int) -> None:
    """Take a CACHED block out of the policy's order or the fence; the caller sets its new state.

    Parameters
    ----------
    state : State
    block_id : int
    """
    state.header["num_cached_blocks"][0] -= 1
    if state.blocks["flags"][block_id] & FENCED != 0:
        leave_fence(state, block_id)
    elif state.header["policy"][0] == LRU:
        ring_remove(state, block_id)
    elif state.blocks["link"][block_id] != NO_BLOCK:
        heap_remove(state, block_id)


@kernel
def touch_leaf(state: State, block_id: int) -> None:
    """Let a CACHED block that lost its last child become a victim.

    Parameters
    ----------
    state : State
    block_id : int
    """
    if state.header["policy"][0] == LRU or state.blocks["flags"][block_id] & FENCED != 0:
        return
    if state.blocks["link"][block_id] == NO_BLOCK:
        primary, secondary = _rank(state, block_id)
        heap_insert(state, primary, secondary, block_id)


@kernel
def pop_victim(state: State) -> int:
    """Take the cached block that the policy gives up first out of its order.

    Parameters
    ----------
    state : State
        ``num_cached_blocks`` is at least 1: the caller has counted.

    Returns
    -------
    int
        A block_id; the caller sets its new state.
    """
    state.header["num_cached_blocks"][0] -= 1
    if state.header["policy"][0] == LRU:
        return ring_pop(state)
    block_id = np.int64(heap_first(state))
    _prefetch_chain(state, block_id)
    parent = np.int64(state.blocks["parent"][block_id])
    if parent != NO_BLOCK and _becomes_leaf(state, parent):
        # Its parent is a leaf as soon as it is gone: one sinking instead of two moves.
        primary, secondary = _rank(state, parent)
        heap_replace_first(state, primary, secondary, parent)
    else:
        heap_remove(state, block_id)
    return block_id


@kernel
def _becomes_leaf(state: State, parent: int) -> bool:
    """Tell whether a block may be a victim once one child of it is gone."""
    blocks = state.blocks
    cached = blocks["state"][parent] == CACHED and blocks["flags"][parent] & FENCED == 0
    return cached and blocks["num_children"][parent] == 1


@kernel
def _prefetch_chain(state: State, block_id: int) -> None:
    """Fetch what the eviction of a victim's parent and grandparent will touch; only a hint."""
    for i in range(1, min(5, state.header["heap_size"][0])):
        prefetch(state.blocks, state.heap["block"][i])
        prefetch(state.keys, state.heap["block"][i])
    parent = state.blocks["parent"][block_id]
    if parent != NO_BLOCK:
        home = mix_tag(state.keys["hash_low"][parent]) & state.header["prefix_index_mask"][0]
        prefetch(state.prefix_index, home * INDEX_WAYS)
        before = state.blocks["parent"][parent]
        if before != NO_BLOCK:
            prefetch(state.blocks, before)
            prefetch(state.keys, before)
