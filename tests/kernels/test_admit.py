"""Admission: what a prompt holds at once, and when it does not fit."""

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv


def test_a_prompt_holds_its_hits_and_nothing_else() -> None:
    cache = make_cache(8, 2)
    compute(cache, 1, [1, 2, 3, 4, 5])
    handle, hits = cache.admit(2, [1, 2, 3, 9, 9])
    assert (hits, table(cache, 2)) == (2, [0])
    row = handle & 0xFFFFFFFF
    rows = cache.sequences
    counts = [rows[name][row] for name in ("num_tokens", "num_committed", "num_known")]
    assert counts == [2, 2, 2]
    assert cache.num_hit_tokens(2) == 2
    assert (cache.stats.cache_hits, cache.stats.cache_misses) == (1, 1)
    cache.admit(3, [])  # neither
    assert (cache.stats.cache_hits, cache.stats.cache_misses) == (1, 1)


@pytest.mark.parametrize(("limit", "hits"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (2**70, 4)])
def test_hits_are_limited_in_whole_blocks(limit: int, hits: int) -> None:
    cache = make_cache(8, 2)
    compute(cache, 1, [1, 2, 3, 4])
    assert cache.match_prefix([1, 2, 3, 4], max_hit_tokens=limit).num_hit_tokens == hits
    assert cache.admit(2, [1, 2, 3, 4], max_hit_tokens=limit)[1] == hits


def test_reserved_blocks_are_in_the_table_and_used_by_the_plan() -> None:
    cache = make_cache(8, 2)
    compute(cache, 1, [1, 2])
    handle, hits = cache.admit(2, [1, 2, 3], reserve_tokens=5)
    assert (hits, table(cache, 2)) == (2, [0, 1, 2])
    plan = cache.plan(handles(handle), 3)
    assert (plan.slot_mapping.tolist(), plan.table_changes.size) == ([2, 3, 4], 0)
    # Less than the hits cover is no wish.
    cache.admit(3, [1, 2], reserve_tokens=1)
    assert table(cache, 3) == [0]
    assert_intact(cache)


def test_hits_about_to_be_held_are_no_room_for_the_rest() -> None:
    cache = make_cache(3, 2)
    handle, _ = compute(cache, 1, [1, 2, 3, 4])
    cache.finish(handles(handle))
    match = cache.match_prefix([1, 2, 3, 4])
    assert match == (4, 4, 2, 0, 2)
    assert cache.can_admit(match, 6)
    assert not cache.can_admit(match, 7)
    before = cache.state_bytes()
    with pytest.raises(nbkv.OutOfBlocksError, match=r"needed 2 .*1 free \+ 0 evictable"):
        cache.admit(2, [1, 2, 3, 4], reserve_tokens=7)
    assert (cache.state_bytes() == before).all()
    cache.admit(2, [1, 2, 3, 4], reserve_tokens=6)
    assert table(cache, 2) == [0, 1, 2]


def test_the_watermark_is_left_only_where_it_must_fit() -> None:
    cache = make_cache(4, 2, watermark=2)
    match = cache.match_prefix([1] * 5)
    assert (cache.can_admit(match), cache.can_admit(match, 4)) == (False, True)
    before = cache.state_bytes()
    with pytest.raises(nbkv.OutOfBlocksError, match=r"needed 3 "):
        cache.admit(1, [1] * 5, must_fit=True)
    assert (cache.state_bytes() == before).all()
    cache.admit(1, [1] * 4, must_fit=True)
    cache.admit(2, [1] * 5, reserve_tokens=8)
    assert cache.num_free_blocks == 0


def test_a_partial_source_is_held_and_always_copied() -> None:
    cache = make_cache(8, 4, partial_reuse=True)
    first, _ = compute(cache, 1, [1, 2, 3, 4, 5, 6, 7, 8])
    cache.finish(handles(first))
    prompt = [1, 2, 3, 4, 5, 6, 0, 0]
    assert cache.match_prefix(prompt) == (8, 6, 1, 2, 2)
    assert cache.match_prefix(prompt, max_hit_tokens=5).num_partial_tokens == 1
    assert cache.match_prefix(prompt, max_hit_tokens=4).num_partial_tokens == 0
    handle, hits = cache.admit(2, prompt)
    assert (hits, table(cache, 2)) == (6, [0, 1])
    plan = cache.plan(handles(handle), 2)
    assert plan.copies.tolist() == [[0, 1, 2, 2]]
    assert plan.slot_mapping.tolist() == [10, 11]
    cache.commit(plan, tokens=int32(0, 0))
    assert (hit_blocks(cache, prompt), hit_blocks(cache, [1, 2, 3, 4, 5, 6, 7, 8])) == (2, 2)
    assert_intact(cache)


def test_a_partial_source_is_the_newest_child_or_none() -> None:
    cache = make_cache(8, 2, partial_reuse=True)
    compute(cache, 1, [1, 2, 3, 4])
    late, _ = compute(cache, 2, [1, 2, 5, 6])
    assert cache.match_prefix([1, 2, 3, 9]).num_partial_tokens == 0
    assert cache.match_prefix([1, 2, 5, 9]).num_partial_tokens == 1
    cache.finish(handles(late))
    cache.evict(1)
    # An older sibling does not come back as the newest.
    assert cache.match_prefix([1, 2, 3, 9]).num_partial_tokens == 0


def test_a_row_is_closed_and_opened_with_another_generation() -> None:
    cache = make_cache(4, 2, max_sequences=1)
    old, _ = cache.admit(1, [], owner=7)
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=r"seq_id is 2: .*max_sequences.* 1"):
        cache.admit(2, [])
    assert (cache.state_bytes() == before).all()
    cache.finish(handles(old))
    new, _ = cache.admit(1, [])
    assert (new & 0xFFFFFFFF, new >> 32) == (old & 0xFFFFFFFF, (old >> 32) + 1)


def test_matching_changes_nothing() -> None:
    cache = make_cache(8, 2)
    handle, _ = compute(cache, 1, [1, 2, 3, 4])
    cache.finish(handles(handle))
    before, reports = cache.state_bytes(), (cache.last_evicted, cache.last_copies)
    for prompt in ([], [1], [1, 2, 3, 4, 5], np.arange(1, 5)):
        cache.match_prefix(prompt)
        cache.match_prefix(prompt, salt=nbkv.Salt(tenant=1), extra_keys=[(0, 1, 2)])
    assert (cache.state_bytes() == before).all()
    assert (cache.last_evicted.tolist(), cache.last_copies.tolist()) == tuple(
        report.tolist() for report in reports
    )
