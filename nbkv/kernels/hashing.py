"""Chain hashes over token blocks: 128 bits over all tokens from the start of a prompt.

Two lanes with keys of their own read the tokens; only then does the parent come in, by two
dependent products, so that a processor works on the tokens of several blocks at once. Not
cryptographic: a hit is compared as well.

Equal on every machine and in every process. A change of a constant or a step changes every
hash that anybody has stored; the golden values of the tests must not be updated lightly.
"""

import numpy as np

from nbkv._jit import kernel, wrapping_kernel
from nbkv.kernels.mixing import fold_product, mix_halves, mix_words
from nbkv.kernels.state import Records

# The fraction of pi in hexadecimal: arbitrary numbers that nobody has chosen.
_SEED_LOW = np.uint64(0x243F6A8885A308D3)
_SEED_HIGH = np.uint64(0x13198A2E03707344)
_SPREAD_LOW = np.uint64(0xA4093822299F31D0)
_SPREAD_HIGH = np.uint64(0x082EFA98EC4E6C89)
_COUNT_LOW = np.uint64(0x452821E638D01377)
_COUNT_HIGH = np.uint64(0xC0AC29B7C97C50DD)
_TOKENS_LOW = np.uint64(0xBE5466CF34E90C6C)
_TOKENS_HIGH = np.uint64(0x3F84D5B5B5470917)
_EXTRA_LOW = np.uint64(0x9216D5D98979FB1B)
_EXTRA_HIGH = np.uint64(0xD1310BA698DFB5AC)
_CHAIN_LOW = np.uint64(0x2FFD72DBD01ADFB7)
_CHAIN_HIGH = np.uint64(0xB8E1AFED6A267E96)
_ROOT_LOW = np.uint64(0x0801F2E2858EFC16)
_ROOT_HIGH = np.uint64(0x636920D871574E69)
_MEDIA_PLACE = np.uint64(0xA458FEA3F4933D7E)
_MEDIA_DIGEST = np.uint64(0x0D95748F728EB658)
_MEDIA_COUNT = np.uint64(0x718BCD5882154AEE)
_SALT_LOW = np.uint64(0x7B54A41DC25A59B5)
_SALT_HIGH = np.uint64(0x9C30D5392AF26013)
_SALT_EXTRA = np.uint64(0xC5D1B023286085F0)

_NONE = np.uint64(0)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_FOUR = np.uint64(4)
_EIGHT = np.uint64(8)
_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)
# With a block's count: this block has an extra key.
_HAS_EXTRA = np.uint64(1 << 32)


@kernel
def _keys_of(seed: int) -> tuple[int, int]:
    """Derive the two lanes' keys; invariant in a loop over blocks."""
    word = np.uint64(seed)
    return mix_words(word ^ _SEED_LOW, _SPREAD_LOW), mix_words(word ^ _SEED_HIGH, _SPREAD_HIGH)


@kernel
def _token_at(tokens: Records, index: int) -> int:
    # Unsigned: a signed subscript may be negative, and two loads then do not become one.
    return np.uint64(tokens[index]) & _LOWER


@kernel
def _pair_at(tokens: Records, index: int) -> int:
    return _token_at(tokens, index) | (_token_at(tokens, index + _ONE) << _HALF)


@wrapping_kernel
def _take_four(
    low: int, high: int, key_low: int, key_high: int, first: int, second: int
) -> tuple[int, int]:
    """Take four tokens, as two words, into both lanes."""
    # The lanes differ in keys and in which word meets the sum so far. That one is added to
    # the product, so no value of the other makes a lane forget what it has read.
    met_low = second ^ low
    met_high = first ^ high
    first ^= key_low
    second ^= key_high
    return (
        fold_product(first, met_low) + met_low,
        fold_product(second, met_high) + met_high,
    )


@wrapping_kernel
def _read_tokens(
    low: int, high: int, key_low: int, key_high: int, tokens: Records, start: int, count: int
) -> tuple[int, int]:
    """Take tokens into both lanes; the last one to three padded with 0."""
    at = np.uint64(start)
    end = at + np.uint64(count)
    while at + _EIGHT <= end:
        first, second = _pair_at(tokens, at), _pair_at(tokens, at + _TWO)
        low, high = _take_four(low, high, key_low, key_high, first, second)
        at += _FOUR
        first, second = _pair_at(tokens, at), _pair_at(tokens, at + _TWO)
        low, high = _take_four(low, high, key_low, key_high, first, second)
        at += _FOUR
    if at + _FOUR <= end:
        first, second = _pair_at(tokens, at), _pair_at(tokens, at + _TWO)
        low, high = _take_four(low, high, key_low, key_high, first, second)
        at += _FOUR
    if at < end:
        first, second = _token_at(tokens, at), _NONE
        if at + _ONE < end:
            first |= _token_at(tokens, at + _ONE) << _HALF
        if at + _TWO < end:
            second = _token_at(tokens, at + _TWO)
        low, high = _take_four(low, high, key_low, key_high, first, second)
    return low, high


@wrapping_kernel
def hash_block(
    seed: int,
    parent_low: int,
    parent_high: int,
    tokens: Records,
    start: int,
    count: int,
    extra: int,
) -> tuple[int, int]:
    """Hash a block in its chain.

    Parameters
    ----------
    seed : int64 or uint64
        Keys everything.
    parent_low, parent_high : uint64
        The block before's hash, or `root_hash`.
    tokens : int32
    start, count : int
        Its tokens' place, at least one. The count is hashed too.
    extra : uint64
        What else the block depends on (`extra_of_block`, `salt_extra`), 0 for nothing.

    Returns
    -------
    uint64, uint64
    """
    key_low, key_high = _keys_of(seed)
    tag = np.uint64(count)
    more = np.uint64(extra)
    if more != _NONE:
        tag |= _HAS_EXTRA
    low = key_low + tag * _COUNT_LOW
    high = key_high + tag * _COUNT_HIGH
    if more != _NONE:
        low = mix_words(more ^ key_low ^ _EXTRA_LOW, low)
        high = mix_words(more ^ key_high ^ _EXTRA_HIGH, high)
    low, high = _read_tokens(
        low, high, key_low ^ _TOKENS_LOW, key_high ^ _TOKENS_HIGH, tokens, start, count
    )
    # Grouped so that the parent, which may still be in the making, comes in last.
    low ^= key_low ^ _CHAIN_LOW
    high ^= key_high ^ _CHAIN_HIGH
    return mix_halves(low ^ np.uint64(parent_low), high ^ np.uint64(parent_high), key_low, key_high)


@kernel
def root_hash(seed: int, salt_low: int, salt_high: int) -> tuple[int, int]:
    """Hash what stands before the first block of a prompt: the salt.

    Parameters
    ----------
    seed : int64 or uint64
    salt_low, salt_high : uint64
        0 and 0 for no salt.

    Returns
    -------
    uint64, uint64
    """
    key_low, key_high = _keys_of(seed)
    low = mix_words(key_low ^ _ROOT_LOW, np.uint64(salt_low) ^ _ROOT_HIGH)
    high = mix_words(key_high ^ _ROOT_HIGH, np.uint64(salt_high) ^ _ROOT_LOW)
    return mix_halves(low, high, key_low ^ _ROOT_LOW, key_high ^ _ROOT_HIGH)


@kernel
def fold_extra(
    acc: int, start: int, end: int, digest: int, block_start: int, block_size: int
) -> int:
    """Take an extra key into a block's extra; for keys that overlap the block, in order.

    Parameters
    ----------
    acc : uint64
        0 at first, then what this returned.
    start, end : int
        Token positions that the extra key covers, ``start < end``.
    digest : uint64
        Of the image, say, whose placeholders they are.
    block_start, block_size : int
        The block's first token position, and how many it has.

    Returns
    -------
    uint64
        For `finish_extra`.
    """
    # Where the block lies in a longer image, but not how far that reaches beyond the block.
    first = np.uint64(np.int64(start) - np.int64(block_start)) & _LOWER
    last = np.uint64(min(np.int64(end) - np.int64(block_start), np.int64(block_size)))
    place = mix_words(acc ^ _MEDIA_PLACE, (first << _HALF) | last)
    return mix_words(place, np.uint64(digest) ^ _MEDIA_DIGEST)


@kernel
def finish_extra(acc: int, count: int) -> int:
    """Make a block's extra key from what `fold_extra` gathered.

    Parameters
    ----------
    acc : uint64
    count : int
        How many extra keys were folded.

    Returns
    -------
    uint64
        0 if and only if count is 0.
    """
    if count == 0:
        return _NONE
    return _not_none(mix_words(acc, np.uint64(count) ^ _MEDIA_COUNT))


@kernel
def _not_none(extra: int) -> int:
    """Keep 0 for "nothing extra"."""
    if extra == _NONE:
        return _ONE
    return extra


@kernel
def extra_of_block(
    starts: Records,
    ends: Records,
    digests: Records,
    num_extras: int,
    block_start: int,
    block_size: int,
) -> int:
    """Digest the extra keys that overlap a block.

    Parameters
    ----------
    starts, ends : int32
        Token positions, ordered, not overlapping each other.
    digests : uint64
    num_extras : int
        How many of them count.
    block_start, block_size : int
        The block's first token position, and how many it has.

    Returns
    -------
    uint64
        0 if and only if none overlaps.
    """
    acc = _NONE
    count = 0
    for i in range(num_extras):
        if starts[i] < block_start + block_size and ends[i] > block_start:
            acc = fold_extra(acc, starts[i], ends[i], digests[i], block_start, block_size)
            count += 1
    return finish_extra(acc, count)


@kernel
def salt_extra(salt_low: int, salt_high: int, extra: int) -> int:
    """Make the extra key of a prompt's first block, which alone is compared with the salt.

    Parameters
    ----------
    salt_low, salt_high : uint64
    extra : uint64
        The block's own.

    Returns
    -------
    uint64
        Extra itself without a salt; with one, never 0.
    """
    low, high, own = np.uint64(salt_low), np.uint64(salt_high), np.uint64(extra)
    if (low | high) == _NONE:
        return own
    salt = mix_words(low ^ _SALT_LOW, high ^ _SALT_HIGH)
    return _not_none(mix_words(salt, own ^ _SALT_EXTRA))
