"""Planning a step: slots, lengths and blocks for these many new tokens of each sequence.

First every entry is checked and counted, then room is made, then places are given out, which
cannot fail. What is planned is not committed: nothing can be found by prefix yet.
"""

import numpy as np

from nbkv._intrinsics import prefetch
from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.buffers import (
    Step,
    add_change,
    add_columns,
    forget_plan,
    num_change_room,
    report_copies,
    report_evicted,
)
from nbkv.kernels.fence import num_usable
from nbkv.kernels.holding import make_room
from nbkv.kernels.marking import check_room, mark_row, undo_rows
from nbkv.kernels.preempt import check_victims, select_survivors
from nbkv.kernels.rows import row_of
from nbkv.kernels.state import Records, State, begin_report
from nbkv.kernels.writing import append_block, append_open, emit_slots, settle_copies, write_row
from nbkv.layout import IN_BATCH, TAIL_OPEN
from nbkv.statuses import BUFFERS_IN_USE, BUFFERS_TOO_SMALL, OUT_OF_BLOCKS, STEP_OUTSTANDING
from nbkv.step_layout import PLANNED

RAISE = 0
STOP = 1
PREEMPT = 2

_ROW_MASK = 0xFFFFFFFF
_NOT_IN_BATCH = 255 - IN_BATCH
_AHEAD = 12


@outlined_kernel
def plan_entries(
    state: State,
    step: Step,
    handles: Records,
    counts: Records,
    num_ahead: int,
    on_exhaustion: int,
    ranks: Records,
    victims: Records,
) -> int:
    """Plan a step, all or nothing.

    Parameters
    ----------
    state : State
    step : Step
        Takes the plan; changes that commits reported stay in front.
    handles : int64, shape (n,)
    counts : int32, shape (n,) or (1,)
        New tokens of each; one for all when there is one.
    num_ahead : int
        Tokens behind the new ones for which blocks are wanted too.
    on_exhaustion : int
        ``RAISE``, ``STOP`` or ``PREEMPT``.
    ranks : int64, shape (n + number of victims,) or (0,)
        Who is preempted first: the highest. Empty: the latest arrival.
    victims : int64
        Handles of sequences outside the batch that may be preempted too.

    Returns
    -------
    int
        Entries planned, or a status; nothing has changed then, and the runtime's detail says
        which position was refused, or how many blocks were needed.
    """
    header = state.header
    if header["run_ahead"][0] == 0 and header["committed_step"][0] != header["num_steps"][0]:
        return STEP_OUTSTANDING
    if step.header["phase"][0] == PLANNED:
        if step.header["step_id"][0] > header["committed_step"][0]:
            return BUFFERS_IN_USE
    size = np.int64(handles.size)
    if size + victims.size > step.entries.size:
        state.runtime["detail"][0] = size + victims.size
        return BUFFERS_TOO_SMALL
    needed = np.int64(_mark_entries(state, handles, counts, num_ahead))
    if needed < 0:
        return needed
    status = np.int64(check_victims(state, size, victims))
    if status == 0:
        status = np.int64(_check_buffers(state, step, counts, size, needed))
    if status == 0 and on_exhaustion == RAISE:
        status = np.int64(check_room(state, needed))
    if status == 0 and on_exhaustion == PREEMPT and needed > num_usable(state):
        status = np.int64(_check_sizes(state, size, counts, num_ahead))
    if status < 0:
        undo_rows(state, 0, size)
        return status
    _begin_plan(step, size)
    if needed > num_usable(state):
        undo_rows(state, 0, size)
        if on_exhaustion == STOP:
            size = np.int64(_longest_prefix(state, counts, size, num_ahead))
        else:
            size = np.int64(select_survivors(state, step, size, counts, num_ahead, ranks, victims))
        needed = np.int64(_mark_again(state, step, counts, size, num_ahead))
    _write_entries(state, step, counts, size, needed, num_ahead)
    return size


@kernel
def _mark_entries(state: State, handles: Records, counts: Records, num_ahead: int) -> int:
    """Check and mark every entry: blocks needed in all, or a status and no marks."""
    stride = 1 if counts.size > 1 else 0
    needed = np.int64(0)
    sequences = state.sequences
    for i in range(handles.size):
        if i + _AHEAD < handles.size:
            prefetch(sequences, handles[i + _AHEAD] & _ROW_MASK)
        count = np.int64(counts[i * stride])
        wanted = np.int64(mark_row(state, i, row_of(state, handles[i]), count, num_ahead))
        if wanted < 0:
            state.runtime["detail"][0] = i
            undo_rows(state, 0, i)
            return wanted
        needed += wanted
    return needed


@kernel
def _begin_plan(step: Step, size: int) -> None:
    """Empty the buffers for a plan that nothing refuses any more, of the whole batch at first."""
    forget_plan(step)
    survivors = step.survivors
    for i in range(size):
        survivors[i] = i


@kernel
def _longest_prefix(state: State, counts: Records, size: int, num_ahead: int) -> int:
    """Find how many entries fit, in order; leaves no marks."""
    stride = 1 if counts.size > 1 else 0
    room = num_usable(state)
    needed = np.int64(0)
    fitting = np.int64(0)
    while fitting < size:
        row = np.int64(state.scratch[fitting])
        count = np.int64(counts[fitting * stride])
        needed += np.int64(mark_row(state, fitting, row, count, num_ahead))
        fitting += 1
        if needed > room:
            undo_rows(state, 0, fitting)
            return fitting - 1
    undo_rows(state, 0, fitting)
    return fitting


@kernel
def _mark_again(state: State, step: Step, counts: Records, size: int, num_ahead: int) -> int:
    """Mark the entries that are left, whose rows are in scratch; blocks needed in all."""
    stride = 1 if counts.size > 1 else 0
    needed = np.int64(0)
    for i in range(size):
        count = np.int64(counts[step.survivors[i] * stride])
        needed += np.int64(mark_row(state, i, state.scratch[i], count, num_ahead))
    return needed


@kernel
def _check_buffers(state: State, step: Step, counts: Records, size: int, needed: int) -> int:
    """Tell whether what a batch may report fits into the buffers: 0 or a status."""
    num_slots = np.int64(0)
    if counts.size == 1:
        num_slots = size * np.int64(counts[0])
    else:
        for i in range(size):
            num_slots += np.int64(counts[i])
    if num_slots > step.slots.size:
        state.runtime["detail"][0] = num_slots
        return BUFFERS_TOO_SMALL
    # Each block needed is one change; each victim makes room for at least one.
    if needed > num_change_room(step) or needed > step.evicted.size:
        state.runtime["detail"][0] = needed
        return BUFFERS_TOO_SMALL
    return 0


@outlined_kernel
def _check_sizes(state: State, size: int, counts: Records, num_ahead: int) -> int:
    """Tell whether each entry of a marked batch fits into a pool of its own: 0 or a status."""
    stride = 1 if counts.size > 1 else 0
    header = state.header
    block_size = header["block_size"][0]
    for i in range(size):
        row = np.int64(state.scratch[i])
        reach = np.int64(state.sequences["num_tokens"][row]) + np.int64(counts[i * stride])
        columns = (reach + num_ahead + block_size - 1) // block_size
        if columns - np.int64(state.sequences["first_block"][row]) > header["num_blocks"][0]:
            state.runtime["detail"][0] = columns - np.int64(state.sequences["num_blocks"][row])
            state.runtime["set_aside"][0] = 0
            return np.int64(OUT_OF_BLOCKS)
    return np.int64(0)


@kernel
def _write_entries(
    state: State, step: Step, counts: Records, size: int, needed: int, num_ahead: int
) -> None:
    """Carry a marked batch out."""
    begin_report(state)
    if needed > 0:
        make_room(state, needed)
        report_evicted(state, step)
    # From here on what is released has been read or written by this step.
    step_id = state.header["num_steps"][0] + 1
    state.header["num_steps"][0] = step_id
    stride = 1 if counts.size > 1 else 0
    block_size = state.header["block_size"][0]
    sequences = state.sequences
    entries, slots, seq_lens = step.entries, step.slots, step.seq_lens
    survivors, scratch = step.survivors, state.scratch
    at = np.int64(0)
    for i in range(size):
        row = np.int64(scratch[i])
        count = np.int64(counts[survivors[i] * stride])
        sequences["flags"][row] &= np.uint8(_NOT_IN_BATCH)
        start = np.int64(sequences["num_tokens"][row])
        entries["row"][i] = row
        entries["generation"][i] = sequences["generation"][row]
        entries["start"][i] = start
        entries["count"][i] = count
        seq_lens[i] = start + count
        sequences["last_step"][row] = step_id
        fill = np.int64(sequences["tail_fill"][row])
        is_open = sequences["flags"][row] & TAIL_OPEN != 0
        if is_open and count > 0 and fill + count + num_ahead <= block_size:
            first = np.int64(sequences["tail_block"][row]) * block_size + fill
            append_open(state, row, count)
            for j in range(count):
                slots[at + j] = first + j
        elif count + num_ahead > 0:
            _write_slowly(state, step, row, count, num_ahead)
            emit_slots(state, row, start, count, slots, at)
        at += count
    settle_copies(state)
    report_copies(state, step)
    step.header["num_entries"][0] = size
    step.header["num_survivors"][0] = size
    step.header["num_slots"][0] = at
    step.header["step_id"][0] = step_id
    step.header["identity"][0] = state.runtime["identity"][0]
    step.header["phase"][0] = PLANNED


@outlined_kernel
def _write_slowly(state: State, step: Step, row: int, count: int, num_ahead: int) -> None:
    """Write an entry that may take blocks, and report how its table changed."""
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    num_copies = state.runtime["num_copies"][0]
    num_blocks = np.int64(sequences["num_blocks"][row])
    start = np.int64(sequences["num_tokens"][row])
    if count > 0:
        write_row(state, row, count)
    capacity = (start + count + num_ahead + block_size - 1) // block_size
    while sequences["num_blocks"][row] < capacity:
        append_block(state, row)
    base = row * state.header["table_stride"][0]
    if state.runtime["num_copies"][0] > num_copies:
        column = start // block_size
        add_change(step, row, column, state.tables[base + column])
    add_columns(state, step, row, num_blocks, np.int64(sequences["num_blocks"][row]))
