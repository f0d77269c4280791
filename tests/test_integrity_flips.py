"""Any flipped bit of the metadata is reported, or dead, or free; no audit goes astray."""

import random
from typing import Any

import numpy as np
import pytest
from lives import SETTINGS, crowded, lived
from meaning import Place, is_dead, is_free_value, locate
from support import INTERPRETED

import nbkv
from nbkv import layout
from nbkv._integrity import find_violation

POLICIES = ["lru", "fifo", "frequency"]
NUM_FLIPS = 60 if INTERPRETED else 1_000
GUARD = 4096
SECTIONS = ["header", *layout.SECTIONS[1:]]


def guarded(arena: Any) -> tuple[Any, Any]:
    """Copy an arena into the middle of other memory; return both."""
    size = len(arena)
    raw = np.full(size + 2 * GUARD + 64, 0xA5, np.uint8)
    start = GUARD + -(raw.ctypes.data + GUARD) % 64
    raw[start : start + size] = arena
    return raw, raw[start : start + size]


def random_place(cache: nbkv.PagedKVCache, rng: random.Random) -> tuple[int, int]:
    """Pick a byte and a bit: every section as often, near its beginning more often."""
    name = rng.choice(SECTIONS)
    start, end = 0, layout.HEADER_BYTES
    if name != "header":
        start, end = (int(cache.header[f"{name}_{edge}"][0]) for edge in ("start", "end"))
    reach = min(end - start, rng.choice([256, 1024, 4096, 2**30]))
    return start + rng.randrange(reach), rng.randrange(8)


def flip_and_judge(cache: nbkv.PagedKVCache, num_flips: int, rng: random.Random) -> list[Place]:
    """Flip one bit after the other; return those that were not reported though not dead."""
    raw, arena = guarded(cache.arena)
    before = raw.copy()
    unreported = []
    for _ in range(num_flips):
        offset, bit = random_place(cache, rng)
        place = locate(cache, offset, bit)
        arena[offset] ^= 1 << bit
        seen = raw.copy()
        words = find_violation(arena, cache.config)
        assert (raw == seen).all(), place
        arena[offset] ^= 1 << bit
        if is_dead(cache, place):
            assert words is None, (place, words)
        elif words is None:
            assert is_free_value(cache, place), place
            unreported.append(place)
    assert (raw == before).all()
    return unreported


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_flip_after_a_life_is_reported_or_explained(
    policy: str, setting: str, rng: random.Random
) -> None:
    cache = lived(policy, setting, rng)
    unreported = flip_and_judge(cache, NUM_FLIPS, rng)
    assert len(unreported) < NUM_FLIPS // 4


@pytest.mark.parametrize("policy", POLICIES)
def test_every_flip_of_a_crowded_cache_is_reported_or_explained(
    policy: str, rng: random.Random
) -> None:
    unreported = flip_and_judge(crowded(policy), 2 * NUM_FLIPS, rng)
    assert len(unreported) < NUM_FLIPS // 2


@pytest.mark.parametrize("policy", POLICIES)
def test_an_audit_of_many_flips_at_once_comes_to_an_end(policy: str, rng: random.Random) -> None:
    """Behind a sound header anything may stand: nothing hangs, or reads or writes outside."""
    cache = crowded(policy)
    for _ in range(NUM_FLIPS // 4):
        raw, arena = guarded(cache.arena)
        for _ in range(rng.choice([2, 10, 200])):
            offset, bit = random_place(cache, rng)
            if offset >= layout.HEADER_BYTES:
                arena[offset] ^= 1 << bit
        seen = raw.copy()
        find_violation(arena, cache.config)
        assert (raw == seen).all()
