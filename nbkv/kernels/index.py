"""Open addressing in buckets of one cache line, load at most 1/2, deletion by shifting back.

A key's home is a bucket of eight slots; what does not fit goes to the next bucket with room,
so a search ends at the first bucket with an empty slot. Deletion moves an entry back only
when the bucket was full (algorithm R of Knuth, TAOCP vol. 3, 6.4, by buckets), which at load
1/2 is rare: no tombstones, no rebuilding, and hardly a branch that the processor guesses wrong.
"""

import numpy as np

from nbkv._buckets import find_occupant
from nbkv._jit import kernel, outlined_kernel, wrapping_kernel
from nbkv.kernels.state import Records, State
from nbkv.layout import INDEX_WAYS

_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_HALF = np.uint64(32)


@wrapping_kernel
def mix_tag(key: int) -> int:
    """Spread a 64-bit key over 32 bits.

    Parameters
    ----------
    key : uint64

    Returns
    -------
    int64
        0 to 2**32 - 1. The finaliser of MurmurHash3 (A. Appleby, public domain), upper half.
    """
    x = np.uint64(key)
    x = (x ^ (x >> _SHIFT)) * _MIX_1
    x = (x ^ (x >> _SHIFT)) * _MIX_2
    return np.int64(x >> _HALF)


@kernel
def insert_slot(index: Records, mask: int, tag: int, occupant: int) -> None:
    """Add an occupant; equal tags may coexist.

    Parameters
    ----------
    index : INDEX_DTYPE
    mask : int
        Buckets - 1.
    tag : int
        From `mix_tag`.
    occupant : int
        A row, block_id or name, at least 0.
    """
    bucket = tag & mask
    slot = np.int64(find_occupant(index, bucket * INDEX_WAYS, 0))
    while slot < 0:
        bucket = (bucket + 1) & mask
        slot = np.int64(find_occupant(index, bucket * INDEX_WAYS, 0))
    index["tag"][slot] = np.uint32(tag)
    index["occupant"][slot] = occupant + 1


@kernel
def remove_slot(index: Records, mask: int, tag: int, occupant: int) -> None:
    """Take out an occupant that is there.

    Parameters
    ----------
    index : INDEX_DTYPE
    mask, tag, occupant : int
        As it was inserted.
    """
    bucket = tag & mask
    slot = np.int64(find_occupant(index, bucket * INDEX_WAYS, occupant + 1))
    while slot < 0:
        bucket = (bucket + 1) & mask
        slot = np.int64(find_occupant(index, bucket * INDEX_WAYS, occupant + 1))
    if not has_gap(index, bucket):
        slot = np.int64(_shift_back(index, mask, bucket, slot))
    index["tag"][slot] = 0
    index["occupant"][slot] = 0


@outlined_kernel
def _shift_back(index: Records, mask: int, bucket: int, hole: int) -> int:
    """Fill a hole in a full bucket from the buckets after it; returns where the hole ends up."""
    probe = bucket
    was_full = True
    while was_full:
        probe = (probe + 1) & mask
        was_full = not has_gap(index, probe)
        for slot in range(probe * INDEX_WAYS, probe * INDEX_WAYS + INDEX_WAYS):
            home = np.int64(index["tag"][slot]) & mask
            # An entry may move back to the hole's bucket only if its home is not after it.
            movable = ((probe - home) & mask) >= ((probe - bucket) & mask)
            if index["occupant"][slot] != 0 and movable:
                index["tag"][hole] = index["tag"][slot]
                index["occupant"][hole] = index["occupant"][slot]
                hole = slot
                bucket = probe
                break
    return hole


@kernel
def has_gap(index: Records, bucket: int) -> bool:
    """Tell whether a bucket has an empty slot: nothing that belongs there lies further on."""
    return np.int64(find_occupant(index, bucket * INDEX_WAYS, 0)) >= 0


@kernel
def find_row(state: State, seq_id: int) -> int:
    """Find the row of a live sequence.

    Parameters
    ----------
    state : State
    seq_id : uint64

    Returns
    -------
    int
        A row, or -1.
    """
    index = state.seq_index
    mask = state.header["seq_index_mask"][0]
    key = np.uint64(seq_id)
    tag = mix_tag(key)
    bucket = tag & mask
    while True:
        start = bucket * INDEX_WAYS
        for slot in range(start, start + INDEX_WAYS):
            if np.int64(index["tag"][slot]) == tag and index["occupant"][slot] != 0:
                row = np.int64(index["occupant"][slot]) - 1
                if state.sequences["seq_id"][row] == key:
                    return row
        if has_gap(index, bucket):
            return -1
        bucket = (bucket + 1) & mask


@kernel
def find_name(state: State, name_hash: int) -> int:
    """Find a named prefix.

    Parameters
    ----------
    state : State
    name_hash : uint64

    Returns
    -------
    int
        Its record, or -1.
    """
    index = state.name_index
    mask = state.header["name_index_mask"][0]
    key = np.uint64(name_hash)
    tag = mix_tag(key)
    bucket = tag & mask
    while True:
        start = bucket * INDEX_WAYS
        for slot in range(start, start + INDEX_WAYS):
            if np.int64(index["tag"][slot]) == tag and index["occupant"][slot] != 0:
                name = np.int64(index["occupant"][slot]) - 1
                if state.names["hash"][name] == key:
                    return name
        if has_gap(index, bucket):
            return -1
        bucket = (bucket + 1) & mask
