"""The open-addressing index against a set, under heavy collisions."""

import random

import numpy as np
import pytest
from support import make_cache

from nbkv._buckets import find_occupant
from nbkv._jit import kernel
from nbkv.kernels.index import insert_slot, mix_tag, remove_slot
from nbkv.layout import INDEX_DTYPE
from nbkv.layout import INDEX_WAYS as WAYS


@kernel
def insert_one(index, mask, tag, occupant):
    insert_slot(index, mask, tag, occupant)


@kernel
def remove_one(index, mask, tag, occupant):
    remove_slot(index, mask, tag, occupant)


@kernel
def find_one(index, start, occupant):
    return find_occupant(index, start, occupant)


@kernel
def mix_all(keys, out):
    for i in range(keys.size):
        out[i] = mix_tag(keys[i])


def mix_plain(key: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        key = (key ^ (key >> 33)) * factor % 2**64
    return key >> 32


def contents(index: np.ndarray) -> list[tuple[int, int]]:
    occupied = index[index["occupant"] != 0]
    return sorted(zip(occupied["tag"].tolist(), (occupied["occupant"] - 1).tolist(), strict=True))


def assert_all_found(index: np.ndarray, num_buckets: int) -> None:
    """A search from home passes only full buckets until it meets the entry."""
    occupants = index["occupant"].reshape(num_buckets, WAYS)
    tags = index["tag"].reshape(num_buckets, WAYS)
    full = (occupants != 0).all(axis=1).tolist()
    for bucket, way in zip(*np.nonzero(occupants), strict=True):
        probe = int(tags[bucket, way]) % num_buckets
        while probe != bucket:
            assert full[probe]
            probe = (probe + 1) % num_buckets


def test_find_occupant_takes_the_first_of_its_bucket_and_heeds_no_tags() -> None:
    index = np.zeros(2 * WAYS, INDEX_DTYPE)
    index["tag"] = 7
    index["occupant"][:WAYS] = 9
    assert find_one(index, WAYS, 0) == WAYS
    assert find_one(index, 0, 0) == -1
    assert find_one(index, 0, 7) == -1
    for slot in reversed(range(WAYS, 2 * WAYS)):
        index["occupant"][slot] = 5
        assert find_one(index, WAYS, 5) == slot
    assert find_one(index, 0, 5) == -1


@pytest.mark.parametrize("num_buckets", [1, 2, 8])
@pytest.mark.parametrize("num_tags", [1, 3, 40])
def test_index_holds_what_was_inserted(num_buckets: int, num_tags: int, rng: random.Random) -> None:
    index = np.zeros(num_buckets * WAYS, INDEX_DTYPE)
    tags = [rng.randrange(2**32) for _ in range(num_tags)]
    inside: set[tuple[int, int]] = set()
    for _ in range(400):
        if len(inside) < num_buckets * WAYS // 2 and rng.random() < 0.6:
            entry = rng.choice(tags), rng.randrange(2**31 - 1)
            if entry not in inside:
                insert_one(index, num_buckets - 1, *entry)
                inside.add(entry)
        elif inside:
            entry = rng.choice(sorted(inside))
            remove_one(index, num_buckets - 1, *entry)
            inside.discard(entry)
        assert contents(index) == sorted(inside)
        assert_all_found(index, num_buckets)


def test_a_full_bucket_shifts_entries_back_across_the_end() -> None:
    index = np.zeros(4 * WAYS, INDEX_DTYPE)
    for occupant in range(WAYS + 5):
        insert_one(index, 3, 3, occupant)  # the last bucket, then round to the first
    insert_one(index, 3, 0, 99)
    for occupant in range(WAYS + 5):
        remove_one(index, 3, 3, occupant)
        assert_all_found(index, 4)
    assert contents(index) == [(0, 99)]


def test_tags_are_murmurs(rng: random.Random) -> None:
    keys = [0, 1, 2**63, 2**64 - 1] + [rng.randrange(2**64) for _ in range(100)]
    out = np.zeros(len(keys), np.int64)
    mix_all(np.array(keys, np.uint64), out)
    assert out.tolist() == [mix_plain(key) for key in keys]


def keys_of_one_tag(rng: random.Random, count: int) -> list[int]:
    """Invert the mixing: any upper half of the result belongs to 2**32 keys."""
    high = rng.randrange(2**32) << 32
    keys = []
    for low in rng.sample(range(2**32), count):
        x = high | low
        for factor in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD):
            x = x * pow(factor, -1, 2**64) % 2**64
            x ^= x >> 33
        keys.append(x)
    return keys


def test_keys_with_equal_tags_are_told_apart(rng: random.Random) -> None:
    keys = keys_of_one_tag(rng, 40)
    assert len({mix_plain(key) for key in keys}) == 1
    cache = make_cache(64)
    for key in keys[:20]:
        cache.add_sequence(key, [key])
        cache.register_prefix(key, cache.block_table(key))
    for i, key in enumerate(keys):
        known = i < 20
        assert (key in cache) == known
        assert (cache.lookup_prefix(key) is not None) == known
    for i, key in enumerate(keys):
        cache.add_sequence(1000 + i, [key])
        assert cache.num_hit_tokens(1000 + i) == (2 if i < 20 else 0)
    for key in keys[:20:2]:
        cache.free_sequence(key)
    assert [key in cache for key in keys[:20]] == [False, True] * 10
