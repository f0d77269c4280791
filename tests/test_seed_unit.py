"""The seed's 15 unit tests by name, with its configuration.

The three eviction tests register and free their sequences first: a live block is never taken.
"""

import pytest
from support import make_cache

import nbkv


def seed_cache(num_blocks: int, **options: str) -> nbkv.PagedKVCache:
    """Make the cache of the seed's tests: 16 tokens a block, 32 layers, 32 heads of 128."""
    return make_cache(num_blocks, 16, num_layers=32, num_kv_heads=32, head_dim=128, **options)


def test_basic_allocation() -> None:
    cache = seed_cache(100)
    assert cache.num_free_blocks == 100
    block = cache.allocate_block(1)
    assert cache.num_free_blocks == 99
    assert cache.block_table(1).tolist() == [block]


def test_allocate_blocks_for_tokens() -> None:
    cache = seed_cache(100)
    blocks = cache.allocate_blocks_for_tokens(1, 50)
    assert blocks.tolist() == [0, 1, 2, 3]
    assert cache.num_free_blocks == 96


def test_free_sequence() -> None:
    cache = seed_cache(100)
    cache.allocate_blocks_for_tokens(1, 32)
    assert cache.num_free_blocks == 98
    cache.free_sequence(1)
    assert cache.num_free_blocks == 100
    assert cache.block_table(1) is None


def test_free_unknown_sequence() -> None:
    cache = seed_cache(10)
    with pytest.raises(nbkv.UnknownSequenceError, match="999"):
        cache.free_sequence(999)


def test_append_token() -> None:
    cache = seed_cache(10)
    first = cache.append_token(1)
    assert cache.num_cached_tokens(1) == 1
    assert cache.num_free_blocks == 9
    assert [cache.append_token(1) for _ in range(15)] == [first] * 15
    assert cache.num_cached_tokens(1) == 16
    assert cache.append_token(1) != first
    assert cache.num_cached_tokens(1) == 17
    assert cache.num_free_blocks == 8


def test_copy_on_write() -> None:
    cache = seed_cache(20)
    cache.allocate_blocks_for_tokens(1, 32)
    assert cache.num_free_blocks == 18
    cache.share_prefix(1, 2, 2)
    assert cache.num_free_blocks == 18
    cache.append_token(2)
    # The seed accepts a copy or a new block here; full blocks are never copied.
    assert cache.stats.cow_copies == 0
    assert cache.num_free_blocks == 17
    assert cache.block_table(2).tolist() == [0, 1, 2]


def test_prefix_sharing() -> None:
    cache = seed_cache(20)
    cache.allocate_blocks_for_tokens(1, 32)
    cache.register_prefix(0x1234, cache.block_table(1)[:2])
    assert cache.lookup_prefix(0x1234).tolist() == [0, 1]
    assert cache.lookup_prefix(0xDEAD) is None


def register_and_free(cache: nbkv.PagedKVCache, num_sequences: int) -> None:
    """Leave one cached block of each of the sequences 1, 2, ..., released in this order."""
    for seq_id in range(1, num_sequences + 1):
        blocks = cache.allocate_blocks_for_tokens(seq_id, 16)
        cache.register_prefix(seq_id, blocks)
    for seq_id in range(1, num_sequences + 1):
        cache.free_sequence(seq_id)
    assert cache.num_free_blocks == 0


def test_eviction_lru() -> None:
    cache = seed_cache(4)
    register_and_free(cache, 4)
    assert cache.allocate_block(5) == 0
    assert cache.stats.evictions == 1
    assert cache.lookup_prefix(1) is None


def test_eviction_fifo() -> None:
    cache = seed_cache(3, eviction_policy="fifo")
    register_and_free(cache, 3)
    assert cache.allocate_block(4) == 0
    assert cache.stats.evictions == 1


def test_eviction_frequency() -> None:
    cache = seed_cache(3, eviction_policy="frequency")
    register_and_free(cache, 3)
    cache.attach_prefix(1, 7)
    cache.free_sequence(7)
    assert cache.allocate_block(4) == 1
    assert cache.stats.evictions == 1


def test_cache_stats() -> None:
    cache = seed_cache(20)
    assert cache.stats.hit_rate == 0.0
    cache.allocate_blocks_for_tokens(1, 32)
    assert cache.stats.total_allocations == 2
    cache.register_prefix(42, cache.block_table(1)[:1])
    cache.lookup_prefix(42)
    cache.lookup_prefix(99)
    assert cache.stats.hit_rate == 0.5


def test_memory_usage() -> None:
    cache = seed_cache(100)
    assert cache.memory_usage_bytes == 0
    cache.allocate_block(1)
    assert cache.memory_usage_bytes == cache.config.bytes_per_block == 2 * 32 * 32 * 128 * 16 * 2


def test_fragmentation() -> None:
    cache = seed_cache(20)
    assert cache.fragmentation() == 0.0
    cache.allocate_blocks_for_tokens(1, 17)
    assert cache.fragmentation() == 0.5


@pytest.mark.parametrize("field", ["block_size", "num_blocks"])
def test_invalid_config(field: str) -> None:
    with pytest.raises(nbkv.ConfigError, match=field):
        nbkv.CacheConfig(**{"block_size": 16, "num_blocks": 10} | {field: 0}, **SHAPE)


SHAPE = {"num_layers": 32, "num_kv_heads": 32, "head_dim": 128}


def test_num_cached_tokens_no_sequence() -> None:
    assert seed_cache(10).num_cached_tokens(999) == 0
