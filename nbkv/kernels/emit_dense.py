"""Page tables with a row for each sequence, and one that is kept by its changes."""

import numpy as np

from nbkv._jit import entry
from nbkv.kernels.emit_batch import (
    check_batch,
    count_columns,
    length_at,
    overlaps,
    row_at,
    table_start,
)
from nbkv.kernels.state import Arena, Records, open_state
from nbkv.layout import NO_BLOCK
from nbkv.statuses import OUT_OVERLAPS


@entry("int64(uint8[::1], int64[::1], boolean, int32[::1], int32, int32[:, ::1])")
def block_tables(
    arena: Arena, names: Records, by_id: bool, num_tokens: Records, padding: int, out: Records
) -> int:
    """Write the block tables of a batch as rows, padded where there is no block.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    num_tokens : int32, shape (n,) or (0,)
    padding : int
    out : int32, at least n rows

    Returns
    -------
    int
        0 or more, or a status.
    """
    state = open_state(arena)
    if overlaps(out, names, num_tokens, num_tokens):
        return np.int64(OUT_OVERLAPS)
    status, _ = check_batch(state, names, by_id, num_tokens, num_tokens[:0], out.shape[1])
    if status < 0:
        return np.int64(status)
    tables = state.tables
    width = np.uint64(out.shape[1])
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        num_columns = np.uint64(count_columns(state, length))
        source = np.uint64(table_start(state, row))
        for j in range(num_columns):
            block_id = tables[source + j]
            out[i, j] = padding if block_id == NO_BLOCK else block_id
        for j in range(num_columns, width):
            out[i, j] = padding
    return np.int64(status)


@entry("int64(uint8[::1], int64[::1], boolean, int32[::1], int64[:, ::1], int64[:, ::1])")
def both_ways(
    arena: Arena,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    table: Records,
    inverse: Records,
) -> int:
    """Write block tables and, for each sequence, the column that each block stands in.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    num_tokens : int32, shape (n,) or (0,)
    table : int64, at least n rows
        Padded with -1.
    inverse : int64, at least n rows of at least num_blocks
        -1 for blocks that the sequence does not hold.

    Returns
    -------
    int
        0 or more, or a status.
    """
    state = open_state(arena)
    num_shared = overlaps(table, names, num_tokens, num_tokens)
    num_shared += overlaps(inverse, names, num_tokens, num_tokens)
    if num_shared > 0:
        return np.int64(OUT_OVERLAPS)
    status, _ = check_batch(state, names, by_id, num_tokens, num_tokens[:0], table.shape[1])
    if status < 0:
        return np.int64(status)
    tables = state.tables
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        num_columns = np.uint64(count_columns(state, length))
        source = np.uint64(table_start(state, row))
        for j in range(np.uint64(inverse.shape[1])):
            inverse[i, j] = NO_BLOCK
        for j in range(num_columns):
            block_id = np.int64(tables[source + j])
            table[i, j] = block_id
            if block_id != NO_BLOCK:
                inverse[i, np.uint64(block_id)] = np.int64(j)
        for j in range(num_columns, np.uint64(table.shape[1])):
            table[i, j] = NO_BLOCK
    return np.int64(status)


@entry("int64(uint8[::1], int64[::1], boolean, int32[::1], int64, int32, int32[:, :, :, ::1])")
def key_value_offsets(
    arena: Arena,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    scale: int,
    padding: int,
    out: Records,
) -> int:
    """Write where each block's keys and values begin, padded where there is no block.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    num_tokens : int32, shape (n,) or (0,)
    scale : int
        Offsets from one block to the next; values follow their keys by one.
    padding : int
    out : int32, shape (1, at least n, 2, width)

    Returns
    -------
    int
        0 or more, or a status.
    """
    state = open_state(arena)
    if overlaps(out, names, num_tokens, num_tokens):
        return np.int64(OUT_OVERLAPS)
    status, _ = check_batch(state, names, by_id, num_tokens, num_tokens[:0], out.shape[3])
    if status < 0:
        return np.int64(status)
    tables = state.tables
    width = np.uint64(out.shape[3])
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        num_columns = np.uint64(count_columns(state, length))
        source = np.uint64(table_start(state, row))
        for kv in range(2):
            for j in range(num_columns):
                block_id = np.int64(tables[source + j])
                out[0, i, kv, j] = padding if block_id == NO_BLOCK else block_id * scale + kv
            for j in range(num_columns, width):
                out[0, i, kv, j] = padding
    return np.int64(status)


@entry("int64(int32[:, ::1], int32[:, ::1], int64)")
def apply_changes(table: Records, changes: Records, num_blocks: int) -> int:
    """Apply table changes in order, all or nothing.

    Parameters
    ----------
    table : int32, shape (rows, columns)
    changes : int32, shape (n, 4)
        Group, sequence row, column, block; no part of `table`.
    num_blocks : int
        Blocks are below it.

    Returns
    -------
    int
        n, or -1 - i where change i is refused.
    """
    for i in range(changes.shape[0]):
        row, column, block_id = changes[i, 1], changes[i, 2], changes[i, 3]
        if changes[i, 0] != 0 or row < 0 or row >= table.shape[0]:
            return np.int64(-1 - i)
        if column < 0 or column >= table.shape[1] or block_id < NO_BLOCK or block_id >= num_blocks:
            return np.int64(-1 - i)
    for i in range(changes.shape[0]):
        table[changes[i, 1], changes[i, 2]] = changes[i, 3]
    return np.int64(changes.shape[0])
