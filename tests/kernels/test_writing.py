"""Counting first: a batch that does not fit leaves no mark, one that fits cannot fail."""

import numpy as np
import pytest
from invariants import assert_intact
from support import make_cache

import nbkv


@pytest.mark.parametrize("by_handle", [False, True])
def test_marks_of_a_refused_batch_are_taken_back(by_handle: bool) -> None:
    cache = make_cache(4, 4)
    cache.allocate_blocks_for_tokens(1, 6)
    for seq_id in (2, 3, 8):
        cache.fork(1, seq_id)
    handles = {s: cache.handle(s) for s in (1, 2, 3, 8)}
    cache.free_sequence(8)

    def append(*seq_ids: int, counts: list[int], room: int = 99) -> np.ndarray:
        out, numbers = np.empty(room, np.int64), np.array(counts, np.int32)
        if by_handle:
            return cache.append_tokens(np.array([handles[s] for s in seq_ids]), numbers, out)
        return cache.append_tokens(np.array(seq_ids, np.uint64), numbers, out)

    for seq_ids, counts, room in [
        ((1, 2, 3), [1, 1, 9], 99),
        ((1, 2, 3), [1, 2, 2**31 - 1], 99),
        ((1, 2, 3), [1, 1, 1], 2),
        ((1, 2, 8), [1, 1, 1], 99),
        ((1, 2, 1), [1, 1, 1], 99),
    ]:
        before = cache.state_bytes()
        with pytest.raises(nbkv.KVCacheError):
            append(*seq_ids, counts=counts, room=room)
        assert (cache.state_bytes() == before).all()
    append(1, 2, 3, counts=[1, 1, 1])
    assert cache.last_copies.tolist() == [[1, 2], [1, 3]]
    assert [cache.block_table(s).tolist() for s in (1, 2, 3)] == [[0, 2], [0, 3], [0, 1]]
    assert_intact(cache)


def test_capacity_is_used_in_table_order_before_new_blocks() -> None:
    cache = make_cache(8, 2)
    for _ in range(3):
        cache.allocate_block(1)
    assert cache.allocate_blocks_for_tokens(1, 9).tolist() == [3, 4]
    slots = cache.append_tokens(np.array([1], np.uint64), 3)
    assert slots.tolist() == [9, 10, 11]
    assert cache.blocks["access_count"][:6].tolist() == [2, 2, 2, 1, 2, 1]


def test_a_copy_keeps_the_tokens_before_the_write_only() -> None:
    cache = make_cache(4, 4)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.fork(1, 2)
    cache.truncate(2, 1)
    assert cache.append_token(2) == 1
    assert cache.num_cached_tokens(2) == 2
    cache.fork(2, 3)  # closes the tail
    assert cache.blocks["num_tokens"][:2].tolist() == [4, 2]
    assert cache.blocks["access_count"][1] == 3


def test_an_evicting_batch_makes_room_up_front_and_reports_in_order() -> None:
    cache = make_cache(4)
    for seq_id in (1, 2, 3, 4):
        cache.add_sequence(seq_id, [seq_id])
        cache.free_sequence(seq_id)
    batch = np.array([cache.add_sequence(s) for s in (8, 9)])
    slots = cache.append_tokens(batch, np.array([3, 1], np.int32))
    assert cache.last_evicted.tolist() == [0, 1, 2]
    assert slots.tolist() == [0, 1, 2, 4]
