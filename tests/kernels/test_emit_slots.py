"""Slots run through blocks in the table's order."""

import numpy as np
import pytest
from page_support import CANARY, canaries, plant_hole
from support import make_cache

from nbkv.kernels import emit_slots
from nbkv.statuses import OUT_TOO_SMALL, TOO_MANY_TOKENS


@pytest.mark.parametrize(
    ("call", "dtype"),
    [(emit_slots.slots_int64, np.int64), (emit_slots.slots_int32, np.int32)],
)
def test_any_part_of_a_sequence_has_its_slots(call, dtype: type) -> None:
    cache = make_cache(8, 4)
    for seq_id in (1, 2, 1, 2, 1):
        cache.allocate_blocks_for_tokens(seq_id, 4)
    plant_hole(cache, 1, 1)
    want = [-1] * 4 + [8, 9, 10, 11, 16, 17, 18, 19]
    names = np.array([1])
    for start in range(13):
        for count in range(13 - start):
            out = canaries(count + 1, dtype)
            starts, counts = np.array([start], np.int32), np.array([count], np.int32)
            assert call(cache._arena, names, True, starts, counts, out) == count
            assert out.tolist() == [*want[start : start + count], CANARY]


def test_positions_do_not_wrap_around() -> None:
    cache = make_cache(8, 4)
    cache.allocate_blocks_for_tokens(1, 4)
    out, largest = canaries(8, np.int64), np.array([2**31 - 1], np.int32)
    names, zero = np.array([1]), np.array([0], np.int32)
    call = emit_slots.slots_int64
    assert call(cache._arena, names, True, largest, largest, out) == TOO_MANY_TOKENS
    assert call(cache._arena, names, True, zero, largest, out) == TOO_MANY_TOKENS
    four = np.array([4], np.int32)
    assert call(cache._arena, names, True, zero, four, out[:3]) == OUT_TOO_SMALL
    assert cache._runtime["detail"][0] == 4
    assert (out == CANARY).all()


def test_reads_begin_behind_the_hole() -> None:
    cache = make_cache(8, 4)
    cache.allocate_blocks_for_tokens(1, 10)
    plant_hole(cache, 1, 1)
    names, two = np.array([1, 1]), np.array([2], np.int32)
    writes, reads = canaries(4, np.int64), canaries(7, np.int64)
    views = np.array([10, 3], np.int32)
    got = emit_slots.token_rows(cache._arena, names, True, views, two, 100, writes, reads)
    assert tuple(got) == (4, 6)
    assert writes.tolist() == [200, 201, -1, -1]
    assert reads.tolist() == [100, 101, 102, 103, 200, 201, CANARY]
