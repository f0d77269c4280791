"""Committing: what is recorded, kept, dropped and skipped, entry by entry."""

from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from step_support import handles, hit_blocks, int32, table
from support import make_cache

import nbkv


def admitted(cache: nbkv.PagedKVCache, count: int) -> "np.ndarray[Any, Any]":
    return handles(*(cache.admit(i, [])[0] for i in range(1, count + 1)))


def test_each_entry_of_a_large_batch_gets_its_own_tokens() -> None:
    cache = make_cache(64, 2)
    batch = admitted(cache, 20)
    plan = cache.plan(batch, 2)
    cache.commit(plan, tokens=np.arange(40, dtype=np.int32))
    assert [hit_blocks(cache, [2 * i, 2 * i + 1]) for i in range(20)] == [1] * 20
    assert [table(cache, i + 1) for i in range(20)] == [[i] for i in range(20)]


def test_a_rejection_within_the_tail_keeps_writing_there() -> None:
    cache = make_cache(8, 4)
    batch = admitted(cache, 1)
    cache.commit(cache.plan(batch, 3), int32(1), int32(5))
    plan = cache.plan(batch, 1)
    assert plan.slot_mapping.tolist() == [1]
    assert plan.entries["start"].tolist() == [1]


def test_a_rejection_over_block_ends_keeps_the_blocks() -> None:
    cache = make_cache(8, 2)
    batch = admitted(cache, 2)
    plan = cache.plan(batch, int32(5, 1))
    cache.commit(plan, int32(1, 1), int32(7, 8))
    assert table(cache, 1) == [0, 1, 2]
    assert cache.blocks["num_tokens"][:3].tolist() == [1, 0, 0]
    plan = cache.plan(batch, int32(4, 0))
    assert (plan.slot_mapping.tolist(), plan.table_changes.size) == ([1, 2, 3, 4], 0)
    cache.commit(plan, tokens=int32(8, 9, 9, 1))
    assert hit_blocks(cache, [7, 8, 9, 9, 1]) == 2
    assert_intact(cache)


def test_tokens_without_ids_end_indexing_until_they_are_cut() -> None:
    cache = make_cache(8, 2)
    (handle,) = batch = admitted(cache, 1)
    cache.commit(cache.plan(batch, 2), tokens=int32(1, 2))
    cache.commit(cache.plan(batch, 1))
    cache.commit(cache.plan(batch, 1), tokens=int32(4))
    assert cache.sequences["num_known"][handle & 0xFFFFFFFF] == 2
    assert hit_blocks(cache, [1, 2, 3, 4]) == 1
    cache.truncate(1, 2)
    cache.commit(cache.plan(batch, 2), tokens=int32(3, 4))
    assert hit_blocks(cache, [1, 2, 3, 4]) == 2


def test_who_has_gone_is_skipped_with_its_tokens() -> None:
    cache = make_cache(16, 2, run_ahead=True)
    batch = admitted(cache, 4)
    plan = cache.plan(batch, 2)
    cache.finish(batch[:1])
    cache.admit(9, [])  # takes the row of the first
    cache.truncate(2, 0)
    cache.reorder(batch[2:], int32(1, 1))
    report = cache.commit(plan, tokens=int32(1, 1, 2, 2, 3, 3, 4, 4))
    assert report.skipped.tolist() == [0, 1, 2]
    assert [hit_blocks(cache, [i, i]) for i in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert [cache.num_cached_tokens(i) for i in (9, 2, 3, 4)] == [0, 0, 0, 2]
    assert_intact(cache)


def test_a_report_may_go_into_other_buffers() -> None:
    cache = make_cache(8, 2)
    batch = admitted(cache, 1)
    out = nbkv.StepBuffers.for_cache(cache, 8)
    for tokens in (int32(1, 2), int32(3, 3)):
        plan = cache.plan(batch, 2)
        cache.commit(plan, tokens=tokens)
    cache.admit(2, [])
    plan = cache.plan(np.array([2], np.uint64), 2)
    report = cache.commit(plan, tokens=int32(1, 2), out=out)
    assert report is out.plan
    assert report.table_changes.tolist() == [[0, 1, 0, 0]]
    # And the next plan made there adds its own behind.
    plan = cache.plan(np.array([2], np.uint64), 1, out=out)
    assert plan.table_changes.tolist() == [[0, 1, 0, 0], [0, 1, 1, 3]]


class TestRefusals:
    """Nothing changes, neither in the arena nor in any buffers."""

    def refused(
        self,
        cache: nbkv.PagedKVCache,
        plan: nbkv.StepPlan,
        kind: type[Exception],
        message: str,
        *args: Any,
        **options: Any,
    ) -> None:
        buffers = [plan.buffers.data, *(o.data for o in options.values() if o is not None)]
        state, data = cache.state_bytes(), [b.copy() for b in buffers]
        with pytest.raises(kind, match=message):
            cache.commit(plan, *args, **options)
        assert (cache.state_bytes() == state).all()
        assert all((b == d).all() for b, d in zip(buffers, data, strict=True))

    def test_counts_that_no_plan_had(self) -> None:
        cache = make_cache(8, 2)
        plan = cache.plan(admitted(cache, 2), int32(2, 1))
        bad = nbkv.ArgumentError
        self.refused(cache, plan, bad, r"num_accepted is \[1\]; .*one count an entry", int32(1))
        self.refused(cache, plan, bad, r"num_accepted is \[1, 1, 1\]; ", int32(1, 1, 1))
        self.refused(cache, plan, bad, r"num_accepted is \[2, 2\]; .*\(at 1\)", int32(2, 2))
        self.refused(cache, plan, bad, r"num_accepted is \[-1, 1\]; .*\(at 0\)", int32(-1, 1))
        self.refused(cache, plan, bad, r"tokens has 2 ids; .*have 3", None, int32(1, 2))
        self.refused(cache, plan, bad, r"tokens has 3 ids; .*have 2", int32(1, 1), int32(1, 2, 3))
        assert cache.commit(plan, int32(1, 1), int32(1, 2)).skipped.size == 0

    def test_twice_or_out_of_order(self) -> None:
        cache = make_cache(8, 2, run_ahead=True)
        batch = admitted(cache, 1)
        first, second = cache.plan(batch, 1), cache.plan(batch, 1)
        self.refused(cache, second, nbkv.StepError, r"plan is <StepPlan 2.*1 is next")
        cache.commit(first)
        self.refused(cache, first, nbkv.StepError, r"plan is <StepPlan 1.*2 is next")
        cache.commit(second)
        self.refused(cache, second, nbkv.StepError, r"plan is <StepPlan 2.*3 is next")

    def test_a_plan_whose_buffers_hold_another_one_by_now(self) -> None:
        cache = make_cache(8, 2, run_ahead=True)
        out = nbkv.StepBuffers.for_cache(cache, 8)
        batch = admitted(cache, 1)
        cache.commit(cache.plan(batch, 1, out=out))
        cache.plan(batch, 1)
        plan = cache.plan(batch, 1, out=out)
        self.refused(cache, plan, nbkv.StepError, r"plan is <StepPlan 3.*2 is next")

    def test_withdrawn(self) -> None:
        cache = make_cache(8, 2, run_ahead=True)
        batch = admitted(cache, 1)
        plans = [cache.plan(batch, 1) for _ in range(2)]
        cache.fail(1)
        for plan in plans:
            self.refused(cache, plan, nbkv.StepError, r"3 is next")

    def test_buffers_of_a_later_plan(self) -> None:
        cache = make_cache(8, 2, run_ahead=True)
        batch = admitted(cache, 1)
        first, second = cache.plan(batch, 1), cache.plan(batch, 1)
        message = r"out is <StepPlan 2.*not committed; use buffers of another step"
        self.refused(cache, first, nbkv.StepError, message, out=second.buffers)

    def test_buffers_without_room_for_the_changes(self) -> None:
        cache = make_cache(32, 1)
        small = nbkv.StepBuffers.for_cache(make_cache(32, 1, max_sequences=1), 1)
        batch = admitted(cache, 2)
        plan = cache.plan(batch, int32(4, 4))
        message = r"out is .*no room for 10 rows"
        self.refused(cache, plan, nbkv.ArgumentError, message, out=small)
        # A commit's changes stay until a plan is made there: ten, and room for six.
        assert cache.commit(plan, tokens=int32(*range(8))).table_changes.size == 0

    def test_buffers_without_room_for_more_entries_that_have_gone(self) -> None:
        cache = make_cache(16, 2, max_sequences=2, run_ahead=True)
        batch = admitted(cache, 2)
        plans = [cache.plan(batch, 1) for _ in range(2)]
        out = nbkv.StepBuffers.for_cache(cache, 8)
        cache.finish(batch)
        assert cache.commit(plans[0], out=out).skipped.tolist() == [0, 1]
        # Reports of several commits stand one behind the other: two more do not fit.
        message = r"out is .*no room for 3 rows"
        self.refused(cache, plans[1], nbkv.ArgumentError, message, out=out)
        assert cache.commit(plans[1]).skipped.tolist() == [0, 1]


def test_a_plan_of_another_cache_is_not_committed() -> None:
    cache, other = make_cache(8, 2, max_sequences=2), make_cache(8, 2, max_sequences=8)
    for seq_id in range(8):
        other.admit(seq_id, ())
    handles = np.array([other.handle(seq_id) for seq_id in range(8)])
    plan = other.plan(handles, 1)
    cache.plan(np.array([cache.admit(1, ())[0]]), 1)
    before = cache.state_bytes()
    with pytest.raises(nbkv.StepError, match=r"plan is <StepPlan 1.*a plan of this cache"):
        cache.commit(plan)
    assert (cache.state_bytes() == before).all()
    other.commit(plan)
    assert other.num_cached_tokens(7) == 1
