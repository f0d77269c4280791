"""Planning: which slots and blocks each entry gets, and what the buffers cannot take."""

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, handles, int32, table
from support import make_cache

import nbkv


def admitted(cache: nbkv.PagedKVCache, count: int, first: int = 1) -> "np.ndarray":
    return handles(*(cache.admit(first + i, [])[0] for i in range(count)))


def test_a_large_batch_gets_its_blocks_in_its_order() -> None:
    cache = make_cache(64, 2)
    batch = admitted(cache, 30)[::-1].copy()
    plan = cache.plan(batch, 1)
    # The last admitted stands first and takes the first block.
    assert plan.slot_mapping.tolist() == list(range(0, 60, 2))
    assert plan.table_changes[:, 1].tolist() == list(range(29, -1, -1))
    assert plan.survivors.tolist() == list(range(30))
    cache.commit(plan)
    assert cache.plan(batch, 1).slot_mapping.tolist() == list(range(1, 61, 2))


def test_chunks_and_single_tokens_and_nothing_share_a_plan() -> None:
    cache = make_cache(16, 4)
    batch = admitted(cache, 4)
    plan = cache.plan(batch, int32(6, 0, 1, 4), lookahead=1)
    assert plan.slot_mapping.tolist() == [0, 1, 2, 3, 4, 5, 12, 16, 17, 18, 19]
    assert plan.seq_lens.tolist() == [6, 0, 1, 4]
    assert plan.entries["start"].tolist() == [0, 0, 0, 0]
    # The second has a block for the token ahead, the last one behind its full block.
    assert [table(cache, s) for s in (1, 2, 3, 4)] == [[0, 1], [2], [3], [4, 5]]


def test_stop_plans_the_longest_prefix_of_the_batch() -> None:
    cache = make_cache(4, 2)
    batch = admitted(cache, 4)
    plan = cache.plan(batch, int32(4, 4, 1, 1), on_exhaustion="stop")
    assert plan.survivors.tolist() == [0, 1]
    assert plan.slot_mapping.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    cache.commit(plan)
    # Nothing fits: an empty step, which is one all the same.
    plan = cache.plan(batch[2:], 1, on_exhaustion="stop")
    assert (plan.num_entries, plan.step_id, plan.is_outstanding) == (0, 2, True)
    assert cache.commit(plan).table_changes.size == 0
    assert_intact(cache)


def test_stop_counts_a_shared_tails_copies_as_the_prefix_needs_them() -> None:
    cache = make_cache(3, 4)
    compute(cache, 1, [1, 2])
    cache.fork(1, 2)
    cache.fork(1, 3)
    cache.admit(4, [])
    # All that hold the tail but the last copy it: two blocks for three, none left for the 4th.
    batch = np.array([1, 2, 3, 4], np.uint64)
    plan = cache.plan(batch, 1, on_exhaustion="stop")
    assert plan.survivors.tolist() == [0, 1, 2]
    assert plan.copies.tolist() == [[0, 0, 1, 2], [0, 0, 2, 2]]
    assert plan.slot_mapping.tolist() == [6, 10, 2]


def test_a_batch_of_nobody_is_a_step() -> None:
    cache = make_cache(4, 2)
    plan = cache.plan(handles(), 5)
    assert (plan.step_id, plan.num_entries, plan.num_tokens) == (1, 0, 0)
    cache.commit(plan, int32(), int32())


def test_a_plan_counts_what_was_planned_before_it() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    (handle,) = admitted(cache, 1)
    cache.plan(handles(handle), 3)
    plan = cache.plan(handles(handle), 2)
    assert (plan.entries["start"].tolist(), plan.slot_mapping.tolist()) == ([3], [3, 4])
    assert plan.table_changes.tolist() == [[0, 0, 2, 2]]
    assert cache.sequences["num_committed"][0] == 0


class TestBuffers:
    """What does not fit into a plan's buffers is refused before anything changes."""

    def refused(
        self, cache: nbkv.PagedKVCache, out: nbkv.StepBuffers, message: str, *batch: object
    ) -> None:
        state, data = cache.state_bytes(), out.data.copy()
        with pytest.raises(nbkv.ArgumentError, match=message):
            cache.plan(*batch, out=out)
        assert (cache.state_bytes() == state).all()
        assert (out.data == data).all()

    def test_too_many_slots(self) -> None:
        cache = make_cache(64, 2)
        out = nbkv.StepBuffers.for_cache(cache, 8)
        batch = admitted(cache, 2)
        room = out.plan._sections["slots"].size
        self.refused(cache, out, rf"out is .*{2 * room} rows.*max_tokens", batch, room)
        message = rf"out is .*{room + 1} rows.*max_tokens"
        self.refused(cache, out, message, batch, int32(room, 1))
        assert cache.plan(batch, room // 2, out=out).num_tokens == room

    def test_too_many_blocks(self) -> None:
        cache = make_cache(64, 2, max_sequences=1)
        out = nbkv.StepBuffers.for_cache(cache, 2)
        batch = admitted(cache, 1)
        room = out.plan._sections["changes"].size // 4
        message = rf"out is .*{room + 1} rows"
        state = cache.state_bytes()
        with pytest.raises(nbkv.ArgumentError, match=message):
            cache.plan(batch, 1, lookahead=2 * room, out=out)
        assert (cache.state_bytes() == state).all()
        assert cache.plan(batch, 1, lookahead=2 * room - 1, out=out).table_changes.shape[0] == room

    def test_more_entries_than_the_cache_of_the_buffers_has_rows(self) -> None:
        out = nbkv.StepBuffers.for_cache(make_cache(4, 2, max_sequences=2), 64)
        cache = make_cache(16, 2)
        batch = admitted(cache, 3)
        self.refused(cache, out, r"out is .*3 rows", batch, 1)
        state = cache.state_bytes()
        with pytest.raises(nbkv.ArgumentError, match=r"out is .*3 rows"):
            cache.plan(batch[:2], 1, victims=batch[2:], on_exhaustion="preempt", out=out)
        assert (cache.state_bytes() == state).all()

    def test_a_plan_in_flight_keeps_its_buffers(self) -> None:
        cache = make_cache(16, 2, run_ahead=True)
        out = nbkv.StepBuffers.for_cache(cache, 8)
        batch = admitted(cache, 1)
        plan = cache.plan(batch, 1, out=out)
        state, data = cache.state_bytes(), out.data.copy()
        with pytest.raises(nbkv.StepError, match=r"out is <StepPlan 1.*not committed"):
            cache.plan(batch, 1, out=out)
        assert (cache.state_bytes() == state).all()
        assert (out.data == data).all()
        cache.commit(plan)
        assert cache.plan(batch, 1, out=out).step_id == 2

    def test_a_withdrawn_plan_does_not(self) -> None:
        cache = make_cache(16, 2, run_ahead=True)
        out = nbkv.StepBuffers.for_cache(cache, 8)
        batch = admitted(cache, 1)
        cache.fail(cache.plan(batch, 1, out=out).step_id)
        # Its block went back to the end of the free list.
        assert cache.plan(batch, 1, out=out).slot_mapping.tolist() == [2]

    def test_a_refused_plan_leaves_the_last_one_readable(self) -> None:
        cache = make_cache(2, 2)
        out = nbkv.StepBuffers.for_cache(cache, 64)
        batch = admitted(cache, 3)
        plan = cache.plan(batch, int32(1, 3, 1), on_exhaustion="preempt", out=out)
        assert (plan.survivors.tolist(), plan.preempted["seq_id"].tolist()) == ([0, 2], [2])
        cache.commit(plan)
        state, data = cache.state_bytes(), out.data.copy()
        for mode in ("raise", "preempt"):
            with pytest.raises(nbkv.OutOfBlocksError):
                cache.plan(batch[::2], 5, on_exhaustion=mode, out=out)
            with pytest.raises(nbkv.StaleHandleError, match=r"victims\[0\]"):
                cache.plan(batch[::2], 1, victims=batch[1:2], on_exhaustion=mode, out=out)
            assert (cache.state_bytes() == state).all()
            assert (out.data == data).all()
        assert plan.survivors.tolist() == [0, 2]


def test_the_writers_of_a_plan_are_as_if_each_had_come_alone() -> None:
    whole, single = make_cache(32, 4), make_cache(32, 4)
    counts = [3, 1, 6, 2, 5]
    plan = whole.plan(admitted(whole, 5), int32(*counts))
    slots = []
    for seq_id, count in enumerate(counts, 1):
        step = single.plan(admitted(single, 1, seq_id), count)
        slots += step.slot_mapping.tolist()
        single.commit(step)
    assert plan.slot_mapping.tolist() == slots
