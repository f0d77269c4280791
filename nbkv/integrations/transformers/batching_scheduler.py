"""transformers' schedulers on nbkv's blocks: the same order, with less work for each request.

What differs: room is what is free or evictable, so that nothing is evicted to be counted, and
the safety margin is looked at before each prompt, not once a batch, since prompts would use
up what is evictable too; blocks are looked at only where a request begins a new one; a waiting
request takes hold of its cached prefix only if the rest of its chunk fits as well, or it would
have to be preempted to let go again.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    RequestState,
    RequestStatus,
)
from transformers.generation.continuous_batching.scheduler import (
    FIFOScheduler,
    PrefillFirstScheduler,
    Scheduler,
)

from nbkv.integrations.transformers.batching_allocator import requests_of
from nbkv.integrations.transformers.batching_requests import RequestBlocks

_LOGGER: Final = logging.getLogger(__name__)
_DECODING: Final = RequestStatus.DECODING


@dataclass(slots=True)
class _Budget:
    """What is left of a batch while it is filled."""

    tokens: int
    reads: int
    requests: int
    decode_only: bool
    longest_decode: int
    num_planned: int = 0
    num_reads: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether no further request can be taken."""
        return (
            self.tokens == 0
            or self.requests <= 0
            or (self.num_reads >= self.reads and not self.decode_only)
        )

    def can_read(self, num_new: int, position: int) -> bool:
        """Tell whether a request's past can be read: its index has a fixed size."""
        if self.decode_only and num_new == 1 and position < self.longest_decode:
            return True
        return self.num_reads + position <= self.reads

    def take(self, num_new: int, position: int) -> None:
        """Count a request in."""
        self.decode_only &= num_new == 1 and position < self.longest_decode
        self.tokens -= num_new
        self.num_planned += num_new
        self.num_reads += position
        self.requests -= 1


class _Filling:
    """One batch being filled, request by request.

    Parameters
    ----------
    scheduler : BlockScheduling
    blocks : RequestBlocks
    budget : _Budget
    removed : set of str
        Takes the names of requests that wait no longer.

    Attributes
    ----------
    lacks_blocks : bool
        Whether a request had to wait for blocks.
    """

    def __init__(
        self,
        scheduler: "BlockScheduling",
        blocks: RequestBlocks,
        budget: _Budget,
        removed: set[str],
    ) -> None:
        self.scheduler, self.blocks = scheduler, blocks
        self.budget, self.removed = budget, removed
        self.lacks_blocks = False
        self._cache = scheduler.cache
        self._block_size = blocks.cache.config.block_size

    def add_decode(self, state: RequestState) -> Any:
        """Schedule one token; blocks are looked at only where it begins a new one."""
        position = state.position_offset
        if not self.budget.can_read(1, position):
            return None
        begins_block = position % self._block_size == 0
        if begins_block and not self._cache.can_store_request_tokens(state, 1):
            return self._leave_out(state, 1)
        self.budget.take(1, position)
        return FutureRequestState(state, not state.remaining_prefill_tokens, {}, 1)

    def add_chunk(self, state: RequestState) -> Any:
        """Schedule a chunk of a prompt, as much as the batch has room for."""
        scheduler, budget = self.scheduler, self.budget
        tokens = state.remaining_prefill_tokens or state.tokens_to_process
        is_new = state.status == RequestStatus.PENDING and not state.is_cpu_offloaded
        num_prompt = len(tokens) if is_new else 0
        if is_new and self._cache.use_prefix_sharing:
            tokens = self._take_prefix(state, tokens)
            if tokens is None:
                return None
        num_new = min(len(tokens), budget.tokens)
        position = state.position_offset
        # Its last token waits for the fork: a parent may end up with no token in this batch.
        if not budget.can_read(0 if state.num_children else num_new, position):
            return None
        if not self._cache.can_store_request_tokens(state, num_new):
            return self._leave_out(state, num_new)
        scheduler._schedule_request(state, tokens, budget.tokens, self.removed)
        num_new = len(state.tokens_to_process)
        budget.take(num_new, position)
        self.blocks.num_prompt_tokens += num_prompt
        if scheduler.waiting_requests.pop(state.request_id, None) is not None:
            self.removed.add(state.request_id)
        return FutureRequestState(state, not state.remaining_prefill_tokens, {}, num_new)

    def _take_prefix(self, state: RequestState, tokens: list[int]) -> list[int] | None:
        """Hold what is cached of a prompt and return the rest; None if it must wait."""
        num_hit, num_revived = self.blocks.find_hit(tokens)
        if num_hit == 0:
            return tokens
        num_new = min(len(tokens) - num_hit, self.budget.tokens)
        if not self.budget.can_read(num_new, num_hit):
            return None
        if not self.blocks.has_room_behind(num_hit, num_revived, num_hit + num_new):
            self._leave_out(state, num_new)
            return None
        rest: list[int] = self.scheduler._infer_request_tokens(state, self.removed)
        return rest

    def _leave_out(self, state: RequestState, num_new: int) -> None:
        """Note that a request has to wait for blocks; one that holds some is starved."""
        self.lacks_blocks = True
        if state.request_id in self.scheduler.active_requests:
            self.scheduler.starved_requests.append((state, num_new))


class BlockScheduling(Scheduler):  # type: ignore[misc]
    """What both schedulers do in nbkv's way; transformers' own where nbkv has no blocks."""

    def __init__(self, cache: Any, *arguments: Any, **keywords: Any) -> None:
        super().__init__(cache, *arguments, **keywords)
        self._blocks = requests_of(cache)
        if self._blocks is None:
            _LOGGER.warning(
                "nbkv takes models whose layers are all full attention; this one has %s:"
                " transformers' own block manager serves it.",
                ", ".join(cache.cache_allocators),
            )

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        """Publish what the batches before have computed, then schedule the next."""
        if self._blocks is not None:
            self._blocks.commit()
        return super().schedule_batch(token_budget, cache_budget)

    def finish_request(self, request_id: str) -> None:
        """End a request; if it has come to its end, what it computed last stays cached."""
        state = self.active_requests.get(request_id)
        has_ended = state is not None and state.status == RequestStatus.FINISHED
        if self._blocks is not None and has_ended:
            self._blocks.commit()
        super().finish_request(request_id)

    def _try_to_meet_safety_margin(self) -> bool:
        if self._blocks is None:
            return bool(super()._try_to_meet_safety_margin())
        room = self._blocks.cache.num_usable_blocks
        return bool(room >= self.safety_margin * self._blocks.num_blocks)

    def _process_candidates(
        self,
        candidates: list[Any],
        token_budget: int,
        cache_budget: int,
        request_ids_to_remove_from_waiting: set[str],
    ) -> Any:
        removed = request_ids_to_remove_from_waiting
        if self._blocks is None:
            return super()._process_candidates(candidates, token_budget, cache_budget, removed)
        budget = _Budget(
            token_budget,
            cache_budget,
            self.max_requests_per_batch,
            self.cache.max_blocks_per_request > 0,
            self.cache.max_decode_fast_path_length,
        )
        self.starved_requests: list[tuple[Any, int]] = []
        filling = _Filling(self, self._blocks, budget, removed)
        scheduled = self._fill(filling, candidates)
        numbers = budget.decode_only, budget.num_planned, budget.num_reads
        return scheduled, filling.lacks_blocks, *numbers

    def _fill(self, filling: _Filling, candidates: list[Any]) -> list[Any]:
        """Schedule requests in their order until the batch is full."""
        scheduled: list[Any] = []
        for state in candidates:
            is_decoding = state.status is _DECODING
            if is_decoding and not state.num_children:
                future = filling.add_decode(state)
            elif scheduled and not is_decoding and not self._try_to_meet_safety_margin():
                break
            else:
                future = filling.add_chunk(state)
            if future is not None:
                scheduled.append(future)
                if filling.budget.is_spent:
                    break
        return scheduled


class BlockFIFOScheduler(BlockScheduling, FIFOScheduler):  # type: ignore[misc]
    """Decoding requests first, then prompts in the order of their arrival."""


class BlockPrefillFirstScheduler(BlockScheduling, PrefillFirstScheduler):  # type: ignore[misc]
    """Prompts that have begun first, then decoding requests."""
