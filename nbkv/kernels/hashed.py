"""Prefixes by hashes made elsewhere, tokens unseen: what a router asks about a prompt."""

import numpy as np

from nbkv._buckets import find_tag
from nbkv._jit import entry, kernel
from nbkv.kernels.index import has_gap, mix_tag
from nbkv.kernels.prefix import match_chain
from nbkv.kernels.state import Arena, Records, State, open_state
from nbkv.kernels.tokens import is_visible
from nbkv.layout import CACHED, CALLER_KEYED, DETACHED, INDEX_WAYS, INDEXED, NO_BLOCK

_KINDS = INDEXED | CALLER_KEYED | DETACHED


@entry("UniTuple(int64, 3)(uint8[::1], uint64[::1])")
def match_hashes(arena: Arena, hashes: Records) -> tuple[int, int, int]:
    """Tell how much hits by hashes that the caller made, as `add_sequence` takes them.

    Parameters
    ----------
    arena : uint8, C-contiguous
        Only scratch changes.
    hashes : uint64, shape (n,)
        At most max_blocks_per_sequence.

    Returns
    -------
    tuple of int
        Whole blocks hit, tokens of one more, and how many of these blocks are CACHED now.
    """
    state = open_state(arena)
    block_size = state.header["block_size"][0]
    _, num_hit_tokens, cached = match_chain(state, hashes, hashes.size * block_size)
    blocks = np.int64(num_hit_tokens // block_size)
    return blocks, np.int64(num_hit_tokens - blocks * block_size), np.int64(cached)


@entry("UniTuple(int64, 3)(uint8[::1], uint64[::1])")
def match_keys(arena: Arena, hashes: Records) -> tuple[int, int, int]:
    """Tell how much hits by chain hashes of tokens: 128 bits and the parent are compared.

    Parameters
    ----------
    arena : uint8, C-contiguous
    hashes : uint64, shape (2 * n,)
        Lower and upper halves by turns.

    Returns
    -------
    tuple of int
        Whole blocks hit, 0, and how many of them are CACHED now.
    """
    state = open_state(arena)
    parent = np.int64(NO_BLOCK)
    hits = np.int64(0)
    cached = np.int64(0)
    for i in range(hashes.size // 2):
        block_id = np.int64(_find_key(state, parent, hashes[2 * i], hashes[2 * i + 1]))
        if block_id == NO_BLOCK or not is_visible(state, block_id):
            break
        hits += 1
        cached += 1 if state.blocks["state"][block_id] == CACHED else 0
        parent = block_id
    return hits, np.int64(0), cached


@kernel
def _has_key(state: State, block_id: int, parent: int, low: int, high: int) -> bool:
    if state.blocks["parent"][block_id] != parent:
        return False
    if state.blocks["flags"][block_id] & _KINDS != INDEXED:
        return False
    keys = state.keys
    return keys["hash_low"][block_id] == low and keys["hash_high"][block_id] == high


@kernel
def _find_key(state: State, parent: int, low: int, high: int) -> int:
    """Find the block under a parent that has a chain hash, or NO_BLOCK."""
    if parent != NO_BLOCK:
        child = np.int64(state.blocks["child"][parent])
        if child != NO_BLOCK and _has_key(state, child, parent, low, high):
            return child
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
                return block_id
            slot = np.int64(find_tag(index, home, tag, slot + 1 - home))
        searching = not has_gap(index, bucket)
        bucket = (bucket + 1) & mask
    return np.int64(NO_BLOCK)
