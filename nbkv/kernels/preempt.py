"""Who goes when blocks do not suffice for a plan: simulated first, changed only then.

Each sequence that needs more than is left looks for victims in rank order, but only among
those that come before itself; if those cannot help, it goes itself. A victim's blocks count
only where its reference is the last one and they need not wait for the fence.
"""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.buffers import Step
from nbkv.kernels.fence import must_fence, num_usable
from nbkv.kernels.marking import mark_row, undo_row, undo_rows
from nbkv.kernels.rows import close_row, handle_of, row_of
from nbkv.kernels.state import Records, State
from nbkv.layout import DEFERRED, IN_BATCH, NO_BLOCK, PREEMPTED
from nbkv.statuses import DUPLICATE_SEQUENCE

_ROW_MASK = 0xFFFFFFFF
_NOT_MARKED = 255 - IN_BATCH - DEFERRED - PREEMPTED


@outlined_kernel
def select_survivors(
    state: State,
    step: Step,
    size: int,
    counts: Records,
    num_ahead: int,
    ranks: Records,
    victims: Records,
) -> int:
    """Decide who of a batch is planned, and end the sequences that are preempted.

    Parameters
    ----------
    state : State
        ``scratch`` has the rows of the batch, unmarked.
    step : Step
        Takes survivors, preempted and deferred.
    size : int
        Entries of the batch.
    counts, num_ahead, ranks, victims
        As `plan_entries` takes them, all of them checked.

    Returns
    -------
    int
        Entries left, their rows in scratch.
    """
    _count_needs(state, size, counts, num_ahead)
    room = num_usable(state)
    for i in range(size):
        row = np.int64(state.scratch[i])
        if state.sequences["flags"][row] & PREEMPTED != 0:
            continue
        need = np.int64(_need_at(state, i))
        if need > room:
            room += np.int64(_find_room(state, step, i, size, need - room, ranks, victims))
        if state.sequences["flags"][row] & (PREEMPTED | DEFERRED) == 0:
            room -= need
        elif state.sequences["flags"][row] & DEFERRED != 0:
            # Those that share its last block may have to copy after all.
            _recount_needs(state, step, size, counts, num_ahead)
    _restore(state, step, size, victims)
    return np.int64(_sort_out(state, step, size))


@kernel
def _need_at(state: State, position: int) -> int:
    return np.int64(state.scratch[state.header["max_sequences"][0] + position])


@kernel
def _count_needs(state: State, size: int, counts: Records, num_ahead: int) -> None:
    """Note what each entry needs behind the rows in scratch; leaves the batch unmarked.

    Who is deferred keeps its references and takes no part.
    """
    stride = 1 if counts.size > 1 else 0
    needs = state.header["max_sequences"][0]
    for i in range(size):
        row = np.int64(state.scratch[i])
        state.scratch[needs + i] = 0
        if state.sequences["flags"][row] & DEFERRED == 0:
            count = np.int64(counts[i * stride])
            state.scratch[needs + i] = np.int64(mark_row(state, i, row, count, num_ahead))
    undo_rows(state, 0, size)


@kernel
def _recount_needs(state: State, step: Step, size: int, counts: Records, num_ahead: int) -> None:
    """Note what each entry needs once more, by the references as they were before the call."""
    for i in range(step.header["num_preempted"][0]):
        _take_back(state, np.int64(step.preempted["handle"][i]) & _ROW_MASK)
    _count_needs(state, size, counts, num_ahead)
    for i in range(step.header["num_preempted"][0]):
        _let_go(state, np.int64(step.preempted["handle"][i]) & _ROW_MASK, False)


@kernel
def check_victims(state: State, size: int, victims: Records) -> int:
    """Tell whether victims are alive, each stands once and none is of the batch: 0 or a status.

    Parameters
    ----------
    state : State
        The rows of the batch are marked.
    size : int
        Entries of the batch, which positions count first.
    victims : int64

    Returns
    -------
    int
    """
    sequences = state.sequences
    status = np.int64(0)
    marked = np.int64(0)
    while marked < victims.size and status == 0:
        row = np.int64(row_of(state, victims[marked]))
        if row < 0:
            status = row
        elif sequences["flags"][row] & IN_BATCH != 0:
            status = np.int64(DUPLICATE_SEQUENCE)
        else:
            sequences["flags"][row] |= np.uint8(IN_BATCH)
            marked += 1
    for i in range(marked):
        undo_row(state, np.int64(victims[i]) & _ROW_MASK)
    if status < 0:
        state.runtime["detail"][0] = size + marked
    return status


@kernel
def _row_at(state: State, candidate: int, size: int, victims: Records) -> int:
    if candidate < size:
        return np.int64(state.scratch[candidate])
    return np.int64(victims[candidate - size]) & _ROW_MASK


@kernel
def _rank_at(state: State, candidate: int, size: int, ranks: Records, victims: Records) -> int:
    if ranks.size > 0:
        return np.int64(ranks[candidate])
    return np.int64(state.sequences["arrival"][_row_at(state, candidate, size, victims)])


@kernel
def _next_candidate(state: State, after: int, size: int, ranks: Records, victims: Records) -> int:
    """Find the candidate that follows another one: ranks descending, later positions first."""
    best = np.int64(-1)
    best_rank = np.int64(0)
    limit = np.int64(0)
    if after >= 0:
        limit = np.int64(_rank_at(state, after, size, ranks, victims))
    for candidate in range(size + victims.size):
        rank = np.int64(_rank_at(state, candidate, size, ranks, victims))
        if after >= 0 and (rank > limit or (rank == limit and candidate >= after)):
            continue
        if best < 0 or rank >= best_rank:
            best = np.int64(candidate)
            best_rank = rank
    return best


@kernel
def _find_room(
    state: State,
    step: Step,
    needer: int,
    size: int,
    missing: int,
    ranks: Records,
    victims: Records,
) -> int:
    """Preempt for one entry, or preempt or defer the entry itself; returns the blocks gained."""
    fenced = must_fence(state)
    num_before = step.header["num_preempted"][0]
    gained = np.int64(0)
    candidate = np.int64(_next_candidate(state, -1, size, ranks, victims))
    while candidate != needer and gained < missing:
        row = np.int64(_row_at(state, candidate, size, victims))
        if state.sequences["flags"][row] & (PREEMPTED | DEFERRED) == 0:
            granted = _need_at(state, candidate) if candidate < needer else np.int64(0)
            gain = np.int64(_let_go(state, row, fenced)) + granted
            if gain > 0:
                _note_preempted(state, step, row)
                gained += gain
            else:
                _take_back(state, row)
        candidate = np.int64(_next_candidate(state, candidate, size, ranks, victims))
    if gained >= missing:
        return gained
    # Nobody is preempted in vain.
    for i in range(num_before, step.header["num_preempted"][0]):
        spared = np.int64(step.preempted["handle"][i]) & _ROW_MASK
        state.sequences["flags"][spared] &= np.uint8(255 - PREEMPTED)
        _take_back(state, spared)
    step.header["num_preempted"][0] = num_before
    row = np.int64(state.scratch[needer])
    if fenced:
        state.sequences["flags"][row] |= np.uint8(DEFERRED)
        return np.int64(0)
    gained = np.int64(_let_go(state, row, fenced))
    _note_preempted(state, step, row)
    return gained


@kernel
def _let_go(state: State, row: int, fenced: bool) -> int:
    """Take a sequence's references away, for now; returns the blocks that become usable."""
    base = row * state.header["table_stride"][0]
    blocks = state.blocks
    gain = np.int64(0)
    for i in range(state.sequences["num_blocks"][row]):
        block_id = np.int64(state.tables[base + i])
        if block_id == NO_BLOCK:
            continue
        blocks["ref_count"][block_id] -= 1
        if not fenced and blocks["ref_count"][block_id] + blocks["pin_count"][block_id] == 0:
            gain += 1
    return gain


@kernel
def _take_back(state: State, row: int) -> None:
    base = row * state.header["table_stride"][0]
    for i in range(state.sequences["num_blocks"][row]):
        block_id = np.int64(state.tables[base + i])
        if block_id != NO_BLOCK:
            state.blocks["ref_count"][block_id] += 1


@kernel
def _note_preempted(state: State, step: Step, row: int) -> None:
    sequences = state.sequences
    sequences["flags"][row] |= np.uint8(PREEMPTED)
    at = step.header["num_preempted"][0]
    step.preempted["seq_id"][at] = sequences["seq_id"][row]
    step.preempted["handle"][at] = handle_of(state, row)
    step.preempted["arrival"][at] = sequences["arrival"][row]
    step.preempted["num_committed"][at] = sequences["num_committed"][row]
    step.header["num_preempted"][0] = at + 1


@kernel
def _restore(state: State, step: Step, size: int, victims: Records) -> None:
    """End the simulation: every reference is back, only flags on the batch's rows are left."""
    for i in range(step.header["num_preempted"][0]):
        _take_back(state, np.int64(step.preempted["handle"][i]) & _ROW_MASK)
    for i in range(victims.size):
        row = np.int64(victims[i]) & _ROW_MASK
        state.sequences["flags"][row] &= np.uint8(_NOT_MARKED)


@kernel
def _sort_out(state: State, step: Step, size: int) -> int:
    """Keep the survivors' rows in scratch and end the preempted; returns how many survive."""
    sequences = state.sequences
    header = step.header
    left = np.int64(0)
    for i in range(size):
        row = np.int64(state.scratch[i])
        flags = sequences["flags"][row]
        sequences["flags"][row] &= np.uint8(_NOT_MARKED)
        if flags & DEFERRED != 0:
            step.deferred[header["num_deferred"][0]] = i
            header["num_deferred"][0] += 1
        elif flags & PREEMPTED == 0:
            state.scratch[left] = row
            step.survivors[left] = i
            left += 1
    for i in range(header["num_preempted"][0]):
        close_row(state, np.int64(step.preempted["handle"][i]) & _ROW_MASK)
    state.header["preemptions"][0] += header["num_preempted"][0]
    return left
