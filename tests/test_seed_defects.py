"""Every defect of the seed, by its number: here it cannot happen.

D05, D22, D25 and the lookup half of D20 are right or kept; their tests say what is kept.
"""

from collections.abc import Callable
from typing import Any

import pytest
from invariants import assert_intact
from support import make_cache, stats_list

import nbkv


def refuse(
    cache: nbkv.PagedKVCache, kind: type[Exception], call: Callable[..., Any], *args: Any
) -> None:
    """Check that a call is refused and changes nothing."""
    before = cache.state_bytes()
    with pytest.raises(kind):
        call(*args)
    assert (cache.state_bytes() == before).all()
    assert_intact(cache)


def table(cache: nbkv.PagedKVCache, seq_id: int) -> list[int]:
    """Return a live sequence's table as a list."""
    return cache.block_table(seq_id).tolist()


def test_d01_a_live_sequence_keeps_its_head() -> None:
    cache = make_cache(3)
    cache.allocate_blocks_for_tokens(1, 6)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_blocks_for_tokens, 2, 2)
    assert table(cache, 1) == [0, 1, 2]
    assert cache.num_cached_tokens(1) == 6


def test_d02_a_live_sequence_is_never_emptied() -> None:
    cache = make_cache(1)
    cache.allocate_blocks_for_tokens(1, 2)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_blocks_for_tokens, 2, 2)
    assert table(cache, 1) == [0]
    cache.free_sequence(1)
    refuse(cache, nbkv.UnknownSequenceError, cache.free_sequence, 1)


def test_d03_a_growing_sequence_does_not_eat_itself() -> None:
    cache = make_cache(2)
    assert [cache.append_token(1) for _ in range(4)] == [0, 0, 1, 1]
    refuse(cache, nbkv.OutOfBlocksError, cache.append_token, 1)
    assert table(cache, 1) == [0, 1]
    assert cache.num_cached_tokens(1) == 4


def test_d04_more_than_the_pool_is_refused() -> None:
    cache = make_cache(2)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_blocks_for_tokens, 1, 9)
    assert cache.block_table(1) is None
    assert stats_list(cache) == [0] * 6


def test_d04b_no_block_is_given_out_twice_under_frequency() -> None:
    cache = make_cache(3, 4, eviction_policy="frequency")
    for _ in range(8):
        cache.append_token(1)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_blocks_for_tokens, 2, 9)
    assert cache.block_table(2) is None
    assert cache.allocate_blocks_for_tokens(2, 3).tolist() == [2]
    assert cache.num_cached_tokens(2) == 3


def test_d05_exhaustion_by_shared_blocks_changes_nothing() -> None:
    cache = make_cache(2)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.share_prefix(1, 2, 2)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_blocks_for_tokens, 3, 2)
    assert cache.block_table(3) is None


def test_d05b_a_call_that_half_fits_changes_nothing() -> None:
    cache = make_cache(3)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.share_prefix(1, 2, 2)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_blocks_for_tokens, 3, 4)
    assert cache.block_table(3) is None
    assert cache.num_free_blocks == 1


def test_d06_full_shared_blocks_are_not_copied() -> None:
    cache = make_cache(4)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.share_prefix(1, 2, 2)
    assert cache.append_token(2) == 2
    assert table(cache, 2) == [0, 1, 2]
    assert cache.last_copies.tolist() == []
    assert stats_list(cache) == [3, 0, 1, 0, 0, 0]


def test_d07_an_append_keeps_all_tokens_of_its_sequence() -> None:
    cache = make_cache(3)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.share_prefix(1, 2, 2)
    cache.share_prefix(1, 3, 2)
    assert cache.append_token(2) == 2
    assert table(cache, 2) == [0, 1, 2]
    assert cache.num_cached_tokens(2) == 5
    refuse(cache, nbkv.OutOfBlocksError, cache.append_token, 3)


def test_d07b_an_append_leaves_the_source_whole() -> None:
    cache = make_cache(3)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.share_prefix(1, 2, 2)
    assert cache.append_token(2) == 2
    assert table(cache, 1) == [0, 1]
    assert cache.num_cached_tokens(1) == 4
    assert cache.stats.evictions == 0


def test_d08_sharing_onto_a_sequence_is_refused() -> None:
    cache = make_cache(2)
    cache.allocate_block(2)
    cache.append_token(1)
    refuse(cache, nbkv.DuplicateSequenceError, cache.share_prefix, 1, 2, 1)
    assert table(cache, 2) == [0]


def test_d08b_a_tail_alone_cannot_be_registered() -> None:
    cache = make_cache(2)
    cache.allocate_blocks_for_tokens(1, 3)
    refuse(cache, nbkv.PrefixError, cache.register_prefix, 7, [1])
    assert cache.append_token(1) == 1
    assert table(cache, 1) == [0, 1]


def test_d09_sharing_leaves_no_hole() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 2)
    cache.append_token(2)
    refuse(cache, nbkv.DuplicateSequenceError, cache.share_prefix, 1, 2, 1)
    assert cache.num_cached_tokens(2) == 1


def test_d10_sharing_onto_itself_is_refused() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 4)
    refuse(cache, nbkv.DuplicateSequenceError, cache.share_prefix, 1, 1, 2)
    refuse(cache, nbkv.DuplicateSequenceError, cache.fork, 1, 1)
    assert table(cache, 1) == [0, 1]


def test_d11_sharing_nothing_is_refused() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 2)
    refuse(cache, nbkv.PrefixError, cache.share_prefix, 1, 9, 0)
    assert cache.block_table(9) is None
    assert cache.stats.hit_rate == 0.0


def test_d12_a_partial_tail_is_filled_first() -> None:
    cache = make_cache(8)
    cache.append_token(1)
    assert cache.allocate_blocks_for_tokens(1, 2).tolist() == [1]
    assert table(cache, 1) == [0, 1]
    assert cache.num_cached_tokens(1) == 3


def test_d12b_empty_blocks_hold_no_tokens() -> None:
    cache = make_cache(8)
    assert [cache.allocate_block(1), cache.allocate_block(1)] == [0, 1]
    assert cache.num_cached_tokens(1) == 0
    assert cache.fragmentation() == 1.0
    assert [cache.append_token(1) for _ in range(3)] == [0, 0, 1]


def test_d13_registering_twice_is_once() -> None:
    cache = make_cache(1)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 2))
    cache.register_prefix(7, [0])
    cache.free_sequence(1)
    assert cache.allocate_blocks_for_tokens(2, 2).tolist() == [0]
    assert cache.last_evicted.tolist() == [0]
    assert cache.lookup_prefix(7) is None


def test_d13b_a_name_is_not_moved_to_other_blocks() -> None:
    cache = make_cache(2)
    cache.allocate_blocks_for_tokens(1, 2)
    cache.allocate_blocks_for_tokens(2, 2)
    cache.register_prefix(7, [0])
    refuse(cache, nbkv.PrefixError, cache.register_prefix, 7, [1])
    cache.free_sequence(1)
    cache.free_sequence(2)
    assert cache.lookup_prefix(7).tolist() == [0]
    assert cache.num_free_blocks == 1


@pytest.mark.parametrize("block_ids", [[0, 99], [0], [99], [-1], [2**31 - 1]])
def test_d14_blocks_nobody_holds_cannot_be_registered(block_ids: list[int]) -> None:
    cache = make_cache(2)
    refuse(cache, nbkv.KVCacheError, cache.register_prefix, 7, block_ids)
    assert cache.lookup_prefix(7) is None


def test_d15_a_block_stands_once_in_a_prefix() -> None:
    cache = make_cache(2)
    cache.allocate_blocks_for_tokens(1, 2)
    refuse(cache, nbkv.PrefixError, cache.register_prefix, 7, [0, 0])
    cache.free_sequence(1)
    assert cache.num_free_blocks == 2


def test_d16_a_prefix_goes_whole() -> None:
    cache = make_cache(3)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 6))
    cache.free_sequence(1)
    assert cache.lookup_prefix(7).tolist() == [0, 1, 2]
    assert cache.allocate_block(2) == 2
    assert cache.last_evicted.tolist() == [2]
    assert cache.lookup_prefix(7) is None
    assert [cache.allocate_block(2), cache.allocate_block(2)] == [0, 1]
    assert cache.stats.evictions == 1
    assert cache.stats.hit_rate == 0.5


def test_d17_a_name_can_be_given_up() -> None:
    cache = make_cache(4)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    cache.free_sequence(1)
    assert (cache.num_free_blocks, cache.num_cached_blocks) == (2, 2)
    cache.unregister_prefix(7)
    assert (cache.num_free_blocks, cache.num_cached_blocks) == (4, 0)
    assert cache.memory_usage_bytes == 0
    assert cache.allocate_blocks_for_tokens(2, 8).tolist() == [2, 3, 0, 1]


def test_d18_a_prefix_is_held_by_attaching() -> None:
    cache = make_cache(1)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 2))
    cache.free_sequence(1)
    cache.attach_prefix(7, 3)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_block, 2)
    assert cache.lookup_prefix(7).tolist() == table(cache, 3) == [0]
    cache.free_sequence(3)
    assert cache.allocate_block(2) == 0
    assert cache.lookup_prefix(7) is None


def test_d18b_a_looked_up_prefix_can_be_attached() -> None:
    cache = make_cache(4)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 2))
    cache.free_sequence(1)
    cache.attach_prefix(7, 2)
    assert table(cache, 2) == [0]
    assert cache.num_cached_tokens(2) == 2


def test_d19_cached_blocks_go_before_live_ones() -> None:
    cache = make_cache(2)
    cache.allocate_blocks_for_tokens(1, 2)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(2, 2))
    cache.free_sequence(2)
    assert cache.allocate_block(3) == 1
    assert table(cache, 1) == [0]
    assert cache.lookup_prefix(7) is None


def test_d20_use_is_holding_and_lookup_is_not() -> None:
    cache = make_cache(2)
    for seq_id in (1, 2):
        cache.register_prefix(seq_id, cache.allocate_blocks_for_tokens(seq_id, 2))
    for seq_id in (1, 2):
        cache.free_sequence(seq_id)
    for _ in range(3):
        cache.lookup_prefix(1)
    cache.attach_prefix(2, 5)
    cache.free_sequence(5)
    assert cache.allocate_block(9) == 0


def test_d20_a_prefix_held_later_outlives_one_released_later() -> None:
    cache = make_cache(2)
    for seq_id in (1, 2):
        cache.register_prefix(seq_id, cache.allocate_blocks_for_tokens(seq_id, 2))
    for seq_id in (1, 2):
        cache.free_sequence(seq_id)
    cache.attach_prefix(1, 5)
    cache.free_sequence(5)
    assert cache.allocate_block(9) == 1


def test_d20b_the_head_of_a_decoding_sequence_stays() -> None:
    cache = make_cache(3)
    cache.allocate_blocks_for_tokens(1, 2)
    cache.allocate_blocks_for_tokens(2, 2)
    cache.append_token(1)
    cache.append_token(1)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_block, 3)
    assert (table(cache, 1), table(cache, 2)) == ([0, 2], [1])


def test_d21_fragmentation_counts_each_held_block_once() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 3)
    assert cache.fragmentation() == 1 / 2
    cache.share_prefix(1, 2, 2)
    cache.share_prefix(1, 3, 2)
    assert cache.fragmentation() == 1 / 2
    cache.allocate_blocks_for_tokens(9, 2)
    assert cache.fragmentation() == 1 / 3


def test_d22_counters_count_what_the_seed_counts() -> None:
    cache = make_cache(4)
    cache.allocate_blocks_for_tokens(1, 3)
    cache.share_prefix(1, 2, 2)
    assert cache.append_token(2) == 2
    assert cache.last_copies.tolist() == [[1, 2]]
    cache.free_sequence(1)
    assert stats_list(cache) == [2, 2, 1, 0, 0, 1]
    cache.free_sequence(2)
    assert stats_list(cache) == [2, 4, 1, 0, 0, 1]
    assert cache.num_free_blocks == 4


def test_d23_a_pool_too_large_for_block_ids_is_refused() -> None:
    with pytest.raises(nbkv.ConfigError, match="num_blocks"):
        make_cache(2**32 + 5)


def test_d24_memory_does_not_overflow() -> None:
    cache = make_cache(4, num_layers=2**62)
    cache.allocate_blocks_for_tokens(1, 2)
    assert cache.memory_usage_bytes == 2 * 2**62 * 1 * 8 * 2 * 2


def test_d25_sharing_counts_as_a_hit() -> None:
    cache = make_cache(4)
    cache.allocate_blocks_for_tokens(1, 2)
    cache.share_prefix(1, 2, 1)
    assert cache.stats.hit_rate == 1.0
    assert cache.lookup_prefix(9) is None
    assert cache.stats.hit_rate == 0.5


def test_d26_a_sequence_gives_back_all_it_was_given() -> None:
    cache = make_cache(2)
    cache.allocate_blocks_for_tokens(1, 4)
    refuse(cache, nbkv.OutOfBlocksError, cache.allocate_block, 2)
    cache.free_sequence(1)
    assert stats_list(cache) == [2, 2, 0, 0, 0, 0]
    assert cache.num_free_blocks == 2


def test_d27_an_empty_prefix_is_refused() -> None:
    cache = make_cache(2)
    refuse(cache, nbkv.PrefixError, cache.register_prefix, 7, [])
    assert cache.lookup_prefix(7) is None
    assert cache.stats.hit_rate == 0.0


def test_d28_only_full_blocks_are_registered() -> None:
    cache = make_cache(4, 4)
    cache.append_token(1)
    refuse(cache, nbkv.PrefixError, cache.register_prefix, 7, [0])
    assert cache.append_token(1) == 0
    assert cache.stats.cow_copies == 0


@pytest.mark.parametrize(
    "field", ["num_blocks", "block_size", "num_layers", "num_kv_heads", "head_dim"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_e1_every_size_is_at_least_one(field: str, value: int) -> None:
    sizes = {"block_size": 2, "num_blocks": 4, "num_layers": 1, "num_kv_heads": 1, "head_dim": 8}
    with pytest.raises(nbkv.ConfigError, match=f"{field}.*{value}"):
        nbkv.CacheConfig(**sizes | {field: value})


def test_e1_unknown_sequences_and_long_shares_are_refused() -> None:
    cache = make_cache(4)
    refuse(cache, nbkv.UnknownSequenceError, cache.free_sequence, 5)
    refuse(cache, nbkv.UnknownSequenceError, cache.share_prefix, 5, 6, 1)
    cache.allocate_blocks_for_tokens(1, 2)
    refuse(cache, nbkv.PrefixError, cache.share_prefix, 1, 6, 2)
    assert cache.allocate_blocks_for_tokens(3, 0).tolist() == []
    assert cache.block_table(3) is None
    assert cache.block_table(77) is None
    assert cache.num_cached_tokens(77) == 0
