"""Page tables of FlashInfer, FlexAttention, TensorRT-LLM and transformers."""

from typing import Final

import numpy as np

from nbkv._arguments import check_count, check_counts, check_out, refuse
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
)
from nbkv.kernels import emit, emit_dense, emit_slots
from nbkv.layout import NO_BLOCK

_NO_SLOTS: Final = np.empty(0, np.int64)


def flashinfer(
    cache: ArenaOwner,
    handles: Names,
    indptr: Int32s,
    indices: Int32s,
    last_page_len: Int32s,
    *,
    num_tokens: Int32s | None = None,
) -> int:
    """Write a batch's pages one after another, holes left out (FlashInfer).

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
    indptr : int32 array
        At least n + 1 long: where each sequence's pages begin, and where the last ones end.
    indices : int32 array
        Takes the pages.
    last_page_len : int32 array
        At least n long: tokens in each last page, 1 to block_size; 0 without pages.
    num_tokens : int32 array, shape (n,), optional

    Returns
    -------
    int
        Pages written, ``indptr[n]``.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    lengths = check_lengths(num_tokens, names.size)
    check_csr(names.size, indptr, indices, last_page_len)
    num_pages, _ = emit.csr(
        cache._arena, names, by_id, lengths, ALL, indptr, indices, last_page_len, ALL, _NO_SLOTS
    )
    if num_pages < 0:
        outs = {"indices": indices, "indptr": indptr, "last_page_len": last_page_len}
        fail_batch(cache, num_pages, handles, lengths, outs)
    return num_pages


def flex_attention(
    cache: ArenaOwner,
    handles: Names,
    page_table: Int64s,
    physical_to_logical: Int64s,
    *,
    num_tokens: Int32s | None = None,
) -> tuple[Int64s, Int64s]:
    """Write the two tables of torch's ``PagedAttention`` for FlexAttention.

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
    page_table : int64 array, shape (at least n, width)
        Block of each column, -1 in holes and beyond the end.
    physical_to_logical : int64 array, shape (at least n, at least num_blocks)
        Column of each block, -1 for those that are not the sequence's.
    num_tokens : int32 array, shape (n,), optional

    Returns
    -------
    tuple of int64 array
        The first n rows of both.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    lengths = check_lengths(num_tokens, names.size)
    outs = {"page_table": page_table, "physical_to_logical": physical_to_logical}
    for name, out in outs.items():
        check_out(name, out, np.int64, 2)
        check_rows(name, out.shape[0], names.size)
    width, num_blocks = physical_to_logical.shape[1], cache.total_blocks
    if width < num_blocks:
        refuse("physical_to_logical", f"{width} wide", f"at least {num_blocks}, num_blocks")
    status = emit_dense.both_ways(
        cache._arena, names, by_id, lengths, page_table, physical_to_logical
    )
    if status < 0:
        fail_batch(cache, status, handles, lengths, outs)
    return page_table[: names.size], physical_to_logical[: names.size]


def tensorrt_llm(
    cache: ArenaOwner,
    handles: Names,
    out: Int32s,
    *,
    padding: int = NO_BLOCK,
    num_tokens: Int32s | None = None,
) -> Int32s:
    """Write TensorRT-LLM's block offsets: where each block's keys and values lie in the pool.

    In units of one layer's keys of one block, in a pool laid out (num_blocks, num_layers, 2,
    ...): keys at ``block_id * num_layers * 2``, values behind them.

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
    out : int32 array, shape (1, at least n, 2, width)
        One pool.
    padding : int
        Stands in holes and beyond the end.
    num_tokens : int32 array, shape (n,), optional

    Returns
    -------
    int32 array
        ``out[:, :n]``.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    lengths = check_lengths(num_tokens, names.size)
    check_out("out", out, np.int32, 4)
    if out.shape[0] != 1 or out.shape[2] != 2:
        refuse("out", f"of shape {out.shape}", "of shape (1, batch, 2, width)")
    check_rows("out", out.shape[1], names.size)
    scale = 2 * cache.config.num_layers
    if cache.total_blocks * scale > INT32_MAX + 1:
        refuse("num_blocks", cache.total_blocks, f"at most {(INT32_MAX + 1) // scale} for int32")
    filler = check_padding(padding)
    status = emit_dense.key_value_offsets(cache._arena, names, by_id, lengths, scale, filler, out)
    if status < 0:
        fail_batch(cache, status, handles, lengths, {"out": out})
    return out[:, : names.size]


def hf_indices(
    cache: ArenaOwner,
    handles: Names,
    counts: Int32s | int,
    write_index: Int64s,
    read_index: Int64s,
    *,
    block_stride: int | None = None,
    num_tokens: Int32s | None = None,
) -> tuple[Int64s, Int64s]:
    """Write the token rows of transformers' continuous batching.

    Parameters
    ----------
    cache : PagedKVCache
    handles : int64 or uint64 array, shape (n,)
    counts : int32 array of shape (n,), or int
        How many of each sequence's last tokens are new.
    write_index : int64 array
        Takes the rows of the new tokens; at least sum(counts) long.
    read_index : int64 array
        Takes the rows of all tokens, holes left out.
    block_stride : int, optional
        Rows from one block to the next, where the pool's blocks have more than block_size.
    num_tokens : int32 array, shape (n,), optional

    Returns
    -------
    tuple of int64 array
        Both indexes, sequence after sequence; views of `write_index` and `read_index`.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    names, by_id = check_names(handles)
    lengths = check_lengths(num_tokens, names.size)
    numbers = check_counts("counts", counts, names.size, "handles")
    check_out("write_index", write_index, np.int64)
    check_out("read_index", read_index, np.int64)
    block_size = cache.config.block_size
    stride = block_size if block_stride is None else check_count("block_stride", block_stride)
    if not block_size <= stride <= INT32_MAX:
        refuse("block_stride", block_stride, f"{block_size} (block_size) to {INT32_MAX}")
    num_writes, num_reads = emit_slots.token_rows(
        cache._arena, names, by_id, lengths, numbers, stride, write_index, read_index
    )
    if num_writes < 0:
        outs = {"write_index": write_index, "read_index": read_index}
        fail_batch(cache, num_writes, handles, lengths, outs, numbers)
    return write_index[:num_writes], read_index[:num_reads]
