"""Batches against the same work done one by one."""

import random

import numpy as np
import pytest
from invariants import assert_intact
from support import make_cache


@pytest.mark.parametrize("by_handle", [True, False])
def test_a_large_batch_is_the_same_as_single_calls(by_handle: bool, rng: random.Random) -> None:
    size = 150
    batch, single = (make_cache(600, 4, max_sequences=size) for _ in range(2))
    seq_ids = [rng.randrange(2**64) for _ in range(size)]
    for cache in (batch, single):
        for seq_id in seq_ids:
            cache.add_sequence(seq_id)
    for _ in range(4):
        order = rng.sample(seq_ids, size)
        counts = [rng.randrange(4) for _ in order]
        given = (
            np.array([batch.handle(s) for s in order]) if by_handle else np.array(order, np.uint64)
        )
        slots = batch.append_tokens(given, np.array(counts, np.int32)).tolist()
        for seq_id, count in zip(order, counts, strict=True):
            for _ in range(count):
                at = single.num_cached_tokens(seq_id) % 4
                assert slots.pop(0) == single.append_token(seq_id) * 4 + at
    assert [batch.block_table(s).tolist() for s in seq_ids] == [
        single.block_table(s).tolist() for s in seq_ids
    ]
    assert batch.stats == single.stats
    assert_intact(batch)


def test_one_count_for_all_is_that_count_for_each() -> None:
    cache = make_cache(8)
    handles = np.array([cache.add_sequence(s) for s in (1, 2, 3)])
    assert cache.append_tokens(handles, 2).tolist() == [0, 1, 2, 3, 4, 5]
    assert cache.append_tokens(handles, 0).tolist() == []


def test_an_empty_batch_is_a_batch() -> None:
    cache = make_cache(2)
    nobody = np.empty(0, np.int64)
    assert cache.append_tokens(nobody, 5).tolist() == []
    assert cache.append_tokens(nobody, np.empty(0, np.int32)).tolist() == []
    assert cache.append_tokens(np.empty(0, np.uint64), 1).tolist() == []


def test_read_only_and_strided_batches_are_taken() -> None:
    cache = make_cache(8)
    handles = np.array([cache.add_sequence(s) for s in (1, 2)])
    frozen = handles.copy()
    frozen.flags.writeable = False
    cache.append_tokens(frozen, 1)
    cache.append_tokens(np.repeat(handles, 3)[::3], np.array([1, 9, 1, 9], np.int32)[::2])
    assert [cache.num_cached_tokens(s) for s in (1, 2)] == [2, 2]
