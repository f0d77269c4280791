"""Page tables in the forms that attention kernels read, written into the caller's arrays.

Every function takes a batch, int64 handles or uint64 seq_ids; a sequence may stand in it
more than once. ``num_tokens`` (int32, one for each) covers only so many of a sequence's
tokens, where a plan is outstanding for the rest; all of them when it is left out. An output
may be larger than needed. It is written whole or, when the call raises, not at all.

A hole is a block that has left a sequence's sliding window: the table columns below the
row's ``first_block``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_counts, check_out, check_vector, refuse
from nbkv._foreign_tables import flashinfer, flex_attention, hf_indices, tensorrt_llm
from nbkv._inspection import ArenaOwner
from nbkv._page_arguments import (
    ALL,
    INT32_MAX,
    Int32s,
    Int64s,
    Names,
    check_csr,
    check_lengths,
    check_names,
    check_padding,
    check_rows,
    fail_batch,
    fail_change,
    fail_slots,
)
from nbkv.kernels import emit, emit_dense, emit_slots
from nbkv.layout import NO_BLOCK

__all__ = [
    "apply_changes",
    "block_tables",
    "csr_step",
    "flashinfer",
    "flex_attention",
    "hf_indices",
    "query_start_loc",
    "seq_lens",
    "slot_mapping",
    "tensorrt_llm",
]


def block_tables(
    cache: ArenaOwner,
    handles: Names,
    out: Int32s,
    *,
    padding: int = NO_BLOCK,
    num_tokens: Int32s | None = None,
) -> Int32s:
    """Write a batch's block tables as rows of one width (vLLM, FlashAttention).

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
        Handles, or seq_ids.
    out : int32 array, shape (at least n, width)
        As wide as the longest table at least.
    padding : int
        Stands in holes and beyond the end; 0 for kernels that read what they then mask.
    num_tokens : int32 array, shape (n,), optional

    Returns
    -------
    int32 array
        ``out[:n]``.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    lengths = check_lengths(num_tokens, names.size)
    check_out("out", out, np.int32, 2)
    check_rows("out", out.shape[0], names.size)
    filler = check_padding(padding)
    status = emit_dense.block_tables(cache._arena, names, by_id, lengths, filler, out)
    if status < 0:
        fail_batch(cache, status, handles, lengths, {"out": out})
    return out[: names.size]


def seq_lens(cache: ArenaOwner, handles: Names, out: Int32s) -> Int32s:
    """Write how many tokens each sequence of a batch has.

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
    out : int32 array
        At least n long.

    Returns
    -------
    int32 array
        ``out[:n]``.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    check_out("out", out, np.int32)
    check_rows("out", out.size, names.size)
    status = emit.seq_lens(cache._arena, names, by_id, out)
    if status < 0:
        fail_batch(cache, status, handles, ALL, {"out": out})
    return out[: names.size]


def query_start_loc(counts: Int32s, out: Int32s) -> Int32s:
    """Write where each sequence's new tokens begin in a batch, and where the last ones end.

    Parameters
    ----------
    counts : int32 array, shape (n,)
        New tokens of each; or lengths, for the starts of keys.
    out : int32 array
        At least n + 1 long.

    Returns
    -------
    int32 array
        0, then the sums of the first counts; ``out[:n + 1]``.

    Raises
    ------
    ArgumentError
    """
    numbers = check_vector("counts", counts, np.int32)
    check_out("out", out, np.int32)
    check_rows("out", out.size, numbers.size, 1)
    if np.may_share_memory(out, numbers):
        refuse("out", "memory of counts", "an array of its own")
    written = emit.sum_up(numbers, out)
    if written < 0:
        at = -1 - written
        refuse(f"counts[{at}]", int(numbers[at]), f"at least 0, the sum at most {INT32_MAX}")
    return out[:written]


def slot_mapping(
    cache: ArenaOwner,
    handles: Names,
    starts: Int32s | int,
    counts: Int32s | int,
    out: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """Write the slots of positions ``starts`` to ``starts + counts`` of each sequence.

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
    starts, counts : int32 array of shape (n,), or int
        First position and how many, within the sequence's tokens.
    out : int64 or int32 array
        At least sum(counts) long. int32 where every slot of the pool fits.

    Returns
    -------
    int64 or int32 array
        Slots, sequence after sequence, -1 in holes; a view of `out`.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    firsts = check_counts("starts", starts, names.size, "handles")
    numbers = check_counts("counts", counts, names.size, "handles")
    is_short = isinstance(out, np.ndarray) and out.dtype == np.int32
    check_out("out", out, np.int32 if is_short else np.int64)
    if is_short and cache._num_blocks * cache._block_size > INT32_MAX + 1:
        refuse("out", "int32", "int64, as slots of this pool do not fit into int32")
    call = emit_slots.slots_int32 if is_short else emit_slots.slots_int64
    written = call(cache._arena, names, by_id, firsts, numbers, out)
    if written < 0:
        fail_slots(cache, written, handles, firsts, numbers, out)
    return out[:written]


def csr_step(
    cache: ArenaOwner,
    handles: Names,
    counts: Int32s | int,
    indptr: Int32s,
    indices: Int32s,
    last_page_len: Int32s,
    seq_lens: Int32s,
    slots: Int64s,
    *,
    num_tokens: Int32s | None = None,
) -> tuple[int, int]:
    """Write all that one step's attention reads: pages, lengths, slots of the new tokens.

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
    counts : int32 array of shape (n,), or int
        How many of each sequence's last tokens are new.
    indptr, indices, last_page_len : int32 array
        Pages: see `flashinfer`.
    seq_lens : int32 array
        At least n long.
    slots : int64 array
        At least sum(counts) long; sequence after sequence.
    num_tokens : int32 array, shape (n,), optional

    Returns
    -------
    tuple of int
        Pages and slots written.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    lengths = check_lengths(num_tokens, names.size)
    numbers = check_counts("counts", counts, names.size, "handles")
    check_csr(names.size, indptr, indices, last_page_len)
    check_out("seq_lens", seq_lens, np.int32)
    check_rows("seq_lens", seq_lens.size, names.size)
    check_out("slots", slots, np.int64)
    written: tuple[int, int] = emit.csr(
        cache._arena,
        names,
        by_id,
        lengths,
        numbers,
        indptr,
        indices,
        last_page_len,
        seq_lens,
        slots,
    )
    if written[0] < 0:
        outs: dict[str, npt.NDArray[Any]] = {"slots": slots, "indices": indices, "indptr": indptr}
        outs |= {"last_page_len": last_page_len, "seq_lens": seq_lens}
        fail_batch(cache, written[0], handles, lengths, outs, numbers)
    return written


def apply_changes(table: Int32s, changes: Int32s, *, num_blocks: int | None = None) -> None:
    """Apply a plan's table changes to a copy of the block tables: all of them, or none.

    What a kernel does to the copy on the device; equal copies stay equal.

    Parameters
    ----------
    table : int32 array, shape (rows, columns)
        By sequence row.
    changes : int32 array, shape (n, 4)
        Group (0), sequence row, column and block of each, in order; NO_BLOCK makes a hole.
    num_blocks : int, optional
        Blocks of the pool, which no block_id may reach.

    Raises
    ------
    ArgumentError
    """
    rows = check_vector("changes", changes, np.int32, 2)
    check_out("table", table, np.int32, 2)
    if rows.shape[1] != 4:
        refuse("changes", f"of shape {rows.shape}", "of shape (n, 4)")
    if np.may_share_memory(table, rows):
        refuse("table", "memory of changes", "an array of its own")
    limit = INT32_MAX if num_blocks is None else check_count("num_blocks", num_blocks)
    applied = emit_dense.apply_changes(table, rows, min(limit, INT32_MAX))
    if applied < 0:
        fail_change(rows, -1 - applied, table, limit)
