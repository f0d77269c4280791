"""Giving up what is cached: one victim after the other, or all keys at once."""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.free_list import push_free
from nbkv.kernels.holding import evict_block
from nbkv.kernels.names import free_fenced
from nbkv.kernels.state import Arena, State, begin_report, open_state
from nbkv.kernels.victim import remove_cached
from nbkv.layout import (
    CACHED,
    FENCED,
    INDEXED,
    NAMED,
    NO_BLOCK,
    ROW_ACTIVE,
    UNINDEXABLE,
)

_LINKED = INDEXED | NAMED
_KEPT_FLAGS = FENCED


@kernel
def free_if_unfindable(state: State, block_id: int) -> None:
    """Free a block if it is CACHED and no key and no name leads to it any more."""
    blocks = state.blocks
    if blocks["state"][block_id] != CACHED or blocks["flags"][block_id] & _LINKED != 0:
        return
    if blocks["flags"][block_id] & FENCED != 0:
        free_fenced(state, block_id)
    else:
        remove_cached(state, block_id)
        push_free(state, block_id)


@kernel
def free_unfindable(state: State) -> None:
    """Free the CACHED blocks that no key and no name leads to any more, by block_id."""
    for block_id in range(state.header["num_fresh_blocks"][0]):
        free_if_unfindable(state, np.int64(block_id))


@entry("int64(uint8[::1], int64)")
def evict(arena: Arena, num_blocks: int) -> int:
    """Evict cached blocks, in the policy's order.

    Parameters
    ----------
    arena : uint8, C-contiguous
    num_blocks : int
        At most so many.

    Returns
    -------
    int
        Blocks evicted.
    """
    state = open_state(arena)
    header = state.header
    begin_report(state)
    count = np.int64(0)
    while count < num_blocks:
        fenced = header["num_fenced_blocks"][0] - header["num_fenced_free"][0]
        if header["num_cached_blocks"][0] <= fenced:
            break
        evict_block(state)
        count += 1
    return count


@entry("int64(uint8[::1])")
def reset_prefix_cache(arena: Arena) -> int:
    """Forget every key and every name; sequences alive never index again.

    Parameters
    ----------
    arena : uint8, C-contiguous

    Returns
    -------
    int
        Blocks that became free.
    """
    state = open_state(arena)
    header = state.header
    begin_report(state)
    before = header["num_free_blocks"][0]
    state.prefix_index["tag"][:] = 0
    state.prefix_index["occupant"][:] = 0
    state.name_index["tag"][:] = 0
    state.name_index["occupant"][:] = 0
    header["num_names"][0] = 0
    header["num_fresh_names"][0] = 0
    header["free_name"][0] = 0
    blocks = state.blocks
    for block_id in range(header["num_fresh_blocks"][0]):
        blocks["flags"][block_id] &= np.uint8(_KEPT_FLAGS)
        blocks["num_children"][block_id] = 0
        blocks["child"][block_id] = NO_BLOCK
        blocks["parent"][block_id] = NO_BLOCK
        state.keys["num_keyed_tokens"][block_id] = 0
        state.keys["named_count"][block_id] = 0
        state.keys["first_name"][block_id] = 0
    free_unfindable(state)
    for row in range(header["num_fresh_rows"][0]):
        if state.sequences["state"][row] == ROW_ACTIVE:
            state.sequences["flags"][row] |= np.uint8(UNINDEXABLE)
    return header["num_free_blocks"][0] - before
