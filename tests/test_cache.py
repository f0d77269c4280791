"""What the facade promises, and what the seed's vectors cannot tell apart."""

import numpy as np
import pytest
from invariants import assert_intact
from pairing import chain_hashes
from support import make_cache

import nbkv

HASHES = chain_hashes([0, 1, 0, 1, 0, 1])
POLICIES = ["lru", "fifo", "frequency"]


def cache_chain(cache: nbkv.PagedKVCache, seq_id: int, path: list[int]) -> list[int]:
    """Add a sequence under hashes, free it, and return the blocks that stay cached."""
    cache.add_sequence(seq_id, chain_hashes(path))
    table = cache.block_table(seq_id).tolist()
    cache.free_sequence(seq_id)
    return table


# --- order of eviction -------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_eviction_takes_the_tail_before_its_prefix(policy: str) -> None:
    cache = make_cache(4, eviction_policy=policy)
    assert cache_chain(cache, 1, [0, 0, 0, 0]) == [0, 1, 2, 3]
    assert [cache.allocate_block(2) for _ in range(4)] == [3, 2, 1, 0]


def test_fifo_takes_the_oldest_leaf_even_below_an_older_parent() -> None:
    cache = make_cache(4, eviction_policy="fifo")
    cache_chain(cache, 1, [0, 0])  # 0 <- 1
    cache_chain(cache, 2, [1])  # 2
    cache_chain(cache, 3, [0, 1])  # 0 <- 3: the oldest block has a child until the end
    assert [cache.allocate_block(9) for _ in range(4)] == [1, 2, 3, 0]


def test_frequency_takes_the_least_used_leaf_then_the_longest_released() -> None:
    cache = make_cache(4, eviction_policy="frequency")
    cache_chain(cache, 1, [0, 0])  # 0 <- 1
    cache_chain(cache, 2, [1])  # 2
    cache_chain(cache, 3, [2])  # 3
    cache_chain(cache, 4, [1])  # 2 again
    assert [cache.allocate_block(9) for _ in range(4)] == [1, 0, 3, 2]


def test_a_cached_block_used_again_goes_to_the_end_of_the_recency_list() -> None:
    cache = make_cache(3)
    for seq_id in (1, 2, 3):
        cache_chain(cache, seq_id, [seq_id])
    cache_chain(cache, 4, [1])
    assert [cache.allocate_block(9) for _ in range(3)] == [1, 2, 0]


def test_lookup_is_not_a_use() -> None:
    for policy in POLICIES:
        cache = make_cache(2, eviction_policy=policy)
        for seq_id in (1, 2):
            cache.register_prefix(seq_id, cache.allocate_blocks_for_tokens(seq_id, 2))
        cache.free_sequence(1)
        cache.free_sequence(2)
        for _ in range(5):
            cache.lookup_prefix(1)
        assert cache.blocks["access_count"][:2].tolist() == [1, 1]
        assert cache.allocate_block(9) == 0


@pytest.mark.parametrize("how", ["share_prefix", "fork", "attach_prefix", "add_sequence"])
def test_taking_a_reference_counts_as_one_use(how: str) -> None:
    cache = make_cache(4, eviction_policy="frequency")
    cache.add_sequence(1, HASHES[:2])
    cache.register_prefix(7, [0, 1])
    calls = {
        "share_prefix": lambda: cache.share_prefix(1, 2, 1),
        "fork": lambda: cache.fork(1, 2),
        "attach_prefix": lambda: cache.attach_prefix(7, 2),
        "add_sequence": lambda: cache.add_sequence(2, HASHES[:2]),
    }
    calls[how]()
    expected = [2, 1] if how == "share_prefix" else [2, 2]
    assert cache.blocks["access_count"][:2].tolist() == expected


def test_sharing_keeps_a_block_from_being_the_least_used() -> None:
    cache = make_cache(2, eviction_policy="frequency")
    for seq_id in (1, 2):
        cache.add_sequence(seq_id, chain_hashes([seq_id]))
    cache.share_prefix(1, 5, 1)
    for seq_id in (1, 5, 2):
        cache.free_sequence(seq_id)
    assert cache.allocate_block(9) == 1


def test_each_call_that_writes_into_a_block_counts_once() -> None:
    cache = make_cache(4, 4)
    handle = cache.add_sequence(1)
    cache.append_tokens(np.array([handle]), 1)
    cache.append_tokens(np.array([handle]), 2)
    cache.append_token(1)  # fills the block, so that its count is settled
    assert cache.blocks["access_count"][0] == 3


def test_free_list_is_first_in_first_out_and_head_first() -> None:
    cache = make_cache(5)
    cache.allocate_blocks_for_tokens(1, 6)
    cache.free_sequence(1)
    assert cache.allocate_blocks_for_tokens(2, 10).tolist() == [3, 4, 0, 1, 2]


def test_truncate_frees_head_first_and_caches_tail_first() -> None:
    cache = make_cache(6)
    cache.add_sequence(1, HASHES[:3], 12)  # three indexed, three private
    cache.truncate(1, 2)
    assert cache.block_table(1).tolist() == [0]
    assert (cache.num_free_blocks, cache.num_cached_blocks) == (3, 2)
    assert cache.allocate_blocks_for_tokens(2, 10).tolist() == [3, 4, 5, 2, 1]
    assert cache.last_evicted.tolist() == [2, 1]


# --- add_sequence --------------------------------------------------------------------------


def test_add_sequence_holds_the_longest_cached_prefix() -> None:
    cache = make_cache(8)
    cache_chain(cache, 1, [0, 0, 0])
    cache.add_sequence(2, chain_hashes([0, 0, 1, 1]))
    assert cache.block_table(2).tolist() == [0, 1, 3, 4]
    assert cache.num_hit_tokens(2) == 4
    assert cache.num_cached_tokens(2) == 8
    assert (cache.stats.cache_hits, cache.stats.cache_misses) == (1, 1)
    assert (cache.num_held_blocks, cache.num_cached_blocks) == (4, 1)


def test_a_hit_needs_the_same_parent() -> None:
    cache = make_cache(8)
    cache.add_sequence(1, [11, 12])
    cache.add_sequence(2, [12, 11])
    assert cache.num_hit_tokens(2) == 0
    assert cache.block_table(2).tolist() == [2, 3]


def test_living_sequences_are_hit_too() -> None:
    cache = make_cache(8)
    cache.add_sequence(1, HASHES[:2])
    cache.add_sequence(2, HASHES[:3])
    assert cache.block_table(2).tolist() == [0, 1, 2]
    assert cache.blocks["ref_count"][:3].tolist() == [2, 2, 1]


def test_a_partly_filled_last_block_is_hit_with_exactly_its_fill() -> None:
    cache = make_cache(8, 4)
    cache.add_sequence(1, HASHES[:2], 6)
    cache.free_sequence(1)
    cache.add_sequence(2, HASHES[:2], 6)
    assert (cache.num_hit_tokens(2), cache.block_table(2).tolist()) == (6, [0, 1])
    cache.add_sequence(3, HASHES[:2], 5)  # fewer than the block's key covers: no hit on it
    assert (cache.num_hit_tokens(3), cache.block_table(3).tolist()) == (4, [0, 2])


def test_a_hit_with_a_smaller_fill_is_written_on_in_place_when_alone() -> None:
    cache = make_cache(8, 4)
    cache.add_sequence(1, HASHES[:1], 2)
    cache.free_sequence(1)
    cache.add_sequence(2, HASHES[:1], 4)
    assert (cache.num_hit_tokens(2), cache.num_cached_tokens(2)) == (2, 4)
    assert cache.block_table(2).tolist() == [0]
    assert cache.stats.cow_copies == 0
    cache.free_sequence(2)
    cache.add_sequence(3, HASHES[:2])
    assert cache.num_hit_tokens(3) == 4


def test_a_hit_with_a_smaller_fill_is_copied_when_shared() -> None:
    cache = make_cache(8, 4)
    cache.add_sequence(1, HASHES[:1], 2)
    cache.add_sequence(2, HASHES[:1], 4)
    assert cache.last_copies.tolist() == [[0, 1]]
    assert cache.block_table(1).tolist() == [0]
    assert cache.block_table(2).tolist() == [1]
    assert cache.num_hit_tokens(2) == 2
    cache.add_sequence(3, HASHES[:1], 3)  # both match; the fuller that fits is the first
    assert cache.num_hit_tokens(3) == 2
    cache.add_sequence(4, HASHES[:1])
    assert (cache.num_hit_tokens(4), cache.block_table(4).tolist()) == (4, [1])


def test_blocks_beyond_the_hashes_are_private() -> None:
    cache = make_cache(8)
    cache.add_sequence(1, HASHES[:1], 7)
    cache.free_sequence(1)
    assert (cache.num_cached_blocks, cache.num_free_blocks) == (1, 7)


def test_an_empty_sequence_is_alive() -> None:
    cache = make_cache(8)
    handle = cache.add_sequence(5)
    assert cache.block_table(5).tolist() == []
    assert 5 in cache
    assert cache.handle(5) == handle
    assert cache.stats.hit_rate == 0.0
    cache.fork(5, 6)
    assert cache.block_table(6).tolist() == []


def test_hashes_may_be_a_list_or_any_strided_or_frozen_array() -> None:
    given = np.array(HASHES[:3], np.uint64)
    frozen = given.copy()
    frozen.flags.writeable = False
    strided = np.repeat(given, 2)[::2]
    cache = make_cache(8)
    cache.add_sequence(1, HASHES[:3])
    for seq_id, hashes in enumerate([given, frozen, strided, tuple(HASHES[:3])], 2):
        cache.add_sequence(seq_id, hashes)
        assert cache.num_hit_tokens(seq_id) == 6


def test_the_hits_about_to_be_held_are_not_room_for_the_rest() -> None:
    cache = make_cache(3)
    cache_chain(cache, 1, [0, 0, 0])
    before = cache.state_bytes()
    with pytest.raises(nbkv.OutOfBlocksError) as caught:
        cache.add_sequence(2, chain_hashes([0, 0, 1, 1]))
    error = caught.value
    assert (error.needed, error.free, error.evictable, error.fenced) == (2, 0, 1, 0)
    assert (cache.state_bytes() == before).all()
    cache.add_sequence(2, chain_hashes([0, 0, 1]))
    assert cache.last_evicted.tolist() == [2]
    assert cache.block_table(2).tolist() == [0, 1, 2]


# --- copy-on-write -----------------------------------------------------------------------


def test_a_forked_tail_is_copied_by_the_first_writer_only() -> None:
    cache = make_cache(8, 4)
    cache.allocate_blocks_for_tokens(1, 6)
    cache.fork(1, 2)
    slots = cache.append_tokens(np.array([1, 2], np.uint64), 1)
    assert slots.tolist() == [2 * 4 + 2, 1 * 4 + 2]
    assert cache.last_copies.tolist() == [[1, 2]]
    assert cache.block_table(1).tolist() == [0, 2]
    assert cache.block_table(2).tolist() == [0, 1]


def test_writing_under_a_name_copies() -> None:
    cache = make_cache(4, 4)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    cache.truncate(1, 2)
    assert cache.append_token(1) == 1
    assert cache.last_copies.tolist() == [[0, 1]]
    assert cache.lookup_prefix(7).tolist() == [0]
    assert cache.num_cached_blocks == 1


def test_writing_over_a_key_unindexes_a_childless_block() -> None:
    cache = make_cache(4, 4)
    cache.add_sequence(1, HASHES[:1])
    cache.truncate(1, 2)
    assert cache.append_token(1) == 0
    assert cache.stats.cow_copies == 0
    cache.add_sequence(2, HASHES[:1])
    assert cache.num_hit_tokens(2) == 0


def test_writing_over_a_key_copies_when_a_child_depends_on_it() -> None:
    cache = make_cache(4, 4)
    cache.add_sequence(1, HASHES[:2])
    cache.truncate(1, 2)
    assert cache.append_token(1) == 2
    assert cache.last_copies.tolist() == [[0, 2]]
    cache.add_sequence(2, HASHES[:2])
    assert cache.block_table(2).tolist() == [0, 1]


def test_the_source_of_a_copy_is_not_handed_out_by_the_same_call() -> None:
    cache = make_cache(4, 4)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    cache.truncate(1, 2)
    cache.append_tokens(np.array([1], np.uint64), 6)
    assert cache.last_copies.tolist() == [[0, 1]]
    assert cache.block_table(1).tolist() == [1, 2]


def test_a_full_pool_copies_into_an_evicted_block() -> None:
    cache = make_cache(3, 4)
    cache_chain(cache, 1, [0])
    cache.allocate_blocks_for_tokens(2, 6)
    cache.fork(2, 3)
    assert cache.append_token(3) == 0
    assert cache.last_evicted.tolist() == [0]
    assert cache.last_copies.tolist() == [[2, 0]]


# --- names -------------------------------------------------------------------------------


def test_a_name_that_dies_leaves_what_is_held_indexed_or_named() -> None:
    cache = make_cache(4)
    cache.allocate_blocks_for_tokens(1, 6)
    cache.register_prefix(7, [0, 1, 2])
    cache.register_prefix(8, [0])
    cache.share_prefix(1, 2, 1)
    cache.free_sequence(1)
    cache.allocate_blocks_for_tokens(3, 4)  # 3 was free, 2 is evicted, 1 becomes free
    assert cache.block_table(3).tolist() == [3, 2]
    assert cache.last_evicted.tolist() == [2]
    assert cache.lookup_prefix(7) is None
    assert cache.lookup_prefix(8).tolist() == [0]
    assert cache.num_free_blocks == 1
    cache.free_sequence(2)
    assert cache.num_cached_blocks == 1


def test_two_names_may_cover_the_same_blocks() -> None:
    cache = make_cache(2)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    cache.register_prefix(8, [0, 1])
    cache.free_sequence(1)
    cache.unregister_prefix(7)
    assert cache.num_cached_blocks == 2
    assert cache.allocate_block(2) == 1
    assert cache.lookup_prefix(8) is None
    assert cache.num_free_blocks == 1
    assert_intact(cache)


def test_unregistering_a_held_prefix_only_forgets_the_name() -> None:
    cache = make_cache(4)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    cache.unregister_prefix(7)
    assert cache.num_held_blocks == 2
    cache.free_sequence(1)
    assert cache.num_free_blocks == 4


# --- batches and views ---------------------------------------------------------------------


def test_slots_come_sequence_after_sequence_and_fill_out() -> None:
    cache = make_cache(8, 4)
    handles = np.array([cache.add_sequence(s) for s in (5, 6)])
    out = np.full(10, -7, np.int64)
    slots = cache.append_tokens(handles, np.array([3, 5], np.int32), out)
    assert slots.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert slots.base is out or slots.base is out.base
    assert out[8:].tolist() == [-7, -7]


def test_handles_of_the_gone_are_stale_even_when_their_row_lives_on() -> None:
    cache = make_cache(8, max_sequences=1)
    old = cache.add_sequence(5)
    cache.free_sequence(5)
    new = cache.add_sequence(5)
    assert old != new
    assert old & 0xFFFFFFFF == new & 0xFFFFFFFF
    with pytest.raises(nbkv.StaleHandleError):
        cache.append_tokens(np.array([old]), 1)
    assert cache.append_tokens(np.array([new]), 1).tolist() == [0]


def test_reports_show_the_latest_mutating_call_only() -> None:
    cache = make_cache(1)
    cache_chain(cache, 1, [0])
    cache.allocate_block(2)
    assert cache.last_evicted.tolist() == [0]
    with pytest.raises(nbkv.OutOfBlocksError):
        cache.allocate_block(3)
    cache.block_table(2)
    assert cache.last_evicted.tolist() == [0]
    cache.free_sequence(2)
    assert cache.last_evicted.tolist() == []


@pytest.mark.parametrize("view", ["arena", "header", "blocks", "block_keys", "sequences", "tables"])
def test_views_are_read_only(view: str) -> None:
    array = getattr(make_cache(4), view)
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


def test_block_table_is_a_copy_or_the_callers_array() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 6)
    table = cache.block_table(1)
    table[:] = 99
    assert cache.block_table(1).tolist() == [0, 1, 2]
    out = np.zeros(5, np.int32)
    assert cache.block_table(1, out=out).tolist() == [0, 1, 2]
    assert out.tolist() == [0, 1, 2, 0, 0]
    assert cache.block_table(2, out=out) is None


def test_the_largest_ids_and_hashes_are_ordinary() -> None:
    cache = make_cache(4)
    top = 2**64 - 1
    cache.add_sequence(top, [top])
    cache.append_token(2**63)
    cache.register_prefix(top, [0])
    cache.attach_prefix(top, 2**63 + 1)
    assert cache.block_table(2**63 + 1).tolist() == [0]
    assert cache.append_tokens(np.array([top, 2**63], np.uint64), 1).tolist() == [4, 3]


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("fp8", 1), ("int8", 1)]
)
def test_memory_counts_every_block_that_is_not_free(dtype: str, size: int) -> None:
    cache = make_cache(4, 2, num_layers=3, num_kv_heads=5, head_dim=7, dtype=dtype)
    cache_chain(cache, 1, [0])
    cache.allocate_block(2)
    # int8: a float32 scale for each token and head behind each layer's keys and values, and
    # both together filled up to 16 bytes.
    chunk = {"int8": 5 * 7 * 2 + 5 * 2 * 4 + 2}.get(dtype, 5 * 7 * 2 * size)
    assert cache.memory_usage_bytes == 2 * (2 * 3 * chunk)
    assert cache.utilization == 0.5


def test_a_new_cache_touches_little_of_its_arena() -> None:
    cache = nbkv.PagedKVCache(nbkv.CacheConfig(16, 2**20, 1, 1, 8, max_sequences=16))
    assert cache.num_free_blocks == 2**20
    assert cache.allocate_blocks_for_tokens(1, 33).tolist() == [0, 1, 2]
    assert cache.header["num_fresh_blocks"][0] == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_metadata_stays_small(policy: str) -> None:
    config = nbkv.CacheConfig(16, 2**20, 1, 1, 8, max_sequences=1, eviction_policy=policy)
    cache = nbkv.PagedKVCache(config)
    apart = sum(
        int(cache.header[f"{name}_end"][0] - cache.header[f"{name}_start"][0])
        for name in ("sequences", "sequence_keys", "seq_index", "tables")
    )
    assert (cache.arena.size - apart) / 2**20 <= 210
