"""A device for transformers' batch processor whose model notices every wrong slot.

What stands in the cache for a token is its id; what the model samples depends on all ids that
it reads, in their order. So one row written, copied or read wrongly changes all that follows.
"""

import numpy as np
from transformers.generation.continuous_batching.input_outputs import (
    ContinuousBatchingAsyncIOs,
    ContinuousBatchingIOs,
)
from transformers.generation.continuous_batching.requests import RequestState

VOCABULARY = 1_000  # exact in float16


def sample(ids):
    """Return the token that follows these."""
    state = 17
    for token in ids:
        state = (state * 31 + int(token) + 1) % 1_000_003
    return state % VOCABULARY


def complete(prompt, num_tokens):
    """Return what the model generates for a prompt, without any cache."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(sample(ids))
    return ids[len(prompt) :]


def compute(cache, io, previous=None):
    """Run the model on a prepared batch; `previous` sampled what is not known to the host."""
    allocator = cache.cache_allocators["full_attention"]
    keys = allocator._kv_token_views[0][0].numpy()[:, 0, 0]
    ids = io.input_ids[: io.total_seqlen_q].numpy().astype(np.int64)
    if previous is not None:
        carried = io.carry_over_ids[: ids.size].numpy()
        ids = np.where(carried >= 0, previous.output_ids[0].numpy()[carried], ids)
    assert (ids >= 0).all()
    queries, lengths = (
        sums[: io.num_request_in_batch + 1].numpy()
        for sums in (io.cumulative_seqlens_q, io.cumulative_seqlens_k["full_attention"])
    )
    if io.use_block_table:
        reads = _read_pages(allocator, io, keys, ids, np.diff(lengths))
    else:
        write = io.write_index_storage[0, : io.true_write_sizes[0]].numpy()
        # What padding reads and writes lies in front.
        assert (write >= 2 * allocator.write_trash_index).all()
        keys[write] = ids
        read = io.read_index_storage[0, : io.true_read_sizes[0]].numpy()
        reads = np.split(keys[read] if io.max_kv_read else ids, lengths[1:-1])
    # A request may have no new token at all in a batch: one that is about to be forked.
    at = io.logits_indices[: len(io.req_id_to_new_token_position)].numpy()
    sampled = [sample(reads[i]) for i in np.searchsorted(queries, at, side="right") - 1]
    io.output_ids[0, : len(sampled)].numpy()[:] = sampled


def _read_pages(allocator, io, keys, ids, lengths):
    """Write and read as a fused kernel does: by the pages of a block table."""
    page, stride = allocator.tokens_per_page, allocator.block_physical_stride
    reads = []
    for i, length in enumerate(lengths):
        blocks = io.block_table[0, i].numpy() // (stride // page)
        positions = np.arange(length)
        rows = blocks[positions // page] * stride + positions % page
        keys[rows[-1]] = ids[i]
        reads.append(keys[rows])
    return reads


class AsyncTensors(ContinuousBatchingAsyncIOs):
    """Asynchronous tensors with the host in the place of the device."""

    class _Pair:
        def __init__(self, host_io):
            self.host_io = self.device_io = host_io

    def __init__(self, processor):
        self.current_pair = 0
        self.max_batch_tokens = processor.cache.max_batch_tokens
        self.compute_stream = None
        self.io_pairs = [
            self._Pair(
                ContinuousBatchingIOs(
                    processor.cache,
                    processor.config,
                    processor.cb_config,
                    processor.model_device,
                    processor.model_dtype,
                    processor.logit_processor,
                )
            )
            for _ in range(2)
        ]

    def prepare_batch_update(self):
        return self.io_pairs[self.current_pair].host_io.prepare_batch_update()


class Device:
    """Drives a processor as transformers' generation loop does, without threads."""

    def __init__(self, processor, is_async=False):
        self.processor, self.is_async = processor, is_async
        self.outputs = {}
        processor.output_router.deliver_batch = self._take
        if is_async:
            processor.use_async_batching = True
            processor.inputs_and_outputs = AsyncTensors(processor)

    def _take(self, outputs):
        for output in outputs:
            assert output.error is None
            self.outputs[output.request_id] = output.generated_tokens

    def add(self, name, prompt, num_tokens, num_children=0):
        self.processor.scheduler.add_waiting_request(
            RequestState(name, list(prompt), max_new_tokens=num_tokens, num_children=num_children)
        )

    def step(self, updates=True):
        """Make a step; return whether there was anything to do."""
        if not self.processor.prepare_next_batch():
            return False
        tensors = self.processor.inputs_and_outputs
        if self.is_async:
            here = tensors.io_pairs[tensors.current_pair].host_io
            compute(self.processor.cache, here, tensors.io_pairs[1 - tensors.current_pair].host_io)
            tensors.swap_io_pairs()
        else:
            compute(self.processor.cache, tensors)
        if updates:
            self.processor.update_batch()
        return True

    def run(self):
        """Go on until everything is done."""
        if self.is_async and not self.step(updates=False):
            return
        while self.step():
            pass
        if self.is_async:
            self.processor.inputs_and_outputs.swap_io_pairs()
            self.processor.update_batch()
