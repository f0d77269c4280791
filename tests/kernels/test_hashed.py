"""How much of a prompt hits, by hashes made elsewhere."""

import random
from typing import Any

import numpy as np
import pytest
from pairing import chain_hashes
from support import make_cache

import nbkv
from nbkv import PrefixMatch

Cache = nbkv.PagedKVCache


def serve(cache: Cache, seq_id: int, tokens: list[int], **identity: Any) -> None:
    """Admit a prompt, compute all of it, and end it."""
    handle, hit = cache.admit(seq_id, tokens, **identity)
    plan = cache.plan(np.array([handle]), len(tokens) - hit)
    cache.commit(plan, tokens=np.array(tokens[hit:], np.int32))
    cache.free_sequence(seq_id)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_chain_hashes_hit_what_the_tokens_hit(seed: int, rng: random.Random) -> None:
    cache = make_cache(64, 3, hash_seed=seed)
    identities: list[dict[str, Any]] = [
        {},
        {"salt": nbkv.Salt("a")},
        {"extra_keys": [(2, 5, "image")]},
        {"salt": nbkv.Salt("a"), "extra_keys": [(4, 9, 7)]},
    ]
    for seq_id in range(60):
        tokens = [rng.randrange(2) for _ in range(rng.randrange(20))]
        identity = rng.choice(identities)
        hashes = nbkv.hash_tokens(tokens, 3, *_ordered(identity), seed=seed)
        limit = rng.choice([None, rng.randrange(20)])
        before = cache.state_bytes()
        known = cache.match_prefix(tokens, max_hit_tokens=limit, **identity)
        found = cache.match_prefix(block_hashes=hashes, max_hit_tokens=limit)
        assert (cache.state_bytes() == before).all()
        assert found == known._replace(num_tokens=len(tokens) // 3 * 3)
        serve(cache, seq_id, tokens, **identity)


def _ordered(identity: dict[str, Any]) -> tuple[Any, Any]:
    return identity.get("salt"), identity.get("extra_keys", ())


def test_all_bits_and_the_block_before_are_compared() -> None:
    cache = make_cache(8)
    serve(cache, 1, [1, 2, 3, 4])
    hashes = nbkv.hash_tokens([1, 2, 3, 4], 2)
    assert cache.match_prefix(block_hashes=hashes) == PrefixMatch(4, 4, 2, 0, 2)
    for half in range(2):
        other = hashes.copy()
        other[1, half] ^= np.uint64(1 << 63)
        assert cache.match_prefix(block_hashes=other).num_hit_blocks == 1
    assert cache.match_prefix(block_hashes=hashes[1:]).num_hit_blocks == 0
    assert cache.match_prefix(block_hashes=hashes[[0, 0]]).num_hit_blocks == 1


def test_siblings_are_told_apart() -> None:
    cache = make_cache(8)
    serve(cache, 1, [1, 2, 3, 4])
    serve(cache, 2, [1, 2, 5, 6])
    for last in ([3, 4], [5, 6]):
        hashes = nbkv.hash_tokens([1, 2, *last], 2)
        assert cache.match_prefix(block_hashes=hashes).num_hit_blocks == 2


def test_nothing_is_hit_before_it_may_be() -> None:
    cache = make_cache(8, run_ahead=True, hit_visibility="completed")
    handle, _ = cache.admit(1, [1, 2])
    plan = cache.plan(np.array([handle]), 2)
    cache.commit(plan, tokens=np.array([1, 2], np.int32))
    hashes = nbkv.hash_tokens([1, 2], 2)
    assert cache.match_prefix(block_hashes=hashes).num_hit_blocks == 0
    cache.complete(plan.step_id)
    assert cache.match_prefix(block_hashes=hashes) == PrefixMatch(2, 2, 1, 0, 0)


def test_own_hashes_hit_what_add_sequence_would() -> None:
    cache = make_cache(8)
    hashes = np.array(chain_hashes([0, 1, 0]), np.uint64)
    cache.add_sequence(1, hashes, 5)
    assert cache.match_prefix(block_hashes=hashes) == PrefixMatch(6, 5, 2, 1, 0)
    cache.free_sequence(1)
    before, stats = cache.state_bytes(), cache.stats
    match = cache.match_prefix(block_hashes=hashes)
    assert match == PrefixMatch(6, 5, 2, 1, 3)
    assert cache.match_prefix(block_hashes=hashes[:2]) == PrefixMatch(4, 4, 2, 0, 2)
    assert cache.match_prefix(block_hashes=hashes, max_hit_tokens=3).num_hit_tokens == 2
    assert cache.match_prefix(block_hashes=hashes.tolist()) == match
    assert (cache.state_bytes() == before).all()
    assert cache.stats == stats
    assert cache.can_admit(match)
    cache.add_sequence(2, hashes)
    assert cache.num_hit_tokens(2) == match.num_hit_tokens


def test_neither_domain_hits_the_other() -> None:
    cache = make_cache(8)
    serve(cache, 1, [1, 2])
    hashes = nbkv.hash_tokens([1, 2], 2)
    cache.add_sequence(2, [int(hashes[0, 0]) ^ 1])
    own = np.array([[int(hashes[0, 0]) ^ 1, 0]], np.uint64)
    assert cache.match_prefix(block_hashes=hashes[:, 0].copy()).num_hit_blocks == 0
    assert cache.match_prefix(block_hashes=own).num_hit_blocks == 0


def test_no_more_blocks_hit_than_a_table_takes() -> None:
    cache = make_cache(8, max_blocks_per_sequence=2)
    handles = cache.allocate(3)
    hashes = np.array([1, 2, 3], np.uint64)
    parents = np.array([nbkv.NO_BLOCK, *handles[:2]])
    cache.index(handles, hashes, parents)
    assert cache.match_prefix(block_hashes=hashes) == PrefixMatch(6, 4, 2, 0, 0)


def test_no_hashes_hit_nothing() -> None:
    cache = make_cache(8)
    for shape in ((0,), (0, 2)):
        match = cache.match_prefix(block_hashes=np.zeros(shape, np.uint64))
        assert match == PrefixMatch(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, TypeError, "token_ids is None"),
        ({"token_ids": [1], "block_hashes": [1]}, TypeError, "block_hashes is given"),
        ({"block_hashes": [1], "salt": nbkv.Salt("a")}, TypeError, "block_hashes is given"),
        ({"block_hashes": [1], "extra_keys": [(0, 1, 2)]}, TypeError, "block_hashes is given"),
        ({"block_hashes": [-1]}, nbkv.ArgumentError, r"block_hashes\[0\] is -1"),
        ({"block_hashes": 5}, TypeError, "block_hashes is 5"),
        ({"block_hashes": np.zeros(1, np.int64)}, nbkv.ArgumentError, "block_hashes is 'int64"),
        ({"block_hashes": np.zeros((2, 3), np.uint64)}, nbkv.ArgumentError, r"shape \(2, 3\)"),
        ({"block_hashes": np.zeros((2, 2), np.int32)}, nbkv.ArgumentError, "block_hashes is"),
        ({"block_hashes": np.zeros((1, 2, 2), np.uint64)}, nbkv.ArgumentError, "block_hashes is"),
    ],
)
def test_wrong_prompts_are_named(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make_cache(8).match_prefix(**options)
