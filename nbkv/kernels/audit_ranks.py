"""Audit of the policy's order: the recency ring of lru, the rank heap of fifo and frequency."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.audit_notes import NIL, note
from nbkv.kernels.state import Records, State
from nbkv.layout import CACHED, FENCED, FIFO, HEADER_DTYPE, LRU, NO_BLOCK
from nbkv.violations import (
    COUNTED,
    HEADER,
    HEAP_ENTRY,
    HEAP_ORDER,
    HEAP_RANK,
    RING_ENTRY,
    RING_HEAD,
    RING_ORDER,
    field_of,
)

_ARITY = 4
_NUM_CACHED = field_of(HEADER_DTYPE, "num_cached_blocks")
_HEAP_SIZE = field_of(HEADER_DTYPE, "heap_size")


@outlined_kernel
def audit_ranks(state: State, found: Records) -> int:
    """Audit that the policy's order has exactly the blocks that may be victims.

    Parameters
    ----------
    state : State
        The header, the blocks and their links are audited.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    if state.header["policy"][0] == LRU:
        return np.int64(_audit_ring(state, found))
    return np.int64(_audit_heap(state, found))


@outlined_kernel
def _audit_ring(state: State, found: Records) -> int:
    header, blocks = state.header, state.blocks
    mask = header["ring_mask"][0]
    head, tail = header["ring_head"][0], header["ring_tail"][0]
    hole, hole_end = tail, tail
    if header["ring_sweeping"][0] != 0:
        hole, hole_end = header["ring_write"][0], header["ring_read"][0]
    living = np.int64(0)
    latest = np.int64(0)
    for place in range(head, tail):
        if hole <= place < hole_end:
            continue
        block_id = np.int64(state.ring[place & mask])
        if block_id == NO_BLOCK:
            continue
        if not _is_victim(state, block_id) or blocks["link"][block_id] != place & mask:
            return note(found, RING_ENTRY, HEADER, NIL, _NUM_CACHED, block_id, place, NIL)
        if blocks["last_access"][block_id] <= latest:
            return note(found, RING_ORDER, HEADER, NIL, _NUM_CACHED, block_id, place, NIL)
        latest = np.int64(blocks["last_access"][block_id])
        living += 1
    wanted = header["num_cached_blocks"][0]
    wanted -= header["num_fenced_blocks"][0] - header["num_fenced_free"][0]
    if living != wanted:
        return note(found, COUNTED, HEADER, NIL, _NUM_CACHED, wanted, living, NIL)
    # Evictions take the first entry on trust.
    if living > 0 and (hole <= head < hole_end or state.ring[head & mask] == NO_BLOCK):
        return note(found, RING_HEAD, HEADER, NIL, _NUM_CACHED, state.ring[head & mask], NIL, NIL)
    return np.int64(0)


@kernel
def _is_victim(state: State, block_id: int) -> bool:
    """Tell whether a number is that of a block that may be evicted."""
    if block_id < 0 or block_id >= state.header["num_fresh_blocks"][0]:
        return False
    fenced = state.blocks["flags"][block_id] & FENCED != 0
    return state.blocks["state"][block_id] == CACHED and not fenced


@outlined_kernel
def _audit_heap(state: State, found: Records) -> int:
    header, heap = state.header, state.heap
    blocks = state.blocks
    fifo = header["policy"][0] == FIFO
    for at in range(header["heap_size"][0]):
        block_id = np.int64(heap["block"][at])
        good = _is_victim(state, block_id)
        if not good or blocks["num_children"][block_id] != 0 or blocks["link"][block_id] != at:
            return note(found, HEAP_ENTRY, HEADER, NIL, _HEAP_SIZE, block_id, at, NIL)
        primary, secondary = np.int64(heap["primary"][at]), np.int64(heap["secondary"][at])
        if fifo:
            same = primary == 0 and secondary == blocks["alloc_order"][block_id]
        else:
            same = primary == blocks["access_count"][block_id]
            same = same and secondary == blocks["last_access"][block_id]
        if not same:
            return note(found, HEAP_RANK, HEADER, NIL, _HEAP_SIZE, block_id, at, NIL)
        if at > 0:
            above = (at - 1) // _ARITY
            first = np.int64(heap["primary"][above])
            later = first == primary and heap["secondary"][above] > secondary
            if first > primary or later:
                return note(found, HEAP_ORDER, HEADER, NIL, _HEAP_SIZE, block_id, at, NIL)
    return _audit_others(state, found)


@kernel
def _audit_others(state: State, found: Records) -> int:
    """Audit that every leaf is in the heap, and that what is not there knows it."""
    blocks = state.blocks
    leaves = np.int64(0)
    for i in range(state.header["num_fresh_blocks"][0]):
        block_id = np.int64(i)
        if _is_victim(state, block_id):
            if blocks["num_children"][block_id] == 0:
                leaves += 1
            elif blocks["link"][block_id] != NO_BLOCK:
                at = np.int64(blocks["link"][block_id])
                return note(found, HEAP_ENTRY, HEADER, NIL, _HEAP_SIZE, block_id, at, NIL)
    if leaves != state.header["heap_size"][0]:
        size = state.header["heap_size"][0]
        return note(found, COUNTED, HEADER, NIL, _HEAP_SIZE, size, leaves, NIL)
    return np.int64(0)
