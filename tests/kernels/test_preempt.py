"""Preemption: who goes, in which order, and who is spared."""

from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv


def filled(cache: nbkv.PagedKVCache, *lengths: int) -> "np.ndarray[Any, Any]":
    """Open sequences 1, 2 ... with so many tokens, each beginning like no other."""
    return handles(*(compute(cache, i, [i] * n)[0] for i, n in enumerate(lengths, 1)))


def gone(plan: nbkv.StepPlan) -> list[int]:
    return plan.preempted["seq_id"].tolist()


def test_the_latest_goes_first_and_no_more_than_needed() -> None:
    cache = make_cache(6, 2)
    batch = filled(cache, 4, 4, 4)
    plan = cache.plan(batch[:1], 3, on_exhaustion="preempt", victims=batch[1:])
    assert (gone(plan), plan.survivors.tolist()) == ([3], [0])
    # Its tail goes before its head, and the head is needed as well.
    assert plan.evicted["block"].tolist() == [5, 4]
    assert sorted(table(cache, 1)) == [0, 1, 4, 5]
    assert 2 in cache
    assert cache.stats.evictions == 2
    assert_intact(cache)


def test_preempted_sequences_are_reported_with_what_readmission_takes() -> None:
    cache = make_cache(4, 2)
    batch = filled(cache, 4, 4)
    arrival = int(cache.sequences["arrival"][1])
    plan = cache.plan(batch[:1], 1, on_exhaustion="preempt", victims=batch[1:])
    assert plan.preempted.tolist() == [(2, int(batch[1]), arrival, 4)]
    cache.commit(plan)
    # Its first block is still cached.
    handle, hits = cache.admit(2, [2, 2, 2, 2], arrival=arrival)
    assert hits == 2
    assert cache.sequences["arrival"][handle & 0xFFFFFFFF] == arrival
    with pytest.raises(nbkv.StaleHandleError):
        cache.pin(int(batch[1]))


@pytest.mark.parametrize(("rank", "victim"), [((0, 5, 1), 2), ((0, 1, 5), 3), ((0, 4, 4), 3)])
def test_the_highest_rank_goes_first_and_the_later_of_equals(
    rank: tuple[int, ...], victim: int
) -> None:
    cache = make_cache(6, 2)
    batch = filled(cache, 4, 4, 4)
    ranks = np.array(rank, np.int64)
    plan = cache.plan(batch[:1], 1, on_exhaustion="preempt", victims=batch[1:], rank=ranks)
    assert gone(plan) == [victim]


def test_who_stands_before_all_others_goes_itself() -> None:
    cache = make_cache(4, 2)
    batch = filled(cache, 4, 4)
    plan = cache.plan(batch, int32(0, 1), on_exhaustion="preempt")
    assert (gone(plan), plan.survivors.tolist()) == ([2], [0])
    plan_of_nobody = cache.step(batch[:1], 1, on_exhaustion="preempt")
    assert gone(plan_of_nobody) == []
    assert plan_of_nobody.slot_mapping.size == 1


def test_who_shares_all_its_blocks_gives_nothing_and_stays() -> None:
    cache = make_cache(4, 2)
    batch = filled(cache, 4, 4)
    cache.fork(2, 3)
    latest = cache.handle(3)
    plan = cache.plan(batch[:1], 3, on_exhaustion="preempt", victims=handles(int(batch[1]), latest))
    # Either leaves the other one's references: the needer goes itself.
    assert gone(plan) == [1]
    assert (2 in cache, 3 in cache) == (True, True)
    assert table(cache, 3) == table(cache, 2) == [2, 3]
    assert_intact(cache)


def test_pinned_blocks_are_nothing_gained() -> None:
    cache = make_cache(6, 2)
    batch = filled(cache, 4, 4, 4)
    cache.pin(int(batch[2]))
    plan = cache.plan(batch[:1], 1, on_exhaustion="preempt", victims=batch[1:])
    assert gone(plan) == [2]


def test_nobody_is_preempted_in_vain() -> None:
    cache = make_cache(6, 2)
    batch = filled(cache, 4, 4, 4)
    cache.pin(int(batch[1]))
    # The third alone would give two blocks, and three are needed.
    plan = cache.plan(batch[:1], 6, on_exhaustion="preempt", victims=batch[1:])
    assert gone(plan) == [1]
    assert (table(cache, 2), table(cache, 3)) == ([2, 3], [4, 5])
    assert_intact(cache)


def test_a_victim_planned_before_gives_back_what_it_was_granted() -> None:
    cache = make_cache(4, 2)
    batch = filled(cache, 2, 2)
    # By rank the first goes before the second, which needs what the first was to get.
    ranks = np.array([9, 1], np.int64)
    plan = cache.plan(batch, int32(4, 4), on_exhaustion="preempt", rank=ranks)
    assert (gone(plan), plan.survivors.tolist()) == ([1], [1])
    assert plan.slot_mapping.tolist() == [4, 5, 6, 7]


def test_behind_the_fence_nothing_is_gained_and_needers_are_deferred() -> None:
    cache = make_cache(4, 2, run_ahead=True)
    batch = filled(cache, 4, 4)
    first = cache.plan(batch, 0)
    plan = cache.plan(batch, int32(0, 1), on_exhaustion="preempt")
    assert (gone(plan), plan.deferred.tolist(), plan.survivors.tolist()) == ([], [1], [0])
    for step in (first, plan):
        cache.commit(step)
        cache.complete(step.step_id)
    plan = cache.plan(batch, int32(0, 1), on_exhaustion="preempt")
    assert (gone(plan), plan.deferred.tolist()) == ([2], [])


def test_more_than_the_pool_has_is_an_error_with_numbers() -> None:
    cache = make_cache(4, 2)
    batch = filled(cache, 4, 2)
    before = cache.state_bytes()
    with pytest.raises(nbkv.OutOfBlocksError, match=r"needed 3 blocks, but only 1 free \+ 0"):
        cache.plan(batch, int32(5, 0), on_exhaustion="preempt")
    assert (cache.state_bytes() == before).all()
    assert hit_blocks(cache, [1, 1, 1, 1]) == 2


def test_one_may_go_for_what_it_was_granted_and_another_be_deferred() -> None:
    cache = make_cache(4, 2, run_ahead=True)
    batch = filled(cache, 2, 2, 2)
    cache.plan(batch, 0)
    # One block is left and nothing else past the fence. The first gets it and, by its rank,
    # gives it up to the second; before the third nobody stands who has any.
    ranks = np.array([9, 1, 2], np.int64)
    plan = cache.plan(batch, 1, on_exhaustion="preempt", rank=ranks)
    assert (gone(plan), plan.survivors.tolist(), plan.deferred.tolist()) == ([1], [1], [2])
    assert plan.slot_mapping.tolist() == [6]
    assert (cache.num_fenced_blocks, table(cache, 3)) == (1, [2])
    assert_intact(cache)
