"""Options given as arrays, whose comparisons with a number or a tuple are arrays too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import make_cache

import nbkv

ARRAY = np.array([1, 2])
PROMPT = np.arange(6, dtype=np.int32)

CALLS: dict[str, Callable[[nbkv.PagedKVCache, np.ndarray], Any]] = {
    "extra_keys": lambda cache, _: cache.admit(2, PROMPT, extra_keys=ARRAY),
    "must_fit": lambda cache, _: cache.admit(2, PROMPT, must_fit=ARRAY),
    "reserve_tokens": lambda cache, _: cache.admit(2, PROMPT, reserve_tokens=ARRAY),
    "owner": lambda cache, _: cache.admit(2, PROMPT, owner=ARRAY),
    "lookahead": lambda cache, handles: cache.plan(handles, 1, lookahead=ARRAY),
    "on_exhaustion": lambda cache, handles: cache.plan(handles, 1, on_exhaustion=ARRAY),
    "sha256": lambda cache, _: cache.export_keys(1, sha256=ARRAY),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_array_where_one_value_is_meant_is_refused_by_name(name: str) -> None:
    cache = make_cache(16, 4)
    handle, _ = cache.admit(1, PROMPT)
    before = cache.state_bytes()
    with pytest.raises((TypeError, nbkv.ArgumentError), match=name):
        CALLS[name](cache, np.array([handle]))
    assert (cache.state_bytes() == before).all()


def test_an_array_of_extra_keys_is_refused_when_matching() -> None:
    cache = make_cache(16, 4)
    with pytest.raises((TypeError, nbkv.ArgumentError), match="extra_keys"):
        cache.match_prefix(PROMPT, extra_keys=ARRAY)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_flag_is_true_or_false(value: object) -> None:
    cache = make_cache(16, 4)
    with pytest.raises(TypeError, match=r"must_fit .* must be True or False"):
        cache.admit(1, PROMPT, must_fit=value)
    assert 1 not in cache


def test_more_tokens_than_any_pool_has_cannot_be_admitted() -> None:
    cache = make_cache(16, 4)
    match = cache.match_prefix(PROMPT)
    assert cache.can_admit(match, reserve_tokens=64)
    assert not cache.can_admit(match, reserve_tokens=65)
    assert not cache.can_admit(match, reserve_tokens=2**64)
