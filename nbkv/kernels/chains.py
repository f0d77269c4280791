"""The chain hashes of a whole prompt in one call, without a cache."""

import numpy as np

from nbkv._intrinsics import borrow
from nbkv._jit import entry, kernel
from nbkv.kernels.hashing import finish_extra, fold_extra, hash_block, root_hash, salt_extra
from nbkv.kernels.state import Records
from nbkv.statuses import OK

_NONE = np.uint64(0)


@kernel
def _skip_passed(ends: Records, at: int, block_start: int) -> int:
    """Find the first extra key, from one on, that ends after a block's start."""
    while at < ends.size and ends[at] <= block_start:
        at += 1
    return at


@kernel
def _extra_from(
    starts: Records, ends: Records, digests: Records, at: int, block_start: int, block_size: int
) -> int:
    """Digest the extra keys of a block, the first that may overlap it being known."""
    acc = _NONE
    count = 0
    while at < starts.size and starts[at] < block_start + block_size:
        acc = fold_extra(acc, starts[at], ends[at], digests[at], block_start, block_size)
        count += 1
        at += 1
    return finish_extra(acc, count)


@entry(
    "int64(uint64, uint64, uint64, int32[::1], int64, int32[::1], int32[::1], uint64[::1],"
    " uint64[:, ::1])"
)
def hash_chain(
    seed: int,
    salt_low: int,
    salt_high: int,
    tokens: Records,
    block_size: int,
    starts: Records,
    ends: Records,
    digests: Records,
    out: Records,
) -> int:
    """Hash the full blocks of a prompt.

    Parameters
    ----------
    seed, salt_low, salt_high : uint64
    tokens : int32
    block_size : int
    starts, ends : int32
        Token positions of the extra keys, ordered, not overlapping each other.
    digests : uint64
        As many.
    out : uint64, (number of full blocks, 2)
        Written: low and high half of each block's hash.

    Returns
    -------
    int
        ``OK``.
    """
    view = borrow(tokens)
    first, last, keys = borrow(starts), borrow(ends), borrow(digests)
    low, high = root_hash(seed, salt_low, salt_high)
    at = np.int64(0)
    for i in range(out.shape[0]):
        start = np.int64(i) * block_size
        at = np.int64(_skip_passed(last, at, start))
        extra = _extra_from(first, last, keys, at, start, block_size)
        if i == 0:
            extra = salt_extra(salt_low, salt_high, extra)
        low, high = hash_block(seed, low, high, view, start, block_size, extra)
        out[i, 0] = low
        out[i, 1] = high
    return OK
