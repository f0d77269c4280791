"""A batch's tensors, built for all its requests at once.

transformers builds lists in Python, one number for each cached token, and makes tensors of
them. Here a request is touched once, for what it keeps as Python objects; its rows of the
cache come from one compiled call for the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers.generation.continuous_batching.requests import TMP_TOKEN_ID
from transformers.generation.continuous_batching.utils import build_attention_mask

from nbkv import page_tables
from nbkv.integrations.transformers.batching_allocator import FULL_ATTENTION, requests_of
from nbkv.integrations.transformers.batching_requests import Int32s, Int64s, RequestBlocks

Prepare = Callable[..., None]

_NO_BLOCK: Final = -1


class _Lengths:
    """The lengths of a batch's requests, and where their new tokens begin in it."""

    def __init__(self, past: Sequence[int], counts: Sequence[int]) -> None:
        self.past = np.array(past, np.int32)
        self.counts = np.array(counts, np.int32)
        self.ends = self.past + self.counts
        self.queries = _sums(self.counts)
        self.keys = _sums(self.ends)

    def positions(self) -> Int32s:
        """Return the position of each new token in its request."""
        shifts = np.repeat(self.past - self.queries[:-1], self.counts)
        return np.arange(self.queries[-1], dtype=np.int32) + shifts


def _sums(lengths: Int32s) -> Int32s:
    sums = np.zeros(lengths.size + 1, np.int32)
    np.cumsum(lengths, out=sums[1:])
    return sums


def preparing(original: Prepare) -> Prepare:
    """Make the method that stands in for ``ContinuousBatchingIOs.prepare_batch_tensors``.

    Parameters
    ----------
    original : callable
        That method: it goes on serving caches that transformers allocates itself.

    Returns
    -------
    callable
    """

    def prepare_batch_tensors(self: Any, *arguments: Any, **keywords: Any) -> None:
        """Prepare the next forward pass: see transformers'."""
        requests = requests_of(self.cache)
        if requests is None:
            original(self, *arguments, **keywords)
        else:
            _prepare(self, requests, *arguments, **keywords)

    return prepare_batch_tensors


def _prepare(
    io: Any,
    requests: RequestBlocks,
    requests_in_batch: list[Any],
    logits_processors: Any,
    use_decode_fast_path: bool,
    num_q_tokens: int,
    max_kv_read: int,
    use_padding: bool,
) -> None:
    if not requests_in_batch:
        raise ValueError("No requests in batch")
    _reset(io, len(requests_in_batch), use_decode_fast_path, num_q_tokens, max_kv_read)
    lengths = _advance(io, requests_in_batch)
    storage = io._bulk_input_tensor[io.static_inputs :]
    logits_processors.prepare_tensor_args(requests_in_batch=requests_in_batch, arg_storage=storage)
    _describe(io, lengths, io._get_num_sequences(use_padding=use_padding))
    _address(io, requests, [future.state for future in requests_in_batch], lengths)


def _reset(
    io: Any,
    num_requests: int,
    use_decode_fast_path: bool,
    num_q_tokens: int,
    max_kv_read: int,
) -> None:
    """Take over the batch's sizes and clear what the tensors will be read for."""
    io.use_block_table = use_decode_fast_path and io.block_table.numel() > 0
    io.num_q_tokens = num_q_tokens
    io.max_kv_read = 0 if io.use_block_table else max_kv_read
    io.num_request_in_batch = num_requests
    io._reset_static_tensors()
    io.true_read_sizes, io.true_write_sizes = [0], [0]


def _advance(io: Any, batch: list[Any]) -> _Lengths:
    """Move each request past its new tokens, and write those and their places."""
    ids: list[int] = []
    past: list[int] = []
    counts: list[int] = []
    sampled: list[int] = []
    positions: dict[str, int] = {}
    for future in batch:
        state, count = future.state, future.query_length
        past.append(state.position_offset)
        counts.append(count)
        ids += state.tokens_to_process
        state.position_offset += count
        if future.has_new_token:
            positions[state.request_id] = len(ids) - 1
            sampled.append(len(ids) - 1)
            state.tokens_to_process = [TMP_TOKEN_ID]
    io.requests_in_batch = list(batch)
    io.req_id_to_new_token_position = positions
    lengths = _Lengths(past, counts)
    _put(io.input_ids, np.array(ids, np.int32))
    _put(io.position_ids, lengths.positions())
    _put(io.logits_indices, np.array(sampled, np.int32))
    return lengths


def _describe(io: Any, lengths: _Lengths, num_sequences: int) -> None:
    """Write the batch's lengths, those of padding sequences too, and its attention mask."""
    io.total_seqlen_q = int(lengths.queries[-1])
    io.total_seqlen_k[FULL_ATTENTION] = int(lengths.keys[-1])
    io.max_length_q = int(lengths.counts.max())
    io.max_length_k[FULL_ATTENTION] = int(lengths.ends.max())
    if io.attention_mask is not None:
        build_attention_mask(
            attention_mask=io.attention_mask[FULL_ATTENTION],
            cumulative_seqlens_q=lengths.queries.tolist(),
            cumulative_seqlens_k=lengths.keys.tolist(),
            sliding_window=1,
        )
    _put_sums(io.cumulative_seqlens_q, lengths.queries, num_sequences)
    _put_sums(io.cumulative_seqlens_k[FULL_ATTENTION], lengths.keys, num_sequences)


def _address(
    io: Any,
    requests: RequestBlocks,
    states: list[Any],
    lengths: _Lengths,
) -> None:
    """Plan the batch, and write where in the cache it writes and reads."""
    handles = requests.plan(states, lengths.ends)
    allocator = io.cache.cache_allocators[FULL_ATTENTION]
    stride = allocator.block_physical_stride
    if io.use_block_table:
        table = _array_of(io.block_table[0, : len(states)])
        page_tables.block_tables(requests.cache, handles, table, padding=_NO_BLOCK)
        np.multiply(table, stride // allocator.tokens_per_page, out=table, where=table >= 0)
        _put(io.block_table[0], table)
        return
    write, read = _array_of(io.write_index_storage[0]), _array_of(io.read_index_storage[0])
    written, reads = page_tables.hf_indices(
        requests.cache, handles, lengths.counts, write, read, block_stride=stride
    )
    io.true_write_sizes[0] = written.size
    _put(io.write_index_storage[0], written)
    if io.max_kv_read:
        io.true_read_sizes[0] = reads.size
        _put(io.read_index_storage[0], reads)


def _array_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Return a tensor's own memory, or as much of the host's where it lies on a device."""
    if tensor.device.type == "cpu":
        array: npt.NDArray[Any] = tensor.numpy()
        return array
    return np.empty(tensor.shape, np.int64 if tensor.dtype == torch.int64 else np.int32)


def _put_sums(tensor: torch.Tensor, sums: Int32s, num_sequences: int) -> None:
    """Write sums of lengths, those of padding sequences too, which have none."""
    _put(tensor, sums)
    if sums.size <= num_sequences:
        tensor[sums.size : num_sequences + 1] = int(sums[-1])


def _put(tensor: torch.Tensor, values: Int32s | Int64s) -> None:
    """Write values to a tensor's beginning, unless they lie there already."""
    if tensor.device.type == "cpu" and tensor.data_ptr() == values.ctypes.data:
        return
    tensor[: len(values)].copy_(torch.from_numpy(values))
