"""Free blocks: first those never used, by watermark, then the released, first in first out."""

from nbkv._jit import kernel
from nbkv.kernels.state import State
from nbkv.layout import FREE, HELD, NO_BLOCK, NO_ROW


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
    blocks["ref_count"][block_id] = 0
    header["num_free_blocks"][0] += 1


@kernel
def _pop_free(state: State) -> int:
    header = state.header
    fresh = header["num_fresh_blocks"][0]
    header["num_free_blocks"][0] -= 1
    if fresh < header["num_blocks"][0]:
        header["num_fresh_blocks"][0] = fresh + 1
        return fresh
    block_id = header["free_head"][0]
    after = state.blocks["link"][block_id]
    header["free_head"][0] = after
    if after == NO_BLOCK:
        header["free_tail"][0] = NO_BLOCK
    return block_id


@kernel
def allocate(state: State) -> int:
    """Hand out the free block that waits longest, with one reference and no tokens.

    Parameters
    ----------
    state : State
        ``num_free_blocks`` is at least 1: the caller has counted.

    Returns
    -------
    int
        Its block_id.
    """
    block_id = _pop_free(state)
    header = state.header
    blocks = state.blocks
    header["num_held_blocks"][0] += 1
    header["alloc_counter"][0] += 1
    blocks["ref_count"][block_id] = 1
    blocks["num_tokens"][block_id] = 0
    blocks["state"][block_id] = HELD
    blocks["flags"][block_id] = 0
    blocks["generation"][block_id] += 1
    blocks["link"][block_id] = NO_BLOCK
    blocks["writer"][block_id] = NO_ROW
    blocks["parent"][block_id] = NO_BLOCK
    blocks["child"][block_id] = NO_BLOCK
    blocks["num_children"][block_id] = 0
    blocks["access_count"][block_id] = 1
    blocks["alloc_order"][block_id] = header["alloc_counter"][0]
    return block_id
