"""Replaying a trace through the engine itself.

Every request adds a sequence with its block hashes, and the oldest running one is
freed first when ``running`` of them are open. The hit is what `add_sequence` finds.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig
from nbkv.errors import OutOfBlocksError
from nbkv.replay.traces import Trace

ROW_MASK = 2**32 - 1  # a handle's lower half
CHUNK = 512  # requests between two calls of `progress`, which are outside the clock


@dataclass(frozen=True)
class ReplayRun:
    """What one policy saved at one capacity; the fields are the JSON report's.

    ``hit_tokens`` counts each row's own tokens of its hit blocks. ``engine_seconds``
    is the time of the loop that adds and frees, its own cost included.
    """

    policy: str
    capacity: int
    running: int
    hit_blocks: int
    hit_tokens: int
    inserts: int
    evictions: int
    overflow_requests: int
    overflow_blocks: int
    hit_ratio_tokens: float
    hit_ratio_blocks: float
    engine_seconds: float
    block_refs_per_second: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass
class Replay:
    """A replay under way: one cache, one policy, one capacity."""

    trace: Trace
    policy: str
    capacity: int
    running: int = 1
    cache: PagedKVCache = field(init=False)
    seconds: float = 0.0
    overflow_requests: int = 0
    overflow_blocks: int = 0
    _hits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Create the cache."""
        # The K/V shape plays no part in a replay; the smallest keeps byte counts small.
        self.cache = PagedKVCache(
            CacheConfig(
                block_size=self.trace.block_size,
                num_blocks=self.capacity,
                num_layers=1,
                num_kv_heads=1,
                head_dim=1,
                eviction_policy=self.policy,
                max_sequences=self.running,
                max_blocks_per_sequence=max(1, self.trace.longest),
            )
        )

    def drive(self, progress: Callable[[int], None] | None = None) -> None:
        """Replay all requests; ``progress(num_requests)`` hears of each chunk."""
        rows = self.trace.rows()
        for first in range(0, len(rows), CHUNK):
            chunk = rows[first : first + CHUNK]
            began = time.perf_counter()
            self._drive_chunk(first, chunk)
            self.seconds += time.perf_counter() - began
            if progress is not None:
                progress(len(chunk))

    def _drive_chunk(self, first: int, rows: list[NDArray[np.uint64]]) -> None:
        add, free, running = self.cache.add_sequence, self.cache.free_sequence, self.running
        # One live view of the rows for all requests, not a lookup by seq_id for each.
        num_hit_tokens, hit = self.cache.sequences["num_hit_tokens"], self._hits.append
        for seq_id, hashes in enumerate(rows, first):
            if seq_id >= running:
                free(seq_id - running)
            try:
                handle = add(seq_id, hashes)
            except OutOfBlocksError:
                handle = self._add_what_fits(seq_id, hashes)
            hit(num_hit_tokens[handle & ROW_MASK])

    def _add_what_fits(self, seq_id: int, hashes: NDArray[np.uint64]) -> int:
        """Add the request cut to its hits and to what is free or can be evicted."""
        # No more than the pool holds can fit; how much of that does, the engine knows.
        fitting = hashes[: self.capacity]
        try:
            handle = self.cache.add_sequence(seq_id, fitting)
        except OutOfBlocksError as error:
            num_hits = len(fitting) - error.needed
            fitting = fitting[: num_hits + error.free + error.evictable]
            handle = self.cache.add_sequence(seq_id, fitting if len(fitting) else None)
        self.overflow_requests += 1
        self.overflow_blocks += len(hashes) - len(fitting)
        return handle

    def result(self) -> ReplayRun:
        """Sum up after `drive`."""
        trace, stats = self.trace, self.cache.stats
        num_hits = np.array(self._hits, np.int64) // trace.block_size
        tokens_before = np.concatenate((np.zeros(1, np.int64), np.cumsum(trace.weights)))
        begins = trace.starts[:-1]
        hit_tokens = int((tokens_before[begins + num_hits] - tokens_before[begins]).sum())
        hit_blocks = int(num_hits.sum())
        return ReplayRun(
            policy=self.policy,
            capacity=self.capacity,
            running=self.running,
            hit_blocks=hit_blocks,
            hit_tokens=hit_tokens,
            inserts=stats.total_allocations,
            evictions=stats.evictions,
            overflow_requests=self.overflow_requests,
            overflow_blocks=self.overflow_blocks,
            hit_ratio_tokens=round(hit_tokens / trace.total_tokens, 6),
            hit_ratio_blocks=round(hit_blocks / trace.total_blocks, 6),
            engine_seconds=round(self.seconds, 6),
            block_refs_per_second=round(trace.total_blocks / self.seconds, 1),
        )
