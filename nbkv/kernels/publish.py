"""Committed blocks made findable, or exchanged for the block that has their content already."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.buffers import Step, add_change
from nbkv.kernels.external import stands_alone
from nbkv.kernels.extras import extra_at
from nbkv.kernels.fence import is_step
from nbkv.kernels.hashing import hash_block, root_hash
from nbkv.kernels.holding import hold_block, settle_block
from nbkv.kernels.state import State
from nbkv.kernels.tokens import find_keyed, index_keyed, is_visible, prefetch_bucket
from nbkv.layout import (
    CALLER_KEYED,
    DETACHED,
    HASH_RING,
    INDEXED,
    NAMED,
    NO_BLOCK,
    UNINDEXABLE,
)

_KINDS = INDEXED | CALLER_KEYED | DETACHED
_RING = HASH_RING - 1
_AHEAD = 8


@kernel
def _can_follow(state: State, row: int, column: int) -> bool:
    """Tell whether a column's block may be indexed: the one before it is, by its tokens."""
    if state.sequences["flags"][row] & UNINDEXABLE != 0:
        return False
    if column == 0:
        return True
    before = np.int64(state.tables[row * state.header["table_stride"][0] + column - 1])
    return before != NO_BLOCK and state.blocks["flags"][before] & _KINDS == INDEXED


@outlined_kernel
def publish_blocks(state: State, out: Step, row: int, first: int, end: int, step_id: int) -> None:
    """Publish the blocks of a sequence that a commit has filled.

    Parameters
    ----------
    state : State
    out : Step
        Takes the changes of the table.
    row : int
    first, end : int
        Columns.
    step_id : int
        The step that filled them.
    """
    block_size = state.header["block_size"][0]
    base = row * state.header["table_stride"][0]
    for column in range(first, end):
        state.blocks["ready_step"][state.tables[base + column]] = step_id
    end = min(end, np.int64(state.sequences["num_known"][row]) // block_size)
    if first >= end or not _can_follow(state, row, first):
        return
    low, high = _hash_before(state, row, first)
    parent = np.int64(NO_BLOCK)
    if first > 0:
        parent = np.int64(state.tables[base + first - 1])
    # Hashed ahead, so that the index is fetched while the blocks before are published.
    hashed = first
    for column in range(first, end):
        while hashed < end and hashed <= column + _AHEAD:
            extra = extra_at(state, row, hashed)
            place = np.int64(state.tables[base + hashed]) * block_size
            seed = state.header["hash_seed"][0]
            low, high = hash_block(seed, low, high, state.tokens, place, block_size, extra)
            state.hashes[2 * (hashed & _RING)] = low
            state.hashes[2 * (hashed & _RING) + 1] = high
            prefetch_bucket(state, low)
            hashed += 1
        now_low = state.hashes[2 * (column & _RING)]
        now_high = state.hashes[2 * (column & _RING) + 1]
        parent = np.int64(
            _publish_block(state, out, row, column, parent, now_low, now_high, step_id)
        )
        if parent == NO_BLOCK:
            return


@kernel
def _hash_before(state: State, row: int, column: int) -> tuple[int, int]:
    """Return the chain hash that a column's continues."""
    if column == 0:
        keys = state.sequence_keys
        seed = state.header["hash_seed"][0]
        return root_hash(seed, keys["salt_low"][row], keys["salt_high"][row])
    before = state.tables[row * state.header["table_stride"][0] + column - 1]
    return state.keys["hash_low"][before], state.keys["hash_high"][before]


@kernel
def _publish_block(
    state: State,
    out: Step,
    row: int,
    column: int,
    parent: int,
    low: int,
    high: int,
    step_id: int,
) -> int:
    """Index a block, or exchange it; returns the indexed block of the column, or NO_BLOCK."""
    entry = row * state.header["table_stride"][0] + column
    block_id = np.int64(state.tables[entry])
    if state.blocks["flags"][block_id] & _KINDS == INDEXED:
        return block_id
    if state.blocks["ref_count"][block_id] > 1 and stands_alone(state, block_id, parent):
        return np.int64(NO_BLOCK)
    place = block_id * state.header["block_size"][0]
    extra = extra_at(state, row, column)
    known = np.int64(find_keyed(state, parent, low, high, state.tokens, place, extra))
    if known == NO_BLOCK:
        if state.blocks["flags"][block_id] & DETACHED != 0:
            # Somebody holds it without the block before it.
            return np.int64(NO_BLOCK)
        index_keyed(state, block_id, parent, low, high, extra)
        return block_id
    if not _can_exchange(state, block_id, known, step_id):
        return np.int64(NO_BLOCK)
    hold_block(state, known)
    state.tables[entry] = known
    state.blocks["ref_count"][block_id] -= 1
    state.header["total_deallocations"][0] += 1
    settle_block(state, block_id)
    add_change(out, row, column, known)
    return known


@kernel
def _can_exchange(state: State, block_id: int, known: int, step_id: int) -> bool:
    """Tell whether a table may take a known block instead of its own of equal content."""
    blocks = state.blocks
    # What this very call has indexed is exchanged for from the next one on.
    if state.header["dedup"][0] == 0 or is_step(blocks["ready_step"][known], step_id):
        return False
    if blocks["ref_count"][block_id] != 1 or blocks["pin_count"][block_id] != 0:
        return False
    return blocks["flags"][block_id] & NAMED == 0 and is_visible(state, known)
