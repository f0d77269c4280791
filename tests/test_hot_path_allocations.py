"""A decode loop of many steps: neither Python nor compiled code keeps or gathers memory."""

import gc
import sys
import tracemalloc

import numpy as np
import pytest
from support import INTERPRETED, compiled_allocations, make_cache

import nbkv

BATCH, BLOCK_SIZE, NUM_BLOCKS = 8, 4, 96
LONGEST = 40  # tokens of a sequence when it ends and another one begins
ROUND = 100
NUM_STEPS = 1_000 if INTERPRETED else 10_000

compiled_only = pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel is Python itself")


class Loop:
    """Sequences that grow by a token a step, commit with ids, end, and begin anew."""

    def __init__(self) -> None:
        self.cache = make_cache(NUM_BLOCKS, BLOCK_SIZE, max_sequences=BATCH)
        self.buffers = nbkv.StepBuffers.for_cache(self.cache, BATCH)
        self.handles = np.array([self.cache.admit(i, [])[0] for i in range(BATCH)])
        self.counts = np.ones(BATCH, np.int32)
        self.tokens = np.zeros(BATCH, np.int32)
        self.next_id = BATCH
        # Sequences of different ages, so that in each step some of them open a block.
        for i in range(BATCH):
            plan = self.cache.plan(self.handles[i : i + 1], 5 * i + 1, out=self.buffers_for(40))
            self.cache.commit(plan, tokens=np.full(5 * i + 1, i, np.int32))
        self.ages = np.arange(BATCH) * 5 + 1

    def buffers_for(self, num_tokens: int) -> nbkv.StepBuffers:
        return nbkv.StepBuffers.for_cache(self.cache, num_tokens)

    def step(self) -> None:
        """Commit the tokens of the step before and plan one more of each sequence."""
        cache = self.cache
        cache.step(self.handles, self.counts, None, self.tokens, out=self.buffers)
        self.ages += 1
        self.tokens += 7
        self.tokens %= 1_009

    def end_the_oldest(self) -> None:
        """Finish sequences that are long enough; their blocks stay cached until evicted."""
        for i in np.flatnonzero(self.ages >= LONGEST).tolist():
            self.cache.finish(self.handles[i : i + 1])
            self.handles[i] = self.cache.admit(self.next_id, [])[0]
            self.next_id += 1
            self.ages[i] = 0

    def run(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step()
            self.end_the_oldest()


@pytest.fixture
def loop() -> Loop:
    loop = Loop()
    loop.run(3 * LONGEST)  # all blocks in use, evicting has begun
    return loop


def counted(loop: Loop) -> tuple[int, int, int]:
    stats = loop.cache.stats
    return stats.total_allocations, stats.total_deallocations, stats.evictions


def test_the_loop_turns_blocks_over_and_indexes_them(loop):
    before = counted(loop)
    num_indexed = np.count_nonzero(loop.cache.block_keys["num_keyed_tokens"])
    loop.run(NUM_STEPS)
    for now, then in zip(counted(loop), before, strict=True):
        assert now - then > NUM_STEPS  # 8 tokens a step, 4 a block
    assert num_indexed > 0
    assert loop.buffers.plan.step_id > NUM_STEPS


@compiled_only
def test_python_keeps_nothing_of_a_step(loop):
    gc.collect()
    gc.disable()
    try:
        # A collection empties Python's free lists; until they are full again they grow.
        loop.run(20 * ROUND)
        before = sys.getallocatedblocks()
        loop.run(NUM_STEPS)
        grown = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    # Measured: 1. A leak would be a block a step.
    assert grown < 10


@compiled_only
def test_a_step_takes_little_memory_for_a_moment_and_gives_it_back(loop):
    tracemalloc.start()
    try:
        loop.run(ROUND)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(NUM_STEPS // ROUND):
            loop.run(ROUND)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 512
    # Arguments, views and ints of one call, whatever the number of steps.
    assert peak - before < 4_096


@compiled_only
def test_compiled_code_allocates_nothing_not_even_for_its_arguments(loop):
    with compiled_allocations() as so_far:
        seen = set()
        for _ in range(NUM_STEPS):
            before = so_far()
            loop.step()
            seen.add(tuple(now - then for now, then in zip(so_far(), before, strict=True)))
            loop.end_the_oldest()
    # Numba would make an object for each of the call's nine arrays; they are borrowed instead.
    assert seen == {(0, 0, 0, 0)}
