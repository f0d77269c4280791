"""`nbkv.kernels.batch`: a batch does what its sequences would one by one, or nothing."""

import numpy as np
import pytest
from invariants import assert_intact

import nbkv


def make_pair() -> tuple[nbkv.PagedKVCache, nbkv.PagedKVCache]:
    """Two equal caches of four sequences, two of which share a partial tail."""
    pair = []
    for _ in range(2):
        cache = nbkv.PagedKVCache(nbkv.CacheConfig(4, 12, 1, 1, 8))
        cache.allocate_blocks_for_tokens(1, 3)
        cache.allocate_blocks_for_tokens(2, 4)
        cache.allocate_blocks_for_tokens(3, 6)
        cache.fork(3, 4)
        pair.append(cache)
    return pair[0], pair[1]


@pytest.mark.parametrize("by_handle", [True, False])
def test_a_batch_does_what_its_sequences_would_one_by_one(by_handle: bool) -> None:
    batched, single = make_pair()
    order = [4, 1, 3, 2]
    ids = np.array(order, np.uint64)
    handles = np.array([batched.handle(seq_id) for seq_id in order], np.int64)
    slots = batched.append_tokens(handles if by_handle else ids, 1)
    blocks = [single.append_token(seq_id) for seq_id in order]
    assert (slots // 4).tolist() == blocks
    for seq_id in order:
        assert batched.block_table(seq_id).tolist() == single.block_table(seq_id).tolist()
        assert batched.num_cached_tokens(seq_id) == single.num_cached_tokens(seq_id)
    assert batched.stats == single.stats
    assert_intact(batched)


def test_a_refused_batch_leaves_no_mark_behind() -> None:
    cache, _ = make_pair()
    before = cache.state_bytes()
    # The fork's tail is marked for a copy before the last count finds no room.
    with pytest.raises(nbkv.OutOfBlocksError):
        cache.append_tokens(np.array([4, 1], np.uint64), np.array([1, 40], np.int32))
    assert (cache.state_bytes() == before).all()
    assert cache.append_tokens(np.array([4], np.uint64), 1).tolist() == [18]
    assert cache.last_copies.tolist() == [[3, 4]]


def test_a_count_of_zero_takes_no_slot_and_changes_nothing_of_its_sequence() -> None:
    cache, _ = make_pair()
    slots = cache.append_tokens(np.array([1, 2], np.uint64), np.array([0, 1], np.int32))
    assert slots.tolist() == [16]
    assert cache.num_cached_tokens(1) == 3
    assert cache.append_tokens(np.array([], np.uint64), 1).tolist() == []
