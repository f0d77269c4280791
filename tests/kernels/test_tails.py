"""Open tails: what their sequence owes the block is settled when somebody else looks."""

import numpy as np
import pytest
from invariants import assert_intact
from support import make_cache

from nbkv.layout import TAIL_OPEN


def test_a_decode_touches_its_row_only() -> None:
    cache = make_cache(4, 4)
    cache.append_token(1)
    before = cache.blocks.copy()
    cache.append_token(1)
    cache.append_tokens(np.array([cache.handle(1)]), 1)
    assert (cache.blocks == before).all()
    assert cache.sequences["flags"][0] & TAIL_OPEN
    assert cache.fragmentation() == 1.0
    cache.append_token(1)
    assert not cache.sequences["flags"][0] & TAIL_OPEN
    assert (cache.blocks["num_tokens"][0], cache.blocks["access_count"][0]) == (4, 4)
    assert cache.fragmentation() == 0.0


@pytest.mark.parametrize("how", ["fork", "share_prefix", "truncate"])
def test_sharing_and_cutting_settle_the_tail(how: str) -> None:
    cache = make_cache(4, 4)
    for _ in range(3):
        cache.append_token(1)
    {"fork": lambda: cache.fork(1, 2), "share_prefix": lambda: cache.share_prefix(1, 2, 1)}.get(
        how, lambda: cache.truncate(1, 3)
    )()
    assert cache.blocks["num_tokens"][0] == 3
    assert cache.blocks["access_count"][0] == (3 if how == "truncate" else 4)
    assert_intact(cache)


def test_a_hit_on_a_living_tail_closes_it() -> None:
    cache = make_cache(4, 4)
    cache.add_sequence(1, [42], 2)
    cache.append_token(1)
    cache.add_sequence(2, [42], 2)
    assert (cache.num_hit_tokens(2), cache.num_cached_tokens(1)) == (2, 3)
    assert cache.blocks["num_tokens"][0] == 3
    assert cache.append_token(1) == 1  # both hold block 0 now, so the writer copies
    assert cache.append_token(2) == 0
    assert_intact(cache)


def test_a_shared_empty_block_is_copied_by_its_first_writer() -> None:
    cache = make_cache(4)
    cache.allocate_block(1)
    cache.share_prefix(1, 2, 1)
    assert cache.num_cached_tokens(2) == 0
    assert cache.append_token(2) == 1
    assert cache.last_copies.tolist() == [[0, 1]]
    assert cache.append_token(1) == 0
