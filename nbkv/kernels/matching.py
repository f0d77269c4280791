"""Matching a prompt: walked along newest children, found by hash, or hashed ahead when long.

Mostly the next block of a prompt is the child its parent got last: then nothing is hashed at
all. Far into a long prompt memory is taken to be cold, and what will be compared is fetched.
"""

import numpy as np

from nbkv._intrinsics import prefetch, same_ints
from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.fence import is_evictable
from nbkv.kernels.hashing import extra_of_block, hash_block, root_hash, salt_extra
from nbkv.kernels.index import mix_tag
from nbkv.kernels.state import Records, State
from nbkv.kernels.tokens import find_keyed, has_content, is_visible, prefetch_bucket
from nbkv.layout import (
    CALLER_KEYED,
    DETACHED,
    HAS_EXTRA,
    HASH_RING,
    INDEX_WAYS,
    INDEXED,
    NO_BLOCK,
)

_KINDS = INDEXED | CALLER_KEYED | DETACHED
# From this column on, memory is taken to be cold: hash ahead, and fetch what will be compared.
_WALKED = 512
_AHEAD = 12
_NEAR = 5
_RING = HASH_RING - 1


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
        if child != NO_BLOCK and has_content(state, child, tokens, column * block_size, extra):
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
