"""Rows of sequences: opened under a seq_id, closed, and found by handle."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.extras import drop_extras, extra_at
from nbkv.kernels.holding import release_column
from nbkv.kernels.index import insert_slot, mix_tag, remove_slot
from nbkv.kernels.state import State
from nbkv.kernels.tails import close_tail
from nbkv.layout import (
    CALLER_KEYED,
    INDEXED,
    NO_BLOCK,
    NO_ROW,
    PARTIAL_HIT,
    ROW_ACTIVE,
    ROW_FREE,
    TAIL_OPEN,
    UNINDEXABLE,
)
from nbkv.statuses import STALE_HANDLE

_KEYED = INDEXED | CALLER_KEYED
_NOT_PARTIAL = 255 - PARTIAL_HIT
_ROW_BITS = 32
_ROW_MASK = 0xFFFFFFFF
_GENERATION_MAX = 2**31 - 1


@kernel
def has_room(state: State) -> bool:
    """Tell whether one more sequence can be opened."""
    return state.header["num_sequences"][0] < state.header["max_sequences"][0]


@outlined_kernel
def open_row(state: State, seq_id: int) -> int:
    """Open an empty sequence.

    Parameters
    ----------
    state : State
        `has_room`.
    seq_id : uint64
        Not alive.

    Returns
    -------
    int
        Its row.
    """
    header = state.header
    sequences = state.sequences
    row = header["free_row"][0]
    if row == NO_ROW:
        row = header["num_fresh_rows"][0]
        header["num_fresh_rows"][0] = row + 1
        sequences["generation"][row] = 1
    else:
        header["free_row"][0] = sequences["tail_block"][row]
    header["num_sequences"][0] += 1
    header["arrivals"][0] += 1
    sequences["seq_id"][row] = np.uint64(seq_id)
    sequences["num_tokens"][row] = 0
    sequences["num_committed"][row] = 0
    sequences["num_known"][row] = 0
    sequences["num_blocks"][row] = 0
    sequences["num_hit_tokens"][row] = 0
    sequences["first_block"][row] = 0
    sequences["last_step"][row] = header["completed_step"][0]
    sequences["void_step"][row] = header["completed_step"][0]
    sequences["state"][row] = ROW_ACTIVE
    sequences["flags"][row] = 0
    keys = state.sequence_keys
    keys["salt_low"][row] = 0
    keys["salt_high"][row] = 0
    keys["owner"][row] = 0
    keys["first_extra"][row] = 0
    sequences["arrival"][row] = header["arrivals"][0]
    mask = header["seq_index_mask"][0]
    insert_slot(state.seq_index, mask, mix_tag(np.uint64(seq_id)), row)
    return row


@outlined_kernel
def close_row(state: State, row: int) -> None:
    """End a sequence: release its blocks and make its handles stale.

    Parameters
    ----------
    state : State
    row : int
        Alive.
    """
    header = state.header
    sequences = state.sequences
    if sequences["flags"][row] & TAIL_OPEN != 0:
        close_tail(state, row)
    if state.sequence_keys["first_extra"][row] != 0:
        drop_extras(state, row)
    num_blocks = np.int64(sequences["num_blocks"][row])
    header["total_deallocations"][0] += num_blocks - np.int64(sequences["first_block"][row])
    release_column(state, row * header["table_stride"][0], 0, num_blocks)
    tag = mix_tag(sequences["seq_id"][row])
    remove_slot(state.seq_index, header["seq_index_mask"][0], tag, row)
    generation = sequences["generation"][row]
    sequences["generation"][row] = 1 if generation == _GENERATION_MAX else generation + 1
    sequences["state"][row] = ROW_FREE
    sequences["num_blocks"][row] = 0
    sequences["tail_block"][row] = header["free_row"][0]
    header["free_row"][0] = row
    header["num_sequences"][0] -= 1


@kernel
def has_foreign_tail(state: State, row: int, column: int) -> bool:
    """Tell whether a block was computed under another salt or other extra keys.

    Its first tokens then are no beginning of a block of this sequence's.
    """
    block_id = state.tables[row * state.header["table_stride"][0] + column]
    if block_id == NO_BLOCK or state.blocks["flags"][block_id] & _KEYED != INDEXED:
        return False
    return state.keys["extra_key"][block_id] != extra_at(state, row, column)


@outlined_kernel
def cut_row(state: State, row: int, num_tokens: int) -> None:
    """Keep a sequence's first tokens; what was planned and not committed is void.

    Parameters
    ----------
    state : State
    row : int
        Alive.
    num_tokens : int
        At most its committed tokens; 0 or within reach of its window.
    """
    sequences = state.sequences
    if sequences["flags"][row] & TAIL_OPEN != 0:
        close_tail(state, row)
    block_size = state.header["block_size"][0]
    kept = (num_tokens + block_size - 1) // block_size
    had = np.int64(sequences["num_blocks"][row])
    if num_tokens % block_size == 0 or kept <= np.int64(sequences["num_tokens"][row]) // block_size:
        # The block of which it used the beginning is gone.
        sequences["flags"][row] &= np.uint8(_NOT_PARTIAL)
    if num_tokens % block_size != 0 and has_foreign_tail(state, row, kept - 1):
        sequences["flags"][row] |= np.uint8(UNINDEXABLE)
    first = np.int64(sequences["first_block"][row])
    release_column(state, row * state.header["table_stride"][0], kept, had)
    state.header["total_deallocations"][0] += had - max(kept, min(first, had))
    sequences["first_block"][row] = min(first, kept)
    sequences["num_blocks"][row] = kept
    sequences["num_tokens"][row] = num_tokens
    sequences["num_committed"][row] = num_tokens
    sequences["num_known"][row] = min(np.int64(sequences["num_known"][row]), num_tokens)
    sequences["num_hit_tokens"][row] = min(np.int64(sequences["num_hit_tokens"][row]), num_tokens)
    sequences["void_step"][row] = state.header["num_steps"][0]


@kernel
def least_tokens(state: State, row: int) -> int:
    """Return the fewest tokens (0 aside) that a sequence can be cut to: its window has holes."""
    first = np.int64(state.sequences["first_block"][row])
    if first == 0:
        return np.int64(0)
    return first * state.header["block_size"][0] + state.header["window"][0] - 1


@kernel
def has_planned(state: State, row: int) -> bool:
    """Tell whether a sequence has tokens that are planned and not committed."""
    return state.sequences["num_tokens"][row] != state.sequences["num_committed"][row]


@kernel
def handle_of(state: State, row: int) -> int:
    """Return the handle of a live row: generation << 32 | row."""
    return (np.int64(state.sequences["generation"][row]) << _ROW_BITS) | np.int64(row)


@kernel
def row_of(state: State, handle: int) -> int:
    """Find the row of a handle.

    Parameters
    ----------
    state : State
    handle : int64
        Any value: nothing about it is trusted.

    Returns
    -------
    int
        A row, or ``STALE_HANDLE``.
    """
    row = np.int64(handle) & _ROW_MASK
    if row >= state.header["num_fresh_rows"][0]:
        return STALE_HANDLE
    if state.sequences["state"][row] != ROW_ACTIVE:
        return STALE_HANDLE
    if state.sequences["generation"][row] != np.int64(handle) >> _ROW_BITS:
        return STALE_HANDLE
    return row
