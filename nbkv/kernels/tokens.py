"""Prefixes by tokens: found by walking and by hash, every hit compared in full.

A block's key is the chain hash of all tokens up to its end; a hit compares the parent, the
tokens and the extra key, so that a collision is a miss. Mostly the next block of a prompt is
the child its parent got last: then nothing is hashed at all.
"""

import numpy as np

from nbkv._intrinsics import find_tag, prefetch, same_ints
from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.fence import is_evictable, is_past
from nbkv.kernels.hashing import extra_of_block, hash_block, root_hash, salt_extra
from nbkv.kernels.index import has_gap, insert_slot, mix_tag
from nbkv.kernels.prefix import link_child
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    CALLER_KEYED,
    DETACHED,
    HAS_EXTRA,
    HASH_RING,
    INDEX_WAYS,
    INDEXED,
    NAMED,
    NO_BLOCK,
)

_LINKED = INDEXED | NAMED
_KINDS = INDEXED | CALLER_KEYED | DETACHED
# From this column on, memory is taken to be cold: hash ahead, and fetch what will be compared.
_WALKED = 512
_AHEAD = 12
_NEAR = 5
_RING = HASH_RING - 1


@kernel
def is_visible(state: State, block_id: int) -> bool:
    """Tell whether a block's content may be hit by what is planned from now on."""
    if state.header["hit_visibility"][0] == 0:
        return True
    return is_past(state.blocks["ready_step"][block_id], state.header["completed_step"][0])


@kernel
def _has_content(state: State, block_id: int, tokens: Records, start: int, extra: int) -> bool:
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
                if _has_content(state, block_id, tokens, start, extra):
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


@kernel
def _extra_at(
    state: State,
    column: int,
    salt_low: int,
    salt_high: int,
    starts: Records,
    ends: Records,
    digests: Records,
) -> int:
    block_size = state.header["block_size"][0]
    extra = np.uint64(0)
    if starts.size > 0:
        extra = extra_of_block(starts, ends, digests, starts.size, column * block_size, block_size)
    if column == 0:
        return salt_extra(salt_low, salt_high, extra)
    return extra


@kernel
def _find_next(
    state: State, parent: int, tokens: Records, column: int, extra: int, low: int, high: int
) -> int:
    """Find the block of a column: the parent's newest child, or by hash.

    ``low`` and ``high`` are the root's hash, for column 0.
    """
    block_size = state.header["block_size"][0]
    if parent != NO_BLOCK:
        child = np.int64(state.blocks["child"][parent])
        if child != NO_BLOCK and _has_content(state, child, tokens, column * block_size, extra):
            return child
        low = state.keys["hash_low"][parent]
        high = state.keys["hash_high"][parent]
    seed = state.header["hash_seed"][0]
    low, high = hash_block(seed, low, high, tokens, column * block_size, block_size, extra)
    return find_keyed(state, parent, low, high, tokens, column * block_size, extra)


@kernel
def _walk(state: State, tokens: Records, parent: int, column: int, end: int) -> tuple[int, int]:
    """Follow a prompt along newest children, as far as they have its tokens and no extra key.

    Parameters
    ----------
    state : State
        Takes the blocks in ``scratch``.
    tokens : int32
    parent : int
        Block of the column before.
    column, end : int
        Where to begin, and the column not to pass.

    Returns
    -------
    tuple of int
        The first column without such a block, and how many of the blocks are evictable.
    """
    blocks, known, scratch = state.blocks, state.tokens, state.scratch
    block_size = state.header["block_size"][0]
    cached = 0
    # Unsigned, a subscript is known not to count from the end.
    place = np.uint64(parent)
    while column < end:
        child = np.int64(blocks["child"][place])
        if child < 0:
            break
        place = np.uint64(child)
        if blocks["flags"][place] & (_KINDS | HAS_EXTRA) != INDEXED:
            break
        if not same_ints(known, child * block_size, tokens, column * block_size, block_size):
            break
        scratch[np.uint64(column)] = child
        if is_evictable(state, place):
            cached += 1
        column += 1
    return column, cached


@outlined_kernel
def match_tokens(
    state: State,
    tokens: Records,
    num_columns: int,
    salt_low: int,
    salt_high: int,
    starts: Records,
    ends: Records,
    digests: Records,
) -> tuple[int, int]:
    """Find the longest cached prefix of whole blocks; changes only scratch.

    Parameters
    ----------
    state : State
        Block ids are left in ``scratch``.
    tokens : int32
    num_columns : int
        Most blocks to hit, at most max_blocks_per_sequence.
    salt_low, salt_high : uint64
    starts, ends, digests : int32, int32, uint64
        Extra keys, ordered.

    Returns
    -------
    tuple of int
        Blocks hit, and how many of them are evictable now.
    """
    parent = np.int64(NO_BLOCK)
    hits = 0
    cached = 0
    low = np.uint64(0)
    high = np.uint64(0)
    if num_columns > 0:
        low, high = root_hash(state.header["hash_seed"][0], salt_low, salt_high)
    plain = starts.size == 0 and state.header["hit_visibility"][0] == 0
    column = np.int64(0)
    end = min(num_columns, _WALKED)
    while column < end:
        if plain and parent != NO_BLOCK:
            column, more = _walk(state, tokens, parent, column, end)
            if column > hits:
                cached += more
                hits = column
                parent = np.int64(state.scratch[column - 1])
                continue
        extra = _extra_at(state, column, salt_low, salt_high, starts, ends, digests)
        block_id = np.int64(_find_next(state, parent, tokens, column, extra, low, high))
        if block_id == NO_BLOCK or not is_visible(state, block_id):
            return hits, cached
        state.scratch[column] = block_id
        hits += 1
        if is_evictable(state, block_id):
            cached += 1
        parent = block_id
        column += 1
    if hits < num_columns:
        return _match_cold(state, tokens, hits, num_columns, cached, starts, ends, digests)
    return hits, cached


@outlined_kernel
def _match_cold(
    state: State,
    tokens: Records,
    first: int,
    num_columns: int,
    cached: int,
    starts: Records,
    ends: Records,
    digests: Records,
) -> tuple[int, int]:
    """Go on matching far into a long prompt, with the memory it needs fetched ahead."""
    block_size = state.header["block_size"][0]
    seed = state.header["hash_seed"][0]
    no_salt = np.uint64(0)
    scratch = state.scratch
    parent = np.int64(scratch[first - 1])
    low = state.keys["hash_low"][parent]
    high = state.keys["hash_high"][parent]
    # Each column passes three stages: hash and fetch its bucket; guess its block from the
    # bucket's first equal tag and fetch what will be compared; compare.
    hits = first
    for at in range(first, num_columns + _AHEAD):
        if at < num_columns:
            extra = _extra_at(state, at, no_salt, no_salt, starts, ends, digests)
            low, high = hash_block(seed, low, high, tokens, at * block_size, block_size, extra)
            state.hashes[2 * (at & _RING)] = low
            state.hashes[2 * (at & _RING) + 1] = high
            prefetch_bucket(state, low)
        near = at - _NEAR
        if first <= near < num_columns:
            _prefetch_guess(state, state.hashes[2 * (near & _RING)])
        column = at - _AHEAD
        if column >= first:
            extra = _extra_at(state, column, no_salt, no_salt, starts, ends, digests)
            now_low = state.hashes[2 * (column & _RING)]
            now_high = state.hashes[2 * (column & _RING) + 1]
            start = column * block_size
            block_id = np.int64(find_keyed(state, parent, now_low, now_high, tokens, start, extra))
            if block_id == NO_BLOCK or not is_visible(state, block_id):
                return hits, cached
            scratch[column] = block_id
            hits += 1
            if is_evictable(state, block_id):
                cached += 1
            parent = block_id
    return hits, cached


@kernel
def _prefetch_guess(state: State, low: int) -> None:
    tag = mix_tag(low)
    start = (tag & state.header["prefix_index_mask"][0]) * INDEX_WAYS
    index = state.prefix_index
    for slot in range(start, start + INDEX_WAYS):
        block_id = np.int64(index["occupant"][slot]) - 1
        if np.int64(index["tag"][slot]) == tag and block_id >= 0:
            prefetch(state.blocks, block_id)
            prefetch(state.keys, block_id)
            prefetch(state.tokens, block_id * state.header["block_size"][0])
            return


@kernel
def match_partial(
    state: State, parent: int, tokens: Records, start: int, limit: int, extra: int
) -> tuple[int, int]:
    """Find how much of the newest child of a block begins like the rest of a prompt.

    Parameters
    ----------
    state : State
    parent : int
        The last block hit.
    tokens : int32
    start : int
        Where the rest begins.
    limit : int
        Most tokens to take, less than a block.
    extra : uint64
        The extra key of the prompt's next block.

    Returns
    -------
    tuple of int
        A block_id or NO_BLOCK, and the number of tokens.
    """
    child = np.int64(state.blocks["child"][parent])
    if child == NO_BLOCK or state.blocks["flags"][child] & _KINDS != INDEXED:
        return np.int64(NO_BLOCK), 0
    if state.keys["extra_key"][child] != extra or not is_visible(state, child):
        return np.int64(NO_BLOCK), 0
    first = child * state.header["block_size"][0]
    count = 0
    while count < limit and state.tokens[first + count] == tokens[start + count]:
        count += 1
    if count == 0:
        return np.int64(NO_BLOCK), 0
    return child, count
