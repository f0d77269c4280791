"""Planning and committing steps: what a scheduler calls all the time."""

import time

import numpy as np

from nbkv.bench.timing import busy_thread, flush_caches
from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig
from nbkv.plan import StepBuffers

BLOCK_SIZE = 16
CONTEXT = 2_048
SETUP_BATCH = 64
VOCABULARY = 2**17


class Stepping:
    """A batch of decoding sequences at `CONTEXT` tokens each, and what a step takes.

    Parameters
    ----------
    num_sequences : int
    staggered : bool
        Spread the sequences over their blocks, so that one in `BLOCK_SIZE` opens a new one
        in each step; else they all do in the same.
    """

    def __init__(self, num_sequences: int, staggered: bool = False) -> None:
        blocks_each = CONTEXT // BLOCK_SIZE + 4
        self.cache = PagedKVCache(
            CacheConfig(
                BLOCK_SIZE,
                num_sequences * blocks_each,
                num_layers=1,
                num_kv_heads=1,
                head_dim=1,
                max_sequences=num_sequences,
                max_blocks_per_sequence=blocks_each,
            )
        )
        self.num_sequences = num_sequences
        self.rng = np.random.default_rng(2)
        self.lengths = np.full(num_sequences, CONTEXT, np.int32)
        if staggered:
            self.lengths += np.arange(num_sequences, dtype=np.int32) % BLOCK_SIZE
        handles = [self.cache.admit(i, ())[0] for i in range(num_sequences)]
        self.handles = np.array(handles, np.int64)
        prompts = StepBuffers.for_cache(self.cache, SETUP_BATCH * (CONTEXT + BLOCK_SIZE))
        for first in range(0, num_sequences, SETUP_BATCH):
            chosen = slice(first, first + SETUP_BATCH)
            plan = self.cache.plan(self.handles[chosen], self.lengths[chosen], out=prompts)
            self.cache.commit(plan, tokens=self.some_tokens(plan.num_tokens))
        self.ones = np.ones(num_sequences, np.int32)
        self.tokens = self.some_tokens(num_sequences)
        self.buffers = StepBuffers.for_cache(self.cache)

    def some_tokens(self, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        """Make token ids."""
        return self.rng.integers(0, VOCABULARY, count, dtype=np.int32)

    def rewind(self) -> None:
        """Bring every sequence back to where it began."""
        for seq_id, length in enumerate(self.lengths.tolist()):
            self.cache.truncate(seq_id, length)

    def plan_seconds(self, num_steps: int, cold: bool = False) -> list[float]:
        """Time the plans of some steps, committing in between; then rewind."""
        clock, seconds = time.perf_counter, []
        for _ in range(num_steps):
            if cold:
                flush_caches()
            began = clock()
            plan = self.cache.plan(self.handles, self.ones, out=self.buffers)
            seconds.append(clock() - began)
            self.cache.commit(plan, tokens=self.tokens)
        self.rewind()
        return seconds

    def step_seconds(self, num_steps: int) -> list[float]:
        """Time steps that commit tokens and plan the next; then rewind."""
        clock, seconds = time.perf_counter, []
        plan = self.cache.plan(self.handles, self.ones, out=self.buffers)
        for _ in range(num_steps):
            began = clock()
            plan = self.cache.step(self.handles, self.ones, tokens=self.tokens, out=self.buffers)
            seconds.append(clock() - began)
        self.cache.commit(plan, tokens=self.tokens)
        self.rewind()
        return seconds

    def nanoseconds(self, seconds: float) -> float:
        """Convert a step's seconds to nanoseconds a sequence."""
        return seconds / self.num_sequences * 1e9


def plan_nanoseconds(num_sequences: int, kind: str, rounds: int) -> float:
    """Time a decode plan, its call included; best of rounds, nanoseconds a sequence.

    Parameters
    ----------
    num_sequences : int
    kind : str
        ``open``: no sequence needs a block; ``opening``: one in sixteen does; ``cold``: as
        ``open``, with the processor's caches flushed before each plan.
    rounds : int
    """
    batch = Stepping(num_sequences, staggered=kind == "opening")
    if kind == "opening":
        best = min(min(batch.plan_seconds(BLOCK_SIZE)) for _ in range(rounds))
    else:
        # The first plan after a rewind opens a block each, the last one fills it.
        times = (batch.plan_seconds(BLOCK_SIZE, kind == "cold")[1:-1] for _ in range(rounds))
        best = min(min(seconds) for seconds in times)
    return batch.nanoseconds(best)


def step_nanoseconds(num_sequences: int, rounds: int) -> float:
    """Time `step`, staggered, so that each indexes one block in sixteen; best of rounds."""
    batch = Stepping(num_sequences, staggered=True)
    return batch.nanoseconds(min(min(batch.step_seconds(2 * BLOCK_SIZE)) for _ in range(rounds)))


class Prompts:
    """One long prompt after the other through an own cache: match, admit, plan, commit."""

    def __init__(self, num_blocks: int = 40_000, longest: int = 100_000) -> None:
        self.cache = PagedKVCache(
            CacheConfig(
                BLOCK_SIZE,
                num_blocks,
                num_layers=1,
                num_kv_heads=1,
                head_dim=1,
                max_sequences=16,
                max_blocks_per_sequence=longest // BLOCK_SIZE,
            )
        )
        self.rng = np.random.default_rng(3)
        self.buffers = StepBuffers.for_cache(self.cache, longest)
        self.next_id = 0
        self.batch = np.empty(1, np.int64)

    def fresh(self, num_tokens: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        """Make a prompt that nothing cached begins like."""
        return self.rng.integers(0, VOCABULARY, num_tokens, dtype=np.int32)

    def run(self, prompt: "np.ndarray[tuple[int], np.dtype[np.int32]]") -> tuple[float, float]:
        """Admit, plan, commit and finish; seconds of admit and plan, and of commit."""
        cache, clock = self.cache, time.perf_counter
        self.next_id += 1
        batch = self.batch
        began = clock()
        batch[0], num_hit = cache.admit(self.next_id, prompt)
        plan = cache.plan(batch, len(prompt) - num_hit, out=self.buffers)
        planned = clock()
        cache.commit(plan, tokens=prompt[num_hit:])
        committed = clock()
        cache.finish(batch)
        return planned - began, committed - planned

    def prefill(self, num_tokens: int, rounds: int) -> tuple[float, float]:
        """Best seconds of admit and plan, and of commit, for uncached prompts in free blocks."""
        times = []
        for _ in range(rounds):
            times.append(self.run(self.fresh(num_tokens)))
            self.cache.reset_prefix_cache()
        return min(t[0] for t in times), min(t[1] for t in times)

    def whole_prefill(self, num_tokens: int, rounds: int) -> float:
        """Best seconds of all three together."""
        return min(sum(self.run(self.fresh(num_tokens))) for _ in range(rounds))

    def match(self, num_tokens: int, rounds: int, cached: bool = True, cold: bool = False) -> float:
        """Best seconds of `match_prefix`."""
        prompt = self.fresh(num_tokens)
        if cached:
            self.run(prompt)
        clock, best = time.perf_counter, float("inf")
        for _ in range(rounds):
            if cold:
                flush_caches()
            began = clock()
            self.cache.match_prefix(prompt)
            best = min(best, clock() - began)
        return best


class Crowded:
    """Steps at 99 % occupancy: sequences end and begin, blocks are evicted all the time.

    Parameters
    ----------
    num_sequences : int
    """

    def __init__(self, num_sequences: int = 1_024) -> None:
        self.num_sequences = num_sequences
        self.length = 4 * BLOCK_SIZE
        # Of any age: half of their longest on the average, and half a block.
        num_held = num_sequences * (self.length // BLOCK_SIZE + 1) // 2
        self.cache = PagedKVCache(
            CacheConfig(
                BLOCK_SIZE,
                int(num_held * 1.01) + num_sequences // BLOCK_SIZE,
                num_layers=1,
                num_kv_heads=1,
                head_dim=1,
                max_sequences=num_sequences,
                max_blocks_per_sequence=8,
            )
        )
        self.rng = np.random.default_rng(4)
        self.next_id = 0
        self.buffers = StepBuffers.for_cache(self.cache)
        self.handles = np.array([self._begin() for _ in range(num_sequences)], np.int64)
        self.ones = np.ones(num_sequences, np.int32)
        # Spread over their lives, so that each step ends and begins the same number.
        ages = np.arange(num_sequences, dtype=np.int32) % self.length
        prompts = StepBuffers.for_cache(self.cache, num_sequences * self.length)
        plan = self.cache.plan(self.handles, ages, out=prompts)
        self.cache.commit(plan, tokens=self._tokens(plan.num_tokens))
        self.ages = ages.astype(np.int64)

    def _begin(self) -> int:
        self.next_id += 1
        return self.cache.admit(self.next_id, ())[0]

    def _tokens(self, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        return self.rng.integers(0, VOCABULARY, count, dtype=np.int32)

    def step_seconds(self, num_steps: int) -> list[float]:
        """Time each of some steps; the turnover of sequences is not timed."""
        clock, seconds = time.perf_counter, []
        tokens = self._tokens(self.num_sequences)
        plan = self.cache.plan(self.handles, self.ones, out=self.buffers)
        for _ in range(num_steps):
            self.ages += 1
            began = clock()
            plan = self.cache.step(self.handles, self.ones, tokens=tokens, out=self.buffers)
            seconds.append(clock() - began)
            self._turn_over()
        self.cache.commit(plan, tokens=tokens)
        return seconds

    def _turn_over(self) -> None:
        """Let those that are done make room for new ones."""
        done = np.flatnonzero(self.ages >= self.length - 1)
        if len(done):
            self.cache.finish(self.handles[done])
            for i in done.tolist():
                self.handles[i] = self._begin()
            self.ages[done] = 0


def crowded_ratios(num_steps: int) -> tuple[float, float, float]:
    """Measure steps at 99 % occupancy: p50 in us, p99 over p50 alone, and beside a busy thread."""
    crowd = Crowded()
    crowd.step_seconds(200)
    alone = np.array(crowd.step_seconds(num_steps))
    with busy_thread():
        beside = np.array(crowd.step_seconds(num_steps))
    median = float(np.median(alone))
    return (
        median * 1e6,
        float(np.percentile(alone, 99)) / median,
        float(np.percentile(beside, 99)) / median,
    )
