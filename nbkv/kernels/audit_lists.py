"""Audit of the lists that blocks wait in: the free list and the fence."""

import numpy as np

from nbkv._jit import outlined_kernel
from nbkv.kernels.audit_notes import NIL, note
from nbkv.kernels.state import Records, State
from nbkv.layout import FENCED, FREE, HELD, NO_BLOCK
from nbkv.violations import (
    BLOCKS,
    FENCE,
    FENCE_BACK,
    FENCE_ORDER,
    FREE_LIST,
    LIST_LENGTH,
    LIST_MEMBER,
    LIST_RANGE,
    LIST_TAIL,
)

_STEP_BITS = 0xFFFFFFFF


@outlined_kernel
def audit_free_list(state: State, found: Records) -> int:
    """Audit the free list: it ends after as many blocks as there are, so it has each once.

    Parameters
    ----------
    state : State
        The header's counts are those of the blocks.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    header, blocks = state.header, state.blocks
    num_fresh = header["num_fresh_blocks"][0]
    count = header["num_free_blocks"][0] - (header["num_blocks"][0] - num_fresh)
    count -= header["num_fenced_free"][0]
    block_id = np.int64(header["free_head"][0])
    last = np.int64(NO_BLOCK)
    for _ in range(count):
        if block_id < 0 or block_id >= num_fresh:
            return note(found, LIST_RANGE, BLOCKS, NIL, FREE_LIST, block_id, num_fresh - 1, NIL)
        if blocks["state"][block_id] != FREE or blocks["flags"][block_id] & FENCED != 0:
            return note(found, LIST_MEMBER, BLOCKS, NIL, FREE_LIST, block_id, NIL, NIL)
        last = block_id
        block_id = np.int64(blocks["link"][block_id])
    if block_id != NO_BLOCK:
        return note(found, LIST_LENGTH, BLOCKS, NIL, FREE_LIST, count, NIL, NIL)
    if header["free_tail"][0] != last:
        return note(found, LIST_TAIL, BLOCKS, NIL, FREE_LIST, last, header["free_tail"][0], NIL)
    return np.int64(0)


@outlined_kernel
def audit_fence(state: State, found: Records) -> int:
    """Audit the fence: a queue in both directions, in the order of steps still in flight.

    Parameters
    ----------
    state : State
        The header's counts are those of the blocks.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    header, blocks = state.header, state.blocks
    num_fresh = header["num_fresh_blocks"][0]
    count = header["num_fenced_blocks"][0]
    completed = header["completed_step"][0]
    in_flight = header["num_steps"][0] - completed
    block_id = np.int64(header["fence_head"][0])
    last = np.int64(NO_BLOCK)
    waited = np.int64(1)
    for _ in range(count):
        if block_id < 0 or block_id >= num_fresh:
            return note(found, LIST_RANGE, BLOCKS, NIL, FENCE, block_id, num_fresh - 1, NIL)
        if blocks["state"][block_id] == HELD or blocks["flags"][block_id] & FENCED == 0:
            return note(found, LIST_MEMBER, BLOCKS, NIL, FENCE, block_id, NIL, NIL)
        if blocks["writer"][block_id] != last:
            before = np.int64(blocks["writer"][block_id])
            return note(found, FENCE_BACK, BLOCKS, NIL, FENCE, block_id, before, last)
        step = np.int64(blocks["fence_step"][block_id])
        waits = (step - completed) & _STEP_BITS
        if waits < waited or waits > in_flight or header["run_ahead"][0] == 0:
            return note(found, FENCE_ORDER, BLOCKS, NIL, FENCE, block_id, step, NIL)
        waited = waits
        last = block_id
        block_id = np.int64(blocks["link"][block_id])
    if block_id != NO_BLOCK:
        return note(found, LIST_LENGTH, BLOCKS, NIL, FENCE, count, NIL, NIL)
    if header["fence_tail"][0] != last:
        return note(found, LIST_TAIL, BLOCKS, NIL, FENCE, last, header["fence_tail"][0], NIL)
    return np.int64(0)
