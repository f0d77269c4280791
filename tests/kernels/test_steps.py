"""Whole steps: one call commits and plans, and refuses before it does either."""

from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv


def two_sequences(cache: nbkv.PagedKVCache) -> "np.ndarray[Any, Any]":
    return handles(cache.admit(1, [])[0], cache.admit(2, [])[0])


def test_a_step_commits_before_it_plans() -> None:
    cache = make_cache(4, 2)
    compute(cache, 1, [1, 2])
    batch = handles(cache.handle(1), cache.admit(2, [])[0])
    plan = cache.plan(batch[1:], 2)
    # The second sequence's block is exchanged for the first one's, and at once used again.
    plan = cache.step(batch, 1, tokens=int32(1, 2))
    assert plan.table_changes.tolist() == [[0, 1, 0, 0], [0, 0, 1, 2], [0, 1, 1, 3]]
    assert (plan.status, plan.slot_mapping.tolist()) == ("ok", [4, 6])
    assert table(cache, 2) == [0, 3]
    assert (plan.step_id, plan.is_outstanding) == (3, True)
    assert_intact(cache)


def test_without_a_plan_outstanding_a_step_only_plans() -> None:
    cache = make_cache(4, 2)
    plan = cache.step(two_sequences(cache), 1)
    assert (plan.step_id, plan.slot_mapping.tolist()) == (1, [0, 2])


@pytest.mark.parametrize(
    ("num_blocks", "count", "lookahead", "status", "missing"),
    [
        (6, 5, 0, "out_of_blocks", 6),
        (64, 2 * 20, 0, "too_long", None),
        (64, 1, 30, "no_room", 32),
    ],
)
def test_what_has_no_room_is_told_after_the_commit(
    num_blocks: int, count: int, lookahead: int, status: str, missing: int | None
) -> None:
    cache = make_cache(num_blocks, 2, max_sequences=2, max_blocks_per_sequence=20)
    batch = two_sequences(cache)
    cache.plan(batch, 2)
    # With four tokens a step these have room for twelve blocks: fewer than are wanted ahead.
    out = nbkv.StepBuffers.for_cache(cache, 4 if status == "no_room" else 128)
    plan = cache.step(batch, count, tokens=int32(1, 2, 3, 4), lookahead=lookahead, out=out)
    assert (plan.status, plan.num_entries, plan.is_outstanding) == (status, 0, False)
    if missing is not None:
        assert plan.num_missing == missing
    assert hit_blocks(cache, [3, 4]) == 1
    # The commit stands, and the next plan is made as usual.
    assert cache.step(batch, 1).step_id == 2


@pytest.mark.parametrize("which", ["batch", "victims"])
@pytest.mark.parametrize("wrong", ["stale", "twice"])
def test_wrong_handles_are_found_before_the_commit(which: str, wrong: str) -> None:
    cache = make_cache(8, 2)
    batch = two_sequences(cache)
    gone = cache.admit(3, [])[0]
    cache.finish(handles(gone))
    plan = cache.plan(batch, 1)
    bad = gone if wrong == "stale" else int(batch[0])
    victims = handles(bad) if which == "victims" else None
    sequences = batch if which == "victims" else np.append(batch, bad)
    kind = nbkv.StaleHandleError if wrong == "stale" else nbkv.DuplicateSequenceError
    name = r"victims\[0\]" if which == "victims" else r"sequences\[2\]"
    state, data = cache.state_bytes(), plan.buffers.data.copy()
    with pytest.raises(kind, match=rf"{name} is {bad}"):
        cache.step(sequences, 1, tokens=int32(5, 6), victims=victims, on_exhaustion="preempt")
    assert (cache.state_bytes() == state).all()
    assert (plan.buffers.data == data).all()
    assert cache.step(batch, 1, tokens=int32(5, 6)).step_id == 2


def test_tokens_that_the_buffers_cannot_take_are_found_before_the_commit() -> None:
    cache = make_cache(64, 2)
    batch = two_sequences(cache)
    out = nbkv.StepBuffers.for_cache(cache, 8)
    cache.plan(batch, 1, out=out)
    room = out.plan._sections["slots"].size
    state, data = cache.state_bytes(), out.data.copy()
    for counts, needed in ((room, 2 * room), (int32(1, room), room + 1)):
        with pytest.raises(nbkv.ArgumentError, match=rf"out is .*{needed} rows"):
            cache.step(batch, counts)
        assert (cache.state_bytes() == state).all()
        assert (out.data == data).all()


def test_a_sequence_preempted_by_a_step_keeps_what_the_step_committed() -> None:
    cache = make_cache(3, 2)
    batch = two_sequences(cache)
    cache.plan(batch, 2)
    plan = cache.step(batch, 3, tokens=int32(1, 2, 3, 4), on_exhaustion="preempt")
    # The first needs two more blocks, and one is left: the latest goes, its block is evicted.
    assert plan.preempted["seq_id"].tolist() == [2]
    assert plan.preempted["num_committed"].tolist() == [2]
    assert plan.survivors.tolist() == [0]
    assert plan.evicted["block"].tolist() == [1]
    assert table(cache, 1) == [0, 2, 1]
    assert_intact(cache)


def test_steps_take_seq_ids_as_well() -> None:
    cache = make_cache(8, 2)
    two_sequences(cache)
    plan = cache.plan(np.array([2, 1], np.uint64), int32(1, 2))
    assert plan.entries["row"].tolist() == [1, 0]
    cache.commit(plan)
    cache.finish(np.array([2], np.uint64))
    assert 2 not in cache
    before = cache.state_bytes()
    for call in (cache.finish, lambda batch: cache.plan(batch, 1)):
        with pytest.raises(nbkv.UnknownSequenceError, match=r"sequences\[1\] is 2; "):
            call(np.array([1, 2], np.uint64))
    assert (cache.state_bytes() == before).all()


def test_steps_complete_in_any_order_and_never_backwards() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    batch = two_sequences(cache)
    for _ in range(3):
        cache.commit(cache.plan(batch, 1))
    cache.complete(2)
    cache.complete(1)
    assert cache.header["completed_step"][0] == 2
    for step_id in (0, 4, 2**70):
        with pytest.raises(nbkv.StepError, match=rf"step_id is {step_id}; .*at most 3"):
            cache.complete(step_id)


def test_a_batch_is_finished_head_first_and_in_its_order() -> None:
    cache = make_cache(4, 2)
    batch = two_sequences(cache)
    cache.commit(cache.plan(batch, 4))  # without ids: nothing is indexed
    cache.finish(batch[::-1].copy())
    assert cache.allocate_blocks_for_tokens(5, 8).tolist() == [2, 3, 0, 1]
