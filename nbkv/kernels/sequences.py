"""Whole sequences: added with hashes, forked, cut short and freed."""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.extras import copy_identity, count_extras, extras_reach, num_extra_room
from nbkv.kernels.holding import hold_block, make_room
from nbkv.kernels.index import find_row
from nbkv.kernels.marking import check_room, mark_copy
from nbkv.kernels.prefix import index_block, match_chain, unindex_block
from nbkv.kernels.rows import close_row, cut_row, handle_of, has_room, least_tokens, open_row
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.kernels.tails import must_copy
from nbkv.kernels.writing import settle_copies, write_row
from nbkv.layout import HELD, INDEXED, NO_BLOCK, PARTIAL_HIT, UNINDEXABLE
from nbkv.statuses import (
    BELOW_WINDOW,
    SEQUENCE_EXISTS,
    SHARE_TOO_LONG,
    TOO_MANY_BLOCKS,
    TOO_MANY_EXTRAS,
    TOO_MANY_SEQUENCES,
    TOO_MANY_TOKENS,
    UNKNOWN_SEQUENCE,
)

_INHERITED = UNINDEXABLE | PARTIAL_HIT
_NOT_PARTIAL = 255 - PARTIAL_HIT


@kernel
def check_new(state: State, seq_id: int) -> int:
    """Tell whether a sequence can be opened under a seq_id.

    Returns
    -------
    int
        0, ``SEQUENCE_EXISTS`` or ``TOO_MANY_SEQUENCES``.
    """
    if find_row(state, seq_id) >= 0:
        return SEQUENCE_EXISTS
    if not has_room(state):
        return TOO_MANY_SEQUENCES
    return 0


@kernel
def hold_hits(state: State, row: int, hits: int, num_hit_tokens: int) -> None:
    """Put the blocks that a match left in scratch into an empty table.

    Parameters
    ----------
    state : State
    row : int
        An empty sequence.
    hits, num_hit_tokens : int
        Blocks, and the tokens of them that are the sequence's.
    """
    base = row * state.header["table_stride"][0]
    for i in range(hits):
        block_id = state.scratch[i]
        hold_block(state, block_id)
        state.tables[base + i] = block_id
    state.sequences["num_blocks"][row] = hits
    state.sequences["num_tokens"][row] = num_hit_tokens
    state.sequences["num_committed"][row] = num_hit_tokens


@kernel
def _index_new(state: State, row: int, hashes: Records, start: int) -> None:
    """Index the blocks of table columns ``start:len(hashes)``."""
    block_size = state.header["block_size"][0]
    base = row * state.header["table_stride"][0]
    num_tokens = np.int64(state.sequences["num_tokens"][row])
    parent = np.int64(NO_BLOCK)
    if start > 0:
        parent = np.int64(state.tables[base + start - 1])
    for i in range(start, hashes.size):
        block_id = np.int64(state.tables[base + i])
        if state.blocks["flags"][block_id] & INDEXED != 0:
            # A partial hit written on in place: its hash now covers what the caller states.
            unindex_block(state, block_id)
        index_block(
            state, block_id, parent, hashes[i], min(block_size, num_tokens - i * block_size)
        )
        parent = block_id


@kernel
def _count_hit(state: State, hits: int, num_hashes: int) -> None:
    if hits > 0:
        state.header["cache_hits"][0] += 1
    elif num_hashes > 0:
        state.header["cache_misses"][0] += 1


@kernel
def _copies_hit(state: State, hits: int, num_hit_tokens: int) -> bool:
    """Tell whether the last, partial hit must be copied before more is written to it."""
    block_size = state.header["block_size"][0]
    if hits == 0 or num_hit_tokens == hits * block_size:
        return False
    block_id = state.scratch[hits - 1]
    held = state.blocks["state"][block_id] == HELD and state.blocks["ref_count"][block_id] > 0
    return held or must_copy(state, block_id, num_hit_tokens - (hits - 1) * block_size)


@entry("int64(uint8[::1], uint64, uint64[::1], int64)")
def add_sequence(arena: Arena, seq_id: int, hashes: Records, num_tokens: int) -> int:
    """Open a sequence: hold its longest cached prefix, allocate and index the rest.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64
    hashes : uint64
        One a block, prefix-unique; more blocks than hashes are private.
    num_tokens : int
        At least (len(hashes) - 1) * block_size + 1, or 0 without hashes.

    Returns
    -------
    int
        The handle, or a status; nothing has changed then.
    """
    state = open_state(arena)
    status = np.int64(check_new(state, np.uint64(seq_id)))
    if status < 0:
        return status
    header = state.header
    block_size = header["block_size"][0]
    num_blocks = (num_tokens - 1) // block_size + 1  # so put, it does not overflow
    # More than the whole pool is for the count of blocks to refuse.
    if header["max_blocks_per_sequence"][0] < num_blocks <= header["num_blocks"][0]:
        return TOO_MANY_BLOCKS
    hits, num_hit_tokens, num_revived = match_chain(state, hashes, num_tokens)
    extended = num_hit_tokens < min(num_tokens, hits * block_size)
    copies = extended and _copies_hit(state, hits, num_hit_tokens)
    needed = num_blocks - hits + (1 if copies else 0)
    # The hits that nobody holds are about to be: they are no room for the rest.
    status = np.int64(check_room(state, needed + num_revived))
    if status < 0:
        state.runtime["detail"][0] = needed
        state.runtime["set_aside"][0] = num_revived
        return status
    begin_report(state)
    row = np.int64(open_row(state, np.uint64(seq_id)))
    hold_hits(state, row, hits, num_hit_tokens)
    make_room(state, needed)
    if copies:
        mark_copy(state, row, state.scratch[hits - 1])
    write_row(state, row, num_tokens - num_hit_tokens)
    state.sequences["num_committed"][row] = num_tokens
    _index_new(state, row, hashes, hits - 1 if extended else hits)
    state.sequences["num_hit_tokens"][row] = num_hit_tokens
    settle_copies(state)
    _count_hit(state, hits, hashes.size)
    return handle_of(state, row)


@entry("int64(uint8[::1], uint64)")
def free_sequence(arena: Arena, seq_id: int) -> int:
    """End a sequence and release its blocks.

    Returns
    -------
    int
        0, or a status; nothing has changed then.
    """
    state = open_state(arena)
    row = np.int64(find_row(state, np.uint64(seq_id)))
    if row < 0:
        return UNKNOWN_SEQUENCE
    begin_report(state)
    close_row(state, row)
    return 0


@kernel
def share_blocks(state: State, source: int, seq_id: int, num_blocks: int) -> None:
    """Open a sequence that holds the leading blocks of another one.

    Parameters
    ----------
    state : State
    source : int
        Row of the other one.
    seq_id : uint64
        Not alive; there is a row for it.
    num_blocks : int
        At most up to the block of the source's next token.
    """
    begin_report(state)
    row = np.int64(open_row(state, seq_id))
    stride = state.header["table_stride"][0]
    for i in range(num_blocks):
        block_id = state.tables[source * stride + i]
        if block_id != NO_BLOCK:
            hold_block(state, block_id)
        state.tables[row * stride + i] = block_id
    sequences = state.sequences
    covered = num_blocks * state.header["block_size"][0]
    num_tokens = min(np.int64(sequences["num_committed"][source]), covered)
    sequences["num_blocks"][row] = num_blocks
    sequences["num_tokens"][row] = num_tokens
    sequences["num_committed"][row] = num_tokens
    sequences["num_known"][row] = min(np.int64(sequences["num_known"][source]), num_tokens)
    sequences["first_block"][row] = sequences["first_block"][source]
    # A step that fails takes the tokens it computed from everybody who has them.
    sequences["last_step"][row] = sequences["last_step"][source]
    sequences["flags"][row] |= sequences["flags"][source] & np.uint8(_INHERITED)
    if num_tokens % state.header["block_size"][0] == 0:
        sequences["flags"][row] &= np.uint8(_NOT_PARTIAL)
    copy_identity(state, source, row)
    state.header["cache_hits"][0] += 1


@entry("int64(uint8[::1], uint64, uint64, int64)")
def share_prefix(arena: Arena, source: int, seq_id: int, num_blocks: int) -> int:
    """Open a sequence over the leading blocks of another one.

    Parameters
    ----------
    arena : uint8, C-contiguous
    source, seq_id : uint64
    num_blocks : int
        At least 1, up to the block of the next token; -1 takes all with tokens, be it none
        (a fork).

    Returns
    -------
    int
        0, or a status; nothing has changed then. Of ``SHARE_TOO_LONG`` the runtime's
        detail is how many the source has.
    """
    state = open_state(arena)
    row = np.int64(find_row(state, np.uint64(source)))
    if row < 0:
        return UNKNOWN_SEQUENCE
    block_size = state.header["block_size"][0]
    num_tokens = np.int64(state.sequences["num_committed"][row])
    if num_blocks < 0:
        wanted = (num_tokens + block_size - 1) // block_size
    else:
        # The block of the next token may be empty yet; further capacity is the source's own.
        available = min(np.int64(state.sequences["num_blocks"][row]), num_tokens // block_size + 1)
        wanted = np.int64(num_blocks)
        if wanted == 0 or wanted > available:
            state.runtime["detail"][0] = available
            return SHARE_TOO_LONG
    if 0 <= wanted * block_size < least_tokens(state, row):
        state.runtime["detail"][0] = (least_tokens(state, row) + block_size - 1) // block_size
        return BELOW_WINDOW
    status = np.int64(check_new(state, np.uint64(seq_id)))
    if status < 0:
        return status
    if count_extras(state, row) > num_extra_room(state):
        return TOO_MANY_EXTRAS
    share_blocks(state, row, np.uint64(seq_id), wanted)
    return 0


@entry("int64(uint8[::1], uint64, int64)")
def truncate(arena: Arena, seq_id: int, num_tokens: int) -> int:
    """Keep a sequence's first tokens and release the blocks beyond them.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64
    num_tokens : int
        At least 0.

    Returns
    -------
    int
        0, or a status; nothing has changed then. Of ``TOO_MANY_TOKENS`` the runtime's
        detail is how many the sequence has.
    """
    state = open_state(arena)
    sequences = state.sequences
    row = np.int64(find_row(state, np.uint64(seq_id)))
    if row < 0:
        return UNKNOWN_SEQUENCE
    if num_tokens > sequences["num_committed"][row]:
        state.runtime["detail"][0] = sequences["num_committed"][row]
        return TOO_MANY_TOKENS
    least = np.int64(least_tokens(state, row))
    if 0 < num_tokens < least:
        # What the window has let go cannot come back.
        state.runtime["detail"][0] = least
        return BELOW_WINDOW
    begin_report(state)
    if extras_reach(state, row, num_tokens):
        # What follows may or may not be the same image: nobody can say under which key.
        sequences["flags"][row] |= np.uint8(UNINDEXABLE)
    cut_row(state, row, num_tokens)
    return 0
