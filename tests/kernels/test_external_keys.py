"""Blocks under the keys of adapters."""

import numpy as np
import pytest
from block_support import ids_of, indexed_chain, keys, raw
from invariants import assert_intact, free_list
from support import make_cache

import nbkv
from nbkv import NO_BLOCK


def test_finding_is_pure() -> None:
    cache = make_cache(8)
    a = indexed_chain(cache, 1, 2)
    before, stats = cache.state_bytes(), cache.stats
    assert (cache.find(keys(1, 2, 3)) == [*a, -1]).all()
    assert cache.find(keys(5, 1, 2)).tolist() == [-1, -1, -1]
    assert cache.find(keys(1, 1)).tolist() == [a[0], -1]
    under = cache.find(keys(2, 1, 2, 1), np.array([a[0], NO_BLOCK, NO_BLOCK, a[1]]))
    assert under.tolist() == [a[1], a[0], -1, -1]
    assert cache.find(keys(2, 7), raw(0, 0)).tolist() == [a[1], -1]
    assert (cache.state_bytes() == before).all()
    assert cache.stats == stats


def test_what_is_indexed_already_stays_private_and_so_does_what_follows() -> None:
    cache = make_cache(8)
    a = indexed_chain(cache, 1, 2)
    b = cache.allocate(4)
    indexed = cache.index(b, keys(1, 3, 9, 9), np.array([-1, b[0], -1, -1]))
    assert indexed.tolist() == [False, False, True, False]
    assert (cache.find(keys(1, 2)) == a).all()
    assert ids_of(cache.find(keys(9, 3))) == [4, NO_BLOCK]
    assert_intact(cache)
    cache.release(b)
    assert free_list(cache) == [2, 3, 5]
    assert cache.num_cached_blocks == 1
    assert_intact(cache)


def test_index_takes_ids_as_well() -> None:
    cache = make_cache(4)
    cache.allocate(2)
    assert cache.index(raw(1, 0), keys(1, 2), raw(-1, 1)).all()
    assert ids_of(cache.find(keys(1, 2))) == [1, 0]
    assert cache.blocks["num_tokens"][:2].tolist() == [2, 2]


def test_only_what_adapters_alone_hold_is_indexed() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 2)
    cache.acquire(raw(0))
    with pytest.raises(nbkv.BlockError, match=r"block_ids\[0\] is 0;"):
        cache.index(raw(0), keys(1), raw(-1))
    lease = cache.pin(cache.handle(1))
    cache.free_sequence(1)
    with pytest.raises(nbkv.BlockError, match=r"block_ids\[0\] is 0;"):
        cache.index(raw(0), keys(1), raw(-1))
    cache.unpin(lease)
    assert cache.index(raw(0), keys(1), raw(-1)).all()


def test_parents_are_findable_full_and_of_the_same_domain() -> None:
    cache = make_cache(8)
    handle, _ = cache.admit(1, [1, 2])
    cache.commit(cache.plan(np.array([handle]), 2), tokens=np.array([1, 2], np.int32))
    cache.add_sequence(2, [1, 2, 3], 5)
    # By its tokens; a sequence's alone; cut from that one; filled by half.
    cache.acquire(raw(0, 2, 3))
    own = cache.allocate(1)
    for parent in (0, 1, 2, 3):
        with pytest.raises(nbkv.PrefixError, match=rf"parents\[0\] is {parent};"):
            cache.index(own, keys(9), raw(parent))
    assert_intact(cache)
