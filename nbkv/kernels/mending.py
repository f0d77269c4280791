"""What a repair needs of compiled code: keys made again, and indexes filled anew."""

import numpy as np

from nbkv._demand import on_demand
from nbkv.kernels.audit_keys import hashes_again
from nbkv.kernels.index import insert_slot, mix_tag
from nbkv.kernels.state import Arena, Records, open_state
from nbkv.layout import CALLER_KEYED, INDEXED

_KEYED = INDEXED | CALLER_KEYED

SEQ_INDEX = 0
PREFIX_INDEX = 1
NAME_INDEX = 2


@on_demand("int64(uint8[::1], boolean[::1])")
def check_hashes(arena: Arena, out: Records) -> int:
    """Tell of each block whether its chain hash is that of its tokens and its parent.

    Parameters
    ----------
    arena : uint8, C-contiguous
        Its header is that of its configuration, parents are in range.
    out : bool, shape (n,)
        True too where it cannot be told, or where there is none.

    Returns
    -------
    int
        0.
    """
    state = open_state(arena)
    for i in range(out.size):
        flags = np.int64(state.blocks["flags"][i])
        out[i] = flags & _KEYED != INDEXED or hashes_again(state, np.int64(i), flags)
    return np.int64(0)


@on_demand("int64(uint8[::1], int64, uint64[::1], int64[::1])")
def fill_index(arena: Arena, kind: int, keys: Records, occupants: Records) -> int:
    """Add occupants to an index.

    Parameters
    ----------
    arena : uint8, C-contiguous
        Its header is that of its configuration; the index has room.
    kind : int
        ``SEQ_INDEX``, ``PREFIX_INDEX`` or ``NAME_INDEX``.
    keys : uint64
    occupants : int64
        As many.

    Returns
    -------
    int
        0.
    """
    state = open_state(arena)
    for i in range(keys.size):
        tag = mix_tag(keys[i])
        if kind == SEQ_INDEX:
            insert_slot(state.seq_index, state.header["seq_index_mask"][0], tag, occupants[i])
        elif kind == PREFIX_INDEX:
            mask = state.header["prefix_index_mask"][0]
            insert_slot(state.prefix_index, mask, tag, occupants[i])
        else:
            insert_slot(state.name_index, state.header["name_index_mask"][0], tag, occupants[i])
    return np.int64(0)


@on_demand("int64(uint64[::1], int64[::1])")
def mix_tags(keys: Records, out: Records) -> int:
    """Write the tag of each key."""
    for i in range(keys.size):
        out[i] = mix_tag(keys[i])
    return np.int64(0)
