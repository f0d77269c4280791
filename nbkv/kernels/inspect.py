"""Questions about an arena that need more than a counter; nothing is changed."""

import numpy as np

from nbkv._jit import entry
from nbkv.kernels.index import find_row
from nbkv.kernels.rows import handle_of
from nbkv.kernels.state import Arena, Records, open_state
from nbkv.layout import HELD, NO_ROW
from nbkv.statuses import UNKNOWN_SEQUENCE


@entry("int64(uint8[::1], uint64)")
def find_sequence(arena: Arena, seq_id: int) -> int:
    """Find a sequence's row, or ``UNKNOWN_SEQUENCE``."""
    row = np.int64(find_row(open_state(arena), np.uint64(seq_id)))
    return row if row >= 0 else np.int64(UNKNOWN_SEQUENCE)


@entry("int64(uint8[::1], uint64)")
def find_handle(arena: Arena, seq_id: int) -> int:
    """Find a sequence's handle, or ``UNKNOWN_SEQUENCE``."""
    state = open_state(arena)
    row = np.int64(find_row(state, np.uint64(seq_id)))
    return handle_of(state, row) if row >= 0 else np.int64(UNKNOWN_SEQUENCE)


@entry("int64(uint8[::1], uint64, int32[::1])")
def copy_table(arena: Arena, seq_id: int, out: Records) -> int:
    """Write a sequence's block table.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64
    out : int32
        Untouched when the table is longer.

    Returns
    -------
    int
        Length of the table, or ``UNKNOWN_SEQUENCE``.
    """
    state = open_state(arena)
    row = np.int64(find_row(state, np.uint64(seq_id)))
    if row < 0:
        return np.int64(UNKNOWN_SEQUENCE)
    count = np.int64(state.sequences["num_blocks"][row])
    if count <= out.size:
        base = row * state.header["table_stride"][0]
        for i in range(count):
            out[i] = state.tables[base + i]
    return count


@entry("int64(uint8[::1])")
def count_partial(arena: Arena) -> int:
    """Count the distinct HELD blocks that are not full of valid tokens.

    Parameters
    ----------
    arena : uint8, C-contiguous

    Returns
    -------
    int
    """
    state = open_state(arena)
    blocks = state.blocks
    block_size = state.header["block_size"][0]
    count = np.int64(0)
    for block_id in range(state.header["num_fresh_blocks"][0]):
        if blocks["state"][block_id] == HELD:
            valid = np.int64(blocks["num_tokens"][block_id])
            writer = blocks["writer"][block_id]
            if writer != NO_ROW:
                valid = np.int64(state.sequences["tail_fill"][writer])
            if valid < block_size:
                count += 1
    return count
