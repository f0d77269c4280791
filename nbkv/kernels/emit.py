"""Page tables as lists: pages one after another, lengths, sums."""

import numpy as np

from nbkv._jit import entry, outlined_kernel
from nbkv.kernels.emit_batch import (
    ANY_WIDTH,
    check_batch,
    count_columns,
    first_column,
    length_at,
    overlaps,
    row_at,
    table_start,
)
from nbkv.kernels.emit_slots import write_last
from nbkv.kernels.state import Arena, Records, State, open_state
from nbkv.statuses import OUT_OVERLAPS, OUT_TOO_SMALL


@entry("int64(uint8[::1], int64[::1], boolean, int32[::1])")
def seq_lens(arena: Arena, names: Records, by_id: bool, out: Records) -> int:
    """Write how many tokens each sequence of a batch has.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    out : int32
        At least n long.

    Returns
    -------
    int
        n, or a status.
    """
    state = open_state(arena)
    if overlaps(out, names, names, names):
        return np.int64(OUT_OVERLAPS)
    status, _ = check_batch(state, names, by_id, out[:0], out[:0], ANY_WIDTH)
    if status < 0:
        return status
    for i in range(names.size):
        out[i] = state.sequences["num_tokens"][row_at(state, names, by_id, i)]
    return np.int64(names.size)


@outlined_kernel
def _check_csr(
    state: State,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    counts: Records,
    indptr: Records,
    indices: Records,
    last_page_len: Records,
    lengths: Records,
    slots: Records,
) -> int:
    num_shared = overlaps(indptr, names, num_tokens, counts)
    num_shared += overlaps(indices, names, num_tokens, counts)
    num_shared += overlaps(last_page_len, names, num_tokens, counts)
    num_shared += overlaps(lengths, names, num_tokens, counts)
    num_shared += overlaps(slots, names, num_tokens, counts)
    if num_shared > 0:
        return np.int64(OUT_OVERLAPS)
    num_pages, num_slots = check_batch(state, names, by_id, num_tokens, counts, ANY_WIDTH)
    if num_pages > indices.size or num_slots > slots.size:
        state.runtime["detail"][0] = num_pages
        return np.int64(OUT_TOO_SMALL)
    return np.int64(num_pages)


@entry(
    "UniTuple(int64, 2)(uint8[::1], int64[::1], boolean, int32[::1], int32[::1],"
    " int32[::1], int32[::1], int32[::1], int32[::1], int64[::1])"
)
def csr(
    arena: Arena,
    names: Records,
    by_id: bool,
    num_tokens: Records,
    counts: Records,
    indptr: Records,
    indices: Records,
    last_page_len: Records,
    lengths: Records,
    slots: Records,
) -> tuple[int, int]:
    """Write the pages of a batch one after another; and lengths and slots, if asked.

    Parameters
    ----------
    arena : uint8, C-contiguous
    names : int64, shape (n,)
    by_id : bool
    num_tokens, counts : int32
        See `nbkv.kernels.emit_batch.check_batch`.
    indptr, indices, last_page_len : int32
        At least n + 1 long, as long as it takes, and n.
    lengths : int32
        At least n long, or empty.
    slots : int64
        Takes those of the last `counts` tokens of each sequence.

    Returns
    -------
    tuple of int
        Pages and slots written, or a status and 0.
    """
    state = open_state(arena)
    status = _check_csr(
        state, names, by_id, num_tokens, counts, indptr, indices, last_page_len, lengths, slots
    )
    if status < 0:
        return np.int64(status), np.int64(0)
    block_size = np.int64(state.header["block_size"][0])
    tables = state.tables
    page = np.int64(0)
    indptr[0] = 0
    for i in range(names.size):
        row = row_at(state, names, by_id, i)
        length = length_at(state, row, num_tokens, i)
        num_columns = count_columns(state, length)
        first = first_column(state, row, num_columns)
        source, target = np.uint64(table_start(state, row) + first), np.uint64(page)
        for j in range(np.uint64(num_columns - first)):
            indices[target + j] = tables[source + j]
        page += num_columns - first
        indptr[i + 1] = page
        last_page_len[i] = length - (num_columns - 1) * block_size if num_columns > first else 0
        if lengths.size > 0:
            lengths[i] = length
    return page, write_last(state, names, by_id, num_tokens, counts, block_size, slots)


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
