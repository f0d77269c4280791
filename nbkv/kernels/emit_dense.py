"""Page tables with a row for each sequence, token rows, and a table kept by its changes."""

import numpy as np

from nbkv._jit import entry, kernel, outlined_kernel
from nbkv.kernels.emit import (
    ANY_WIDTH,
    check_batch,
    count_columns,
    first_column,
    length_at,
    overlaps,
    row_at,
    table_start,
    write_slots,
)
from nbkv.kernels.state import Arena, Records, State, open_state
from nbkv.layout import NO_BLOCK, OUT_OVERLAPS, OUT_TOO_SMALL


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


@kernel
def _first_position(state: State, row: int, length: int) -> int:
    """Find the first position that is not in a hole, at most `length`."""
    first = first_column(state, row, count_columns(state, length))
    return min(first * np.int64(state.header["block_size"][0]), length)


@outlined_kernel
def _count_reads(state: State, names: Records, by_id: bool, num_tokens: Records) -> int:
    """Count the tokens of a checked batch that are not in holes."""
    total = np.int64(0)
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        total += length - _first_position(state, row, length)
    return total


@entry(
    "UniTuple(int64, 2)(uint8[::1], int64[::1], boolean, int32[::1], int32[::1], int64,"
    " int64[::1], int64[::1])"
)
def token_rows(
    arena: Arena,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    counts: Records,
    stride: int,
    writes: Records,
    reads: Records,
) -> tuple[int, int]:
    """Write the rows of each sequence's last tokens, and of all its tokens outside holes.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    num_tokens, counts : int32
        See `nbkv.kernels.emit.check_batch`.
    stride : int
        Rows from one block to the next.
    writes, reads : int64

    Returns
    -------
    tuple of int
        How many of both, or a status and 0.
    """
    state = open_state(arena)
    num_shared = overlaps(writes, names, num_tokens, counts)
    num_shared += overlaps(reads, names, num_tokens, counts)
    if num_shared > 0:
        return np.int64(OUT_OVERLAPS), np.int64(0)
    status, num_writes = check_batch(state, names, by_id, num_tokens, counts, ANY_WIDTH)
    if status < 0:
        return np.int64(status), np.int64(0)
    num_reads = _count_reads(state, names, by_id, num_tokens)
    if num_writes > writes.size or num_reads > reads.size:
        state.runtime["detail"][0] = num_reads
        return np.int64(OUT_TOO_SMALL), np.int64(0)
    step = 1 if counts.size > 1 else 0
    write = np.int64(0)
    read = np.int64(0)
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        count = np.int64(counts[i * step])
        write_slots(state, row, length - count, count, stride, writes, write)
        write += count
        first = _first_position(state, row, length)
        write_slots(state, row, first, length - first, stride, reads, read)
        read += length - first
    return write, read


@entry("int64(int32[::1], int32[::1])")
def sum_up(counts: Records, out: Records) -> int:
    """Write 0 and the sums of the first counts, up to all of them.

    Parameters
    ----------
    counts : int32, shape (n,)
    out : int32
        At least n + 1 long, no part of `counts`.

    Returns
    -------
    int
        n + 1, or -1 - i where count i is negative or the sum leaves int32.
    """
    total = np.int64(0)
    for i in range(counts.size):
        total += counts[i]
        if counts[i] < 0 or total > 2**31 - 1:
            return np.int64(-1 - i)
    total = np.int64(0)
    out[0] = 0
    for i in range(counts.size):
        total += counts[i]
        out[i + 1] = total
    return np.int64(counts.size + 1)


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
