"""Blocks keyed by their tokens: entered into the index, and found again by hash.

A block's key is the chain hash of all tokens up to its end; a hit compares the parent, the
tokens and the extra key, so that a collision is a miss.
"""

import numpy as np

from nbkv._buckets import find_tag
from nbkv._intrinsics import prefetch, same_ints
from nbkv._jit import kernel
from nbkv.kernels.fence import is_past
from nbkv.kernels.index import has_gap, insert_slot, mix_tag
from nbkv.kernels.prefix import link_child
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    CALLER_KEYED,
    DETACHED,
    HAS_EXTRA,
    INDEX_WAYS,
    INDEXED,
    NAMED,
    NO_BLOCK,
)

_LINKED = INDEXED | NAMED
_KINDS = INDEXED | CALLER_KEYED | DETACHED


@kernel
def is_visible(state: State, block_id: int) -> bool:
    """Tell whether a block's content may be hit by what is planned from now on."""
    if state.header["hit_visibility"][0] == 0:
        return True
    return is_past(state.blocks["ready_step"][block_id], state.header["completed_step"][0])


@kernel
def has_content(state: State, block_id: int, tokens: Records, start: int, extra: int) -> bool:
    """Tell whether an indexed block has these tokens and this extra key."""
    flags = state.blocks["flags"][block_id]
    if flags & _KINDS != INDEXED:
        return False
    if flags & HAS_EXTRA != 0:
        if state.keys["extra_key"][block_id] != extra:
            return False
    elif extra != np.uint64(0):
        return False
    block_size = state.header["block_size"][0]
    return same_ints(state.tokens, block_id * block_size, tokens, start, block_size)


@kernel
def find_keyed(
    state: State, parent: int, low: int, high: int, tokens: Records, start: int, extra: int
) -> int:
    """Find the indexed block of a parent that has these tokens.

    Parameters
    ----------
    state : State
    parent : int
        NO_BLOCK at the root.
    low, high : uint64
        Its chain hash.
    tokens : int32
    start : int
        Where the block's tokens begin in `tokens`.
    extra : uint64

    Returns
    -------
    int
        A block_id, or NO_BLOCK.
    """
    index = state.prefix_index
    mask = state.header["prefix_index_mask"][0]
    tag = mix_tag(low)
    bucket = tag & mask
    searching = True
    while searching:
        home = bucket * INDEX_WAYS
        slot = np.int64(find_tag(index, home, tag, 0))
        while slot >= 0:
            block_id = np.int64(index["occupant"][slot]) - 1
            if block_id >= 0 and _has_key(state, block_id, parent, low, high):
                if has_content(state, block_id, tokens, start, extra):
                    return block_id
            slot = np.int64(find_tag(index, home, tag, slot + 1 - home))
        searching = not has_gap(index, bucket)
        bucket = (bucket + 1) & mask
    return np.int64(NO_BLOCK)


@kernel
def _has_key(state: State, block_id: int, parent: int, low: int, high: int) -> bool:
    """Tell whether a block has this parent and this chain hash."""
    if state.blocks["parent"][block_id] != parent:
        return False
    return state.keys["hash_low"][block_id] == low and state.keys["hash_high"][block_id] == high


@kernel
def index_keyed(state: State, block_id: int, parent: int, low: int, high: int, extra: int) -> None:
    """Make a full block findable by its tokens.

    Parameters
    ----------
    state : State
    block_id : int
        HELD and not INDEXED; its tokens are recorded.
    parent : int
        The block before it, INDEXED by tokens, or NO_BLOCK.
    low, high : uint64
        Its chain hash.
    extra : uint64
    """
    blocks = state.blocks
    if blocks["flags"][block_id] & _LINKED == 0:
        link_child(state, block_id, parent)
    flags = np.uint8(INDEXED)
    if extra != np.uint64(0):
        flags = np.uint8(INDEXED | HAS_EXTRA)
    blocks["flags"][block_id] |= flags
    keys = state.keys
    keys["hash_low"][block_id] = low
    keys["hash_high"][block_id] = high
    keys["extra_key"][block_id] = extra
    keys["num_keyed_tokens"][block_id] = state.header["block_size"][0]
    insert_slot(state.prefix_index, state.header["prefix_index_mask"][0], mix_tag(low), block_id)


@kernel
def prefetch_bucket(state: State, low: int) -> None:
    """Fetch where a chain hash is looked up; only a hint."""
    home = mix_tag(low) & state.header["prefix_index_mask"][0]
    prefetch(state.prefix_index, home * INDEX_WAYS)
