"""transformers' schedulers on nbkv's blocks: the same decisions, with less work for each.

What differs: room is what is free or evictable, so that nothing is evicted to be counted;
blocks are looked at only where a request begins a new one; a waiting request takes hold of
its cached prefix only if the rest of its chunk fits as well, or it would have to be preempted
to let go again.
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


class BlockScheduling(Scheduler):  # type: ignore[misc]
    """What both schedulers do in nbkv's way; transformers' own where nbkv has no blocks."""

    def __init__(self, cache: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: ANN401
        super().__init__(cache, *arguments, **keywords)
        self._blocks = requests_of(cache)
        if self._blocks is None:
            _LOGGER.warning(
                "nbkv takes models whose layers are all full attention; this one has %s:"
                " transformers' own block manager serves it.",
                ", ".join(cache.cache_allocators),
            )

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:  # noqa: ANN401
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
        return room >= self.safety_margin * self._blocks.num_blocks

    def _process_candidates(
        self,
        candidates: list[Any],
        token_budget: int,
        cache_budget: int,
        request_ids_to_remove_from_waiting: set[str],
    ) -> tuple[list[Any], bool, bool, int, int]:
        removed = request_ids_to_remove_from_waiting
        if self._blocks is None:
            filled: tuple[list[Any], bool, bool, int, int] = super()._process_candidates(
                candidates, token_budget, cache_budget, removed
            )
            return filled
        budget = _Budget(
            token_budget,
            cache_budget,
            self.max_requests_per_batch,
            self.cache.max_blocks_per_request > 0,
            self.cache.max_decode_fast_path_length,
        )
        self.starved_requests = []
        self._some_lack_blocks = False
        has_margin = self._try_to_meet_safety_margin()
        scheduled: list[Any] = []
        for state in candidates:
            if state.status is _DECODING and not state.num_children:
                future = self._schedule_decode(state, budget)
            elif scheduled and not has_margin and state.status is not _DECODING:
                break
            else:
                future = self._schedule_chunk(state, budget, removed)
            if future is not None:
                scheduled.append(future)
                if budget.is_spent:
                    break
        lacking = self._some_lack_blocks
        return scheduled, lacking, budget.decode_only, budget.num_planned, budget.num_reads

    def _schedule_decode(self, state: RequestState, budget: _Budget) -> Any:  # noqa: ANN401
        """Schedule one token; blocks are looked at only where it begins a new one."""
        position = state.position_offset
        if not budget.can_read(1, position):
            return None
        begins_block = position % self._blocks.cache.config.block_size == 0
        if begins_block and not self.cache.can_store_request_tokens(state, 1):
            return self._leave_out(state, 1)
        budget.take(1, position)
        return FutureRequestState(state, not state.remaining_prefill_tokens, {}, 1)

    def _schedule_chunk(self, state: RequestState, budget: _Budget, removed: set[str]) -> Any:  # noqa: ANN401
        """Schedule a chunk of a prompt, as much as the batch has room for."""
        tokens = state.remaining_prefill_tokens or state.tokens_to_process
        is_new = state.status == RequestStatus.PENDING and not state.is_cpu_offloaded
        num_prompt = len(tokens) if is_new else 0
        if is_new and self.cache.use_prefix_sharing:
            num_hit, num_revived = self._blocks.find_hit(tokens)
            num_new = min(len(tokens) - num_hit, budget.tokens)
            if num_hit and not budget.can_read(num_new, num_hit):
                return None
            if not self._blocks.has_room_behind(num_hit, num_revived, num_hit + num_new):
                return self._leave_out(state, num_new)
            if num_hit:
                tokens = self._infer_request_tokens(state, removed)
        num_new = min(len(tokens), budget.tokens)
        position = state.position_offset
        if not budget.can_read(num_new, position):
            return None
        if not self.cache.can_store_request_tokens(state, num_new):
            return self._leave_out(state, num_new)
        self._schedule_request(state, tokens, budget.tokens, removed)
        num_new = len(state.tokens_to_process)
        budget.take(num_new, position)
        self._blocks.num_prompt_tokens += num_prompt
        if self.waiting_requests.pop(state.request_id, None) is not None:
            removed.add(state.request_id)
        return FutureRequestState(state, not state.remaining_prefill_tokens, {}, num_new)

    def _leave_out(self, state: RequestState, num_new: int) -> None:
        """Note that a request had to wait for blocks; one that holds some is starved."""
        self._some_lack_blocks = True
        if state.request_id in self.active_requests:
            self.starved_requests.append((state, num_new))


class BlockFIFOScheduler(BlockScheduling, FIFOScheduler):  # type: ignore[misc]
    """Decoding requests first, then prompts in the order of their arrival."""


class BlockPrefillFirstScheduler(BlockScheduling, PrefillFirstScheduler):  # type: ignore[misc]
    """Prompts that have begun first, then decoding requests."""
