"""Blocks by themselves: allocated, acquired, indexed, found and released by an adapter."""

import numpy as np
import pytest
from block_support import holds, ids_of, indexed_chain, keys, raw
from invariants import assert_intact, free_list
from support import make_cache

import nbkv
from nbkv import NO_BLOCK

Cache = nbkv.PagedKVCache


def test_allocated_blocks_are_held_until_they_are_released() -> None:
    cache = make_cache(4)
    handles = cache.allocate(3)
    assert (handles.dtype, ids_of(handles)) == (np.int64, [0, 1, 2])
    assert (cache.num_held_blocks, cache.num_free_blocks, cache.num_external_holds) == (3, 1, 3)
    assert cache.stats.total_allocations == 3
    assert_intact(cache)
    cache.release(handles[[2, 0, 1]])
    assert (cache.num_held_blocks, cache.num_free_blocks, cache.num_external_holds) == (0, 4, 0)
    assert cache.stats.total_deallocations == 3
    assert free_list(cache) == [2, 0, 1]
    assert_intact(cache)


def test_allocating_none_changes_nothing_but_the_report() -> None:
    cache = make_cache(4)
    before = cache.state_bytes()
    assert cache.allocate(0).shape == (0,)
    cache.acquire(raw())
    cache.release(raw())
    assert cache.index(raw(), keys(), raw()).shape == (0,)
    assert cache.find(keys()).shape == cache.find(keys(), raw()).shape == (0,)
    assert (cache.state_bytes() == before).all()


def test_what_is_held_outside_is_never_evicted() -> None:
    cache = make_cache(4)
    handles = indexed_chain(cache, 1, 2)
    with pytest.raises(nbkv.OutOfBlocksError) as caught:
        cache.allocate(3)
    assert (caught.value.needed, caught.value.free, caught.value.evictable) == (3, 2, 0)
    cache.allocate_blocks_for_tokens(1, 4)
    with pytest.raises(nbkv.OutOfBlocksError):
        cache.append_token(2)
    cache.release(handles)
    cache.append_token(2)
    assert cache.last_evicted.tolist() == [1]
    assert_intact(cache)


def test_each_occurrence_is_a_hold_of_its_own() -> None:
    cache = make_cache(4)
    handles = cache.allocate(1)
    cache.acquire(raw(0, 0))
    assert (holds(cache)[0], cache.num_external_holds) == (3, 3)
    assert cache.blocks["access_count"][0] == 3
    before = cache.state_bytes()
    with pytest.raises(nbkv.BlockError, match=r"block_ids\[3\] is 0;"):
        cache.release(raw(0, 0, 0, 0))
    assert (cache.state_bytes() == before).all()
    cache.release(raw(0, 0))
    assert (holds(cache)[0], cache.num_free_blocks) == (1, 3)
    cache.release(handles)
    for call in (cache.acquire, cache.release):
        with pytest.raises(nbkv.BlockError, match=r"block_ids\[0\] is 0; .*free"):
            call(raw(0))
    assert_intact(cache)


def test_a_sequences_reference_is_not_an_external_hold() -> None:
    cache = make_cache(4)
    cache.allocate_blocks_for_tokens(1, 2)
    with pytest.raises(nbkv.BlockError, match=r"block_ids\[0\] is 0; .*external hold"):
        cache.release(raw(0))
    cache.acquire(raw(0))
    cache.free_sequence(1)
    assert cache.num_held_blocks == 1
    cache.release(raw(0))
    assert free_list(cache) == [0]


def test_a_sequence_copies_before_it_writes_to_what_is_held_outside() -> None:
    cache = make_cache(4, 4)
    cache.allocate_blocks_for_tokens(1, 2)
    cache.acquire(raw(0))
    assert cache.append_token(1) == 1
    assert cache.last_copies.tolist() == [[0, 1]]
    assert cache.blocks["num_tokens"][0] == 2
    assert_intact(cache)


@pytest.mark.parametrize("policy", ["lru", "fifo", "frequency"])
def test_sequences_hit_what_an_adapter_indexed(policy: str) -> None:
    cache = make_cache(4, eviction_policy=policy)
    handles = indexed_chain(cache, 11, 12)
    cache.add_sequence(1, [11, 12, 13])
    assert cache.block_table(1).tolist() == [0, 1, 2]
    assert cache.num_hit_tokens(1) == 4
    cache.release(handles)
    assert holds(cache) == [1, 1, 1, 0]
    cache.free_sequence(1)
    assert (cache.find(keys(11, 12)) == handles).all()
    assert cache.num_cached_blocks == 3
    assert_intact(cache)
    cache.allocate(2)
    assert cache.last_evicted.tolist() == [2]
    assert_intact(cache)


def test_an_adapter_finds_and_keeps_what_sequences_indexed() -> None:
    cache = make_cache(4)
    cache.add_sequence(1, [11, 12, 13], 5)
    cache.free_sequence(1)
    found = cache.find(keys(11, 12, 13))
    assert ids_of(found) == [0, 1, NO_BLOCK]  # the third is not full
    cache.acquire(found[:2])
    assert (cache.num_held_blocks, cache.num_cached_blocks) == (2, 1)
    assert cache.allocate(2).size == 2
    assert cache.last_evicted.tolist() == [2]
    assert_intact(cache)


def test_named_blocks_are_never_cut() -> None:
    cache = make_cache(6)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 6))
    before = cache.state_bytes()
    with pytest.raises(nbkv.PrefixError, match=r"block_ids\[1\] is 2;"):
        cache.acquire(raw(0, 2, 0))
    assert (cache.state_bytes() == before).all()
    cache.acquire(raw(2, 1, 0))
    before = cache.state_bytes()
    with pytest.raises(nbkv.PrefixError, match=r"block_ids\[0\] is 1;"):
        cache.release(raw(1))
    assert (cache.state_bytes() == before).all()
    cache.free_sequence(1)
    cache.release(raw(2, 1))
    assert (cache.num_held_blocks, cache.num_cached_blocks) == (1, 2)
    assert cache.lookup_prefix(7).tolist() == [0, 1, 2]
    assert_intact(cache)


def test_a_name_is_not_given_over_blocks_that_were_cut_or_would_have_to_be() -> None:
    cache = make_cache(6)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.acquire(raw(1))
    before = cache.state_bytes()
    with pytest.raises(nbkv.PrefixError, match=r"block_ids\[1\] is 1;"):
        cache.register_prefix(7, [0, 1])
    assert (cache.state_bytes() == before).all()
    cache.add_sequence(2, [1, 2])
    cache.acquire(raw(3))
    with pytest.raises(nbkv.PrefixError, match=r"block_ids is \[2, 3\]"):
        cache.register_prefix(7, [2, 3])
    cache.register_prefix(7, [2])
    cache.acquire(raw(0))
    cache.register_prefix(8, [0, 1])
    assert_intact(cache)


def planned(cache: Cache, num_tokens: int, count: int) -> tuple[int, nbkv.StepPlan]:
    handle, _ = cache.admit(1, list(range(num_tokens)))
    plan = cache.plan(np.array([handle]), num_tokens)
    cache.commit(plan, tokens=np.arange(num_tokens, dtype=np.int32))
    return handle, cache.plan(np.array([handle]), count)


def test_a_commit_links_no_block_that_is_held_without_its_parent() -> None:
    cache = make_cache(8)
    _, plan = planned(cache, 2, 4)
    cache.acquire(raw(1))
    cache.commit(plan, tokens=np.arange(2, 6, dtype=np.int32))
    assert cache.match_prefix(range(6)).num_hit_blocks == 1
    assert_intact(cache)
    cache.free_sequence(1)
    assert (cache.num_held_blocks, cache.num_cached_blocks, cache.num_free_blocks) == (1, 1, 6)
    assert_intact(cache)


def test_a_commit_links_a_block_that_is_held_with_its_parent() -> None:
    cache = make_cache(8)
    _, plan = planned(cache, 2, 4)
    cache.acquire(raw(0, 1))
    cache.commit(plan, tokens=np.arange(2, 6, dtype=np.int32))
    assert cache.match_prefix(range(6)).num_hit_blocks == 3
    cache.free_sequence(1)
    assert (cache.num_held_blocks, cache.num_cached_blocks) == (2, 1)
    assert_intact(cache)


def test_a_sequence_keeps_no_capacity_that_is_held_outside() -> None:
    cache = make_cache(8)
    handle, plan = planned(cache, 2, 6)
    cache.acquire(raw(2))
    cache.commit(plan, np.array([1], np.int32), np.array([5], np.int32))
    # Block 1 takes the rejected tokens' places; 2 is the adapter's, 3 is free again.
    assert cache.block_table(1).tolist() == [0, 1]
    assert cache.stats.total_deallocations == 2
    assert_intact(cache)
    plan = cache.plan(np.array([handle]), 3)
    assert plan.slot_mapping.tolist() == [3, 8, 9]
    assert plan.table_changes.tolist() == [[0, 0, 2, 4]]
    cache.commit(plan, tokens=np.arange(3, dtype=np.int32))
    assert_intact(cache)


def test_a_block_that_a_window_has_cut_can_be_indexed_and_found() -> None:
    """It was indexed as cut from its parent, and never found."""
    cache = make_cache(8, 2, window=2)
    handle, _ = cache.admit(1, [])
    plan = cache.plan(np.array([handle]), 4)
    cache.commit(plan)  # no ids: nothing of it is indexed
    kept = cache.block_table(1)[-1:].copy()
    cache.acquire(kept)
    cache.finish(np.array([handle]))
    assert cache.index(kept, keys(7), raw(NO_BLOCK)).all()
    assert ids_of(cache.find(keys(7))) == kept.tolist()
    assert_intact(cache)


def test_more_tokens_than_can_be_counted_are_refused() -> None:
    """2**63 - 1 tokens and a block came round to a negative number of blocks."""
    cache = make_cache(8, 2)
    with pytest.raises(nbkv.OutOfBlocksError):
        cache.add_sequence(1, num_tokens=2**63 - 1)
    assert 1 not in cache
