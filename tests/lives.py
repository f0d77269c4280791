"""Caches in the middle of things: after a life of steps, or with some of everything."""

import random
from typing import Any

import numpy as np
from support import INTERPRETED, make_cache
from test_steps_against_naive import SETTINGS, make_life, random_step

import nbkv

__all__ = ["SETTINGS", "crowded", "lived"]


def lived(
    policy: str, setting: str, rng: random.Random, single_calls: bool = True
) -> nbkv.PagedKVCache:
    """Make a cache that has had a life of steps, and is in the middle of things."""
    life = make_life(policy, setting, single_calls=single_calls)
    for _ in range(40 if INTERPRETED else 250):
        random_step(life, rng)
    cache: nbkv.PagedKVCache = life.pair.engine
    while cache.num_sequences < 2:
        random_step(life, rng)
    return cache


def crowded(policy: str) -> nbkv.PagedKVCache:
    """Make a cache with some of everything: names, leases, extra keys, salts, adapters."""
    cache = make_cache(64, 2, eviction_policy=policy, max_sequences=8, run_ahead=True)
    for seq_id in range(6):
        prompt = np.array([1, 1, 2, seq_id, 3, 4, 5], np.int32)
        options: dict[str, Any] = {}
        if seq_id == 1:
            options["salt"] = nbkv.Salt(tenant="one")
        if seq_id in (2, 3):
            options["extra_keys"] = [(1, 3, 77), (3, 6, 78)]
        handle, hits = cache.admit(seq_id, prompt, **options)
        plan = cache.plan(np.array([handle]), len(prompt) - hits)
        cache.commit(plan, tokens=prompt[hits:])
    cache.complete(6)
    table = cache.block_table(0)
    assert table is not None
    for name, length in ((11, 1), (12, 3), (13, 3), (14, 2)):
        cache.register_prefix(name, table[:length])
    cache.unregister_prefix(14)
    leases = [cache.pin(cache.handle(seq_id)) for seq_id in (0, 1, 4)]
    cache.unpin(leases[1])
    blocks = cache.allocate(4)
    parents = np.array([nbkv.NO_BLOCK, blocks[0]])
    cache.index(blocks[:2], np.array([21, 22], np.uint64), parents)
    cache.add_sequence(7, np.array([31, 32], np.uint64), 3)
    for seq_id in (2, 4, 7):
        cache.free_sequence(seq_id)
    cache.plan(np.array([cache.handle(0)]), 1)
    cache.free_sequence(5)
    cache.release(blocks[3:])
    assert cache.num_fenced_blocks
    cache.check_integrity()
    return cache
