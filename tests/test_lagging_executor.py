"""The executor that runs plans late: what it notices, and that the engine gives it nothing."""

import functools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import executor_mutants
import numpy as np
import pytest
from step_support import handles, int32
from support import make_cache

import nbkv
from nbkv.testing import LaggingExecutor, ScheduleError, SlotError

TESTS = Path(__file__).parent
EVENTS = [
    "plan", "commit", "complete", "admit", "step", "finish", "fork", "truncate", "reorder", "pin",
    "unpin", "fail", "drain", "evict", "register", "attach", "share", "reset", "preempted",
    "evicted", "copied", "skipped",
]  # fmt: skip


def executor_for(cache: nbkv.PagedKVCache, **options: Any) -> LaggingExecutor:
    return LaggingExecutor(cache, **{"lag": 9, "vocabulary": 3} | options)


# --- random schedules -------------------------------------------------------------------
@pytest.mark.parametrize("run_ahead", [True, False])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("dedup", [True, False])
def test_no_read_of_a_random_schedule_sees_a_wrong_slot(
    rng: random.Random, run_ahead: bool, window: int | None, dedup: bool
) -> None:
    fixed = {"run_ahead": run_ahead, "window": window, "dedup": dedup}
    for _ in range(4):
        seed = rng.randrange(2**31)
        print("schedule", seed, fixed)
        executor_mutants.run(seed, fixed, 400)


def test_random_schedules_do_everything(rng: random.Random) -> None:
    counts: Counter[str] = Counter()
    for _ in range(12):
        seed = rng.randrange(2**31)
        print("schedule", seed)
        counts += executor_mutants.run(seed, {"run_ahead": True, "block_size": 4}, 400)
    # So rare that it may not happen.
    assert {name for name in EVENTS if not counts[name]} <= {"attach", "reset"}


@pytest.mark.parametrize(
    ("layout", "order", "kv_factor"),
    [("layer_major", "NHD", 2), ("block_major", "HND", 2), ("layer_major", "HND", 1)],
)
def test_pools_of_any_layout_hold_what_they_should(
    rng: random.Random, layout: str, order: str, kv_factor: int
) -> None:
    config = nbkv.CacheConfig(
        2, 12, 3, 1 if kv_factor == 1 else 2, 4, "float32", max_sequences=6, run_ahead=True,
        kv_factor=kv_factor,
    )  # fmt: skip
    cache = nbkv.PagedKVCache(config)
    pool = nbkv.HostPool(config, layout=layout, token_order=order)
    with LaggingExecutor(cache, pool, lag=(0, 4), vocabulary=2) as executor:
        counts = executor_mutants.run_random_schedule(cache, executor, rng, 200)
    assert counts["commit"]
    assert not np.isnan(pool.data).all()


class Careless(nbkv.HostPool):
    """Leaves out the values of the last layer when it copies a part of a block."""

    def copy_partial(self, pairs: Any, num_tokens: Any) -> None:
        kept = self.data[pairs[:, 1], -1, 1].copy()
        super().copy_partial(pairs, num_tokens)
        self.data[pairs[:, 1], -1, 1] = kept


def test_a_pool_that_copies_too_little_is_noticed() -> None:
    config = nbkv.CacheConfig(4, 16, 2, 1, 2, "float32")
    cache = nbkv.PagedKVCache(config)
    executor = LaggingExecutor(cache, Careless(config), lag=0)
    handle, _ = cache.admit(1, int32(1, 2, 3))
    plan = cache.plan(handles(handle), 3)
    cache.commit(plan, tokens=executor.submit(plan))
    cache.fork(1, 2)
    plan = cache.plan(handles(handle, cache.handle(2)), 1)
    assert len(plan.copies) == 1
    with pytest.raises(SlotError, match=r"nothing written .* \(layer 1, V, head 0\)"):
        executor.submit(plan)


# --- several streams --------------------------------------------------------------------
def test_steps_that_only_a_hit_connects_run_in_any_order(rng: random.Random) -> None:
    orders = set()
    for seed in range(40):
        cache = make_cache(16, 4, run_ahead=True, hit_visibility="completed")
        executor = executor_for(cache, seed=seed)
        ids = handles(*(cache.admit(seq_id, int32(1, 2))[0] for seq_id in range(3)))
        executor.submit(cache.plan(ids[:1], 2))
        executor.submit(cache.plan(ids[1:], 2))
        executor.submit(cache.plan(ids[:2], 1))  # after both
        orders.add(tuple(executor.advance() for _ in range(3)))
    assert orders == {(1, 2, 3), (2, 1, 3)}


def test_a_step_may_find_anything_where_its_sequence_has_ended() -> None:
    seen = set()
    for seed in range(40):
        cache = make_cache(16, 4, run_ahead=True, hit_visibility="completed")
        executor = executor_for(cache, seed=seed)
        prompt = int32(*range(8))
        first, _ = cache.admit(1, prompt)
        plan = cache.plan(handles(first), 8)
        cache.commit(plan, tokens=executor.submit(plan))
        executor.wait(plan)
        cache.complete(plan.step_id)
        second, num_hit = cache.admit(2, prompt)
        assert num_hit == 8
        executor.submit(cache.plan(handles(second), 1))  # reads both blocks
        cache.finish(handles(second))
        cache.truncate(1, 6)
        plan = cache.plan(handles(first), 2)
        assert len(plan.copies) == 0
        executor.submit(plan, int32(90, 91))  # writes where the step before may not have read
        seen.add(executor.advance())
        executor.drain()
    assert seen == {2, 3}


# --- mutants ----------------------------------------------------------------------------
@functools.cache
def verdicts() -> dict[str, dict[str, Any]]:
    """Run all mutants in one process whose kernels are interpreted."""
    environment = {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    names = [name for name in executor_mutants.MUTANTS if name != "nothing_removed"]
    seed = int(os.environ.get("NBKV_TEST_SEED", "0")) % 2**20
    process = subprocess.run(
        [sys.executable, str(TESTS / "executor_mutants.py"), str(seed), "200", *names],
        env={k: v for k, v in os.environ.items() if k != "NUMBA_BOUNDSCHECK"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return {row["mutant"]: row for row in map(json.loads, process.stdout.splitlines())}


@pytest.mark.parametrize("mutant", [m for m in executor_mutants.MUTANTS if m != "nothing_removed"])
def test_a_rule_taken_away_is_noticed(mutant: str) -> None:
    verdict = verdicts()[mutant]
    print(verdict)
    assert verdict["caught"]


# --- what it notices --------------------------------------------------------------------
class TestSlots:
    """Slots that somebody spoils by hand."""

    def started(self, **options: Any) -> Any:
        cache = make_cache(8, 4, run_ahead=True)
        executor = executor_for(cache, **options)
        handle, _ = cache.admit(7, int32(1, 2, 3, 4, 5))
        plan = cache.plan(handles(handle), 5)
        executor.submit(plan)
        return cache, executor, handle, plan

    def test_a_word_of_another_token(self) -> None:
        cache, executor, handle, plan = self.started()
        executor.wait(plan)
        executor.pool.data[0, 1, 0, 2] = 5
        executor.submit(cache.plan(handles(handle), 1))
        with pytest.raises(SlotError) as caught:
            executor.advance()
        error = caught.value
        assert (error.step_id, error.seq_id, error.position) == (2, 7, 2)
        assert (error.block_id, error.slot) == (0, 2)
        assert error.found == (
            "what sequence 7 wrote in step 1 as its position 2 (layer 1, K, head 0)"
        )
        assert error.expected == "the tokens of sequence 7 up to position 2"
        assert str(error).startswith("step 2, sequence 7, position 2: reads block 0, slot 2: found")

    def test_a_slot_that_nobody_wrote(self) -> None:
        cache, executor, handle, plan = self.started()
        executor.wait(plan)
        executor.pool.data[1] = np.nan
        executor.submit(cache.plan(handles(handle), 1))
        with pytest.raises(SlotError, match=r"position 4.*nothing written") as caught:
            executor.drain()
        assert caught.value.slot == 4

    def test_a_block_that_can_be_found(self) -> None:
        cache, executor, handle, plan = self.started()
        cache.commit(plan, tokens=executor.wait(plan))
        cache.complete(plan.step_id)
        cache.finish(handles(handle))
        executor.drain()
        executor.pool.data[0, 0, 1, 3] = 0
        with pytest.raises(SlotError, match=r"between steps: looks at block 0, slot 3"):
            executor.drain()

    def test_a_block_that_is_copied_out(self) -> None:
        cache, executor, handle, plan = self.started()
        cache.commit(plan, tokens=executor.wait(plan))
        cache.complete(plan.step_id)
        cache.finish(handles(handle))
        executor.pool.data[0, 0, 1, 3] = 0
        other, _ = cache.admit(8, int32(*range(100, 132)))

        def run() -> None:
            executor.submit(cache.plan(handles(other), 32))  # sooner
            executor.drain()  # or later

        with pytest.raises(SlotError, match=r"step 2: copies out block 0, slot 3"):
            run()

    def test_a_block_under_a_lease(self) -> None:
        cache, executor, handle, plan = self.started()
        cache.commit(plan, tokens=executor.wait(plan))
        lease = cache.pin(handle)
        cache.finish(handles(handle))
        cache.complete(plan.step_id)
        executor.pool.data[1, 0, 0, 0] = 0
        with pytest.raises(SlotError, match=r"sequence 7, position 4: a transfer under a lease"):
            cache.unpin(lease)

    def test_what_a_lease_covers_that_is_not_there_yet_is_read_later(self) -> None:
        cache, executor, handle, plan = self.started()
        cache.commit(plan, tokens=int32(1, 2, 3, 4, 5))
        first, second = cache.pin(handle), cache.pin(handle)
        cache.unpin(first)
        executor.drain()
        executor.pool.data[0] = 0
        with pytest.raises(SlotError):
            cache.unpin(second)


class TestSchedules:
    """Schedulers that tell the cache what is not so."""

    def planned(self, **options: Any) -> Any:
        cache = make_cache(8, 4, run_ahead=True)
        executor = executor_for(cache, **options)
        handle, _ = cache.admit(7, int32(1, 2, 3))
        return cache, executor, cache.plan(handles(handle), 3)

    def test_a_step_completed_that_has_not_run(self) -> None:
        cache, executor, plan = self.planned()
        executor.submit(plan)
        cache.commit(plan, tokens=int32(1, 2, 3))
        before = cache.state_bytes()
        with pytest.raises(ScheduleError, match=r"step 1 is completed; only steps up to 0 have"):
            cache.complete(plan.step_id)
        assert (cache.state_bytes() == before).all()
        assert executor.advance() == 1
        cache.complete(plan.step_id)
        assert executor.advance() == 0

    def test_a_step_committed_that_was_not_submitted(self) -> None:
        cache, _, plan = self.planned()
        with pytest.raises(ScheduleError, match="step 1 is committed; it was not submitted"):
            cache.commit(plan, tokens=int32(1, 2, 3))

    def test_a_step_committed_with_other_tokens(self) -> None:
        cache, executor, plan = self.planned()
        executor.submit(plan)
        message = r"token 9 at position 2 of sequence 7; it wrote keys and values of token 3"
        with pytest.raises(ScheduleError, match=message):
            cache.commit(plan, tokens=int32(1, 2, 9))
        cache.commit(plan, int32(2), int32(1, 2))

    def test_a_step_submitted_twice_or_never(self) -> None:
        cache, executor, plan = self.planned()
        with pytest.raises(ScheduleError, match="step 1 was planned and not submitted"):
            executor.drain()
        second = cache.plan(handles(cache.handle(7)), 1)
        with pytest.raises(ScheduleError, match="step 2 is submitted; step 1 comes next"):
            executor.submit(second)
        with pytest.raises(ScheduleError, match="step 1 is waited for"):
            executor.wait(plan)
        executor.submit(plan)
        executor.submit(second)
        with pytest.raises(ScheduleError, match="step 1 is submitted; no step comes next"):
            executor.submit(plan)

    def test_tokens_that_are_not_one_a_position(self) -> None:
        _, executor, plan = self.planned()
        with pytest.raises(nbkv.ArgumentError, match="tokens has 2 ids; it must have 3"):
            executor.submit(plan, int32(1, 2))
        assert executor.submit(plan).tolist() == [1, 2, 3]

    @pytest.mark.parametrize(
        ("name", "args"),
        [
            ("append", (handles(1), None, None)),
            ("append_token", (7,)),
            ("append_tokens", (handles(1), 1)),
            ("allocate_block", (7,)),
            ("allocate_blocks_for_tokens", (7, 3)),
            ("add_sequence", (8,)),
            ("index", ((), (), ())),
        ],
    )
    def test_calls_that_no_plan_tells_of(self, name: str, args: Any) -> None:
        cache, *_ = self.planned()
        with pytest.raises(ScheduleError, match=f"{name} makes slots or content"):
            getattr(cache, name)(*args)


class TestUse:
    """How it is made, and how it follows."""

    def test_a_cache_in_use_is_refused(self) -> None:
        cache = make_cache(8, 4)
        cache.admit(1, int32(1))
        with pytest.raises(nbkv.ArgumentError, match="cache is in use"):
            LaggingExecutor(cache)

    def test_one_executor_follows_a_cache(self) -> None:
        cache = make_cache(8, 4)
        with LaggingExecutor(cache), pytest.raises(nbkv.ArgumentError, match="another executor"):
            LaggingExecutor(cache)
        assert cache.append_token(1) == 0  # nobody follows any more

    def test_a_pool_that_does_not_suit_is_refused(self) -> None:
        config = nbkv.CacheConfig(4, 9, 1, 1, 8, "float32")
        with pytest.raises(nbkv.ArgumentError, match="pool has 9 blocks of 4 tokens; it must"):
            LaggingExecutor(make_cache(8, 4), nbkv.HostPool(config))
        half = nbkv.CacheConfig(4, 8, 1, 1, 8, "float16")
        with pytest.raises(nbkv.ArgumentError, match="pool has words of float16"):
            LaggingExecutor(make_cache(8, 4), nbkv.HostPool(half))

    def test_something_else_than_a_cache_is_refused(self) -> None:
        with pytest.raises(TypeError, match="cache is 3; it must be"):
            LaggingExecutor(3)

    def test_so_many_steps_wait(self) -> None:
        cache = make_cache(8, 4, run_ahead=True)
        executor = executor_for(cache, lag=2)
        handle, _ = cache.admit(7, ())
        waiting = []
        for _ in range(4):
            executor.submit(cache.plan(handles(handle), 1))
            waiting.append((executor.num_waiting, executor.executed_step))
        assert waiting == [(1, 0), (2, 0), (2, 1), (2, 2)]

    def test_equal_tokens_are_followed_by_equal_tokens(self) -> None:
        cache = make_cache(16, 4)
        with executor_for(cache, vocabulary=1000) as executor:
            ids = [cache.admit(seq_id, int32(5, 6))[0] for seq_id in (1, 2)]
            tokens = executor.submit(cache.plan(handles(*ids), 4)).reshape(2, 4)
        assert tokens[0].tolist() == tokens[1].tolist()
        assert tokens[0, :2].tolist() == [5, 6]
        assert (tokens >= 0).all()
        assert (tokens < 1000).all()

    def test_after_an_error_nothing_is_run_any_more(self) -> None:
        cache = make_cache(8, 4)
        executor = executor_for(cache)
        handle, _ = cache.admit(7, int32(1))
        executor.submit(cache.plan(handles(handle), 1))
        with pytest.raises(KeyError), executor:
            raise KeyError
        assert executor.num_waiting == 1

    def test_a_failed_step_leaves_nothing_in_its_slots(self) -> None:
        cache = make_cache(8, 4, run_ahead=True)
        executor = executor_for(cache)
        handle, _ = cache.admit(7, ())
        first, second = cache.plan(handles(handle), 2), cache.plan(handles(handle), 2)
        executor.submit(first)
        executor.submit(second)
        executor.wait(second)
        assert not np.isnan(executor.pool.data[0]).any()
        cache.commit(first, tokens=executor.wait(first))
        cache.fail(second.step_id)
        assert np.isnan(executor.pool.data[0]).any(axis=(0, 1, 3, 4)).tolist() == [0, 0, 1, 1]
        executor.submit(cache.plan(handles(handle), 2))
        executor.drain()
