"""The prefix tree: links between blocks, and the index of block keys.

A block is linked to the block of the tokens before it while it is INDEXED or NAMED.
Held sets are prefix-closed: whoever holds a block holds its parent, so a cached block has
no held child and a chain has no hole.
"""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.fence import is_evictable
from nbkv.kernels.index import has_gap, insert_slot, mix_tag, remove_slot
from nbkv.kernels.state import Records, State
from nbkv.kernels.victim import touch_leaf
from nbkv.layout import (
    CACHED,
    CALLER_KEYED,
    DETACHED,
    HAS_EXTRA,
    INDEX_WAYS,
    INDEXED,
    NAMED,
    NO_BLOCK,
)

_LINKED = INDEXED | NAMED
_NOT_INDEXED = 255 - INDEXED - CALLER_KEYED - HAS_EXTRA


@kernel
def link_child(state: State, block_id: int, parent: int) -> None:
    """Tie a block to its parent.

    Parameters
    ----------
    state : State
    block_id : int
        Not linked yet.
    parent : int
        A linked block, or NO_BLOCK at the root.
    """
    state.blocks["parent"][block_id] = parent
    if parent != NO_BLOCK:
        state.blocks["num_children"][parent] += 1
        state.blocks["child"][parent] = block_id


@kernel
def unlink_child(state: State, block_id: int) -> None:
    """Cut a block from its parent, which may thereby become a victim.

    Parameters
    ----------
    state : State
    block_id : int
        Linked, without linked children.
    """
    blocks = state.blocks
    parent = blocks["parent"][block_id]
    if parent == NO_BLOCK:
        return
    blocks["parent"][block_id] = NO_BLOCK
    blocks["num_children"][parent] -= 1
    if blocks["child"][parent] == block_id:
        blocks["child"][parent] = NO_BLOCK
    if blocks["num_children"][parent] == 0 and blocks["state"][parent] == CACHED:
        touch_leaf(state, parent)


@kernel
def detach_block(state: State, block_id: int) -> None:
    """Cut a held block from a parent that is no longer held with it.

    Parameters
    ----------
    state : State
    block_id : int
        Not NAMED. It stays linked to its own children, but no walk matches it, and linked to
        no parent it will be until it is handed out anew.
    """
    if state.blocks["parent"][block_id] != NO_BLOCK:
        unlink_child(state, block_id)
    state.blocks["flags"][block_id] |= np.uint8(DETACHED)


@kernel
def index_block(state: State, block_id: int, parent: int, key: int, num_tokens: int) -> None:
    """Make a block findable under a caller's hash.

    Parameters
    ----------
    state : State
    block_id : int
        HELD and not INDEXED.
    parent : int
        The indexed block before it, or NO_BLOCK.
    key : uint64
        The caller's hash.
    num_tokens : int
        Tokens that the hash covers, 1 to block_size.
    """
    if state.blocks["flags"][block_id] & _LINKED == 0:
        link_child(state, block_id, parent)
    state.blocks["flags"][block_id] |= np.uint8(INDEXED | CALLER_KEYED)
    state.keys["hash_low"][block_id] = np.uint64(key)
    state.keys["hash_high"][block_id] = np.uint64(0)
    state.keys["extra_key"][block_id] = np.uint64(0)
    state.keys["num_keyed_tokens"][block_id] = num_tokens
    mask = state.header["prefix_index_mask"][0]
    insert_slot(state.prefix_index, mask, mix_tag(np.uint64(key)), block_id)


@kernel
def unindex_block(state: State, block_id: int) -> None:
    """Make a block unfindable by its key.

    Parameters
    ----------
    state : State
    block_id : int
        INDEXED; without linked children unless NAMED.
    """
    tag = mix_tag(state.keys["hash_low"][block_id])
    remove_slot(state.prefix_index, state.header["prefix_index_mask"][0], tag, block_id)
    state.blocks["flags"][block_id] &= np.uint8(_NOT_INDEXED)
    state.keys["num_keyed_tokens"][block_id] = 0
    if state.blocks["flags"][block_id] & NAMED == 0:
        unlink_child(state, block_id)


@kernel
def _matches(state: State, block_id: int, parent: int, key: int) -> bool:
    if state.blocks["parent"][block_id] != parent:
        return False
    if state.blocks["flags"][block_id] & (CALLER_KEYED | DETACHED) != CALLER_KEYED:
        return False
    return state.keys["hash_low"][block_id] == key


@kernel
def find_child(state: State, parent: int, key: int, num_tokens: int, partial: bool) -> int:
    """Find the indexed block under a caller's hash and a parent.

    Parameters
    ----------
    state : State
    parent : int
        NO_BLOCK at the root.
    key : uint64
    num_tokens : int
        Tokens stated at this position.
    partial : bool
        Also take a block whose key covers fewer tokens; the most then. Otherwise exactly
        `num_tokens`.

    Returns
    -------
    int
        A block_id, or NO_BLOCK.
    """
    keys = state.keys
    if parent != NO_BLOCK:
        # Chains are mostly walked as they were made: the newest child first.
        child = state.blocks["child"][parent]
        if child != NO_BLOCK and keys["num_keyed_tokens"][child] == num_tokens:
            if _matches(state, child, parent, key):
                return child
    index = state.prefix_index
    mask = state.header["prefix_index_mask"][0]
    tag = mix_tag(key)
    bucket = tag & mask
    best = np.int64(NO_BLOCK)
    most = np.int64(0)
    searching = True
    while searching:
        for slot in range(bucket * INDEX_WAYS, bucket * INDEX_WAYS + INDEX_WAYS):
            block_id = np.int64(index["occupant"][slot]) - 1
            if np.int64(index["tag"][slot]) != tag or block_id < 0:
                continue
            if _matches(state, block_id, parent, key):
                covered = np.int64(keys["num_keyed_tokens"][block_id])
                if covered == num_tokens:
                    return block_id
                if partial and most < covered < num_tokens:
                    best = block_id
                    most = covered
        searching = not has_gap(index, bucket)
        bucket = (bucket + 1) & mask
    return best


@outlined_kernel
def match_chain(state: State, hashes: Records, num_tokens: int) -> tuple[int, int, int]:
    """Find the longest cached prefix of caller-made hashes; changes only scratch.

    Parameters
    ----------
    state : State
        Block ids are left in ``scratch``, at most max_blocks_per_sequence.
    hashes : uint64
    num_tokens : int
        Tokens stated for the sequence, more than (len(hashes) - 1) * block_size.

    Returns
    -------
    tuple of int
        Blocks hit, tokens hit, and how many of the blocks are evictable now.
    """
    block_size = state.header["block_size"][0]
    parent = np.int64(NO_BLOCK)
    hits = 0
    num_hit_tokens = 0
    cached = 0
    for i in range(min(hashes.size, state.scratch.size)):
        stated = min(block_size, num_tokens - i * block_size)
        last = i == hashes.size - 1
        block_id = np.int64(find_child(state, parent, hashes[i], stated, last))
        if block_id == NO_BLOCK:
            break
        state.scratch[i] = block_id
        hits += 1
        num_hit_tokens += np.int64(state.keys["num_keyed_tokens"][block_id])
        if is_evictable(state, block_id):
            cached += 1
        parent = block_id
    return hits, num_hit_tokens, cached
