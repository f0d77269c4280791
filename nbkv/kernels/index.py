"""Open addressing: linear probing, load at most 1/2, deletion by shifting back.

Deletion closes the gap instead of leaving a tombstone (Knuth, TAOCP vol. 3, 6.4,
algorithm R), so a table never degrades and never needs rebuilding.
"""

import numpy as np

from nbkv._jit import kernel, wrapping_kernel
from nbkv.kernels.state import Records, State

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
        Slots - 1.
    tag : int
        From `mix_tag`.
    occupant : int
        A row, block_id or name, at least 0.
    """
    slot = tag & mask
    while index["occupant"][slot] != 0:
        slot = (slot + 1) & mask
    index["tag"][slot] = np.uint32(tag)
    index["occupant"][slot] = occupant + 1


@kernel
def remove_slot(index: Records, mask: int, tag: int, occupant: int) -> None:
    """Take out an occupant that is there, and close the gap.

    Parameters
    ----------
    index : INDEX_DTYPE
    mask, tag, occupant : int
        As it was inserted.
    """
    hole = tag & mask
    while index["occupant"][hole] != occupant + 1:
        hole = (hole + 1) & mask
    probe = (hole + 1) & mask
    while index["occupant"][probe] != 0:
        home = np.int64(index["tag"][probe]) & mask
        # An entry may move back to the hole only if its home is not after the hole.
        if ((probe - home) & mask) >= ((probe - hole) & mask):
            index["tag"][hole] = index["tag"][probe]
            index["occupant"][hole] = index["occupant"][probe]
            hole = probe
        probe = (probe + 1) & mask
    index["tag"][hole] = 0
    index["occupant"][hole] = 0


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
    slot = tag & mask
    while index["occupant"][slot] != 0:
        row = np.int64(index["occupant"][slot]) - 1
        if np.int64(index["tag"][slot]) == tag and state.sequences["seq_id"][row] == key:
            return row
        slot = (slot + 1) & mask
    return -1


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
    slot = tag & mask
    while index["occupant"][slot] != 0:
        name = np.int64(index["occupant"][slot]) - 1
        if np.int64(index["tag"][slot]) == tag and state.names["hash"][name] == key:
            return name
        slot = (slot + 1) & mask
    return -1
