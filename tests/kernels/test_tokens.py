"""Prefixes by tokens: near and far into a prompt, and never by hash alone."""

from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, hit_blocks, table
from support import make_cache

import nbkv
from nbkv import layout
from nbkv.kernels.index import mix_tag

NEAR = 512  # columns that are matched by walking; those behind are hashed ahead


def long_prompt(rng: Any, length: int = NEAR + 100) -> list[int]:
    return [rng.randrange(4) for _ in range(length)]


def far_cache(**options: Any) -> nbkv.PagedKVCache:
    return make_cache(2 * (NEAR + 150), 1, max_sequences=8, **options)


@pytest.mark.parametrize("cut", [NEAR - 1, NEAR, NEAR + 1, NEAR + 12, NEAR + 13, NEAR + 99])
def test_a_long_prompt_is_hit_up_to_its_first_other_token(rng: Any, cut: int) -> None:
    cache, prompt = far_cache(), long_prompt(rng)
    compute(cache, 1, prompt)
    blocks = table(cache, 1)
    other = [*prompt[:cut], prompt[cut] + 4, *prompt[cut + 1 :]]
    handle, hits = cache.admit(2, other)
    assert hits == cut
    assert table(cache, 2) == blocks[:cut]
    assert cache.sequences["num_known"][handle & 0xFFFFFFFF] == cut
    cache.finish(np.array([handle]))
    assert_intact(cache)


def test_a_whole_long_prompt_is_hit_and_its_evictable_blocks_counted(rng: Any) -> None:
    cache, prompt = far_cache(), long_prompt(rng)
    handle, _ = compute(cache, 1, prompt)
    assert cache.match_prefix(prompt)[1:] == (len(prompt), len(prompt), 0, 0)
    half = NEAR + 50
    held, _ = cache.admit(2, prompt, max_hit_tokens=half)
    cache.finish(np.array([handle]))
    match = cache.match_prefix([*prompt, 9, 9])
    assert (match.num_hit_blocks, match.num_revived) == (len(prompt), len(prompt) - half)
    cache.finish(np.array([held]))
    assert cache.match_prefix(prompt, max_hit_tokens=NEAR + 7).num_revived == NEAR + 7


def test_far_blocks_are_found_whichever_child_is_the_newest(rng: Any) -> None:
    cache, prompt = far_cache(), long_prompt(rng)
    compute(cache, 1, prompt)
    # A younger sibling for a column behind the walked ones, and one before them.
    for seq_id, cut in ((2, 40), (3, NEAR + 40)):
        compute(cache, seq_id, [*prompt[:cut], prompt[cut] + 4])
    assert cache.admit(4, prompt)[1] == len(prompt)
    assert table(cache, 4) == table(cache, 1)


def test_salts_are_told_apart_in_long_prompts(rng: Any) -> None:
    cache, prompt = far_cache(), long_prompt(rng)
    compute(cache, 1, prompt, salt=nbkv.Salt(tenant="a"))
    assert hit_blocks(cache, prompt) == 0
    assert hit_blocks(cache, prompt, salt=nbkv.Salt(tenant="b")) == 0
    assert hit_blocks(cache, prompt, salt=nbkv.Salt(tenant="a")) == len(prompt)


@pytest.mark.parametrize("place", [5, NEAR - 1, NEAR, NEAR + 30])
def test_extra_keys_are_told_apart_far_into_a_prompt(rng: Any, place: int) -> None:
    cache, prompt = far_cache(), long_prompt(rng)
    compute(cache, 1, prompt, extra_keys=[(place, place + 2, "cat")])
    assert hit_blocks(cache, prompt, extra_keys=[(place, place + 2, "cat")]) == len(prompt)
    assert hit_blocks(cache, prompt, extra_keys=[(place, place + 2, "dog")]) == place
    assert hit_blocks(cache, prompt) == place
    # What begins alike and depends on an image only later.
    late = [(place, place + 2, "cat"), (NEAR + 80, NEAR + 81, "dog")]
    assert hit_blocks(cache, prompt, extra_keys=late) == NEAR + 80


@pytest.mark.parametrize("first", [7, NEAR + 20])
def test_far_blocks_are_hidden_until_their_step_is_completed(rng: Any, first: int) -> None:
    cache, prompt = far_cache(run_ahead=True, hit_visibility="completed"), long_prompt(rng)
    handle, _ = cache.admit(1, prompt)
    for start, end in ((0, first), (first, len(prompt))):
        plan = cache.plan(np.array([handle]), end - start)
        cache.commit(plan, tokens=np.array(prompt[start:end], np.int32))
    assert hit_blocks(cache, prompt) == 0
    cache.complete(1)
    assert hit_blocks(cache, prompt) == first
    cache.complete(2)
    assert hit_blocks(cache, prompt) == len(prompt)


def test_an_evicted_tail_ends_a_long_hit(rng: Any) -> None:
    cache, prompt = far_cache(), long_prompt(rng)
    handle, _ = compute(cache, 1, prompt)
    blocks = table(cache, 1)
    cache.finish(np.array([handle]))
    # Released tail first: the oldest cached block is the last column's.
    assert cache.evict(60).tolist() == blocks[:-61:-1]
    assert hit_blocks(cache, prompt) == len(prompt) - 60
    assert cache.evict(len(prompt)).size == len(prompt) - 60
    assert hit_blocks(cache, prompt) == 0


def test_callers_hashes_never_match_tokens_far_into_a_prompt() -> None:
    cache = far_cache()
    tokens = [0] * (NEAR + 20)
    keys = nbkv.hash_tokens(tokens, 1)
    cache.add_sequence(1, keys[:, 0].copy())
    assert hit_blocks(cache, tokens) == 0


def record(cache: nbkv.PagedKVCache, name: str, dtype: "np.dtype[Any]") -> "np.ndarray[Any, Any]":
    """View a section of the arena to plant something in it."""
    start, end = (int(cache.header[f"{name}_{edge}"][0]) for edge in ("start", "end"))
    return cache.writable_arena()[start:end].view(dtype)


class TestCollisions:
    """Two contents under one chain hash: planted, since nobody can find such tokens."""

    def collided(self, **options: Any) -> nbkv.PagedKVCache:
        """Make a cache whose block under the hash of [1, 2] holds [7, 8], on a root of its own."""
        cache = make_cache(16, 2, **options)
        compute(cache, 1, [1, 2, 3, 4])
        record(cache, "tokens", layout.INT32)[:2] = (7, 8)
        return cache

    def test_equal_hashes_of_other_tokens_are_no_hit(self) -> None:
        cache = self.collided()
        assert (cache.block_keys["hash_low"][0], cache.block_keys["hash_high"][0]) == tuple(
            nbkv.hash_tokens([1, 2], 2)[0]
        )
        assert hit_blocks(cache, [1, 2, 3, 4]) == 0
        assert cache.admit(2, [1, 2, 3, 4])[1] == 0
        assert cache.stats.cache_hits == 0

    def test_equal_hashes_coexist_and_each_content_is_found(self) -> None:
        cache = self.collided()
        # The same hash again: no duplicate of block 0, so block 2 is indexed beside it.
        _, report = compute(cache, 2, [1, 2, 5, 6])
        assert report.table_changes.size == 0
        assert table(cache, 2) == [2, 3]
        keys = cache.block_keys
        assert keys["hash_low"][0] == keys["hash_low"][2]
        assert keys["hash_high"][0] == keys["hash_high"][2]
        assert cache.admit(3, [1, 2, 5, 6])[1] == 4
        assert table(cache, 3) == [2, 3]
        # And the index forgets one without the other.
        cache.finish(np.array([1, 2, 3], np.uint64))
        assert cache.evict(2).tolist() == [1, 0]
        assert hit_blocks(cache, [1, 2, 5, 6]) == 2
        assert cache.evict(2).tolist() == [3, 2]
        assert hit_blocks(cache, [1, 2, 5, 6]) == 0
        assert_intact(cache)

    def test_a_child_with_an_equal_hash_and_other_tokens_is_no_hit(self) -> None:
        cache = make_cache(16, 2)
        compute(cache, 1, [1, 2, 3, 4])
        record(cache, "tokens", layout.INT32)[2:4] = (7, 8)
        assert hit_blocks(cache, [1, 2, 3, 4]) == 1
        assert hit_blocks(cache, [1, 2, 7, 8]) == 2  # found by walking, without a hash

    def test_an_equal_hash_under_another_parent_is_no_hit(self) -> None:
        cache = make_cache(16, 2)
        compute(cache, 1, [1, 2, 9, 9])
        compute(cache, 2, [3, 4, 5, 6])
        # Block 3 follows [3, 4]; it takes the hash that [5, 6] would have behind [1, 2].
        keys = record(cache, "block_keys", layout.BLOCK_KEY_DTYPE)
        index = record(cache, "prefix_index", layout.INDEX_DTYPE)
        low, high = nbkv.hash_tokens([1, 2, 5, 6], 2)[1]
        replant(cache, keys, index, 3, int(low), int(high))
        assert hit_blocks(cache, [1, 2, 5, 6]) == 1
        assert hit_blocks(cache, [3, 4, 5, 6]) == 2

    def test_an_equal_hash_with_another_extra_key_is_no_hit(self) -> None:
        cache = make_cache(16, 2)
        compute(cache, 1, [1, 2, 3, 4], extra_keys=[(2, 4, "cat")])
        assert hit_blocks(cache, [1, 2, 3, 4], extra_keys=[(2, 4, "cat")]) == 2
        record(cache, "block_keys", layout.BLOCK_KEY_DTYPE)["extra_key"][1] ^= np.uint64(1)
        assert hit_blocks(cache, [1, 2, 3, 4], extra_keys=[(2, 4, "cat")]) == 1
        assert hit_blocks(cache, [1, 2, 3, 4]) == 1

    def test_an_equal_hash_with_a_planted_salt_is_no_hit(self) -> None:
        cache = make_cache(16, 2)
        salt = nbkv.Salt(tenant="a")
        compute(cache, 1, [1, 2, 3, 4], salt=salt)
        record(cache, "block_keys", layout.BLOCK_KEY_DTYPE)["extra_key"][0] ^= np.uint64(1)
        assert hit_blocks(cache, [1, 2, 3, 4], salt=salt) == 0

    def test_far_into_a_prompt_hashes_alone_hit_nothing_either(self, rng: Any) -> None:
        cache, prompt = far_cache(), long_prompt(rng)
        compute(cache, 1, prompt)
        at = NEAR + 33
        record(cache, "tokens", layout.INT32)[table(cache, 1)[at]] += 4
        assert hit_blocks(cache, prompt) == at

    def test_a_partial_hit_compares_tokens_and_extra_key(self) -> None:
        cache = make_cache(16, 4, partial_reuse=True)
        prompt = [1, 2, 3, 4, 5, 6, 7, 8]
        compute(cache, 1, prompt, extra_keys=[(6, 7, "cat")])
        same = cache.match_prefix(prompt[:7], extra_keys=[(6, 7, "cat")])
        assert (same.num_hit_blocks, same.num_partial_tokens) == (1, 3)
        for keys in ([(6, 7, "dog")], []):
            assert cache.match_prefix(prompt[:7], extra_keys=keys).num_partial_tokens == 0
        record(cache, "tokens", layout.INT32)[5] = 0
        assert cache.match_prefix(prompt[:7], extra_keys=[(6, 7, "cat")]).num_partial_tokens == 1


def replant(
    cache: nbkv.PagedKVCache,
    keys: "np.ndarray[Any, Any]",
    index: "np.ndarray[Any, Any]",
    block_id: int,
    low: int,
    high: int,
) -> None:
    """Give an indexed block another hash, in its key and in the index."""
    (slot,) = np.flatnonzero(index["occupant"] == block_id + 1)
    index[slot] = 0
    keys["hash_low"][block_id], keys["hash_high"][block_id] = low, high
    mask = int(cache.header["prefix_index_mask"][0])
    tag = tag_of(low)
    home = (tag & mask) * layout.INDEX_WAYS
    free = next(i for i in range(home, home + layout.INDEX_WAYS) if not index["occupant"][i])
    index["tag"][free], index["occupant"][free] = tag, block_id + 1


def tag_of(low: int) -> int:
    """Return an index entry's tag: `nbkv.kernels.index.mix_tag`."""
    with np.errstate(over="ignore"):
        return int(getattr(mix_tag, "py_func", mix_tag)(np.uint64(low)))
