"""A scheduler that does anything at any time: the worst that a cache may be asked for."""

import random
from collections import Counter, deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.cache import PagedKVCache
from nbkv.errors import KVCacheError
from nbkv.plan import StepBuffers, StepPlan
from nbkv.testing.events import ROW_MASK, Events
from nbkv.testing.executor import LaggingExecutor

#: How often each event happens, relative to the others.
WEIGHTS: Final = {
    "plan": 8.0,
    "commit": 8.0,
    "complete": 4.0,
    "admit": 5.0,
    "step": 2.0,
    "finish": 2.0,
    "fork": 1.8,
    "truncate": 1.0,
    "reorder": 0.6,
    "pin": 0.5,
    "unpin": 0.5,
    "fail": 0.4,
    "drain": 0.4,
    "evict": 0.3,
    "register": 0.8,
    "attach": 0.8,
    "share": 0.8,
    "reset": 0.05,
}
_MODES: Final = ("raise", "stop", "preempt", "preempt")
_MAX_TOKENS: Final = 512


def run_random_schedule(
    cache: PagedKVCache,
    executor: LaggingExecutor,
    rng: random.Random,
    num_events: int,
    weights: dict[str, float] | None = None,
) -> Counter[str]:
    """Drive a cache with random events, every plan run by an executor.

    Prompts that begin alike, chunks, drafts and rejections, aborts, preemptions, forks,
    truncation, beams, failed steps, leases, names, eviction: whatever the configuration
    allows. Refused calls are counted and passed over.

    Parameters
    ----------
    cache : PagedKVCache
    executor : LaggingExecutor
        Of this cache. A small ``vocabulary`` makes sequences meet.
    rng : random.Random
        Decides everything.
    num_events : int
    weights : dict, optional
        Relative frequencies in place of those in `WEIGHTS`, by event.

    Returns
    -------
    collections.Counter
        How often each event happened, and of each ``name refused``.

    Raises
    ------
    SlotError
        A step found a slot with the wrong content: the cache, or the pool, has a defect.

    Examples
    --------
    >>> import random
    >>> from nbkv import CacheConfig, PagedKVCache
    >>> cache = PagedKVCache(CacheConfig(4, 24, 1, 1, 64, max_sequences=8, run_ahead=True))
    >>> with LaggingExecutor(cache, lag=(0, 4), vocabulary=2) as executor:
    ...     counts = run_random_schedule(cache, executor, random.Random(1), 200)
    >>> counts["commit"] > 20
    True
    """
    schedule = _Schedule(cache, executor, rng)
    chances = WEIGHTS | (weights or {})
    names, shares = list(chances), list(chances.values())
    for name in rng.choices(names, shares, k=num_events):
        try:
            schedule.counts[name] += getattr(schedule, name)() is not False
        except KVCacheError:
            schedule.counts[f"{name} refused"] += 1
    return schedule.counts


class _Schedule(Events):
    """The events that make, run, commit and withdraw steps."""

    def __init__(self, cache: PagedKVCache, executor: LaggingExecutor, rng: random.Random) -> None:
        super().__init__(cache, rng)
        self.executor = executor
        self.plans: deque[tuple[StepPlan, npt.NDArray[np.int32]]] = deque()
        self.buffers: list[StepBuffers] = []

    def out(self) -> StepBuffers | None:
        """Give buffers whose plan is committed, or none."""
        if self.buffers and self.rng.random() < 0.7:
            return self.buffers.pop(self.rng.randrange(len(self.buffers)))
        if self.rng.random() < 0.5:
            return StepBuffers.for_cache(self.cache, _MAX_TOKENS)
        return None

    def _batch(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], dict[str, Any]]:
        rng, records = self.rng, self.cache.sequences
        handles = self.some(6)
        counts = []
        for handle in handles.tolist():
            left = self.prompts.get(self.seq_id(handle), 0)
            left -= int(records["num_tokens"][handle & ROW_MASK])
            counts.append(rng.randint(1, left) if left > 0 else rng.choice((1, 1, 1, 2, 4, 0)))
        options: dict[str, Any] = {"on_exhaustion": rng.choice(_MODES), "out": self.out()}
        if rng.random() < 0.2:
            options["lookahead"] = rng.randint(1, self.cache.config.block_size + 1)
        others = [handle for handle in self.alive() if handle not in handles]
        if options["on_exhaustion"] == "preempt" and others and rng.random() < 0.5:
            options["victims"] = np.array(others[:2], np.int64)
        return handles, np.array(counts, np.int32), options

    def _submit(self, plan: StepPlan) -> None:
        self.counts["preempted"] += len(plan.preempted)
        self.counts["evicted"] += len(plan.evicted)
        self.counts["copied"] += len(plan.copies)
        tokens = None
        if self.rng.random() < 0.25:  # otherwise than the last time at these positions
            drawn = [self.rng.randrange(3) for _ in range(plan.num_tokens)]
            tokens = np.array(drawn, np.int32)
        self.plans.append((plan, self.executor.submit(plan, tokens)))

    def plan(self) -> bool:
        """Plan a step of a random batch, unless one must be committed first."""
        if self.plans and not self.cache.config.run_ahead:
            return False
        handles, counts, options = self._batch()
        self._submit(self.cache.plan(handles, counts, **options))
        return True

    def _accept(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Take most of the oldest plan's tokens, sometimes not all."""
        plan, tokens = self.plans[0]
        counts = plan.entries["count"].tolist()
        taken = [n if self.rng.random() < 0.8 else self.rng.randint(0, n) for n in counts]
        ends = np.cumsum(counts).tolist()
        parts = [
            tokens[end - count : end - count + kept]
            for end, count, kept in zip(ends, counts, taken, strict=True)
        ]
        ids = np.concatenate(parts) if parts else tokens
        return np.array(taken, np.int32), ids

    def commit(self) -> bool:
        """Commit the oldest plan with random drafts accepted."""
        if not self.plans:
            return False
        accepted, tokens = self._accept()
        plan = self.plans[0][0]
        report = self.cache.commit(plan, accepted, tokens, out=self._report_buffers())
        self.plans.popleft()
        self.counts["skipped"] += len(report.skipped)
        self.buffers.append(plan.buffers)
        return True

    def _report_buffers(self) -> StepBuffers | None:
        return self.rng.choice(self.buffers) if self.buffers and self.rng.random() < 0.3 else None

    def step(self) -> bool:
        """Commit the oldest plan and plan the next step in one call."""
        if not self.plans:
            return False
        accepted, tokens = self._accept()
        handles, counts, options = self._batch()
        last = self.plans[0][0]
        plan = self.cache.step(handles, counts, accepted, tokens, **options)
        self.plans.popleft()
        if plan.is_outstanding:
            self._submit(plan)
        if last.buffers is not plan.buffers or not plan.is_outstanding:
            self.buffers.append(last.buffers)
        return True

    def complete(self) -> bool:
        """Complete a step that the executor has carried out."""
        executor, header = self.executor, self.cache.header
        if not self.cache.config.run_ahead:
            return False
        if self.rng.random() < 0.5:
            executor.advance()
        step_id = executor.executed_step
        if step_id <= int(header["completed_step"][0]):
            return False
        self.cache.complete(step_id)
        return True

    def fail(self) -> bool:
        """Withdraw a random step that is not complete, and all after it."""
        header = self.cache.header
        first = int(header["completed_step"][0]) + 1
        last = min(int(header["committed_step"][0]) + 1, int(header["num_steps"][0]))
        if first > last:
            return False
        self.cache.fail(self.rng.randint(first, last))
        self.plans.clear()
        return True

    def drain(self) -> None:
        self.executor.drain()
