"""Names over blocks: any number over one leaf, forgotten in any order."""

import itertools

import pytest
from invariants import assert_intact
from support import make_cache

import nbkv


@pytest.mark.parametrize("order", list(itertools.permutations([7, 8, 9])))
def test_names_of_one_leaf_are_forgotten_one_by_one(order: tuple[int, ...]) -> None:
    cache = make_cache(3)
    cache.allocate_blocks_for_tokens(1, 6)
    for name in (7, 8, 9):
        cache.register_prefix(name, [0, 1, 2])
    cache.free_sequence(1)
    for i, name in enumerate(order):
        assert cache.num_cached_blocks == 3
        cache.unregister_prefix(name)
        left = [n for n in (7, 8, 9) if cache.lookup_prefix(n) is not None]
        assert left == sorted(order[i + 1 :])
        assert_intact(cache)
    assert cache.num_free_blocks == 3


def test_forgetting_a_long_name_keeps_what_a_short_one_covers() -> None:
    cache = make_cache(4)
    cache.allocate_blocks_for_tokens(1, 8)
    cache.register_prefix(7, [0, 1, 2, 3])
    cache.register_prefix(8, [0, 1])
    cache.free_sequence(1)
    cache.unregister_prefix(7)
    assert (cache.num_cached_blocks, cache.num_free_blocks) == (2, 2)
    assert cache.allocate_blocks_for_tokens(2, 6).tolist() == [2, 3, 1]
    assert cache.lookup_prefix(8) is None
    assert cache.allocate_block(3) == 0


def test_a_name_record_is_used_again() -> None:
    cache = make_cache(4, max_named_prefixes=2)
    cache.allocate_blocks_for_tokens(1, 8)
    for name in range(20):
        cache.register_prefix(name, [0, 1, 2][: 1 + name % 3])
        if name:
            cache.unregister_prefix(name - 1)
        assert_intact(cache)
    assert cache.lookup_prefix(19).tolist() == [0, 1]
    assert cache.header["num_fresh_names"][0] == 2


def test_a_block_is_under_at_most_32767_names() -> None:
    cache = make_cache(1, max_named_prefixes=2**15 + 1)
    cache.allocate_blocks_for_tokens(1, 2)
    for name in range(2**15 - 1):
        cache.register_prefix(name, [0])
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=r"prefix_hash is 32768.*32767"):
        cache.register_prefix(32768, [0])
    assert (cache.state_bytes() == before).all()
    cache.free_sequence(1)
    assert cache.allocate_block(2) == 0
    assert cache.header["num_names"][0] == 0
