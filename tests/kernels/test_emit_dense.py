"""Rows of tables: every cell of a row is written, no other."""

import numpy as np
from page_support import CANARY, canaries, plant_hole
from support import make_cache

import nbkv
from nbkv.kernels import emit_dense
from nbkv.statuses import OUT_TOO_SMALL

NONE = np.empty(0, np.int32)


def holed_cache() -> nbkv.PagedKVCache:
    """Make a cache where sequence 1 has blocks 0, 2, 3, the first a hole, and 2 has block 1."""
    cache = make_cache(5, 4)
    for seq_id, count in ((1, 4), (2, 1), (1, 5)):
        cache.allocate_blocks_for_tokens(seq_id, count)
    plant_hole(cache, 1, 1)
    return cache


def test_cells_without_a_block_are_padded() -> None:
    cache, out = holed_cache(), canaries((3, 4))
    assert emit_dense.block_tables(cache._arena, np.array([1, 2]), True, NONE, 9, out) >= 0
    assert out.tolist() == [[9, 2, 3, 9], [1, 9, 9, 9], [CANARY] * 4]
    narrow = canaries((2, 2))
    status = emit_dense.block_tables(cache._arena, np.array([2, 1]), True, NONE, 9, narrow)
    assert (status, cache._runtime["detail"][0]) == (OUT_TOO_SMALL, 1)
    assert (narrow == CANARY).all()


def test_the_inverse_of_a_hole_is_no_column() -> None:
    cache = holed_cache()
    table, inverse = canaries((1, 3), np.int64), canaries((1, 6), np.int64)
    assert emit_dense.both_ways(cache._arena, np.array([1]), True, NONE, table, inverse) >= 0
    assert table.tolist() == [[-1, 2, 3]]
    assert inverse.tolist() == [[-1, -1, 1, 2, -1, -1]]


def test_values_lie_behind_their_keys() -> None:
    cache, out = holed_cache(), canaries((1, 2, 2, 3))
    names = np.array([1, 2])
    assert emit_dense.key_value_offsets(cache._arena, names, True, NONE, 10, -1, out) >= 0
    assert out.tolist() == [[[[-1, 20, 30], [-1, 21, 31]], [[10, -1, -1], [11, -1, -1]]]]


def test_changes_are_applied_in_order_or_not_at_all() -> None:
    table = canaries((2, 2))
    changes = np.array([(0, 1, 0, 4), (0, 0, 1, 5), (0, 1, 0, 6)], np.int32)
    assert emit_dense.apply_changes(table, changes, 7) == 3
    assert table.tolist() == [[CANARY, 5], [6, CANARY]]
    before = table.copy()
    changes[2] = (0, 1, 0, 7)
    assert emit_dense.apply_changes(table, changes, 7) == -3
    assert (table == before).all()
