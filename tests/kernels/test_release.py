"""External holds given back: what becomes of the blocks, and in which order."""

import numpy as np
import pytest
from block_support import ids_of, indexed_chain, keys, raw
from invariants import assert_intact
from support import make_cache

import nbkv
from nbkv import NO_BLOCK


@pytest.mark.parametrize("policy", ["lru", "fifo", "frequency"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]])
def test_released_prefixes_are_evicted_from_their_ends(policy: str, order: list[int]) -> None:
    cache = make_cache(4, eviction_policy=policy)
    handles = indexed_chain(cache, 1, 2, 3, 4)
    cache.release(handles[order])
    assert_intact(cache)
    cache.allocate(4)
    assert cache.last_evicted.tolist() == [3, 2, 1, 0]
    assert_intact(cache)


def test_cached_blocks_enter_the_order_last_first() -> None:
    cache = make_cache(4)
    handles = cache.allocate(4)
    cache.index(handles, keys(1, 2, 3, 4), raw(-1, 0, -1, 2))
    cache.release(handles[[0, 2, 3, 1]])
    cache.allocate(4)
    assert cache.last_evicted.tolist() == [1, 3, 2, 0]


def test_a_parent_given_last_waits_for_its_children_alone() -> None:
    cache = make_cache(5)
    handles = cache.allocate(5)
    cache.index(handles, keys(1, 2, 3, 4, 5), raw(-1, 0, 0, -1, 3))
    # In turn: 0 must wait, 4, 2, then 1 and at once 0; 3 at the end.
    cache.release(handles[[3, 1, 2, 4, 0]])
    cache.allocate(5)
    assert cache.last_evicted.tolist() == [4, 2, 1, 0, 3]


@pytest.mark.parametrize("policy", ["lru", "fifo", "frequency"])
@pytest.mark.parametrize("num_cached", [0, 1, 2])
def test_children_still_held_are_cut_when_their_parent_goes(policy: str, num_cached: int) -> None:
    cache = make_cache(8, eviction_policy=policy)
    handles = cache.allocate(5)
    cache.index(handles, keys(1, 2, 3, 4, 5), raw(-1, 0, 0, 0, 1))
    cache.release(handles[2 : 2 + num_cached])
    cache.release(handles[:1])
    assert cache.blocks["parent"][1] == NO_BLOCK
    assert cache.blocks["num_children"][0] == num_cached
    assert ids_of(cache.find(keys(1, 2))) == [0, NO_BLOCK]
    assert_intact(cache)
    cache.allocate(3)
    cache.allocate(num_cached + 1)
    assert sorted(cache.last_evicted.tolist()) == [0, *range(2, 2 + num_cached)]
    assert cache.last_evicted[-1] == 0
    assert_intact(cache)


def test_a_parent_that_a_sequence_holds_on_lets_its_external_children_go_as_well() -> None:
    cache = make_cache(6)
    cache.add_sequence(1, [1, 2])
    cache.acquire(raw(0, 1))
    cache.release(raw(0))
    assert cache.blocks["parent"][1] == NO_BLOCK
    cache.free_sequence(1)
    assert (cache.num_held_blocks, cache.num_cached_blocks) == (1, 1)
    assert_intact(cache)


def test_a_block_released_under_a_step_in_flight_waits_for_it() -> None:
    cache = make_cache(4, run_ahead=True)
    handle, _ = cache.admit(1, [1, 2])
    handles = cache.allocate(2)
    cache.index(handles[:1], keys(9), raw(-1))
    plan = cache.plan(np.array([handle]), 2)
    cache.release(handles)
    assert cache.num_fenced_blocks == 2
    with pytest.raises(nbkv.OutOfBlocksError) as caught:
        cache.allocate(2)
    assert (caught.value.free, caught.value.evictable, caught.value.fenced) == (1, 0, 2)
    cache.acquire(cache.find(keys(9)))
    assert cache.num_fenced_blocks == 1
    cache.commit(plan, tokens=np.array([1, 2], np.int32))
    cache.complete(plan.step_id)
    assert ids_of(cache.allocate(2)) == [3, 1]
    assert_intact(cache)
