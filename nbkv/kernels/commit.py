"""Committing a step: its tokens are recorded, full blocks indexed, rejected drafts dropped."""

import numpy as np

from nbkv._intrinsics import prefetch
from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.buffers import Step, num_change_room
from nbkv.kernels.fence import is_past
from nbkv.kernels.holding import pass_fence, release_column
from nbkv.kernels.publish import publish_blocks
from nbkv.kernels.state import Records, State, begin_report
from nbkv.kernels.tails import close_tail
from nbkv.kernels.window import num_leaving, slide_window
from nbkv.layout import ROW_ACTIVE, TAIL_OPEN
from nbkv.statuses import (
    BAD_ACCEPTED,
    BUFFERS_IN_USE,
    BUFFERS_TOO_SMALL,
    FOREIGN_PLAN,
    STEP_NOT_NEXT,
    TOKENS_MISSING,
)
from nbkv.step_layout import EMPTY, PLANNED, REPORTED

_AHEAD = 12


@outlined_kernel
def check_commit(
    state: State, plan: Step, out: Step, accepted: Records, tokens: Records, has_tokens: bool
) -> int:
    """Tell whether a plan can be committed.

    Parameters
    ----------
    state : State
    plan, out : Step
    accepted : int32, shape (entries,) or (0,)
    tokens : int32
    has_tokens : bool

    Returns
    -------
    int
        0, or a status; the runtime's detail says which entry was refused, or what there
        should be.
    """
    header = plan.header
    if header["phase"][0] == PLANNED and header["identity"][0] != state.runtime["identity"][0]:
        return FOREIGN_PLAN
    detail = state.runtime["detail"]
    next_step = state.header["committed_step"][0] + 1
    if header["phase"][0] != PLANNED or header["step_id"][0] != next_step:
        detail[0] = next_step
        return STEP_NOT_NEXT
    if out.header["phase"][0] == PLANNED and out.header["step_id"][0] > next_step:
        return BUFFERS_IN_USE
    size = header["num_entries"][0]
    if accepted.size > 0 and accepted.size != size:
        detail[0] = size
        return BAD_ACCEPTED
    total = header["num_slots"][0]
    if accepted.size > 0:
        total = np.int64(0)
        for i in range(size):
            count = np.int64(accepted[i])
            if count < 0 or count > plan.entries["count"][i]:
                detail[0] = i
                return BAD_ACCEPTED
            total += count
    if has_tokens and tokens.size != total:
        detail[0] = total
        return TOKENS_MISSING
    # A block exchanged is one change, a block that the window lets go another.
    changes = total // state.header["block_size"][0] + size
    if state.header["window"][0] > 0:
        for i in range(size):
            changes += num_leaving(state, plan.entries["row"][i], plan.entries["count"][i])
    room = num_change_room(out)
    skipped_room = np.int64(out.skipped.size)
    if out.header["phase"][0] != REPORTED:
        room += out.header["num_changes"][0]
    else:
        # Reports of several commits stand one behind the other.
        skipped_room -= out.header["num_skipped"][0]
    if changes > room or size > skipped_room:
        detail[0] = max(changes, size)
        return BUFFERS_TOO_SMALL
    return 0


@outlined_kernel
def commit_entries(
    state: State, plan: Step, out: Step, accepted: Records, tokens: Records, has_tokens: bool
) -> None:
    """Commit a plan that `check_commit` has let pass.

    Parameters
    ----------
    state : State
    plan : Step
        Its entries are read.
    out : Step
        Takes the changes and the entries skipped; may be `plan`.
    accepted : int32
        Tokens kept of each entry; empty for all.
    tokens : int32
        Their ids, entry after entry.
    has_tokens : bool
        False when the ids are not known.
    """
    begin_report(state)
    step_id = plan.header["step_id"][0]
    size = plan.header["num_entries"][0]
    plan.header["phase"][0] = EMPTY
    if out.header["phase"][0] != REPORTED:
        out.header["phase"][0] = REPORTED
        out.header["num_changes"][0] = 0
        out.header["num_skipped"][0] = 0
    entries = plan.entries
    sequences = state.sequences
    at = np.int64(0)
    for i in range(size):
        if i + _AHEAD < size:
            prefetch(sequences, np.int64(entries["row"][i + _AHEAD]))
        row = np.int64(entries["row"][i])
        start = np.int64(entries["start"][i])
        planned = np.int64(entries["count"][i])
        count = np.int64(accepted[i]) if accepted.size > 0 else planned
        if _is_gone(state, row, entries["generation"][i], start, step_id):
            skipped = out.header["num_skipped"][0]
            out.skipped[skipped] = i
            out.header["num_skipped"][0] = skipped + 1
        else:
            if has_tokens:
                _record_tokens(state, row, start, count, tokens, at)
            sequences["num_committed"][row] = start + count
            if count < planned:
                _reject(state, row)
            _publish(state, out, row, start, start + count, step_id)
        at += count
    state.header["committed_step"][0] = step_id
    if state.header["run_ahead"][0] == 0:
        state.header["completed_step"][0] = step_id


@kernel
def _is_gone(state: State, row: int, generation: int, start: int, step_id: int) -> bool:
    """Tell whether an entry's sequence has ended, or been cut below it."""
    sequences = state.sequences
    if sequences["generation"][row] != generation or sequences["state"][row] != ROW_ACTIVE:
        return True
    if is_past(step_id, np.int64(sequences["void_step"][row])):
        return True
    return sequences["num_committed"][row] != start


@kernel
def _copy_ids(known: Records, place: int, tokens: Records, at: int, count: int) -> None:
    # Unsigned, a subscript is known not to count from the end, and the loop becomes a copy.
    target = np.uint64(place)
    source = np.uint64(at)
    for i in range(np.uint64(count)):
        known[target + i] = tokens[source + i]


@kernel
def _record_tokens(
    state: State, row: int, start: int, count: int, tokens: Records, at: int
) -> None:
    """Write tokens' ids into their blocks."""
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    known = state.tokens
    fill = np.int64(sequences["tail_fill"][row])
    if sequences["flags"][row] & TAIL_OPEN != 0 and start >= sequences["num_tokens"][row] - fill:
        # All in the open tail, which the row itself names.
        offset = start - (np.int64(sequences["num_tokens"][row]) - fill)
        place = np.int64(sequences["tail_block"][row]) * block_size + offset
        _copy_ids(known, place, tokens, at, count)
    else:
        column = start // block_size
        offset = start - column * block_size
        entry = row * state.header["table_stride"][0] + column
        written = np.int64(0)
        while written < count:
            place = np.int64(state.tables[entry]) * block_size + offset
            taken = min(block_size - offset, count - written)
            _copy_ids(known, place, tokens, at + written, taken)
            written += taken
            entry += 1
            offset = np.int64(0)
    if sequences["num_known"][row] == start:
        sequences["num_known"][row] = start + count


@outlined_kernel
def _reject(state: State, row: int) -> None:
    """Drop what a sequence has planned beyond its committed tokens, keeping its blocks."""
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    committed = np.int64(sequences["num_committed"][row])
    dropped = np.int64(sequences["num_tokens"][row]) - committed
    sequences["num_tokens"][row] = committed
    sequences["void_step"][row] = state.header["num_steps"][0]
    if sequences["flags"][row] & TAIL_OPEN != 0:
        fill = np.int64(sequences["tail_fill"][row])
        if dropped <= fill:
            sequences["tail_fill"][row] = fill - dropped
            return
        close_tail(state, row)
    # Blocks behind are capacity again.
    column = committed // block_size
    base = row * state.header["table_stride"][0]
    _drop_shared(state, row, column + 1)
    valid = committed - column * block_size
    for i in range(column, sequences["num_blocks"][row]):
        block_id = np.int64(state.tables[base + i])
        if state.blocks["num_tokens"][block_id] > valid:
            state.blocks["num_tokens"][block_id] = valid
        valid = np.int64(0)


@kernel
def _drop_shared(state: State, row: int, first: int) -> None:
    """End a table before capacity that adapters hold too, from a column on.

    A write starts with a copy of what is shared, but only in its first column.
    """
    sequences = state.sequences
    base = row * state.header["table_stride"][0]
    end = np.int64(sequences["num_blocks"][row])
    column = np.int64(first)
    while column < end and state.blocks["ref_count"][state.tables[base + column]] == 1:
        column += 1
    if column < end:
        sequences["num_blocks"][row] = column
        state.header["total_deallocations"][0] += end - column
        release_column(state, base, column, end)


@kernel
def _publish(state: State, out: Step, row: int, start: int, end: int, step_id: int) -> None:
    """Publish the blocks that positions ``start:end`` filled, and slide the window."""
    block_size = state.header["block_size"][0]
    first = start // block_size
    last = end // block_size
    if last > first:
        publish_blocks(state, out, row, first, last, step_id)
    if state.header["window"][0] > 0:
        slide_window(state, out, row)


@outlined_kernel
def advance_fence(state: State, step_id: int) -> None:
    """Note that a step and all before it are completed.

    Parameters
    ----------
    state : State
    step_id : int
        At most num_steps.
    """
    if step_id > state.header["completed_step"][0]:
        state.header["completed_step"][0] = step_id
        pass_fence(state)
