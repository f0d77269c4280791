"""Blocks handed out and held for adapters."""

import numpy as np
import pytest
from block_support import holds, ids_of, keys, raw
from invariants import assert_intact
from pairing import chain_hashes
from support import make_cache

import nbkv
from nbkv import NO_BLOCK


def test_allocation_evicts_and_says_what() -> None:
    cache = make_cache(4)
    cache.add_sequence(1, chain_hashes([0, 0, 0]))
    cache.free_sequence(1)
    handles = cache.allocate(3)
    assert ids_of(handles) == [3, 2, 1]
    assert cache.last_evicted.tolist() == [2, 1]
    assert_intact(cache)


def test_a_handle_dies_with_its_block() -> None:
    cache = make_cache(2)
    (first,) = cache.allocate(1).tolist()
    cache.release(np.array([first]))
    cache.allocate(2)
    assert cache.blocks["generation"].tolist() == [2, 1]
    for stale in (first, first + (2 << 32), first + 2, -1, first - (1 << 32), 2**62):
        for call in (cache.acquire, cache.release):
            with pytest.raises(nbkv.StaleHandleError, match=rf"block_ids\[0\] is {stale};"):
                call(np.array([stale]))
    cache.acquire(np.array([first + (1 << 32), first + 1]))
    assert holds(cache) == [2, 2]


def test_handles_stay_positive_when_the_generation_wraps() -> None:
    cache = make_cache(1)
    cache.release(cache.allocate(1))
    start = int(cache.header["blocks_start"][0])
    record = cache._arena[start : start + nbkv.layout.BLOCK_DTYPE.itemsize]
    record.view(nbkv.layout.BLOCK_DTYPE)["generation"] = -2
    handles = cache.allocate(1)
    assert handles.tolist() == [(2**31 - 1) << 32]
    cache.release(handles)
    with pytest.raises(nbkv.StaleHandleError):
        cache.release(handles)


def test_a_block_kept_for_later_tokens_is_the_sequences_own() -> None:
    cache = make_cache(4)
    cache.allocate_block(1)
    before = cache.state_bytes()
    with pytest.raises(nbkv.BlockError, match=r"block_ids\[0\] is 0; .*tokens"):
        cache.acquire(raw(0))
    assert (cache.state_bytes() == before).all()


def test_a_block_acquired_without_its_parent_is_cut_from_it() -> None:
    cache = make_cache(6)
    cache.add_sequence(1, [1, 2, 3])
    cache.acquire(raw(1))
    assert cache.blocks["parent"][:3].tolist() == [-1, -1, 1]
    assert ids_of(cache.find(keys(1, 2))) == [0, NO_BLOCK]
    assert_intact(cache)
    cache.free_sequence(1)
    assert_intact(cache)
    # What follows is found only from the block itself.
    assert ids_of(cache.find(keys(3), raw(1))) == [2]
    cache.allocate(5)
    assert cache.last_evicted.tolist() == [2, 0]
    assert_intact(cache)
    cache.release(raw(1))
    assert cache.num_cached_blocks == 1
    cache.allocate(1)
    assert_intact(cache)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_block_acquired_with_its_parent_is_not(order: list[int]) -> None:
    cache = make_cache(6)
    cache.add_sequence(1, [1, 2, 3])
    cache.acquire(raw(*order))
    cache.acquire(raw(2))
    cache.free_sequence(1)
    assert ids_of(cache.find(keys(1, 2, 3))) == [0, 1, 2]
    assert_intact(cache)


def test_a_block_is_held_at_most_so_often() -> None:
    cache = make_cache(4)
    cache.allocate(1)
    many = np.zeros(2**15 - 2, np.int32)
    cache.acquire(many)
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=r"block_ids\[0\] is 0: .*32767"):
        cache.acquire(raw(0))
    assert (cache.state_bytes() == before).all()
    cache.release(many)
    assert holds(cache)[0] == 1
