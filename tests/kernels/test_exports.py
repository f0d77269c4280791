"""The keys of a sequence's blocks: those of its prompt, or none."""

import random
from typing import Any

import numpy as np
import pytest
from pairing import chain_hashes
from support import make_cache

import nbkv
from nbkv.hashing import key_bytes, sha256_chain

Cache = nbkv.PagedKVCache


def compute(cache: Cache, seq_id: int, tokens: list[int], **identity: Any) -> int:
    """Admit a prompt and compute all of it."""
    handle, hit = cache.admit(seq_id, tokens, **identity)
    plan = cache.plan(np.array([handle]), len(tokens) - hit)
    cache.commit(plan, tokens=np.array(tokens[hit:], np.int32))
    return handle


def expected(tokens: Any, size: int, *identity: Any, seed: int = 0) -> list[bytes]:
    rows = nbkv.hash_tokens(tokens, size, *identity, seed=seed).tolist()
    return [key_bytes(low, high) for low, high in rows]


@pytest.mark.parametrize("options", [{}, {"partial_reuse": True}, {"dedup": False}])
def test_keys_are_those_of_the_prompt(options: dict[str, Any], rng: random.Random) -> None:
    cache = make_cache(256, 3, hash_seed=5, **options)
    for seq_id in range(40):
        tokens = [rng.randrange(2) for _ in range(rng.randrange(20))]
        salt = rng.choice([None, nbkv.Salt("a"), nbkv.Salt(adapter=1)])
        extra_keys = rng.choice([(), [(2, 5, "image")], [(0, 1, 7), (4, 40, b"x")]])
        handle = compute(cache, seq_id, tokens, salt=salt, extra_keys=extra_keys)
        before = cache.state_bytes()
        keys = cache.export_keys(seq_id)
        assert keys == expected(tokens, 3, salt, extra_keys, seed=5)
        assert cache.export_keys(handle=handle) == keys
        digests = cache.export_keys(seq_id, sha256=True)
        assert digests == sha256_chain(tokens, 3, salt, extra_keys)
        assert (cache.state_bytes() == before).all()


def test_only_full_blocks_of_committed_known_tokens_have_keys() -> None:
    cache = make_cache(16)
    handle = compute(cache, 1, [1, 2, 3])
    assert cache.export_keys(1) == expected([1, 2, 3], 2)
    plan = cache.plan(np.array([handle]), 3)
    assert len(cache.export_keys(1)) == 1
    cache.commit(plan, np.array([1], np.int32), np.array([4], np.int32))
    assert cache.export_keys(1) == expected([1, 2, 3, 4], 2)
    cache.append_tokens(np.array([handle]), 2)
    assert len(cache.export_keys(1)) == 2
    cache.truncate(1, 3)
    assert cache.export_keys(1) == expected([1, 2], 2)
    cache.add_sequence(2, chain_hashes([0, 1]))
    assert cache.export_keys(2) == cache.export_keys(2, sha256=True) == []


def test_private_blocks_have_keys_too() -> None:
    cache = make_cache(16)
    handle, _ = cache.admit(1, [])
    cache.reset_prefix_cache()
    cache.commit(cache.plan(np.array([handle]), 5), tokens=np.arange(5, dtype=np.int32))
    assert cache.match_prefix(range(5)).num_hit_blocks == 0
    assert cache.export_keys(1) == expected(range(5), 2)


def test_a_fork_has_its_parents_keys() -> None:
    cache = make_cache(16)
    identity = nbkv.Salt("a"), [(1, 3, "image")]
    compute(cache, 1, [1, 2, 3, 4, 5], salt=identity[0], extra_keys=identity[1])
    cache.fork(1, 2)
    assert cache.export_keys(2) == expected([1, 2, 3, 4], 2, *identity)
    assert cache.export_keys(2, True) == sha256_chain([1, 2, 3, 4], 2, *identity)


def test_a_named_prefix_is_exported_if_its_salt_is_known() -> None:
    cache = make_cache(16)
    compute(cache, 1, [1, 2, 3, 4])
    compute(cache, 2, [1, 2, 3, 4], salt=nbkv.Salt("a"))
    for seq_id in (1, 2):
        cache.register_prefix(seq_id, cache.block_table(seq_id))
        cache.attach_prefix(seq_id, 10 + seq_id)
    assert cache.export_keys(11) == expected([1, 2, 3, 4], 2)
    for sha256 in (False, True):
        with pytest.raises(nbkv.PrefixError, match=r"seq_id is 12, .*salt"):
            cache.export_keys(12, sha256)


def test_after_a_cut_inside_an_image_nobody_knows_the_keys() -> None:
    cache = make_cache(16)
    compute(cache, 1, [1, 2, 3, 4, 5], extra_keys=[(1, 4, "image")])
    cache.truncate(1, 4)
    assert len(cache.export_keys(1)) == 2
    cache.truncate(1, 2)
    with pytest.raises(nbkv.PrefixError, match=r"seq_id is 1, .*extra keys"):
        cache.export_keys(1)


def test_blocks_behind_a_window_have_no_keys() -> None:
    cache = make_cache(16, window=2)
    handle = compute(cache, 1, [1, 2])
    assert cache.export_keys(1) == expected([1, 2], 2)
    cache.commit(cache.plan(np.array([handle]), 3), tokens=np.arange(3, dtype=np.int32))
    with pytest.raises(nbkv.PrefixError, match=f"handle is {handle}, .*first blocks"):
        cache.export_keys(handle=handle)


def test_wrong_sequences_are_named() -> None:
    cache = make_cache(16)
    handle = compute(cache, 1, [1, 2])
    with pytest.raises(nbkv.UnknownSequenceError, match="seq_id is 2"):
        cache.export_keys(2)
    cache.free_sequence(1)
    for stale in (handle, 0, 2**70):
        with pytest.raises(nbkv.StaleHandleError, match=f"handle is {stale}"):
            cache.export_keys(handle=stale)
    for given in ({}, {"seq_id": 1, "handle": handle}):
        with pytest.raises(TypeError, match="one of them"):
            cache.export_keys(**given)
    for given in ({"seq_id": "1"}, {"handle": 1.5}):
        with pytest.raises(TypeError, match="must be an integer"):
            cache.export_keys(**given)
    with pytest.raises(nbkv.ArgumentError, match="handle is -1"):
        cache.export_keys(handle=-1)
