"""Audit of block records by themselves: their ranges, holders and states."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.audit_notes import NIL, PINS, REFS, note
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    BLOCK_DTYPE,
    CACHED,
    CALLER_KEYED,
    DETACHED,
    FENCED,
    FREE,
    HAS_EXTRA,
    HEADER_DTYPE,
    HELD,
    INDEXED,
    NAMED,
    NO_BLOCK,
    NO_ROW,
    ROW_ACTIVE,
    TAIL_OPEN,
)
from nbkv.violations import (
    BLOCKS,
    COUNTED,
    HEADER,
    HOLDS,
    MUST_BE,
    RANGE,
    REFERENCES,
    STATE,
    WRITER,
    field_of,
)
from nbkv.violations import PINS as PINS_DIFFER

_LINKED = INDEXED | NAMED
_FLAGS_IN_USE = _LINKED | DETACHED | CALLER_KEYED | FENCED | HAS_EXTRA
# What a FREE block's flags may still say.
_AFTERLIFE = FENCED | DETACHED
_STEPS_MAX = 2**31 - 1
_INT16_MAX = 2**15 - 1

_REF_COUNT = field_of(BLOCK_DTYPE, "ref_count")
_PIN_COUNT = field_of(BLOCK_DTYPE, "pin_count")
_NUM_TOKENS = field_of(BLOCK_DTYPE, "num_tokens")
_STATE = field_of(BLOCK_DTYPE, "state")
_FLAGS = field_of(BLOCK_DTYPE, "flags")
_GROUP = field_of(BLOCK_DTYPE, "group")
_PRIORITY = field_of(BLOCK_DTYPE, "priority")
_READY_STEP = field_of(BLOCK_DTYPE, "ready_step")
_WRITER = field_of(BLOCK_DTYPE, "writer")
_PARENT = field_of(BLOCK_DTYPE, "parent")
_CHILD = field_of(BLOCK_DTYPE, "child")
_LAST_ACCESS = field_of(BLOCK_DTYPE, "last_access")
_ALLOC_ORDER = field_of(BLOCK_DTYPE, "alloc_order")
_NUM_FREE = field_of(HEADER_DTYPE, "num_free_blocks")
_NUM_CACHED = field_of(HEADER_DTYPE, "num_cached_blocks")
_NUM_HELD = field_of(HEADER_DTYPE, "num_held_blocks")
_NUM_FENCED = field_of(HEADER_DTYPE, "num_fenced_blocks")
_NUM_FENCED_FREE = field_of(HEADER_DTYPE, "num_fenced_free")
_NUM_HOLDS = field_of(HEADER_DTYPE, "num_external_holds")


@outlined_kernel
def audit_holds(state: State, work: Records, found: Records) -> int:
    """Count external holds among the references.

    Parameters
    ----------
    state : State
    work : int32, shape (WORK_ROWS, num_blocks)
        REFS has the table entries.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    total = np.int64(0)
    for block_id in range(state.header["num_fresh_blocks"][0]):
        holds = np.int64(state.external_holds[block_id])
        if holds < 0:
            return note(found, RANGE, HOLDS, block_id, NIL, holds, NIL, _INT16_MAX)
        total += holds
    claimed = state.header["num_external_holds"][0]
    if claimed != total:
        return note(found, COUNTED, HEADER, NIL, _NUM_HOLDS, claimed, total, NIL)
    return np.int64(0)


@outlined_kernel
def audit_blocks(state: State, work: Records, found: Records) -> int:
    """Audit every used block's record, its links aside.

    Parameters
    ----------
    state : State
    work : int32, shape (WORK_ROWS, num_blocks)
        REFS and PINS.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    header, blocks = state.header, state.blocks
    num_fresh = header["num_fresh_blocks"][0]
    num_free = header["num_blocks"][0] - num_fresh
    num_cached, num_fenced, num_fenced_free = np.int64(0), np.int64(0), np.int64(0)
    for i in range(num_fresh):
        block_id = np.int64(i)
        code = np.int64(_audit_holders(state, work, block_id, found))
        if code == 0 and blocks["state"][block_id] != FREE:
            code = np.int64(_audit_fields(state, block_id, found))
        if code != 0:
            return code
        fenced = blocks["flags"][block_id] & FENCED != 0
        if fenced:
            num_fenced += 1
        if blocks["state"][block_id] == FREE:
            num_free += 1
            if fenced:
                num_fenced_free += 1
        elif blocks["state"][block_id] == CACHED:
            num_cached += 1
    return _audit_totals(state, found, num_free, num_cached, num_fenced, num_fenced_free)


@kernel
def _audit_totals(
    state: State,
    found: Records,
    num_free: int,
    num_cached: int,
    num_fenced: int,
    num_fenced_free: int,
) -> int:
    """Compare the header's counts of blocks with what was counted."""
    header = state.header
    num_held = header["num_blocks"][0] - num_free - num_cached
    if header["num_free_blocks"][0] != num_free:
        claimed = header["num_free_blocks"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_FREE, claimed, num_free, NIL)
    if header["num_cached_blocks"][0] != num_cached:
        claimed = header["num_cached_blocks"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_CACHED, claimed, num_cached, NIL)
    if header["num_held_blocks"][0] != num_held:
        claimed = header["num_held_blocks"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_HELD, claimed, num_held, NIL)
    if header["num_fenced_blocks"][0] != num_fenced:
        claimed = header["num_fenced_blocks"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_FENCED, claimed, num_fenced, NIL)
    if header["num_fenced_free"][0] != num_fenced_free:
        claimed = header["num_fenced_free"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_FENCED_FREE, claimed, num_fenced_free, NIL)
    return np.int64(0)


@kernel
def _audit_holders(state: State, work: Records, block_id: int, found: Records) -> int:
    """Audit a block's counts of holders and the state that follows from them."""
    blocks = state.blocks
    refs = np.int64(blocks["ref_count"][block_id])
    entries = np.int64(work[REFS, block_id])
    holds = np.int64(state.external_holds[block_id])
    if refs != entries + holds:
        return note(found, REFERENCES, BLOCKS, block_id, _REF_COUNT, refs, entries, holds)
    pins = np.int64(blocks["pin_count"][block_id])
    if pins != work[PINS, block_id]:
        leases = np.int64(work[PINS, block_id])
        return note(found, PINS_DIFFER, BLOCKS, block_id, _PIN_COUNT, pins, leases, NIL)
    flags = np.int64(blocks["flags"][block_id])
    wanted = FREE
    if refs + pins > 0:
        wanted = HELD
    elif flags & _LINKED != 0:
        wanted = CACHED
    current = np.int64(blocks["state"][block_id])
    if current != wanted:
        return note(found, STATE, BLOCKS, block_id, _STATE, current, wanted, NIL)
    allowed = _FLAGS_IN_USE
    if current == FREE:
        allowed = _AFTERLIFE
    elif current == HELD:
        allowed = _FLAGS_IN_USE - FENCED
    if flags & allowed != flags:
        return note(found, MUST_BE, BLOCKS, block_id, _FLAGS, flags, flags & allowed, NIL)
    return np.int64(0)


@kernel
def _audit_fields(state: State, block_id: int, found: Records) -> int:
    """Audit the ranges of what a block's record says beside."""
    header, blocks = state.header, state.blocks
    block_size = header["block_size"][0]
    num_tokens = np.int64(blocks["num_tokens"][block_id])
    if num_tokens < 0 or num_tokens > block_size:
        return note(found, RANGE, BLOCKS, block_id, _NUM_TOKENS, num_tokens, NIL, block_size)
    group = np.int64(blocks["group"][block_id])
    if group != 0:
        return note(found, MUST_BE, BLOCKS, block_id, _GROUP, group, NIL, NIL)
    priority = np.int64(blocks["priority"][block_id])
    if priority != 0:
        return note(found, MUST_BE, BLOCKS, block_id, _PRIORITY, priority, NIL, NIL)
    order = np.int64(blocks["alloc_order"][block_id])
    if order < 1 or order > header["alloc_counter"][0]:
        last = header["alloc_counter"][0]
        return note(found, RANGE, BLOCKS, block_id, _ALLOC_ORDER, order, 1, last)
    num_steps = header["num_steps"][0]
    ready = np.int64(blocks["ready_step"][block_id])
    # Records keep the lower 32 bits: past 2**31 steps there is no telling late from early.
    if num_steps <= _STEPS_MAX and (ready < 0 or ready > num_steps):
        return note(found, RANGE, BLOCKS, block_id, _READY_STEP, ready, NIL, num_steps)
    last_block = header["num_fresh_blocks"][0] - 1
    parent = np.int64(blocks["parent"][block_id])
    if parent < NO_BLOCK or parent > last_block:
        return note(found, RANGE, BLOCKS, block_id, _PARENT, parent, NO_BLOCK, last_block)
    child = np.int64(blocks["child"][block_id])
    if child < NO_BLOCK or child > last_block:
        return note(found, RANGE, BLOCKS, block_id, _CHILD, child, NO_BLOCK, last_block)
    if blocks["state"][block_id] == HELD:
        return _audit_writer(state, block_id, found)
    access = np.int64(blocks["last_access"][block_id])
    if access < 1 or access > header["recency"][0]:
        last = header["recency"][0]
        return note(found, RANGE, BLOCKS, block_id, _LAST_ACCESS, access, 1, last)
    return np.int64(0)


@kernel
def _audit_writer(state: State, block_id: int, found: Records) -> int:
    """Audit whose open tail a held block says it is."""
    writer = np.int64(state.blocks["writer"][block_id])
    if writer == NO_ROW:
        return np.int64(0)
    sequences = state.sequences
    if writer >= 0 and writer < state.header["num_fresh_rows"][0]:
        alive = sequences["state"][writer] == ROW_ACTIVE
        if alive and sequences["flags"][writer] & TAIL_OPEN != 0:
            if sequences["tail_block"][writer] == block_id:
                return np.int64(0)
    return note(found, WRITER, BLOCKS, block_id, _WRITER, writer, NIL, NIL)
