"""The calls on named prefixes: register, look up, attach, unregister."""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.external import stands_alone
from nbkv.kernels.holding import hold_block
from nbkv.kernels.index import find_name
from nbkv.kernels.names import add_name, copy_name, drop_name
from nbkv.kernels.rows import open_row
from nbkv.kernels.sequences import check_new
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.layout import CALLER_KEYED, DETACHED, INDEXED, NAMED, NO_BLOCK, ROW_ACTIVE
from nbkv.statuses import (
    NAME_TAKEN,
    NAMED_TOO_OFTEN,
    NOT_LEADING,
    PARENT_NOT_HELD,
    TOO_MANY_BLOCKS,
    TOO_MANY_NAMES,
    UNKNOWN_NAME,
)

_NAMED_MAX = 2**15 - 1
_KEYED = INDEXED | CALLER_KEYED
_LINKED = INDEXED | NAMED


@kernel
def _is_leading(state: State, block_ids: Records) -> bool:
    """Tell whether the ids are the leading full blocks of one live sequence."""
    sequences = state.sequences
    count = block_ids.size
    tokens = count * state.header["block_size"][0]
    for row in range(state.header["num_fresh_rows"][0]):
        if sequences["state"][row] != ROW_ACTIVE or sequences["num_committed"][row] < tokens:
            continue
        base = row * state.header["table_stride"][0]
        same = 0
        while same < count and state.tables[base + same] == block_ids[same]:
            same += 1
        if same == count:
            return True
    return False


@kernel
def _check_links(state: State, block_ids: Records) -> int:
    """Tell whether each block is, or can be, linked to the one before: 0 or a status."""
    before = np.int64(NO_BLOCK)
    for i in range(block_ids.size):
        block_id = np.int64(block_ids[i])
        if state.blocks["flags"][block_id] & DETACHED != 0:
            return NOT_LEADING
        linked = state.blocks["flags"][block_id] & _LINKED != 0
        if linked and state.blocks["parent"][block_id] != before:
            return NOT_LEADING
        if stands_alone(state, block_id, before):
            state.runtime["detail"][0] = i
            return PARENT_NOT_HELD
        before = block_id
    return 0


@kernel
def _covers(state: State, name: int, block_ids: Records) -> bool:
    """Tell whether a name stands for exactly these blocks."""
    if state.names["num_blocks"][name] != block_ids.size:
        return False
    block_id = np.int64(state.names["leaf"][name])
    for i in range(block_ids.size - 1, -1, -1):
        if block_id != block_ids[i]:
            return False
        block_id = np.int64(state.blocks["parent"][block_id])
    return True


@entry("int64(uint8[::1], uint64, int32[::1])")
def register_prefix(arena: Arena, name_hash: int, block_ids: Records) -> int:
    """Name the leading full blocks of a live sequence.

    Parameters
    ----------
    arena : uint8, C-contiguous
    name_hash : uint64
    block_ids : int32
        At least one.

    Returns
    -------
    int
        0, or a status; nothing has changed then.
    """
    state = open_state(arena)
    name = np.int64(find_name(state, np.uint64(name_hash)))
    if name >= 0:
        if not _covers(state, name, block_ids):
            return NAME_TAKEN
        begin_report(state)
        return 0
    if not _is_leading(state, block_ids):
        return NOT_LEADING
    status = np.int64(_check_links(state, block_ids))
    if status < 0:
        return status
    if state.header["num_names"][0] >= state.header["max_named_prefixes"][0]:
        return TOO_MANY_NAMES
    # Names are prefix-closed, so no block is covered more often than the first.
    if state.keys["named_count"][block_ids[0]] >= _NAMED_MAX:
        return NAMED_TOO_OFTEN
    begin_report(state)
    add_name(state, np.uint64(name_hash), block_ids)
    return 0


@entry("int64(uint8[::1], uint64)")
def lookup_prefix(arena: Arena, name_hash: int) -> int:
    """Count a hit or a miss and write a name's block ids into scratch, head first.

    Parameters
    ----------
    arena : uint8, C-contiguous
    name_hash : uint64

    Returns
    -------
    int
        Blocks written, or ``UNKNOWN_NAME``.
    """
    state = open_state(arena)
    begin_report(state)
    name = np.int64(find_name(state, np.uint64(name_hash)))
    if name < 0:
        state.header["cache_misses"][0] += 1
        return UNKNOWN_NAME
    state.header["cache_hits"][0] += 1
    return np.int64(copy_name(state, name, state.scratch))


@entry("int64(uint8[::1], uint64, uint64)")
def attach_prefix(arena: Arena, name_hash: int, seq_id: int) -> int:
    """Open a sequence over a named prefix.

    Parameters
    ----------
    arena : uint8, C-contiguous
    name_hash, seq_id : uint64

    Returns
    -------
    int
        0, or a status; nothing has changed then.
    """
    state = open_state(arena)
    name = np.int64(find_name(state, np.uint64(name_hash)))
    if name < 0:
        return UNKNOWN_NAME
    status = np.int64(check_new(state, np.uint64(seq_id)))
    if status < 0:
        return status
    if state.names["num_blocks"][name] > state.header["max_blocks_per_sequence"][0]:
        return TOO_MANY_BLOCKS
    begin_report(state)
    row = np.int64(open_row(state, np.uint64(seq_id)))
    count = np.int64(copy_name(state, name, state.scratch))
    base = row * state.header["table_stride"][0]
    for i in range(count):
        hold_block(state, state.scratch[i])
        state.tables[base + i] = state.scratch[i]
    num_tokens = count * state.header["block_size"][0]
    state.sequences["num_blocks"][row] = count
    state.sequences["num_tokens"][row] = num_tokens
    state.sequences["num_committed"][row] = num_tokens
    if state.blocks["flags"][state.names["leaf"][name]] & _KEYED == INDEXED:
        state.sequences["num_known"][row] = num_tokens
    state.header["cache_hits"][0] += 1
    return 0


@entry("int64(uint8[::1], uint64)")
def unregister_prefix(arena: Arena, name_hash: int) -> int:
    """Forget a named prefix.

    Parameters
    ----------
    arena : uint8, C-contiguous
    name_hash : uint64

    Returns
    -------
    int
        0, or ``UNKNOWN_NAME``; nothing has changed then.
    """
    state = open_state(arena)
    name = np.int64(find_name(state, np.uint64(name_hash)))
    if name < 0:
        return UNKNOWN_NAME
    begin_report(state)
    drop_name(state, name, NO_BLOCK)
    return 0
