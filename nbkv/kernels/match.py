"""How much of a prompt would hit, and the calls that only ask."""

import numpy as np

from nbkv._intrinsics import borrow
from nbkv._jit import entry, kernel
from nbkv.kernels.fence import is_evictable
from nbkv.kernels.hashing import extra_of_block
from nbkv.kernels.matching import match_partial, match_tokens
from nbkv.kernels.state import Arena, Records, State, open_state
from nbkv.layout import NO_BLOCK


@kernel
def match_prompt(
    state: State,
    tokens: Records,
    max_hit_tokens: int,
    salt_low: int,
    salt_high: int,
    starts: Records,
    ends: Records,
    digests: Records,
) -> tuple[int, int, int]:
    """Match a prompt: whole blocks (ids in scratch), partial tokens, and how many are CACHED."""
    block_size = state.header["block_size"][0]
    width = state.header["max_blocks_per_sequence"][0]
    limit = min(np.int64(tokens.size), max_hit_tokens)
    columns = min(limit // block_size, width)
    hits, cached = match_tokens(state, tokens, columns, salt_low, salt_high, starts, ends, digests)
    partial = np.int64(0)
    if state.header["partial_reuse"][0] != 0 and 0 < hits < width:
        rest = min(limit - hits * block_size, block_size - 1)
        if rest > 0:
            start = hits * block_size
            extra = np.uint64(0)
            if starts.size > 0:
                extra = extra_of_block(starts, ends, digests, starts.size, start, block_size)
            source, partial = match_partial(
                state, np.int64(state.scratch[hits - 1]), tokens, start, rest, extra
            )
            if source != NO_BLOCK:
                state.scratch[hits] = source
                cached += 1 if is_evictable(state, source) else 0
    return hits, partial, cached


@entry(
    "UniTuple(int64, 5)(uint8[::1], int32[::1], int64, uint64, uint64, int32[::1], int32[::1],"
    " uint64[::1])"
)
def match_prefix(
    arena: Arena,
    tokens: Records,
    max_hit_tokens: int,
    salt_low: int,
    salt_high: int,
    starts: Records,
    ends: Records,
    digests: Records,
) -> tuple[int, int, int, int, int]:
    """Tell how much of a prompt would hit; only scratch changes.

    Parameters
    ----------
    arena : uint8, C-contiguous
    tokens : int32
    max_hit_tokens : int
    salt_low, salt_high : uint64
    starts, ends, digests : int32, int32, uint64
        Extra keys, ordered.

    Returns
    -------
    tuple of int
        Tokens of the prompt, tokens hit, blocks hit, tokens taken of one more block, and hit
        blocks that are evictable now.
    """
    state = open_state(arena)
    hits, partial, cached = match_prompt(
        state,
        borrow(tokens),
        max_hit_tokens,
        np.uint64(salt_low),
        np.uint64(salt_high),
        borrow(starts),
        borrow(ends),
        borrow(digests),
    )
    return _describe_match(state, tokens, hits, partial, cached)


@kernel
def _describe_match(
    state: State, tokens: Records, hits: int, partial: int, cached: int
) -> tuple[int, int, int, int, int]:
    """Give the fields of a `PrefixMatch`, in its order."""
    num_hit_tokens = np.int64(hits * state.header["block_size"][0] + partial)
    return (
        np.int64(tokens.size),
        num_hit_tokens,
        np.int64(hits),
        np.int64(partial),
        np.int64(cached),
    )


@entry("UniTuple(int64, 5)(uint8[::1], int32[::1], int64)")
def match_plain(
    arena: Arena, tokens: Records, max_hit_tokens: int
) -> tuple[int, int, int, int, int]:
    """Tell how much of a prompt without salt and extra keys would hit: see `match_prefix`.

    Parameters
    ----------
    arena : uint8, C-contiguous
    tokens : int32
    max_hit_tokens : int

    Returns
    -------
    tuple of int
        Tokens of the prompt, tokens hit, blocks hit, tokens taken of one more block, and hit
        blocks that are evictable now.
    """
    state = open_state(arena)
    none = np.uint64(0)
    places, digests = state.scratch[:0], state.hashes[:0]
    hits, partial, cached = match_prompt(
        state, borrow(tokens), max_hit_tokens, none, none, places, places, digests
    )
    return _describe_match(state, tokens, hits, partial, cached)
