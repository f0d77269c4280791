"""Long tables are copied whole; what a view cuts off is left out."""

import numpy as np
import pytest
from page_support import CANARY, canaries, plant_hole
from support import make_cache

from nbkv.kernels import emit
from nbkv.statuses import OUT_OVERLAPS, OUT_TOO_SMALL

NONE = np.empty(0, np.int32)
NO_SLOTS = np.empty(0, np.int64)


@pytest.mark.parametrize("num_blocks", [1, 7, 8, 9, 31, 64, 129, 200])
def test_runs_of_any_length_are_copied_whole(num_blocks: int) -> None:
    cache = make_cache(512, 2)
    cache.allocate_blocks_for_tokens(1, 3)
    cache.allocate_blocks_for_tokens(2, 2 * num_blocks)
    names = np.array([1, 2, 1])
    indptr, indices, last = canaries(5), canaries(num_blocks + 5), canaries(4)
    got = emit.csr(cache._arena, names, True, NONE, NONE, indptr, indices, last, NONE, NO_SLOTS)
    assert tuple(got) == (num_blocks + 4, 0)
    assert indptr.tolist() == [0, 2, num_blocks + 2, num_blocks + 4, CANARY]
    assert indices.tolist() == [0, 1, *range(2, num_blocks + 2), 0, 1, CANARY]
    assert last.tolist() == [1, 2, 1, CANARY]


def test_a_view_that_ends_in_a_hole_has_no_pages() -> None:
    cache = make_cache(8, 2)
    cache.allocate_blocks_for_tokens(1, 8)
    plant_hole(cache, 1, 2)
    names = np.array([1, 1, 1])
    indptr, indices, last = canaries(4), canaries(2), canaries(3)
    views = np.array([3, 5, 0], np.int32)
    lengths = canaries(3)
    counts, slots = np.array([3, 2, 0], np.int32), canaries(5, np.int64)
    emit.csr(cache._arena, names, True, views, counts, indptr, indices, last, lengths, slots)
    assert indptr.tolist() == [0, 0, 1, 1]
    assert indices.tolist() == [2, CANARY]
    assert last.tolist() == [0, 1, 0]
    assert lengths.tolist() == [3, 5, 0]
    assert slots.tolist() == [-1, -1, -1, -1, 4]


def test_what_does_not_fit_is_counted_and_not_written() -> None:
    cache = make_cache(8, 2)
    cache.allocate_blocks_for_tokens(1, 8)
    names, one = np.array([1]), np.array([1], np.int32)
    outs = [canaries(2), canaries(3), canaries(1), canaries(1), canaries(1, np.int64)]
    assert emit.csr(cache._arena, names, True, NONE, one, *outs)[0] == OUT_TOO_SMALL
    assert cache._runtime["detail"][0] == 4
    outs[1], outs[4] = canaries(4), canaries(0, np.int64)
    assert emit.csr(cache._arena, names, True, NONE, one, *outs)[0] == OUT_TOO_SMALL
    assert all((out == CANARY).all() for out in outs)


def test_lengths_do_not_land_on_the_handles() -> None:
    cache = make_cache(8, 2)
    names = np.array([cache.add_sequence(1), cache.add_sequence(2)])
    before = names.copy()
    assert emit.seq_lens(cache._arena, names, False, names.view(np.int32)) == OUT_OVERLAPS
    assert (names == before).all()


def test_sums_stop_at_the_end_of_int32() -> None:
    out = canaries(4)
    assert emit.sum_up(np.array([2**31 - 2, 1, 0], np.int32), out) == 4
    assert out.tolist() == [0, 2**31 - 2, 2**31 - 1, 2**31 - 1]
    out = canaries(4)
    assert emit.sum_up(np.array([2**31 - 2, 1, 1], np.int32), out) == -3
    assert (out == CANARY).all()
