"""Appending to a batch of sequences in one call, all or nothing."""

import numpy as np

from nbkv._intrinsics import prefetch
from nbkv._jit import entry, kernel, outlined_kernel
from nbkv.kernels.holding import make_room
from nbkv.kernels.index import find_row, mix_tag
from nbkv.kernels.marking import check_room, mark_row, undo_rows
from nbkv.kernels.rows import has_planned, row_of
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.kernels.writing import append_open, emit_slots, settle_copies, write_row
from nbkv.layout import IN_BATCH, INDEX_WAYS, TAIL_OPEN
from nbkv.statuses import OUT_TOO_SMALL, TOKENS_PLANNED, UNKNOWN_SEQUENCE

_ROW_MASK = 0xFFFFFFFF
_NOT_IN_BATCH = 255 - IN_BATCH
# How many sequences ahead their rows are fetched.
_AHEAD = 12


@kernel
def _mark(state: State, position: int, row: int, count: int) -> int:
    """Take a sequence into the batch: blocks it needs, or a status."""
    if row >= 0 and has_planned(state, row):
        return TOKENS_PLANNED
    return mark_row(state, position, row, count, 0)


@kernel
def _refuse(state: State, size: int, status: int) -> int:
    """Take back the marks of a batch that is refused, and return the reason."""
    undo_rows(state, 0, size)
    return status


@outlined_kernel
def _write_batch(state: State, size: int, needed: int, counts: Records, out: Records) -> int:
    """Carry a marked batch out; returns the slots written."""
    begin_report(state)
    make_room(state, needed)
    sequences = state.sequences
    block_size = state.header["block_size"][0]
    step = 1 if counts.size > 1 else 0
    at = np.int64(0)
    for i in range(size):
        row = np.int64(state.scratch[i])
        count = np.int64(counts[i * step])
        sequences["flags"][row] &= np.uint8(_NOT_IN_BATCH)
        fill = np.int64(sequences["tail_fill"][row])
        is_open = sequences["flags"][row] & TAIL_OPEN != 0
        if is_open and count > 0 and fill + count <= block_size:
            first = np.int64(sequences["tail_block"][row]) * block_size + fill
            append_open(state, row, count)
            for j in range(count):
                out[at + j] = first + j
        elif count > 0:
            start = np.int64(sequences["num_tokens"][row])
            write_row(state, row, count)
            emit_slots(state, row, start, count, out, at)
        at += count
        sequences["num_committed"][row] = sequences["num_tokens"][row]
    settle_copies(state)
    return at


@entry("int64(uint8[::1], int64[::1], int32[::1], int64[::1])")
def append_by_handle(arena: Arena, handles: Records, counts: Records, out: Records) -> int:
    """Append tokens to a batch of sequences, all or nothing.

    Parameters
    ----------
    arena : uint8, C-contiguous
    handles : int64, shape (n,)
    counts : int32, shape (n,) or (1,)
        New tokens of each; one for all when there is one.
    out : int64
        Takes the slots, sequence after sequence.

    Returns
    -------
    int
        Slots written, or a status; nothing has changed then, and the runtime's detail says
        which position was refused, or how many blocks were needed.
    """
    state = open_state(arena)
    step = 1 if counts.size > 1 else 0
    needed = np.int64(0)
    total = np.int64(0)
    for i in range(handles.size):
        if i + _AHEAD < handles.size:
            prefetch(state.sequences, handles[i + _AHEAD] & _ROW_MASK)
        count = np.int64(counts[i * step])
        wanted = np.int64(_mark(state, i, row_of(state, handles[i]), count))
        total += count
        if wanted < 0:
            state.runtime["detail"][0] = i
            return _refuse(state, i, wanted)
        needed += wanted
    status = np.int64(check_room(state, needed))
    if status == 0 and total > out.size:
        state.runtime["detail"][0] = total
        status = np.int64(OUT_TOO_SMALL)
    if status < 0:
        return _refuse(state, handles.size, status)
    return _write_batch(state, handles.size, needed, counts, out)


@entry("int64(uint8[::1], uint64[::1], int32[::1], int64[::1])")
def append_by_id(arena: Arena, seq_ids: Records, counts: Records, out: Records) -> int:
    """Append tokens to a batch of sequences named by seq_id: see `append_by_handle`.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_ids : uint64, shape (n,)
    counts : int32, shape (n,) or (1,)
    out : int64

    Returns
    -------
    int
    """
    state = open_state(arena)
    mask = state.header["seq_index_mask"][0]
    step = 1 if counts.size > 1 else 0
    needed = np.int64(0)
    total = np.int64(0)
    for i in range(seq_ids.size):
        if i + 2 * _AHEAD < seq_ids.size:
            prefetch(state.seq_index, (mix_tag(seq_ids[i + 2 * _AHEAD]) & mask) * INDEX_WAYS)
        if i + _AHEAD < seq_ids.size:
            home = (mix_tag(seq_ids[i + _AHEAD]) & mask) * INDEX_WAYS
            prefetch(state.sequences, np.int64(state.seq_index["occupant"][home]) - 1)
        row = np.int64(find_row(state, seq_ids[i]))
        count = np.int64(counts[i * step])
        if row < 0:
            row = np.int64(UNKNOWN_SEQUENCE)
        wanted = np.int64(_mark(state, i, row, count))
        total += count
        if wanted < 0:
            state.runtime["detail"][0] = i
            return _refuse(state, i, wanted)
        needed += wanted
    status = np.int64(check_room(state, needed))
    if status == 0 and total > out.size:
        state.runtime["detail"][0] = total
        status = np.int64(OUT_TOO_SMALL)
    if status < 0:
        return _refuse(state, seq_ids.size, status)
    return _write_batch(state, seq_ids.size, needed, counts, out)
