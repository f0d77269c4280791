"""Beam search: who continues whom, what is shared, and what the next plan copies."""

from typing import Any

import numpy as np
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv


def beams(cache: nbkv.PagedKVCache, *prompts: list[int]) -> "np.ndarray[Any, Any]":
    return handles(*(compute(cache, i, prompt)[0] for i, prompt in enumerate(prompts, 1)))


def test_two_may_change_places() -> None:
    cache = make_cache(8, 2)
    batch = beams(cache, [1, 1, 1], [2, 2, 2, 2])
    cache.reorder(batch, int32(1, 0))
    assert (table(cache, 1), table(cache, 2)) == ([2, 3], [0, 1])
    assert (cache.num_cached_tokens(1), cache.num_cached_tokens(2)) == (4, 3)
    assert [cache.handle(1), cache.handle(2)] == batch.tolist()
    assert cache.num_free_blocks == 4
    assert_intact(cache)


def test_all_but_one_of_those_that_share_a_tail_copy_it() -> None:
    cache = make_cache(10, 2)
    batch = beams(cache, [1, 1, 1], [2, 2], [3, 3])
    cache.reorder(batch, int32(0, 0, 0))
    assert [table(cache, i) for i in (1, 2, 3)] == [[0, 1]] * 3
    assert cache.blocks["ref_count"][:2].tolist() == [3, 3]
    # What they were is cached: it was committed with its ids.
    assert [hit_blocks(cache, [i, i]) for i in (2, 3)] == [1, 1]
    plan = cache.plan(batch, 1)
    assert plan.copies.tolist() == [[0, 1, 4, 1], [0, 1, 5, 1]]
    assert plan.slot_mapping.tolist() == [9, 11, 3]
    cache.commit(plan, tokens=int32(7, 8, 9))
    assert [hit_blocks(cache, [1, 1, 1, t]) for t in (7, 8, 9)] == [2, 2, 2]
    assert_intact(cache)


def test_who_stays_keeps_what_it_has_planned() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    batch = beams(cache, [1, 1], [2, 2])
    plan = cache.plan(batch, 2)
    cache.reorder(batch, int32(0, 0))
    assert cache.commit(plan, tokens=int32(1, 1, 2, 2)).skipped.tolist() == [1]
    assert (cache.num_cached_tokens(1), cache.num_cached_tokens(2)) == (4, 2)
    assert (table(cache, 1), table(cache, 2)) == ([0, 2], [0])
    assert_intact(cache)


def test_a_common_beginning_is_neither_released_nor_taken_again() -> None:
    cache = make_cache(8, 2)
    batch = beams(cache, [1, 1, 2, 2], [1, 1, 3, 3])
    assert table(cache, 2) == [0, 2]
    uses = cache.blocks["access_count"][0]
    cache.reorder(batch, int32(0, 0))
    assert table(cache, 2) == [0, 1]
    assert cache.blocks["ref_count"][:3].tolist() == [2, 2, 0]
    assert cache.blocks["access_count"][0] == uses
    assert_intact(cache)


def test_released_blocks_go_head_first_and_cached_ones_tail_first() -> None:
    cache = make_cache(8, 2)
    batch = beams(cache, [1, 1], [2, 2, 2, 2])
    cache.commit(cache.plan(batch[1:], 4))  # blocks 3 and 4, without ids
    cache.reorder(batch, int32(0, 0))
    assert cache.allocate_blocks_for_tokens(9, 14).tolist() == [5, 6, 7, 3, 4, 2, 1]
    assert cache.last_evicted.tolist() == [2, 1]


def test_holes_of_a_window_are_taken_over() -> None:
    cache = make_cache(12, 2, window=3)
    batch = beams(cache, [1] * 6, [2] * 2)
    assert (table(cache, 1), table(cache, 2)) == ([-1, -1, 2], [3])
    cache.reorder(batch, int32(0, 0))
    assert table(cache, 2) == [-1, -1, 2]
    assert cache.sequences["first_block"][:2].tolist() == [2, 2]
    cache.reorder(batch[::-1].copy(), int32(0, 0))
    assert_intact(cache)


def test_a_batch_of_nobody_and_everybody_their_own_change_nothing() -> None:
    cache = make_cache(8, 2)
    batch = beams(cache, [1, 1, 1], [2, 2])
    before = cache.state_bytes()
    cache.reorder(batch, int32(0, 1))
    cache.reorder(batch[:0], int32())
    assert (cache.state_bytes() == before).all()
