"""Publishing: which block of equal content a table ends with, and what is not indexed."""

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv
from nbkv import layout


def test_a_table_takes_the_block_that_is_cached_already() -> None:
    cache = make_cache(8, 2)
    late, _ = cache.admit(2, [1, 2, 3, 4])
    compute(cache, 1, [1, 2, 3, 4])
    plan = cache.plan(handles(late), 4)
    assert plan.slot_mapping.tolist() == [4, 5, 6, 7]
    report = cache.commit(plan, tokens=int32(1, 2, 3, 4))
    assert report.table_changes.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert table(cache, 2) == [0, 1]
    assert cache.blocks["ref_count"][:4].tolist() == [2, 2, 0, 0]
    assert cache.stats.total_deallocations == 2
    assert_intact(cache)


@pytest.mark.parametrize("how", ["dedup off", "shared", "pinned"])
def test_a_block_that_may_not_be_exchanged_stays_private_with_what_follows(how: str) -> None:
    cache = make_cache(12, 2, dedup=how != "dedup off")
    late, _ = cache.admit(2, [1, 2, 3, 4])
    cache.commit(cache.plan(handles(late), 1), tokens=int32(1))
    compute(cache, 1, [1, 2, 3, 4])
    if how == "shared":
        plan = cache.plan(handles(late), 1)
        cache.fork(2, 3)
    else:
        lease = cache.pin(late)
        plan = cache.plan(handles(late), 1)
        if how == "dedup off":
            cache.unpin(lease)
    cache.commit(plan, tokens=int32(2))
    report = cache.commit(cache.plan(handles(late), 2), tokens=int32(3, 4))
    assert report.table_changes.size == 0
    assert (table(cache, 1), table(cache, 2)) == ([1, 2], [0, 3])
    assert not (cache.blocks["flags"][[0, 3]] & layout.INDEXED).any()
    assert_intact(cache)


def test_two_that_one_step_fills_alike_both_stay() -> None:
    cache = make_cache(8, 2)
    batch = handles(cache.admit(1, [])[0], cache.admit(2, [])[0])
    report = cache.commit(cache.plan(batch, 4), tokens=int32(1, 2, 3, 4, 1, 2, 3, 4))
    assert report.table_changes.size == 0
    assert (table(cache, 1), table(cache, 2)) == ([0, 1], [2, 3])
    assert cache.admit(3, [1, 2, 3, 4])[1] == 4
    assert table(cache, 3) == [0, 1]


def test_what_is_not_visible_yet_is_not_exchanged_for() -> None:
    cache = make_cache(8, 2, run_ahead=True, hit_visibility="completed")
    batch = handles(cache.admit(1, [])[0], cache.admit(2, [])[0])
    plans = [cache.plan(batch[:1], 2), cache.plan(batch[1:], 2)]
    for plan in plans:
        cache.commit(plan, tokens=int32(1, 2))
    assert (table(cache, 1), table(cache, 2)) == ([0], [1])
    cache.complete(2)
    assert cache.admit(3, [1, 2])[1] == 2
    assert table(cache, 3) == [0]


def test_a_block_exchanged_behind_the_fence_waits_there() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    batch = handles(cache.admit(1, [])[0], cache.admit(2, [])[0])
    plans = [cache.plan(batch[:1], 2), cache.plan(batch[1:], 2)]
    for plan in plans:
        cache.commit(plan, tokens=int32(1, 2))
    assert (table(cache, 2), cache.num_fenced_blocks) == ([0], 1)
    cache.complete(2)
    assert cache.num_fenced_blocks == 0
    assert_intact(cache)


def test_nothing_is_indexed_behind_a_block_under_a_callers_hash() -> None:
    cache = make_cache(8, 2)
    handle = cache.add_sequence(1, [77])
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(3, 4))
    assert not cache.blocks["flags"][table(cache, 1)[1]] & layout.INDEXED
    assert hit_blocks(cache, [3, 4]) == 0


def test_a_long_prompt_is_indexed_under_the_hashes_that_anyone_can_make() -> None:
    cache = make_cache(64, 2, hash_seed=5)
    prompt = list(range(80))
    compute(cache, 1, prompt, salt=nbkv.Salt(tenant="a"), extra_keys=[(7, 9, "cat")])
    keys = nbkv.hash_tokens(prompt, 2, nbkv.Salt(tenant="a"), [(7, 9, "cat")], seed=5)
    mine = cache.block_keys[table(cache, 1)]
    assert np.stack([mine["hash_low"], mine["hash_high"]], 1).tolist() == keys.tolist()
