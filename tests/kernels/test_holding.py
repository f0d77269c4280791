"""From held to cached or free, and from cached to evicted."""

from invariants import assert_intact, free_list
from support import make_cache


def test_free_blocks_leave_head_first_and_cached_ones_enter_tail_first() -> None:
    cache = make_cache(6)
    cache.add_sequence(1, [1, 2, 3], 12)
    cache.free_sequence(1)
    assert free_list(cache) == [3, 4, 5]
    assert cache.blocks["last_access"][:3].tolist() == [3, 2, 1]


def test_a_block_leaves_with_its_last_holder() -> None:
    cache = make_cache(4)
    cache.add_sequence(1, [1])
    cache.fork(1, 2)
    cache.free_sequence(1)
    assert (cache.num_held_blocks, cache.num_cached_blocks) == (1, 0)
    cache.free_sequence(2)
    assert (cache.num_held_blocks, cache.num_cached_blocks) == (0, 1)


def test_a_victim_goes_to_the_free_list_before_what_its_name_sets_free() -> None:
    cache = make_cache(5)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 6))
    cache.free_sequence(1)
    assert cache.allocate_blocks_for_tokens(2, 6).tolist() == [3, 4, 2]
    assert free_list(cache) == [0, 1]
    assert cache.last_evicted.tolist() == [2]
    assert_intact(cache)
