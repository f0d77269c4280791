"""Blocks released under steps still in flight: a queue in the order of their release.

A device may still read or write a block that a sequence has let go, until the steps planned
before are completed. Until then it waits here, FREE or CACHED, and is in neither the free
list nor the policy's order. Steps complete in order, so the head of the queue tells.
"""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.state import State
from nbkv.layout import CACHED, FENCED, FREE, NO_BLOCK

_NOT_FENCED = 255 - FENCED
_STEP_BITS = 0xFFFFFFFF
_HALF = 0x80000000


@kernel
def is_past(step: int, clock: int) -> bool:
    """Tell whether a step is at or before a clock.

    Parameters
    ----------
    step : int
        The lower 32 bits of a step id, as records keep it.
    clock : int
        A step id, less than 2**31 away.

    Returns
    -------
    bool
    """
    return ((np.int64(clock) - np.int64(step)) & _STEP_BITS) < _HALF


@kernel
def is_step(step: int, step_id: int) -> bool:
    """Tell whether a record's step is this one."""
    return (np.int64(step) - np.int64(step_id)) & _STEP_BITS == 0


@kernel
def must_fence(state: State) -> bool:
    """Tell whether a block released now must wait: steps are in flight."""
    header = state.header
    return header["run_ahead"][0] != 0 and header["num_steps"][0] > header["completed_step"][0]


@kernel
def is_evictable(state: State, block_id: int) -> bool:
    """Tell whether a block is CACHED and past the fence: room, until somebody holds it."""
    blocks = state.blocks
    return blocks["state"][block_id] == CACHED and blocks["flags"][block_id] & FENCED == 0


@kernel
def num_usable(state: State) -> int:
    """Count the blocks that a call may use: free or evictable, and past the fence."""
    header = state.header
    usable = header["num_free_blocks"][0] + header["num_cached_blocks"][0]
    return usable - header["num_fenced_blocks"][0]


@outlined_kernel
def enter_fence(state: State, block_id: int) -> None:
    """Let a block wait for the steps planned so far.

    Parameters
    ----------
    state : State
    block_id : int
        FREE or CACHED, counted as such, in no list.
    """
    header = state.header
    blocks = state.blocks
    tail = header["fence_tail"][0]
    if tail == NO_BLOCK:
        header["fence_head"][0] = block_id
    else:
        blocks["link"][tail] = block_id
    header["fence_tail"][0] = block_id
    blocks["writer"][block_id] = tail
    blocks["link"][block_id] = NO_BLOCK
    blocks["flags"][block_id] |= np.uint8(FENCED)
    blocks["fence_step"][block_id] = header["num_steps"][0]
    header["num_fenced_blocks"][0] += 1
    if blocks["state"][block_id] == FREE:
        header["num_fenced_free"][0] += 1


@outlined_kernel
def leave_fence(state: State, block_id: int) -> None:
    """Take a block out of the queue.

    Parameters
    ----------
    state : State
    block_id : int
        FENCED; its state's counter is the caller's affair.
    """
    header = state.header
    blocks = state.blocks
    before = np.int64(blocks["writer"][block_id])
    after = np.int64(blocks["link"][block_id])
    if before == NO_BLOCK:
        header["fence_head"][0] = after
    else:
        blocks["link"][before] = after
    if after == NO_BLOCK:
        header["fence_tail"][0] = before
    else:
        blocks["writer"][after] = before
    blocks["link"][block_id] = NO_BLOCK
    blocks["writer"][block_id] = NO_BLOCK
    blocks["flags"][block_id] &= np.uint8(_NOT_FENCED)
    header["num_fenced_blocks"][0] -= 1
    if blocks["state"][block_id] == FREE:
        header["num_fenced_free"][0] -= 1
