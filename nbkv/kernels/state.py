"""The sections of an arena as views: a tuple when interpreted, one pointer when compiled.

A tuple of fifteen arrays is over a hundred machine words, copied at every call that is not
inlined. So compiled code passes the arena's address, and reading ``state.blocks`` makes the
view from the offsets in the header: two loads, no reference count.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbkv._addresses import StateType, offer_address, offer_section, offer_start
from nbkv._jit import INTERPRETED, kernel
from nbkv.layout import (
    BLOCK_DTYPE,
    BLOCK_KEY_DTYPE,
    EXTRA_DTYPE,
    HEADER_DTYPE,
    INDEX_DTYPE,
    INT16,
    INT32,
    LEASE_DTYPE,
    LEASED_DTYPE,
    NAME_DTYPE,
    RANK_DTYPE,
    RUNTIME_DTYPE,
    SEQUENCE_DTYPE,
    SEQUENCE_KEY_DTYPE,
    UINT64,
)

Arena = npt.NDArray[np.uint8]
Records = npt.NDArray[Any]

_HEADER_END = HEADER_DTYPE.itemsize
_RUNTIME_BYTES = RUNTIME_DTYPE.itemsize


class State(NamedTuple):
    """Views over one arena; compiled, they borrow it and must not outlive the call."""

    header: Records
    runtime: Records
    blocks: Records
    keys: Records
    tokens: Records
    sequences: Records
    sequence_keys: Records
    seq_index: Records
    prefix_index: Records
    names: Records
    name_index: Records
    ring: Records
    heap: Records
    extras: Records
    leases: Records
    leased: Records
    external_holds: Records
    tables: Records
    evicted: Records
    copies: Records
    scratch: Records
    hashes: Records


#: Where each view begins and ends: the header's or the runtime record's offset fields.
_SECTION_OF = {
    "blocks": ("blocks", BLOCK_DTYPE),
    "keys": ("block_keys", BLOCK_KEY_DTYPE),
    "tokens": ("tokens", INT32),
    "sequences": ("sequences", SEQUENCE_DTYPE),
    "sequence_keys": ("sequence_keys", SEQUENCE_KEY_DTYPE),
    "seq_index": ("seq_index", INDEX_DTYPE),
    "prefix_index": ("prefix_index", INDEX_DTYPE),
    "names": ("names", NAME_DTYPE),
    "name_index": ("name_index", INDEX_DTYPE),
    "ring": ("ranks", INT32),
    "heap": ("ranks", RANK_DTYPE),
    "extras": ("extras", EXTRA_DTYPE),
    "leases": ("leases", LEASE_DTYPE),
    "leased": ("leased", LEASED_DTYPE),
    "external_holds": ("external_holds", INT16),
    "tables": ("tables", INT32),
}
_RUNTIME_ARRAYS = {"evicted": INT32, "copies": INT32, "scratch": INT32, "hashes": UINT64}


@lru_cache(maxsize=8)
def _views_at(address: int, owner: "_Owner") -> State:
    arena = owner.arena
    header = arena[:_HEADER_END].view(HEADER_DTYPE)
    start = int(header["runtime_start"][0])
    runtime = arena[start : start + _RUNTIME_BYTES].view(RUNTIME_DTYPE)
    views = {"header": header, "runtime": runtime}
    for name, (section, dtype) in _SECTION_OF.items():
        first, end = int(header[f"{section}_start"][0]), int(header[f"{section}_end"][0])
        views[name] = arena[first:end].view(dtype)
    for name, dtype in _RUNTIME_ARRAYS.items():
        first, end = int(runtime[f"{name}_start"][0]), int(runtime[f"{name}_end"][0])
        views[name] = arena[first:end].view(dtype)
    return State(**views)


class _Owner:
    """Carries an arena past lru_cache, which compares the address alone."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Owner)

    def __hash__(self) -> int:
        return 0


def open_state(array: Arena) -> State:
    """View every section of an arena.

    Parameters
    ----------
    array : uint8, C-contiguous
        An arena.

    Returns
    -------
    State
    """
    # The cached views keep their arena alive, so its address cannot come back as another's.
    return _views_at(array.ctypes.data, _Owner(array))


if not INTERPRETED:
    offer_address(StateType, open_state)
    offer_start(StateType, "header", HEADER_DTYPE)
    offer_section(StateType, "runtime", "runtime", RUNTIME_DTYPE)
    for _name, (_section, _dtype) in _SECTION_OF.items():
        offer_section(StateType, _name, _section, _dtype)
    for _name, _dtype in _RUNTIME_ARRAYS.items():
        offer_section(StateType, _name, _name, _dtype, ("runtime", RUNTIME_DTYPE))


@kernel
def begin_report(state: State) -> None:
    """Forget what the call before evicted and copied: a mutating call is going through."""
    state.runtime["num_evicted"][0] = 0
    state.runtime["num_copies"][0] = 0
