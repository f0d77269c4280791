"""The tree of cached blocks: links, keys, and walks that check the parent."""

from invariants import assert_intact
from pairing import chain_hashes
from support import make_cache


def test_children_are_counted_and_the_newest_is_remembered() -> None:
    cache = make_cache(8)
    for seq_id, path in enumerate([[0, 0], [0, 1], [0, 2]]):
        cache.add_sequence(seq_id, chain_hashes(path))
    assert (cache.blocks["num_children"][0], cache.blocks["child"][0]) == (3, 3)
    assert cache.blocks["parent"][:4].tolist() == [-1, 0, 0, 0]


def test_older_children_are_found_when_the_newest_is_gone() -> None:
    cache = make_cache(4)
    for seq_id, path in enumerate([[0, 0], [0, 1]]):
        cache.add_sequence(seq_id, chain_hashes(path))
    cache.truncate(1, 2)
    cache.allocate_block(8)
    cache.allocate_block(9)  # evicts block 2, the newest child
    assert cache.last_evicted.tolist() == [2]
    cache.add_sequence(5, chain_hashes([0, 0]))
    assert cache.block_table(5).tolist() == [0, 1]


def test_one_hash_under_many_parents_names_many_blocks() -> None:
    cache = make_cache(64)
    for root in range(12):
        cache.add_sequence(root, [root, 777])
    for root in range(12):
        cache.add_sequence(100 + root, [root, 777])
        assert cache.block_table(100 + root).tolist() == cache.block_table(root).tolist()
    for root in range(0, 12, 2):
        cache.free_sequence(root)
        cache.free_sequence(100 + root)
    cache.allocate_blocks_for_tokens(999, 2 * (64 - 12))
    assert cache.stats.evictions == 12
    for root in range(1, 12, 2):
        cache.add_sequence(200 + root, [root, 777])
        assert cache.num_hit_tokens(200 + root) == 4
    assert_intact(cache)


def test_several_fills_under_one_hash_give_the_fullest_that_fits() -> None:
    cache = make_cache(8, 8)
    for seq_id, fill in enumerate([2, 5, 7]):
        cache.add_sequence(seq_id, [42], fill)
    assert [cache.block_table(s).tolist() for s in range(3)] == [[0], [1], [2]]
    for seq_id, (stated, hit) in enumerate([(8, 7), (6, 5), (4, 2), (1, 0)], 10):
        cache.add_sequence(seq_id, [42], stated)
        assert cache.num_hit_tokens(seq_id) == hit


def test_a_partial_block_inside_the_hashes_is_no_hit() -> None:
    cache = make_cache(8, 4)
    cache.add_sequence(1, [42], 3)
    cache.append_token(1)  # full now, but its key covers 3 tokens
    cache.add_sequence(2, [42, 43])
    assert cache.num_hit_tokens(2) == 0
    cache.add_sequence(3, [42])
    assert cache.num_hit_tokens(3) == 4
