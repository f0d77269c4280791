"""The sections of an arena as views, opened once a call."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbkv._intrinsics import section_view
from nbkv._jit import kernel
from nbkv.layout import (
    BLOCK_DTYPE,
    BLOCK_KEY_DTYPE,
    HEADER_DTYPE,
    INDEX_DTYPE,
    INT32,
    NAME_DTYPE,
    RANK_DTYPE,
    RUNTIME_DTYPE,
    SEQUENCE_DTYPE,
)

Arena = npt.NDArray[np.uint8]
Records = npt.NDArray[Any]

_HEADER_END = HEADER_DTYPE.itemsize
_RUNTIME_BYTES = RUNTIME_DTYPE.itemsize


class State(NamedTuple):
    """Views over one arena; they borrow it and must not outlive the call."""

    header: Records
    runtime: Records
    blocks: Records
    keys: Records
    sequences: Records
    seq_index: Records
    prefix_index: Records
    names: Records
    name_index: Records
    ring: Records
    heap: Records
    tables: Records
    evicted: Records
    copies: Records
    scratch: Records


@kernel
def open_state(arena: Arena) -> State:
    """View every section of an arena.

    Parameters
    ----------
    arena : uint8, C-contiguous

    Returns
    -------
    State
    """
    header = section_view(arena, 0, _HEADER_END, HEADER_DTYPE)
    start = header["runtime_start"][0]
    runtime = section_view(arena, start, start + _RUNTIME_BYTES, RUNTIME_DTYPE)
    h = header
    r = runtime
    return State(
        header,
        runtime,
        section_view(arena, h["blocks_start"][0], h["blocks_end"][0], BLOCK_DTYPE),
        section_view(arena, h["block_keys_start"][0], h["block_keys_end"][0], BLOCK_KEY_DTYPE),
        section_view(arena, h["sequences_start"][0], h["sequences_end"][0], SEQUENCE_DTYPE),
        section_view(arena, h["seq_index_start"][0], h["seq_index_end"][0], INDEX_DTYPE),
        section_view(arena, h["prefix_index_start"][0], h["prefix_index_end"][0], INDEX_DTYPE),
        section_view(arena, h["names_start"][0], h["names_end"][0], NAME_DTYPE),
        section_view(arena, h["name_index_start"][0], h["name_index_end"][0], INDEX_DTYPE),
        section_view(arena, h["ranks_start"][0], h["ranks_end"][0], INT32),
        section_view(arena, h["ranks_start"][0], h["ranks_end"][0], RANK_DTYPE),
        section_view(arena, h["tables_start"][0], h["tables_end"][0], INT32),
        section_view(arena, r["evicted_start"][0], r["evicted_end"][0], INT32),
        section_view(arena, r["copies_start"][0], r["copies_end"][0], INT32),
        section_view(arena, r["scratch_start"][0], r["scratch_end"][0], INT32),
    )


@kernel
def begin_report(state: State) -> None:
    """Forget what the call before evicted and copied: a mutating call is going through."""
    state.runtime["num_evicted"][0] = 0
    state.runtime["num_copies"][0] = 0
