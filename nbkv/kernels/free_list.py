"""Free blocks: first those never used, by watermark, then the released, first in first out."""

import numpy as np

from nbkv._intrinsics import copy_record, prefetch
from nbkv._jit import kernel
from nbkv.kernels.fence import enter_fence
from nbkv.kernels.state import Records, State
from nbkv.layout import BLOCK_DTYPE, FREE, HELD, NO_BLOCK, NO_ROW

_AHEAD = 8


def _handed_out() -> Records:
    record = np.zeros(1, BLOCK_DTYPE)
    record["ref_count"] = 1
    record["state"] = HELD
    record["access_count"] = 1
    for field in ("link", "parent", "child"):
        record[field] = NO_BLOCK
    record["writer"] = NO_ROW
    return record


#: What a block's record says when it has just been handed out.
_HANDED_OUT = _handed_out()


@kernel
def push_free(state: State, block_id: int) -> None:
    """Put a block that nobody holds and nothing covers at the end of the free list.

    Parameters
    ----------
    state : State
    block_id : int
        Its state's counter has been lowered by the caller.
    """
    header = state.header
    blocks = state.blocks
    if header["free_tail"][0] == NO_BLOCK:
        header["free_head"][0] = block_id
    else:
        blocks["link"][header["free_tail"][0]] = block_id
    header["free_tail"][0] = block_id
    blocks["link"][block_id] = NO_BLOCK
    blocks["state"][block_id] = FREE
    blocks["flags"][block_id] = 0
    blocks["ref_count"][block_id] = 0
    header["num_free_blocks"][0] += 1


@kernel
def release_free(state: State, block_id: int, fenced: bool) -> None:
    """Make a block FREE that was HELD: to the free list, or to the fence first.

    Parameters
    ----------
    state : State
    block_id : int
        Its state's counter has been lowered by the caller.
    fenced : bool
        From `must_fence`.
    """
    if not fenced:
        push_free(state, block_id)
        return
    state.blocks["state"][block_id] = FREE
    state.blocks["flags"][block_id] = 0
    state.blocks["ref_count"][block_id] = 0
    state.header["num_free_blocks"][0] += 1
    enter_fence(state, block_id)


@kernel
def _start_block(
    blocks: Records, block_id: int, alloc_order: int, num_tokens: int, ready_step: int
) -> None:
    """Write the record of a block just handed out, with one reference."""
    generation = blocks["generation"][block_id]
    # One copy of a cache line instead of a store a field.
    copy_record(blocks, block_id, _HANDED_OUT)
    blocks["num_tokens"][block_id] = num_tokens
    blocks["generation"][block_id] = generation + 1
    blocks["alloc_order"][block_id] = alloc_order
    blocks["ready_step"][block_id] = ready_step


@kernel
def allocate_run(state: State, out: Records, start: int, count: int, num_tokens: int) -> None:
    """Hand out the free blocks that wait longest, with one reference each.

    Parameters
    ----------
    state : State
        ``num_free_blocks`` is at least `count`: the caller has counted.
    out : int32
        Takes the block ids.
    start : int
        Where in `out` the first goes.
    count : int
    num_tokens : int
        Valid tokens of each, 0 to block_size.
    """
    header = state.header
    blocks = state.blocks
    order = header["alloc_counter"][0]
    ready = header["completed_step"][0]
    fresh = header["num_fresh_blocks"][0]
    num_fresh = min(count, header["num_blocks"][0] - fresh)
    # Unsigned, a subscript is known not to count from the end.
    for i in range(num_fresh):
        place = np.uint64(fresh + i)
        _start_block(blocks, place, order + i + 1, num_tokens, ready)
        out[np.uint64(start + i)] = fresh + i
    header["num_fresh_blocks"][0] = fresh + num_fresh
    if num_fresh < count:
        num_evicted = state.runtime["num_evicted"][0]
        block_id = np.int64(header["free_head"][0])
        for i in range(num_fresh, count):
            # The list is a chain of misses; what was evicted last mostly stands at its end.
            if i + _AHEAD < num_evicted:
                prefetch(blocks, state.evicted[np.uint64(i + _AHEAD)])
            # The way from one link to the next is what a block costs here.
            place = np.uint64(block_id)
            out[np.uint64(start + i)] = block_id
            block_id = np.int64(blocks["link"][place])
            _start_block(blocks, place, order + i + 1, num_tokens, ready)
        header["free_head"][0] = block_id
        if block_id == NO_BLOCK:
            header["free_tail"][0] = NO_BLOCK
    header["alloc_counter"][0] = order + count
    header["num_free_blocks"][0] -= count
    header["num_held_blocks"][0] += count


@kernel
def allocate(state: State) -> int:
    """Hand out one block, empty: see `allocate_run`.

    Parameters
    ----------
    state : State

    Returns
    -------
    int
        Its block_id.
    """
    header = state.header
    fresh = header["num_fresh_blocks"][0]
    if fresh < header["num_blocks"][0]:
        block_id = fresh
        header["num_fresh_blocks"][0] = fresh + 1
    else:
        block_id = np.int64(header["free_head"][0])
        after = state.blocks["link"][block_id]
        header["free_head"][0] = after
        if after == NO_BLOCK:
            header["free_tail"][0] = NO_BLOCK
    header["alloc_counter"][0] += 1
    header["num_free_blocks"][0] -= 1
    header["num_held_blocks"][0] += 1
    order = header["alloc_counter"][0]
    _start_block(state.blocks, block_id, order, 0, header["completed_step"][0])
    return block_id
