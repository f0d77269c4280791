"""Replaying a trace of tokens through the engine itself.

Every request is admitted, planned and committed as a scheduler would do it, one step for its
prompt and one for its output, and finished when ``running`` more have come. The loop is
compiled, so that what is timed is the engine and not the way to it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig
from nbkv.plan import StepBuffers
from nbkv.replay.replay import CHUNK, ReplayRun
from nbkv.replay.token_traces import TokenTrace


@dataclass(frozen=True)
class TokenReplayRun(ReplayRun):
    """What one policy saved at one capacity; the fields are the JSON report's.

    ``inserts`` counts partly filled blocks too, which no later request can hit.
    ``tokens_per_second`` counts tokens that were hit or computed, not those that were cut.
    """

    tokens_per_second: float


@dataclass
class TokenReplay:
    """A replay of tokens under way: one cache, one policy, one capacity."""

    trace: TokenTrace
    policy: str
    capacity: int
    running: int = 1
    cache: PagedKVCache = field(init=False)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Create the cache and one set of buffers, with room for the longest request."""
        trace = self.trace
        longest = max(1, trace.longest)
        # The K/V shape plays no part in a replay; the smallest keeps byte counts small.
        self.cache = PagedKVCache(
            CacheConfig(
                block_size=trace.block_size,
                num_blocks=self.capacity,
                num_layers=1,
                num_kv_heads=1,
                head_dim=1,
                eviction_policy=self.policy,
                max_sequences=self.running,
                max_blocks_per_sequence=-(-longest // trace.block_size),
            )
        )
        # Here, not above: importing it makes the kernels ready, which only replays of tokens need.
        from nbkv.replay import token_loop

        self._loop = token_loop
        self._buffers = StepBuffers.for_cache(self.cache, longest)
        self._requests = token_loop.Requests(trace.tokens, trace.starts, trace.ends, trace.limits)
        self._work = token_loop.Work(
            alive=np.zeros(self.running, np.int64),
            counts=np.zeros(1, np.int32),
            totals=np.zeros(token_loop.NUM_TOTALS, np.int64),
            no_ids=np.empty(0, np.int32),
            no_handles=np.empty(0, np.int64),
        )

    def drive(self, progress: Callable[[int], None] | None = None) -> None:
        """Replay all requests; ``progress(num_requests)`` hears of each chunk."""
        arena, buffers = self.cache.writable_arena(), self._buffers.data
        requests, work, replay = self._requests, self._work, self._loop.replay_requests
        num_requests = self.trace.num_requests
        for first in range(0, num_requests, CHUNK):
            last = min(first + CHUNK, num_requests)
            began = time.perf_counter()
            status = replay(arena, buffers, requests, work, first, last)
            self.seconds += time.perf_counter() - began
            if status < 0:
                raise AssertionError(f"a kernel refused a request with status {status}")
            if progress is not None:
                progress(last - first)

    def result(self) -> TokenReplayRun:
        """Sum up after `drive`."""
        trace, stats = self.trace, self.cache.stats
        loop, totals = self._loop, self._work.totals.tolist()
        hit_tokens = totals[loop.HIT_TOKENS]
        hit_blocks = hit_tokens // trace.block_size
        return TokenReplayRun(
            policy=self.policy,
            capacity=self.capacity,
            running=self.running,
            hit_blocks=hit_blocks,
            hit_tokens=hit_tokens,
            inserts=stats.total_allocations,
            evictions=stats.evictions,
            overflow_requests=totals[loop.OVERFLOW_REQUESTS],
            overflow_blocks=totals[loop.OVERFLOW_BLOCKS],
            hit_ratio_tokens=round(hit_tokens / trace.total_tokens, 6),
            hit_ratio_blocks=round(hit_blocks / trace.total_blocks, 6),
            engine_seconds=round(self.seconds, 6),
            block_refs_per_second=round(trace.total_blocks / self.seconds, 1),
            tokens_per_second=round(totals[loop.TOKENS] / self.seconds, 1),
        )
