"""Chain hashes over token blocks: 128 bits over all tokens from the start of a prompt.

Mixing is by 64 x 64 -> 128 bit products whose halves are folded together, as in mum-hash
(V. Makarov, MIT) and wyhash (Wang Yi, public domain). Two lanes with keys of their own read the
tokens; only then does the parent come in, by two dependent products, so that a processor
works on the tokens of several blocks at once. Not cryptographic: what matters is compared.

Equal on every machine and in every process; a change of any constant or step here is a
change of format, and golden values in the tests say so.
"""

import numpy as np

from nbkv._intrinsics import multiply_high
from nbkv._jit import kernel, wrapping_kernel
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
_LAST_LOW = np.uint64(0xBA7C9045F12C7F99)
_LAST_HIGH = np.uint64(0x24A19947B3916CF7)
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
_THREE = np.uint64(3)
_FOUR = np.uint64(4)
_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)
# With a block's count: this block has an extra key.
_HAS_EXTRA = np.uint64(1 << 32)


@wrapping_kernel
def _fold(a: int, b: int) -> int:
    """Mix two words into one.

    The factors are added so that no value of one, 0, 1 and -1 among them, hides the other
    ("blind multiplication").
    """
    return ((a * b) ^ multiply_high(a, b)) + a + b


@wrapping_kernel
def _finish(a: int, b: int, key_low: int, key_high: int) -> tuple[int, int]:
    """Mix 128 bits so that each half of the result depends on all: two dependent products."""
    # Crosswise, so that a factor of 0 or 1 does not hide the other.
    low = (a * b) ^ b
    high = multiply_high(a, b) ^ a
    turned = (high << _HALF) | (high >> _HALF)
    return (
        _fold(low ^ key_low ^ _LAST_LOW, high ^ key_high),
        _fold(low ^ key_high ^ _LAST_HIGH, turned ^ key_low),
    )


@kernel
def _keys_of(seed: int) -> tuple[int, int]:
    """Derive the two lanes' keys; invariant in a loop over blocks."""
    word = np.uint64(seed)
    return _fold(word ^ _SEED_LOW, _SPREAD_LOW), _fold(word ^ _SEED_HIGH, _SPREAD_HIGH)


@kernel
def _token_at(tokens: Records, index: int) -> int:
    # Unsigned: a signed subscript may be negative, and two loads then do not become one.
    return np.uint64(tokens[index]) & _LOWER


@kernel
def _pair_at(tokens: Records, index: int) -> int:
    return _token_at(tokens, index) | (_token_at(tokens, index + _ONE) << _HALF)


@wrapping_kernel
def _read_tokens(
    low: int, high: int, key_low: int, key_high: int, tokens: Records, start: int, count: int
) -> tuple[int, int]:
    """Take tokens into both lanes, four at a time; the last one to three padded with 0."""
    at = np.uint64(start)
    end = at + np.uint64(count)
    while at + _FOUR <= end:
        first = _pair_at(tokens, at)
        second = _pair_at(tokens, at + _TWO)
        # The lanes differ in keys and in which word meets the sum so far.
        low = _fold(first ^ key_low, second ^ low)
        high = _fold(second ^ key_high, first ^ high)
        at += _FOUR
    if at < end:
        first = _token_at(tokens, at)
        second = _NONE
        if at + _ONE < end:
            first |= _token_at(tokens, at + _ONE) << _HALF
        if at + _TWO < end:
            second = _token_at(tokens, at + _TWO)
        low = _fold(first ^ key_low, second ^ low)
        high = _fold(second ^ key_high, first ^ high)
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
    if extra != _NONE:
        tag |= _HAS_EXTRA
    low = key_low + tag * _COUNT_LOW
    high = key_high + tag * _COUNT_HIGH
    if extra != _NONE:
        low = _fold(extra ^ key_low ^ _EXTRA_LOW, low)
        high = _fold(extra ^ key_high ^ _EXTRA_HIGH, high)
    low, high = _read_tokens(
        low, high, key_low ^ _TOKENS_LOW, key_high ^ _TOKENS_HIGH, tokens, start, count
    )
    low ^= key_low ^ _CHAIN_LOW
    high ^= key_high ^ _CHAIN_HIGH
    return _finish(low ^ parent_low, high ^ parent_high, key_low, key_high)


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
    low = _fold(key_low ^ _ROOT_LOW, salt_low ^ _ROOT_HIGH)
    high = _fold(key_high ^ _ROOT_HIGH, salt_high ^ _ROOT_LOW)
    return _finish(low, high, key_low ^ _ROOT_LOW, key_high ^ _ROOT_HIGH)


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
    place = _fold(acc ^ _MEDIA_PLACE, (first << _HALF) | last)
    return _fold(place, np.uint64(digest) ^ _MEDIA_DIGEST)


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
    return _not_none(_fold(acc, np.uint64(count) ^ _MEDIA_COUNT))


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
    if (salt_low | salt_high) == _NONE:
        return extra
    salt = _fold(salt_low ^ _SALT_LOW, salt_high ^ _SALT_HIGH)
    return _not_none(_fold(salt, extra ^ _SALT_EXTRA))
