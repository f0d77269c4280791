"""The fence: what is released under steps in flight waits, in the order of its release."""

import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, table
from support import make_cache

import nbkv
from nbkv.kernels import fence


def test_blocks_are_handed_out_once_the_steps_before_their_release_are_completed() -> None:
    cache = make_cache(4, 2, run_ahead=True)
    batch = handles(*(cache.admit(i, [])[0] for i in (1, 2, 3)))
    cache.plan(batch[:1], 4)
    cache.finish(batch[:1])
    cache.plan(batch[1:2], 2)
    cache.finish(batch[1:2])
    assert (cache.num_free_blocks, cache.num_fenced_blocks, cache.num_usable_blocks) == (4, 3, 1)
    with pytest.raises(nbkv.OutOfBlocksError, match=r"needed 2 .* 1 free \+ 0 evictable .*3 more"):
        cache.plan(batch[2:], 4)
    cache.complete(1)
    assert cache.num_fenced_blocks == 1
    plan = cache.plan(batch[2:], 6)
    # The fresh one, then in order of their release.
    assert table(cache, 3) == [3, 0, 1]
    cache.complete(plan.step_id)
    assert cache.num_fenced_blocks == 0
    assert_intact(cache)


def test_without_steps_in_flight_nothing_waits() -> None:
    for run_ahead in (False, True):
        cache = make_cache(4, 2, run_ahead=run_ahead)
        handle, _ = compute(cache, 1, [1, 2, 3])
        cache.finish(handles(handle))
        assert cache.num_fenced_blocks == 0
    cache = make_cache(4, 2)
    handle, _ = cache.admit(1, [])
    cache.plan(handles(handle), 3)
    cache.finish(handles(handle))
    assert cache.num_fenced_blocks == 0


def test_a_cached_block_behind_the_fence_is_hit_but_not_evicted() -> None:
    cache = make_cache(4, 2, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2, 3, 4])
    other, _ = cache.admit(2, [])
    plan = cache.plan(handles(other), 1)
    cache.finish(handles(handle))
    assert (cache.num_cached_blocks, cache.num_fenced_blocks) == (2, 2)
    assert cache.evict(4).size == 0
    assert cache.admit(3, [1, 2])[1] == 2
    assert (table(cache, 3), cache.num_fenced_blocks) == ([0], 1)
    cache.complete(plan.step_id)
    assert cache.evict(4).tolist() == [1]
    assert hit_blocks(cache, [1, 2, 3, 4]) == 1
    assert_intact(cache)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_block_leaves_from_anywhere_in_the_queue(at: int) -> None:
    cache = make_cache(6, 1, run_ahead=True)
    rows = [compute(cache, i, [i])[0] for i in (1, 2, 3)]
    plan = cache.plan(handles(cache.admit(9, [])[0]), 1)
    cache.finish(handles(*rows))
    cache.admit(5, [at + 1])
    assert table(cache, 5) == [at]
    assert_intact(cache)
    cache.complete(plan.step_id)
    # The others are evicted in the order of their release.
    assert cache.evict(6).tolist() == [b for b in (0, 1, 2) if b != at]


def test_a_name_that_dies_behind_the_fence_frees_its_blocks_there() -> None:
    cache = make_cache(6, 2, run_ahead=True)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    other, _ = cache.admit(2, [])
    plan = cache.plan(handles(other), 1)
    cache.free_sequence(1)
    assert (cache.num_cached_blocks, cache.num_fenced_blocks) == (2, 2)
    cache.unregister_prefix(7)
    assert (cache.num_cached_blocks, cache.num_fenced_blocks, cache.num_free_blocks) == (0, 2, 5)
    assert_intact(cache)
    cache.complete(plan.step_id)
    assert (cache.num_fenced_blocks, cache.num_usable_blocks) == (0, 5)
    assert_intact(cache)


@pytest.mark.parametrize(
    ("step", "clock", "past"),
    [(5, 5, True), (4, 5, True), (6, 5, False), (2**31 - 1, 2**31, True), (-(2**31), 2**31, True)],
)
def test_steps_compare_past_the_width_of_a_record(step: int, clock: int, past: bool) -> None:
    compare = getattr(fence.is_past, "py_func", fence.is_past)
    assert compare(step, clock) == past
