"""The scheduler's calls: plan, commit, both in one, complete, finish."""

import numpy as np

from nbkv._intrinsics import borrow
from nbkv._jit import entry, kernel, outlined_kernel
from nbkv.kernels.buffers import Step, forget_plan, open_step
from nbkv.kernels.commit import advance_fence, check_commit, commit_entries
from nbkv.kernels.index import find_row
from nbkv.kernels.plan import plan_entries
from nbkv.kernels.rows import close_row, handle_of, row_of
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.layout import IN_BATCH
from nbkv.statuses import (
    BUFFERS_TOO_SMALL,
    DUPLICATE_SEQUENCE,
    NEGATIVE_COUNT,
    STEP_UNKNOWN,
    UNKNOWN_SEQUENCE,
)
from nbkv.step_layout import REPORTED

_NOT_IN_BATCH = 255 - IN_BATCH
_ROW_MASK = 0xFFFFFFFF


@entry(
    "int64(uint8[::1], uint8[::1], int64[::1], int32[::1], int64, int64, int64[::1], int64[::1])"
)
def plan_step(
    arena: Arena,
    buffers: Arena,
    handles: Records,
    counts: Records,
    num_ahead: int,
    on_exhaustion: int,
    ranks: Records,
    victims: Records,
) -> int:
    """Plan a step: see `nbkv.kernels.plan.plan_entries`.

    Parameters
    ----------
    arena : uint8, C-contiguous
    buffers : uint8, C-contiguous
        Step buffers of this arena, no plan outstanding in them.
    handles : int64, shape (n,)
    counts : int32, shape (n,) or (1,)
    num_ahead, on_exhaustion : int
    ranks, victims : int64

    Returns
    -------
    int
        Entries planned, or a status; nothing has changed then.
    """
    state = open_state(arena)
    step = open_step(buffers)
    planned = plan_entries(
        state,
        step,
        borrow(handles),
        borrow(counts),
        num_ahead,
        on_exhaustion,
        borrow(ranks),
        borrow(victims),
    )
    return np.int64(planned)


@entry("int64(uint8[::1], uint8[::1], uint8[::1], int32[::1], int32[::1], boolean)")
def commit_step(
    arena: Arena,
    plan: Arena,
    buffers: Arena,
    accepted: Records,
    tokens: Records,
    has_tokens: bool,
) -> int:
    """Commit the oldest plan that is not committed.

    Parameters
    ----------
    arena : uint8, C-contiguous
    plan, buffers : uint8, C-contiguous
        The plan's buffers, and those that take what the commit changed; may be the same.
    accepted : int32, shape (entries,) or (0,)
        Tokens kept of each entry; empty for all.
    tokens : int32, shape (sum(accepted),)
        Their ids.
    has_tokens : bool
        False when ids are not known: `tokens` is not read.

    Returns
    -------
    int
        0, or a status; nothing has changed then.
    """
    state = open_state(arena)
    step = open_step(plan)
    out = open_step(buffers)
    accepted, tokens = borrow(accepted), borrow(tokens)
    status = np.int64(check_commit(state, step, out, accepted, tokens, has_tokens))
    if status < 0:
        return status
    commit_entries(state, step, out, accepted, tokens, has_tokens)
    return np.int64(0)


@entry(
    "int64(uint8[::1], uint8[::1], uint8[::1], int32[::1], int32[::1], boolean,"
    " int64[::1], int32[::1], int64, int64, int64[::1], int64[::1])"
)
def next_step(
    arena: Arena,
    plan: Arena,
    buffers: Arena,
    accepted: Records,
    tokens: Records,
    has_tokens: bool,
    handles: Records,
    counts: Records,
    num_ahead: int,
    on_exhaustion: int,
    ranks: Records,
    victims: Records,
) -> int:
    """Commit the oldest plan and plan the next step, in one call.

    Parameters
    ----------
    arena, plan, buffers, accepted, tokens, has_tokens
        As `commit_step` takes them.
    handles, counts, num_ahead, on_exhaustion, ranks, victims
        As `plan_step` takes them.

    Returns
    -------
    int
        Entries planned, or a status for bad arguments; nothing has changed then. When
        there was no room for the plan, 0, and the buffers' status and detail say so.
    """
    state = open_state(arena)
    step = open_step(plan)
    out = open_step(buffers)
    accepted, tokens = borrow(accepted), borrow(tokens)
    handles, counts = borrow(handles), borrow(counts)
    ranks, victims = borrow(ranks), borrow(victims)
    status = np.int64(check_commit(state, step, out, accepted, tokens, has_tokens))
    if status == 0:
        status = np.int64(_check_batch(state, out, handles, counts, victims))
    if status < 0:
        return status
    commit_entries(state, step, out, accepted, tokens, has_tokens)
    planned = np.int64(
        plan_entries(state, out, handles, counts, num_ahead, on_exhaustion, ranks, victims)
    )
    if planned < 0:
        forget_plan(out)
        out.header["phase"][0] = REPORTED
        out.header["status"][0] = planned
        out.header["detail"][0] = state.runtime["detail"][0]
        return np.int64(0)
    return planned


@outlined_kernel
def _check_batch(
    state: State, out: Step, handles: Records, counts: Records, victims: Records
) -> int:
    """Find what is wrong with a batch whatever the commit before it does: 0 or a status."""
    total = np.int64(0)
    for i in range(counts.size):
        if counts[i] < 0:
            state.runtime["detail"][0] = i
            return NEGATIVE_COUNT
        total += np.int64(counts[i])
    if counts.size == 1:
        total *= handles.size
    size = handles.size + victims.size
    if total > out.slots.size or size > out.entries.size:
        state.runtime["detail"][0] = max(total, size)
        return BUFFERS_TOO_SMALL
    return np.int64(check_handles(state, handles, victims))


@kernel
def check_handles(state: State, handles: Records, victims: Records) -> int:
    """Tell whether handles are alive and each stands once.

    Parameters
    ----------
    state : State
    handles, victims : int64
        Positions count on from one to the other.

    Returns
    -------
    int
        0, or a status; the runtime's detail says at which position.
    """
    flags = state.sequences["flags"]
    status = np.int64(0)
    marked = np.int64(0)
    size = np.int64(handles.size)
    while marked < size + victims.size and status == 0:
        handle = handles[marked] if marked < size else victims[marked - size]
        row = np.int64(row_of(state, handle))
        if row < 0:
            status = row
        elif flags[row] & IN_BATCH != 0:
            status = np.int64(DUPLICATE_SEQUENCE)
        else:
            flags[row] |= np.uint8(IN_BATCH)
            marked += 1
    for i in range(marked):
        handle = handles[i] if i < size else victims[i - size]
        flags[handle & _ROW_MASK] &= np.uint8(_NOT_IN_BATCH)
    if status < 0:
        state.runtime["detail"][0] = marked
    return status


@entry("int64(uint8[::1], int64)")
def complete_step(arena: Arena, step_id: int) -> int:
    """Note that a step and all before it have run.

    Parameters
    ----------
    arena : uint8, C-contiguous
    step_id : int

    Returns
    -------
    int
        0, or ``STEP_UNKNOWN``.
    """
    state = open_state(arena)
    if step_id > state.header["num_steps"][0] or step_id < 1:
        state.runtime["detail"][0] = state.header["num_steps"][0]
        return STEP_UNKNOWN
    begin_report(state)
    advance_fence(state, step_id)
    return 0


@entry("int64(uint8[::1], int64[::1])")
def finish_rows(arena: Arena, handles: Records) -> int:
    """End a batch of sequences, all or nothing.

    Parameters
    ----------
    arena : uint8, C-contiguous
    handles : int64

    Returns
    -------
    int
        0, or a status; nothing has changed then.
    """
    state = open_state(arena)
    status = np.int64(check_handles(state, handles, handles[:0]))
    if status < 0:
        return status
    begin_report(state)
    for i in range(handles.size):
        close_row(state, np.int64(row_of(state, handles[i])))
    return np.int64(0)


@entry("int64(uint8[::1], uint64[::1], int64[::1])")
def resolve_ids(arena: Arena, seq_ids: Records, out: Records) -> int:
    """Look up the handles of sequences.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_ids : uint64, shape (n,)
    out : int64, shape (n,)

    Returns
    -------
    int
        0, or ``UNKNOWN_SEQUENCE`` and the runtime's detail says at which position.
    """
    state = open_state(arena)
    for i in range(seq_ids.size):
        row = np.int64(find_row(state, seq_ids[i]))
        if row < 0:
            state.runtime["detail"][0] = i
            return UNKNOWN_SEQUENCE
        out[i] = handle_of(state, row)
    return 0
