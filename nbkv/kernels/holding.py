"""The life of a block: held by sequences, cached when let go, evicted for another."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.fence import is_past, leave_fence, must_fence
from nbkv.kernels.free_list import push_free, release_free
from nbkv.kernels.names import drop_name
from nbkv.kernels.prefix import unindex_block
from nbkv.kernels.ring import prefetch_victims
from nbkv.kernels.state import State
from nbkv.kernels.tails import close_tail
from nbkv.kernels.victim import insert_cached, pop_victim, rank_cached, remove_cached
from nbkv.layout import CACHED, FREE, HELD, INDEXED, LRU, NAMED, NO_BLOCK, NO_ROW

_LINKED = INDEXED | NAMED


@kernel
def hold_block(state: State, block_id: int) -> None:
    """Take a reference for a sequence.

    Parameters
    ----------
    state : State
    block_id : int
        HELD or CACHED.
    """
    blocks = state.blocks
    blocks["ref_count"][block_id] += 1
    if blocks["state"][block_id] == CACHED:
        remove_cached(state, block_id)
        blocks["state"][block_id] = HELD
        blocks["writer"][block_id] = NO_ROW
        state.header["num_held_blocks"][0] += 1
    elif blocks["writer"][block_id] != NO_ROW:
        close_tail(state, blocks["writer"][block_id])
    blocks["access_count"][block_id] += 1


@kernel
def settle_block(state: State, block_id: int) -> None:
    """Let go of a HELD block that has neither references nor pins left.

    Parameters
    ----------
    state : State
    block_id : int
    """
    state.header["num_held_blocks"][0] -= 1
    if state.blocks["flags"][block_id] & _LINKED != 0:
        insert_cached(state, block_id)
    else:
        release_free(state, block_id, must_fence(state))


@outlined_kernel
def release_column(state: State, base: int, start: int, end: int) -> None:
    """Give back the table entries ``start:end`` of one sequence.

    Blocks that become FREE go head first (ids are handed out again in the order they were
    given back); those that become CACHED enter the policy's order tail first: a prefix
    stays usable longer when its end goes before its start.

    Parameters
    ----------
    state : State
    base : int
        Position of the sequence's first entry in the tables.
    start, end : int
        Columns.
    """
    blocks = state.blocks
    tables = state.tables
    fenced = must_fence(state)
    num_kept = 0
    for column in range(base + start, base + end):
        block_id = tables[column]
        if block_id == NO_BLOCK:
            continue
        blocks["ref_count"][block_id] -= 1
        if blocks["ref_count"][block_id] + blocks["pin_count"][block_id] == 0:
            if blocks["flags"][block_id] & _LINKED != 0:
                num_kept += 1
            else:
                state.header["num_held_blocks"][0] -= 1
                release_free(state, block_id, fenced)
    if num_kept > 0:
        for column in range(base + end - 1, base + start - 1, -1):
            block_id = tables[column]
            if block_id == NO_BLOCK:
                continue
            held = blocks["ref_count"][block_id] + blocks["pin_count"][block_id]
            if held == 0 and blocks["state"][block_id] == HELD:
                state.header["num_held_blocks"][0] -= 1
                insert_cached(state, block_id)


@kernel
def evict_block(state: State) -> int:
    """Give up the policy's victim: it goes to the free list, names that end in it die.

    Parameters
    ----------
    state : State
        ``num_cached_blocks`` is at least 1.

    Returns
    -------
    int
        Its block_id.
    """
    header = state.header
    victim = pop_victim(state)
    parent = np.int64(state.blocks["parent"][victim])
    if state.blocks["flags"][victim] & INDEXED != 0:
        unindex_block(state, victim)
    else:
        state.keys["hash_low"][victim] = np.uint64(0)
        state.keys["hash_high"][victim] = np.uint64(0)
    push_free(state, victim)
    while state.keys["first_name"][victim] != 0:
        drop_name(state, state.keys["first_name"][victim] - 1, victim)
    # Meaningless in a FREE block, but until it is handed out the report of a plan can read it.
    state.blocks["parent"][victim] = parent
    row = state.runtime["num_evicted"][0]
    state.evicted[np.uint64(row)] = victim
    state.runtime["num_evicted"][0] = row + 1
    header["evictions"][0] += 1
    return victim


@outlined_kernel
def make_room(state: State, num_needed: int) -> None:
    """Evict until `num_needed` blocks are free.

    Parameters
    ----------
    state : State
        Free and cached blocks suffice: the caller has counted.
    num_needed : int
    """
    header = state.header
    lru = header["policy"][0] == LRU
    while header["num_free_blocks"][0] - header["num_fenced_free"][0] < num_needed:
        if lru:
            prefetch_victims(state)
        evict_block(state)


@outlined_kernel
def pass_fence(state: State) -> None:
    """Let the blocks whose steps are completed out of the fence, in order of their release.

    Parameters
    ----------
    state : State
    """
    header = state.header
    blocks = state.blocks
    block_id = np.int64(header["fence_head"][0])
    while block_id != NO_BLOCK:
        if not is_past(blocks["fence_step"][block_id], header["completed_step"][0]):
            break
        leave_fence(state, block_id)
        if blocks["state"][block_id] == FREE:
            header["num_free_blocks"][0] -= 1
            push_free(state, block_id)
        else:
            rank_cached(state, block_id)
        block_id = np.int64(header["fence_head"][0])
