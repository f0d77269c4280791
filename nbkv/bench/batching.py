"""Host time of transformers' continuous batching, without a model: what a decode step costs.

transformers' own processor schedules, prepares tensors and takes in outputs; the forward pass
between is left out. Libraries are imported where they are used: nothing else here needs them.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

PAGE_SIZE: Final = 16
_WARM_UP: Final = 3
_MAX_BATCH_TOKENS: Final = 8_192
_TOKEN: Final = 7


class DecodingBatch:
    """Requests of one length that decode, on the blocks of nbkv or of transformers itself.

    Parameters
    ----------
    num_sequences : int
    context : int
        Tokens of each prompt, no two alike.
    uses_nbkv : bool
    uses_block_table : bool
        Prepare the block table of a fused kernel instead of an index of every cached token.
    """

    def __init__(
        self,
        num_sequences: int,
        context: int,
        *,
        uses_nbkv: bool,
        uses_block_table: bool = False,
        page_size: int = PAGE_SIZE,
    ) -> None:
        from nbkv.integrations.transformers import installed

        self._num_sequences = num_sequences
        pages = -(-(context + 256) // page_size)
        self._installed = installed if uses_nbkv else contextlib.nullcontext
        with self._installed():
            self._processor = new_processor(
                page_size,
                # Room beyond the margin that transformers keeps free while it admits.
                num_sequences * pages * 5 // 4 + 64,
                max_requests=num_sequences,
                max_pages=pages if uses_block_table else 0,
            )
            self._prefill(context)

    def _prefill(self, context: int) -> None:
        from transformers.generation.continuous_batching.requests import RequestState

        for i in range(self._num_sequences):
            prompt = [i] * context
            self._processor.scheduler.add_waiting_request(
                RequestState(f"request {i}", prompt, max_new_tokens=10**6)
            )
        while self._step()[2] < self._num_sequences:
            pass

    def _step(self) -> tuple[float, float, int]:
        """Make a step; return the seconds before and after the model, and how many decode."""
        began = time.perf_counter()
        if not self._processor.prepare_next_batch():
            raise RuntimeError("nothing was scheduled")
        prepared = time.perf_counter()
        tensors = self._processor.inputs_and_outputs
        tensors.output_ids[0, : tensors.num_request_in_batch] = _TOKEN
        computed = time.perf_counter()
        self._processor.update_batch()
        ended = time.perf_counter()
        is_decode = tensors.num_q_tokens == tensors.num_request_in_batch
        return prepared - began, ended - computed, is_decode * tensors.num_request_in_batch

    def seconds_a_step(self, rounds: int) -> tuple[float, float]:
        """Return the least time of a decode step, before the model and after it."""
        with self._installed(), _one_thread():
            steps = [self._step()[:2] for _ in range(_WARM_UP + rounds)][_WARM_UP:]
        return min(before for before, _ in steps), min(after for _, after in steps)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch from splitting copies, of which the largest take a tenth of a millisecond."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def new_processor(
    page_size: int,
    num_blocks: int,
    *,
    max_requests: int,
    max_pages: int = 0,
    max_batch_tokens: int = _MAX_BATCH_TOKENS,
    shares: bool = True,
    scheduling: str = "fifo",
) -> Any:
    """Make transformers' batch processor for a model of one small layer that nobody runs.

    Parameters
    ----------
    page_size, num_blocks, max_requests, max_batch_tokens : int
    max_pages : int
        Of one request in the block table of a fused kernel; 0 for no such kernel.
    shares : bool
        Let requests share blocks.
    scheduling : str
        Name of a scheduler.

    Returns
    -------
    ContinuousBatchProcessor
    """
    from transformers import ContinuousBatchingConfig

    batching = ContinuousBatchingConfig(
        page_size=page_size,
        num_blocks=num_blocks,
        max_batch_tokens=max_batch_tokens,
        max_requests_per_batch=max_requests,
        max_blocks_per_request=max_pages,
        max_memory_percent=0.9,
        allow_block_sharing=shares,
        use_async_batching=False,
        use_cuda_graph=(False, False),
        scheduler_type=scheduling,
    )
    return _assemble(batching)


def _assemble(batching: Any) -> Any:
    """Put a processor together as transformers' manager does, without a model and a thread."""
    import torch
    from transformers import GenerationConfig, LlamaConfig
    from transformers.generation.continuous_batching import cache, continuous_api, scheduler
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingLogitsProcessorList,
    )
    from transformers.generation.continuous_batching.distributed import DistributedHelper

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=16, num_attention_heads=2, num_key_value_heads=1, **shape)
    # A kernel that reads pages by itself takes no mask.
    config._attn_implementation = "paged|flash_attention_2"
    device, helper = torch.device("cpu"), DistributedHelper(None, None)
    blocks = cache.PagedAttentionCache(config, batching, device, helper, torch.float16)
    schedule = scheduler.SCHEDULER_MAPPING[batching.scheduler_type]
    return continuous_api.ContinuousBatchProcessor(
        cache=blocks,
        config=config,
        generation_config=GenerationConfig(do_sample=False),
        continuous_batching_config=batching,
        logit_processor=ContinuousBatchingLogitsProcessorList([]),
        input_queue=None,
        cancel_queue=None,
        output_router=continuous_api.OutputRouter(),
        background_thread_status=continuous_api.BackgroundThreadStatus(),
        model_device=device,
        model_dtype=torch.float16,
        scheduler=schedule(blocks, None, batching.max_requests_per_batch),
        distributed_helper=helper,
    )
