"""Questions to a cache change nothing in it."""

from support import make_cache


def test_questions_change_nothing() -> None:
    cache = make_cache(6, 4)
    cache.add_sequence(1, [5, 6], 7)
    cache.append_token(2)
    before = cache.arena.copy()
    assert cache.fragmentation() == 2 / 3
    assert (1 in cache, 3 in cache) == (True, False)
    assert cache.block_table(2).tolist() == [2]
    assert cache.handle(2) == (1 << 32) | 1
    assert (cache.num_hit_tokens(3), cache.num_cached_tokens(1)) == (0, 7)
    assert cache.stats.total_allocations == 3
    assert (cache.arena == before).all()


def test_partial_blocks_are_those_below_their_size() -> None:
    cache = make_cache(8, 4)
    cache.allocate_blocks_for_tokens(1, 8)
    assert cache.fragmentation() == 0.0
    cache.allocate_block(1)
    assert cache.fragmentation() == 1 / 3
    for _ in range(4):
        cache.append_token(1)
    assert cache.fragmentation() == 0.0
