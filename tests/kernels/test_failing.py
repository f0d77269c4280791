"""Failing steps: who loses what, and what can still be found."""

import numpy as np
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv


def test_planned_tokens_are_taken_back_and_their_blocks_stay_out() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2, 3])
    for _ in range(2):
        cache.plan(handles(handle), 2)
    lost = cache.fail(2)
    assert lost.tolist() == [(1, handle, 3)]
    assert cache.num_cached_tokens(1) == 3
    assert cache.num_usable_blocks == 6
    # Steps 2 and 3 count as over, and the handle is good.
    assert cache.plan(handles(handle), 1).step_id == 4
    assert_intact(cache)


def test_committed_blocks_of_a_failed_step_are_forgotten_with_what_follows() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2])
    for tokens in ((3, 4), (5, 6)):
        cache.commit(cache.plan(handles(handle), 2), tokens=int32(*tokens))
    assert hit_blocks(cache, [1, 2, 3, 4, 5, 6]) == 3
    assert cache.fail(2).tolist() == [(1, handle, 2)]
    assert hit_blocks(cache, [1, 2, 3, 4, 5, 6]) == 1
    assert table(cache, 1) == [0]
    # Computed once more, it is found again.
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(3, 4))
    assert hit_blocks(cache, [1, 2, 3, 4]) == 2
    assert_intact(cache)


def test_who_hit_a_failed_block_is_cut_before_it() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2])
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(3, 4))
    other, hits = cache.admit(2, [1, 2, 3, 4, 9])
    bystander, _ = cache.admit(3, [1, 2])
    assert hits == 4
    lost = cache.fail(2)
    assert lost["seq_id"].tolist() == [1, 2]
    assert lost["num_tokens"].tolist() == [2, 2]
    assert lost["handle"].tolist() == [handle, other]
    assert (table(cache, 2), table(cache, 3)) == ([0], [0])
    assert cache.sequences["num_committed"][bystander & 0xFFFFFFFF] == 2
    assert_intact(cache)


def test_an_unindexed_block_that_nobody_holds_becomes_free() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    compute(cache, 1, [1, 2])
    handle, _ = cache.admit(2, [])
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(5, 6))
    cache.register_prefix(7, [1])
    cache.finish(handles(handle))
    assert (cache.num_cached_blocks, cache.num_fenced_blocks) == (1, 1)
    assert cache.fail(2).size == 0
    assert cache.lookup_prefix(7) is None
    assert (cache.num_cached_blocks, cache.num_fenced_blocks, cache.num_free_blocks) == (0, 0, 7)
    assert_intact(cache)


def test_a_commit_inside_a_block_is_cut_to_its_beginning() -> None:
    cache = make_cache(8, 4, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2, 3, 4, 5])
    cache.commit(cache.plan(handles(handle), 1), tokens=int32(6))
    assert cache.fail(2)["num_tokens"].tolist() == [4]
    assert table(cache, 1) == [0]
    assert hit_blocks(cache, [1, 2, 3, 4, 5]) == 1


def test_the_facade_forgets_withdrawn_plans() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    handle, _ = compute(cache, 1, [1])
    out = nbkv.StepBuffers.for_cache(cache, 8)
    cache.plan(handles(handle), 1, out=out)
    cache.fail(2)
    # `step` has no plan to commit: it only plans.
    assert cache.step(np.array([handle]), 1, out=out).step_id == 3


def test_a_cut_among_the_holes_of_a_window_leaves_nothing() -> None:
    cache = make_cache(8, 4, window=3, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2, 3, 4, 5, 6])
    assert table(cache, 1) == [-1, 1]
    cache.commit(cache.plan(handles(handle), 1), tokens=int32(7))
    # Cut to four tokens it would attend to the block that has left.
    assert cache.fail(2).tolist() == [(1, handle, 0)]
    assert table(cache, 1) == []
    assert_intact(cache)
