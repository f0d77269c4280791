"""The sliding window: which columns become holes, and what is cut with them."""

import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv
from nbkv.layout import DETACHED, INDEXED, NO_BLOCK, UNINDEXABLE


@pytest.mark.parametrize(("num_tokens", "holes"), [(4, 0), (5, 1), (6, 1), (7, 2), (12, 4)])
def test_blocks_that_the_next_token_does_not_attend_to_leave(num_tokens: int, holes: int) -> None:
    cache = make_cache(8, 2, window=4)
    _, report = compute(cache, 1, list(range(num_tokens)))
    end = -(-num_tokens // 2)
    assert table(cache, 1) == [NO_BLOCK] * holes + list(range(holes, end))
    assert report.table_changes.tolist() == [[0, 0, column, NO_BLOCK] for column in range(holes)]
    assert cache.sequences["first_block"][0] == holes
    assert_intact(cache)


def test_the_block_behind_the_holes_is_cut_and_nothing_further_indexed() -> None:
    cache = make_cache(8, 2, window=4)
    handle, _ = compute(cache, 1, [1, 2, 3, 4])
    assert not cache.sequences["flags"][0] & UNINDEXABLE
    cache.commit(cache.plan(handles(handle), 4), tokens=int32(5, 6, 7, 8))
    flags = cache.blocks["flags"]
    # Blocks 2 and 3 were published first, then the holes were made.
    assert [bool(flags[b] & INDEXED) for b in range(4)] == [True] * 4
    assert [bool(flags[b] & DETACHED) for b in range(4)] == [False, False, True, False]
    assert hit_blocks(cache, [1, 2, 3, 4, 5, 6, 7, 8]) == 2
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(9, 9))
    assert not cache.blocks["flags"][4] & INDEXED
    assert_intact(cache)


def test_released_blocks_are_cached_tail_first() -> None:
    cache = make_cache(8, 2, window=3)
    compute(cache, 1, [1, 2, 3, 4, 5, 6, 7])
    assert table(cache, 1) == [NO_BLOCK, NO_BLOCK, 2, 3]
    assert cache.evict(8).tolist() == [1, 0]


def test_a_sequence_keeps_its_length_and_writes_on() -> None:
    cache = make_cache(4, 2, window=2, max_blocks_per_sequence=10)
    handle, _ = cache.admit(1, [])
    for token in range(20):
        plan = cache.plan(handles(handle), 1)
        assert plan.seq_lens.tolist() == [token + 1]
        cache.commit(plan, tokens=int32(token))
        # Never more than the block written to and the one before it.
        assert cache.num_held_blocks <= 2
    assert cache.sequences["first_block"][0] == 9
    assert_intact(cache)


def test_sharing_and_cutting_stop_at_the_holes() -> None:
    cache = make_cache(8, 2, window=3)
    compute(cache, 1, [1, 2, 3, 4, 5, 6])
    before = cache.state_bytes()
    # Two blocks of holes: four tokens, and the two before the next that it attends to.
    with pytest.raises(nbkv.ArgumentError, match=r"num_blocks is 2; .*at least 3, since .*window"):
        cache.share_prefix(1, 2, 2)
    with pytest.raises(nbkv.ArgumentError, match=r"num_tokens is 5; .*0 or at least 6"):
        cache.truncate(1, 5)
    assert (cache.state_bytes() == before).all()
    cache.fork(1, 2)
    assert table(cache, 2) == [NO_BLOCK, NO_BLOCK, 2]
    cache.truncate(1, 0)
    assert table(cache, 1) == []
    assert_intact(cache)
