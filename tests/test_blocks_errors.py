"""Every refusal of a call on blocks: the right kind, what it names, nothing changed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from block_support import indexed_chain, keys, raw
from invariants import assert_intact
from support import make_cache

import nbkv

Cache = nbkv.PagedKVCache


def busy_cache() -> Cache:
    """Make a cache of 8 blocks: 0, 1 indexed outside; 2, 3 a sequence's; 4 private outside."""
    cache = make_cache(8)
    indexed_chain(cache, 1, 2)
    cache.add_sequence(1, [5, 6], 4)
    cache.allocate(1)
    return cache


REFUSALS: list[tuple[type[Exception], str, Callable[[Cache], Any]]] = [
    (TypeError, r"num_blocks is 1\.5", lambda c: c.allocate(1.5)),
    (nbkv.ArgumentError, r"num_blocks is -1", lambda c: c.allocate(-1)),
    (nbkv.OutOfBlocksError, "needed 9 ", lambda c: c.allocate(9)),
    (nbkv.OutOfBlocksError, f"needed {2**63 - 1} ", lambda c: c.allocate(2**70)),
    (TypeError, "block_ids is a list", lambda c: c.acquire([0])),
    (nbkv.ArgumentError, "block_ids is 'uint64 array'", lambda c: c.acquire(keys(0))),
    (nbkv.ArgumentError, "block_ids is 'int64 array", lambda c: c.acquire(np.zeros((1, 1), int))),
    (nbkv.ArgumentError, r"block_ids\[1\] is 8; .*8", lambda c: c.acquire(raw(0, 8))),
    (nbkv.ArgumentError, r"block_ids\[1\] is -1", lambda c: c.acquire(raw(0, -1))),
    (nbkv.ArgumentError, r"block_ids\[0\] is -1", lambda c: c.release(raw(-1))),
    (nbkv.BlockError, r"block_ids\[1\] is 5; .*free", lambda c: c.acquire(raw(0, 5))),
    (nbkv.BlockError, r"block_ids\[1\] is 5; .*free", lambda c: c.release(raw(0, 5))),
    (nbkv.BlockError, r"block_ids\[2\] is 2;", lambda c: c.release(raw(0, 1, 2))),
    (nbkv.StaleHandleError, r"block_ids\[0\] is 0;", lambda c: c.acquire(np.array([0]))),
    (TypeError, "keys is 5", lambda c: c.find(5)),
    (nbkv.ArgumentError, "keys is 'int32", lambda c: c.find(raw(1))),
    (nbkv.ArgumentError, "parents is '2 numbers'; .*1", lambda c: c.find(keys(1), raw(0, 1))),
    (nbkv.ArgumentError, r"parents\[1\] is -2", lambda c: c.find(keys(1, 1), raw(-1, -2))),
    (nbkv.BlockError, r"parents\[0\] is 6", lambda c: c.find(keys(1), raw(6))),
    (
        nbkv.ArgumentError,
        "keys is '2 numbers'; .*1",
        lambda c: c.index(raw(4), keys(1, 2), raw(-1)),
    ),
    (nbkv.ArgumentError, "parents is '0 numbers'; .*1", lambda c: c.index(raw(4), keys(1), raw())),
    (nbkv.BlockError, r"block_ids\[0\] is 0;", lambda c: c.index(raw(0), keys(9), raw(-1))),
    (nbkv.BlockError, r"block_ids\[0\] is 2;", lambda c: c.index(raw(2), keys(9), raw(-1))),
    (nbkv.BlockError, r"block_ids\[0\] is 6;", lambda c: c.index(raw(6), keys(9), raw(-1))),
    (nbkv.BlockError, r"block_ids\[1\]", lambda c: c.index(raw(4, 4), keys(9, 8), raw(-1, -1))),
    (nbkv.PrefixError, r"parents\[0\] is 2;", lambda c: c.index(raw(4), keys(9), raw(2))),
    (nbkv.PrefixError, r"parents\[0\] is 4;", lambda c: c.index(raw(4), keys(9), raw(4))),
    (nbkv.PrefixError, r"parents\[0\] is 7;", lambda c: c.index(raw(4), keys(9), raw(7))),
    (nbkv.PrefixError, r"parents\[0\] is -2;", lambda c: c.index(raw(4), keys(9), raw(-2))),
]


@pytest.mark.parametrize(
    ("kind", "message", "call"), REFUSALS, ids=[f"{i}-{m}" for i, (_, m, _) in enumerate(REFUSALS)]
)
def test_a_refusal_says_why_and_changes_nothing(
    kind: type[Exception], message: str, call: Callable[[Cache], Any]
) -> None:
    cache = busy_cache()
    before = cache.state_bytes()
    with pytest.raises(kind, match=message) as caught:
        call(cache)
    assert type(caught.value) is kind
    assert (cache.state_bytes() == before).all()
    assert_intact(cache)
