"""The sliding window: blocks that no later token attends to leave the table."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.buffers import Step, add_change
from nbkv.kernels.holding import release_column
from nbkv.kernels.names import drop_names_over
from nbkv.kernels.prefix import detach_block
from nbkv.kernels.state import State
from nbkv.layout import NAMED, NO_BLOCK, UNINDEXABLE


@kernel
def _first_inside(state: State, num_committed: int) -> int:
    """Return the first table column that the next token attends to."""
    outside = num_committed - state.header["window"][0] + 1
    return max(outside, 0) // state.header["block_size"][0]


@kernel
def num_leaving(state: State, row: int, count: int) -> int:
    """Count the blocks at most that leave a table when `count` more tokens are committed."""
    sequences = state.sequences
    first = _first_inside(state, np.int64(sequences["num_committed"][row]) + count)
    return max(np.int64(0), first - np.int64(sequences["first_block"][row]))


@outlined_kernel
def slide_window(state: State, out: Step, row: int) -> None:
    """Release the blocks of a sequence that its committed tokens have left behind.

    The block after them is cut from its parent: it is held without it from now on. What it
    leads to cannot be found any more, so the sequence indexes nothing further.

    Parameters
    ----------
    state : State
    out : Step
        Takes the changes of the table.
    row : int
    """
    sequences = state.sequences
    before = np.int64(sequences["first_block"][row])
    first = np.int64(_first_inside(state, np.int64(sequences["num_committed"][row])))
    first = min(first, np.int64(sequences["num_blocks"][row]))
    if first <= before:
        return
    base = row * state.header["table_stride"][0]
    if first < sequences["num_blocks"][row]:
        after = np.int64(state.tables[base + first])
        if state.blocks["flags"][after] & NAMED != 0:
            # A name's blocks form a chain, which is about to break.
            drop_names_over(state, after)
        detach_block(state, after)
    release_column(state, base, before, first)
    for column in range(before, first):
        state.tables[base + column] = NO_BLOCK
        add_change(out, row, column, NO_BLOCK)
    state.header["total_deallocations"][0] += first - before
    sequences["first_block"][row] = first
    sequences["flags"][row] |= np.uint8(UNINDEXABLE)
