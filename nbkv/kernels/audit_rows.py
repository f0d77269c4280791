"""Audit of sequences: their rows, tables and open tails."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.audit_index import count_occupants, find_occupied
from nbkv.kernels.audit_notes import COLUMNS, NIL, REFS, note
from nbkv.kernels.fence import is_past
from nbkv.kernels.index import find_row, mix_tag
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    DETACHED,
    HEADER_DTYPE,
    INDEXED,
    NAMED,
    NO_BLOCK,
    NO_ROW,
    PARTIAL_HIT,
    ROW_ACTIVE,
    ROW_FREE,
    SEQUENCE_DTYPE,
    TAIL_OPEN,
    UNINDEXABLE,
)
from nbkv.violations import (
    COUNTED,
    ENTRY_COLUMN,
    ENTRY_FILL,
    ENTRY_HOLE,
    ENTRY_PARENT,
    ENTRY_RANGE,
    FOUND_OTHER,
    FREE_ROWS,
    HEADER,
    LIST_LENGTH,
    LIST_MEMBER,
    LIST_RANGE,
    MUST_BE,
    NOT_FOUND,
    OCCUPANTS,
    RANGE,
    SEQ_INDEX,
    SEQUENCES,
    TAIL,
    field_of,
)

_LINKED = INDEXED | NAMED
_ROW_FLAGS = TAIL_OPEN | UNINDEXABLE | PARTIAL_HIT
_STEPS_MAX = 2**31 - 1

_NUM_TOKENS = field_of(SEQUENCE_DTYPE, "num_tokens")
_NUM_COMMITTED = field_of(SEQUENCE_DTYPE, "num_committed")
_NUM_KNOWN = field_of(SEQUENCE_DTYPE, "num_known")
_NUM_BLOCKS = field_of(SEQUENCE_DTYPE, "num_blocks")
_NUM_HIT_TOKENS = field_of(SEQUENCE_DTYPE, "num_hit_tokens")
_FIRST_BLOCK = field_of(SEQUENCE_DTYPE, "first_block")
_TAIL_BLOCK = field_of(SEQUENCE_DTYPE, "tail_block")
_TAIL_WRITES = field_of(SEQUENCE_DTYPE, "tail_writes")
_GENERATION = field_of(SEQUENCE_DTYPE, "generation")
_LAST_STEP = field_of(SEQUENCE_DTYPE, "last_step")
_VOID_STEP = field_of(SEQUENCE_DTYPE, "void_step")
_STATE = field_of(SEQUENCE_DTYPE, "state")
_FLAGS = field_of(SEQUENCE_DTYPE, "flags")
_ARRIVAL = field_of(SEQUENCE_DTYPE, "arrival")
_SEQ_ID = field_of(SEQUENCE_DTYPE, "seq_id")
_NUM_SEQUENCES = field_of(HEADER_DTYPE, "num_sequences")


@outlined_kernel
def audit_rows(state: State, work: Records, found: Records) -> int:
    """Audit the rows of sequences and their tables, and count what these hold.

    Parameters
    ----------
    state : State
        Its header is audited.
    work : int32, shape (WORK_ROWS, num_blocks)
        Takes REFS and COLUMNS.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    num_rows = state.header["num_fresh_rows"][0]
    num_active = np.int64(0)
    for i in range(num_rows):
        row = np.int64(i)
        code = np.int64(_audit_state(state, row, found))
        if code == 0 and state.sequences["state"][row] == ROW_ACTIVE:
            num_active += 1
            code = np.int64(_audit_counts(state, row, found))
            if code == 0:
                code = np.int64(_audit_steps(state, row, found))
            if code == 0:
                code = np.int64(_audit_table(state, work, row, found))
            if code == 0 and state.sequences["flags"][row] & TAIL_OPEN != 0:
                code = np.int64(_audit_tail(state, row, found))
        if code != 0:
            return code
    claimed = state.header["num_sequences"][0]
    if claimed != num_active:
        return note(found, COUNTED, HEADER, NIL, _NUM_SEQUENCES, claimed, num_active, NIL)
    code = np.int64(_audit_free_rows(state, num_rows - num_active, found))
    if code == 0:
        code = np.int64(_audit_seq_index(state, num_active, found))
    return code


@outlined_kernel
def _audit_state(state: State, row: int, found: Records) -> int:
    sequences = state.sequences
    kind = np.int64(sequences["state"][row])
    if kind != ROW_FREE and kind != ROW_ACTIVE:
        return note(found, RANGE, SEQUENCES, row, _STATE, kind, ROW_FREE, ROW_ACTIVE)
    generation = np.int64(sequences["generation"][row])
    if generation < 1:
        return note(found, RANGE, SEQUENCES, row, _GENERATION, generation, 1, _STEPS_MAX)
    num_blocks = np.int64(sequences["num_blocks"][row])
    if kind == ROW_FREE and num_blocks != 0:
        return note(found, MUST_BE, SEQUENCES, row, _NUM_BLOCKS, num_blocks, NIL, NIL)
    return np.int64(0)


@outlined_kernel
def _audit_counts(state: State, row: int, found: Records) -> int:
    """Audit the counts of a live row: each lies between its neighbours."""
    header, sequences = state.header, state.sequences
    num_blocks = np.int64(sequences["num_blocks"][row])
    width = header["max_blocks_per_sequence"][0]
    if num_blocks < 0 or num_blocks > width:
        return note(found, RANGE, SEQUENCES, row, _NUM_BLOCKS, num_blocks, NIL, width)
    capacity = num_blocks * header["block_size"][0]
    num_tokens = np.int64(sequences["num_tokens"][row])
    if num_tokens < 0 or num_tokens > capacity:
        return note(found, RANGE, SEQUENCES, row, _NUM_TOKENS, num_tokens, NIL, capacity)
    committed = np.int64(sequences["num_committed"][row])
    if committed < 0 or committed > num_tokens:
        return note(found, RANGE, SEQUENCES, row, _NUM_COMMITTED, committed, NIL, num_tokens)
    last_step = np.int64(sequences["last_step"][row])
    if committed != num_tokens and is_past(last_step, header["committed_step"][0]):
        # No step is in flight that could have planned more.
        return note(found, MUST_BE, SEQUENCES, row, _NUM_COMMITTED, committed, num_tokens, NIL)
    known = np.int64(sequences["num_known"][row])
    if known < 0 or known > committed:
        return note(found, RANGE, SEQUENCES, row, _NUM_KNOWN, known, NIL, committed)
    hits = np.int64(sequences["num_hit_tokens"][row])
    if hits < 0 or hits > committed:
        return note(found, RANGE, SEQUENCES, row, _NUM_HIT_TOKENS, hits, NIL, committed)
    first = np.int64(sequences["first_block"][row])
    last = np.int64(0)
    if header["window"][0] > 0:
        last = min(num_blocks, committed // header["block_size"][0])
    if first < 0 or first > last:
        return note(found, RANGE, SEQUENCES, row, _FIRST_BLOCK, first, NIL, last)
    return np.int64(0)


@outlined_kernel
def _audit_steps(state: State, row: int, found: Records) -> int:
    """Audit the flags and clocks of a live row."""
    header, sequences = state.header, state.sequences
    flags = np.int64(sequences["flags"][row])
    if flags & ~_ROW_FLAGS != 0:
        return note(found, MUST_BE, SEQUENCES, row, _FLAGS, flags, flags & _ROW_FLAGS, NIL)
    if sequences["first_block"][row] > 0 and flags & UNINDEXABLE == 0:
        return note(found, MUST_BE, SEQUENCES, row, _FLAGS, flags, flags | UNINDEXABLE, NIL)
    if flags & PARTIAL_HIT != 0:
        partial = sequences["num_tokens"][row] % header["block_size"][0] != 0
        if flags & TAIL_OPEN != 0 or not partial:
            return note(found, MUST_BE, SEQUENCES, row, _FLAGS, flags, flags - PARTIAL_HIT, NIL)
    arrival = np.int64(sequences["arrival"][row])
    if arrival < 0:
        return note(found, RANGE, SEQUENCES, row, _ARRIVAL, arrival, NIL, 2**63 - 1)
    num_steps = header["num_steps"][0]
    # Records keep the lower 32 bits: past 2**31 steps there is no telling late from early.
    if num_steps <= _STEPS_MAX:
        last = np.int64(sequences["last_step"][row])
        if last < 0 or last > num_steps:
            return note(found, RANGE, SEQUENCES, row, _LAST_STEP, last, NIL, num_steps)
        void = np.int64(sequences["void_step"][row])
        if void < 0 or void > num_steps:
            return note(found, RANGE, SEQUENCES, row, _VOID_STEP, void, NIL, num_steps)
    return np.int64(0)


@outlined_kernel
def _audit_table(state: State, work: Records, row: int, found: Records) -> int:
    """Audit a live row's table against the blocks' records, and count its entries."""
    header, sequences, blocks = state.header, state.sequences, state.blocks
    base = row * header["table_stride"][0]
    block_size = header["block_size"][0]
    num_fresh = header["num_fresh_blocks"][0]
    first = np.int64(sequences["first_block"][row])
    num_tokens = np.int64(sequences["num_tokens"][row])
    open_column = np.int64(-1)
    if sequences["flags"][row] & TAIL_OPEN != 0:
        open_column = num_tokens // block_size
    before = np.int64(NO_BLOCK)
    for i in range(sequences["num_blocks"][row]):
        column = np.int64(i)
        block_id = np.int64(state.tables[base + column])
        if column < first:
            if block_id != NO_BLOCK:
                return note(found, ENTRY_HOLE, SEQUENCES, row, _FIRST_BLOCK, column, block_id, NIL)
            continue
        if block_id < 0 or block_id >= num_fresh:
            last = num_fresh - 1
            return note(found, ENTRY_RANGE, SEQUENCES, row, _NUM_BLOCKS, column, block_id, last)
        known = np.int64(work[COLUMNS, block_id])
        if known != 0 and known != column + 1:
            other = known - 1
            return note(found, ENTRY_COLUMN, SEQUENCES, row, _NUM_BLOCKS, column, block_id, other)
        work[COLUMNS, block_id] = column + 1
        work[REFS, block_id] += 1
        if not _follows(blocks, block_id, before):
            return note(found, ENTRY_PARENT, SEQUENCES, row, _NUM_BLOCKS, column, block_id, before)
        fill = min(block_size, num_tokens - column * block_size)
        if blocks["num_tokens"][block_id] < fill and column != open_column:
            return note(found, ENTRY_FILL, SEQUENCES, row, _NUM_TOKENS, column, block_id, fill)
        before = block_id
    return np.int64(0)


@kernel
def _follows(blocks: Records, block_id: int, before: int) -> bool:
    """Tell whether a block of a table may follow the one before: linked to it or not at all."""
    if blocks["flags"][block_id] & _LINKED == 0:
        return True
    if blocks["flags"][block_id] & DETACHED != 0:
        return blocks["parent"][block_id] == NO_BLOCK
    return blocks["parent"][block_id] == before


@outlined_kernel
def _audit_tail(state: State, row: int, found: Records) -> int:
    """Audit an open tail: the private place of the next token."""
    sequences, blocks = state.sequences, state.blocks
    block_size = state.header["block_size"][0]
    tail = np.int64(sequences["tail_block"][row])
    fill = np.int64(sequences["tail_fill"][row])
    num_tokens = np.int64(sequences["num_tokens"][row])
    column = num_tokens // block_size
    base = row * state.header["table_stride"][0]
    good = column < sequences["num_blocks"][row] and fill == num_tokens % block_size
    if not good or tail != state.tables[base + column] or tail == NO_BLOCK:
        return note(found, TAIL, SEQUENCES, row, _TAIL_BLOCK, fill, tail, NIL)
    flags = np.int64(blocks["flags"][tail])
    covered = flags & INDEXED != 0 and state.keys["num_keyed_tokens"][tail] > fill
    private = blocks["ref_count"][tail] == 1 and flags & NAMED == 0 and not covered
    if not private or blocks["writer"][tail] != row:
        return note(found, TAIL, SEQUENCES, row, _TAIL_BLOCK, fill, tail, NIL)
    writes = np.int64(sequences["tail_writes"][row])
    if writes < 0:
        return note(found, RANGE, SEQUENCES, row, _TAIL_WRITES, writes, NIL, _STEPS_MAX)
    return np.int64(0)


@outlined_kernel
def _audit_free_rows(state: State, count: int, found: Records) -> int:
    """Audit the list of free rows: it ends after as many as there are, so it has each once."""
    num_rows = state.header["num_fresh_rows"][0]
    row = np.int64(state.header["free_row"][0])
    for _ in range(count):
        if row < 0 or row >= num_rows:
            return note(found, LIST_RANGE, SEQUENCES, NIL, FREE_ROWS, row, num_rows - 1, NIL)
        if state.sequences["state"][row] != ROW_FREE:
            return note(found, LIST_MEMBER, SEQUENCES, NIL, FREE_ROWS, row, NIL, NIL)
        row = np.int64(state.sequences["tail_block"][row])
    if row != NO_ROW:
        return note(found, LIST_LENGTH, SEQUENCES, NIL, FREE_ROWS, count, NIL, NIL)
    return np.int64(0)


@outlined_kernel
def _audit_seq_index(state: State, num_active: int, found: Records) -> int:
    """Audit the index of seq_ids: it has every live row, each under a seq_id of its own."""
    index, mask = state.seq_index, state.header["seq_index_mask"][0]
    num_rows = state.header["num_fresh_rows"][0]
    occupants = np.int64(count_occupants(index, num_rows, SEQ_INDEX, found))
    if occupants < 0:
        return -occupants
    if occupants != num_active:
        return note(found, OCCUPANTS, SEQ_INDEX, NIL, NIL, occupants, num_active, NIL)
    for row in range(num_rows):
        if state.sequences["state"][row] == ROW_ACTIVE:
            seq_id = state.sequences["seq_id"][row]
            if find_occupied(index, mask, mix_tag(seq_id), np.int64(row)) < 0:
                return note(found, NOT_FOUND, SEQUENCES, row, _SEQ_ID, NIL, NIL, NIL)
            other = np.int64(find_row(state, seq_id))
            if other != row:
                return note(found, FOUND_OTHER, SEQUENCES, row, _SEQ_ID, other, NIL, NIL)
    return np.int64(0)
