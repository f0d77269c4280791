"""Whole sequences: cut short, forked, and added over what is left of others."""

import pytest
from invariants import assert_intact
from pairing import chain_hashes
from support import make_cache


@pytest.mark.parametrize("num_tokens", range(8))
def test_truncate_keeps_the_blocks_of_the_tokens_it_keeps(num_tokens: int) -> None:
    cache = make_cache(8, 3)
    cache.allocate_blocks_for_tokens(1, 7)
    cache.allocate_block(1)
    cache.truncate(1, num_tokens)
    kept = -(-num_tokens // 3)
    assert cache.block_table(1).tolist() == [0, 1, 2][:kept]
    assert cache.num_cached_tokens(1) == num_tokens
    assert cache.stats.total_deallocations == 4 - kept
    cache.append_token(1)
    assert cache.num_cached_tokens(1) == num_tokens + 1
    assert_intact(cache)


def test_truncating_below_the_hit_takes_the_hit_along() -> None:
    cache = make_cache(8)
    for seq_id in (1, 2):
        cache.add_sequence(seq_id, chain_hashes([0, 0, 0]))
    cache.truncate(2, 3)
    assert cache.num_hit_tokens(2) == 3


def test_a_fork_takes_only_blocks_with_tokens() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 3)
    cache.allocate_block(1)
    cache.fork(1, 2)
    assert cache.block_table(2).tolist() == [0, 1]
    assert cache.blocks["ref_count"][:3].tolist() == [2, 2, 1]


def test_a_shared_prefix_of_full_blocks_has_their_tokens() -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 5)
    cache.share_prefix(1, 2, 2)
    cache.share_prefix(1, 3, 3)
    assert [cache.num_cached_tokens(s) for s in (2, 3)] == [4, 5]


def test_a_whole_hit_allocates_nothing() -> None:
    cache = make_cache(3)
    cache.add_sequence(1, chain_hashes([0, 0, 0]))
    cache.add_sequence(2, chain_hashes([0, 0, 0]))
    assert cache.stats.total_allocations == 3
    assert cache.num_hit_tokens(2) == 6
