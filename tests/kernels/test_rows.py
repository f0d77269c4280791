"""Rows are reused, handles are not."""

import numpy as np
import pytest
from support import make_cache

import nbkv
from nbkv.layout import HEADER_DTYPE, SEQUENCE_DTYPE


def rows_of(cache: nbkv.PagedKVCache) -> np.ndarray:
    """View the sequence rows for writing."""
    start = int(cache.header["sequences_start"][0])
    size = cache.config.max_sequences * SEQUENCE_DTYPE.itemsize
    return cache._arena[start : start + size].view(SEQUENCE_DTYPE)


def test_the_row_freed_last_is_used_first() -> None:
    cache = make_cache(4, max_sequences=3)
    rows = [cache.add_sequence(s) & 0xFFFFFFFF for s in (5, 6, 7)]
    assert rows == [0, 1, 2]
    cache.free_sequence(5)
    cache.free_sequence(7)
    assert [cache.add_sequence(s) & 0xFFFFFFFF for s in (8, 9)] == [2, 0]


def test_generations_start_at_one_and_wrap_past_the_top() -> None:
    cache = make_cache(4, max_sequences=1)
    assert cache.add_sequence(5) >> 32 == 1
    rows_of(cache)["generation"][0] = 2**31 - 1
    top = cache.handle(5)
    assert top == (2**31 - 1) << 32
    cache.append_tokens(np.array([top]), 1)
    cache.free_sequence(5)
    assert cache.add_sequence(5) == 1 << 32


@pytest.mark.parametrize(
    "handle", [0, 1, -1, 2**32 - 1, 1 << 33, 2**63 - 1, -(2**63), (1 << 32) | 1, (1 << 32) | 7]
)
def test_no_other_number_is_a_handle(handle: int) -> None:
    cache = make_cache(4, max_sequences=4)
    cache.add_sequence(5)
    cache.add_sequence(6)
    cache.free_sequence(6)
    with pytest.raises(nbkv.StaleHandleError, match=r"sequences\[0\]"):
        cache.append_tokens(np.array([handle]), 1)


def test_arrivals_number_the_sequences() -> None:
    cache = make_cache(4)
    for seq_id in (9, 8, 7):
        cache.append_token(seq_id)
    assert cache.sequences["arrival"][:3].tolist() == [1, 2, 3]
    assert cache.arena[: HEADER_DTYPE.itemsize].view(HEADER_DTYPE)["arrivals"][0] == 3
