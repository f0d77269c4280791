"""The victim is the minimum of the policy's key over the leaves, read from the records."""

import random

import pytest
from pairing import chain_hashes
from support import make_cache

from nbkv import PagedKVCache
from nbkv.layout import CACHED

KEYS = {
    "lru": lambda b: (b["last_access"],),
    "fifo": lambda b: (b["alloc_order"],),
    "frequency": lambda b: (b["access_count"], b["last_access"]),
}


def expected_victim(cache: PagedKVCache, policy: str) -> int:
    """Look at every cached block."""
    blocks = cache.blocks
    cached = [i for i in range(cache.total_blocks) if blocks["state"][i] == CACHED]
    if policy != "lru":
        cached = [i for i in cached if blocks["num_children"][i] == 0]
    victim = min(cached, key=lambda i: tuple(int(x) for x in KEYS[policy](blocks[i])))
    assert blocks["num_children"][victim] == 0
    return victim


@pytest.mark.parametrize("policy", KEYS)
def test_victims_are_the_smallest_of_the_leaves(policy: str, rng: random.Random) -> None:
    cache = make_cache(30, eviction_policy=policy)
    for seq_id in range(25):
        path = [rng.randrange(2) for _ in range(rng.randrange(1, 7))]
        cache.add_sequence(seq_id, chain_hashes(path))
        if seq_id >= 2 and rng.random() < 0.9:
            cache.free_sequence(seq_id - 2 if seq_id - 2 in cache else seq_id)
        if cache.num_held_blocks > 15:
            break
    for seq_id in range(25):
        if seq_id in cache:
            cache.free_sequence(seq_id)
    seq_id = 100
    while cache.num_cached_blocks:
        if cache.num_free_blocks:
            cache.allocate_block(seq_id)
            continue
        victim = expected_victim(cache, policy)
        assert cache.allocate_block(seq_id) == victim
        assert cache.last_evicted.tolist() == [victim]


def test_a_parent_enters_the_heap_with_its_own_rank_when_its_last_child_goes() -> None:
    cache = make_cache(4, eviction_policy="fifo")
    for seq_id, path in enumerate([[0, 0], [1], [0, 1]]):
        cache.add_sequence(seq_id, chain_hashes(path))
        cache.free_sequence(seq_id)
    assert [cache.allocate_block(9) for _ in range(3)] == [1, 2, 3]
    assert cache.header["heap_size"][0] == 1
    assert cache.allocate_block(9) == 0


@pytest.mark.parametrize("policy", ["fifo", "frequency"])
def test_a_parent_enters_the_heap_when_its_last_child_loses_its_name(policy: str) -> None:
    cache = make_cache(3, eviction_policy=policy)
    cache.add_sequence(1, chain_hashes([0]), 4)  # one indexed block, then a private one
    cache.register_prefix(7, [0, 1])
    cache.free_sequence(1)
    assert cache.header["heap_size"][0] == 1
    cache.unregister_prefix(7)
    assert (cache.header["heap_size"][0], cache.num_cached_blocks) == (1, 1)
    assert cache.allocate_blocks_for_tokens(2, 6).tolist() == [2, 1, 0]
