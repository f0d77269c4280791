"""What an audit does not report does no harm: dead bits change nothing, free values no order."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from lives import SETTINGS, crowded, lived
from meaning import is_dead, locate
from support import INTERPRETED
from test_integrity_flips import random_place

import nbkv

POLICIES = ["lru", "fifo", "frequency"]
NUM_UNREPORTED = 8 if INTERPRETED else 60
NUM_CALLS = 30


def twin(cache: nbkv.PagedKVCache, offset: int = 0, mask: int = 0) -> nbkv.PagedKVCache:
    """Copy a cache, one bit of it flipped."""
    copy = nbkv.PagedKVCache(cache.config)
    arena = copy.writable_arena()
    arena[:] = cache.arena
    arena[offset] ^= mask
    return copy


def answer_of(call: Callable[[], Any]) -> Any:
    """Return what a call says, a refusal included."""
    try:
        answer = call()
    except nbkv.KVCacheError as error:
        return type(error).__name__
    if isinstance(answer, nbkv.StepPlan):
        return answer.slot_mapping.tolist(), answer.table_changes.tolist()
    return answer.tolist() if isinstance(answer, np.ndarray) else answer


def carry_on(cache: nbkv.PagedKVCache, seed: int) -> list[Any]:
    """Do this and that with a cache; return all it says."""
    rng, said = random.Random(seed), []
    cache.fail(int(cache.header["committed_step"][0]) + 1) if _has_planned(cache) else None
    for _ in range(NUM_CALLS):
        seq_id = rng.choice([0, 1, 2, 3, 4, 5, 6, 7])
        prompt = np.array([int(rng.random() < 0.2) for _ in range(rng.randint(0, 9))], np.int32)
        said.append(answer_of(partial(rng.choice(CALLS), cache, seq_id, prompt)))
        said.append([cache.num_free_blocks, cache.num_cached_blocks, cache.last_evicted.tolist()])
    said += [answer_of(partial(cache.block_table, seq_id)) for seq_id in range(8)]
    return said


def _has_planned(cache: nbkv.PagedKVCache) -> bool:
    header = cache.header
    committed, completed = int(header["committed_step"][0]), int(header["completed_step"][0])
    return committed < header["num_steps"][0] and completed <= committed


def _head(cache: nbkv.PagedKVCache, seq_id: int) -> Any:
    table = cache.block_table(seq_id)
    return np.zeros(1, np.int32) if table is None else table[:1]


def serve(cache: nbkv.PagedKVCache, seq_id: int, prompt: Any) -> Any:
    handle, hits = cache.admit(seq_id, prompt)
    plan = cache.plan(np.array([handle]), len(prompt) - hits)
    cache.commit(plan, tokens=prompt[hits:])
    if cache.config.run_ahead:
        cache.complete(plan.step_id)
    return handle, hits


CALLS: list[Callable[[nbkv.PagedKVCache, int, Any], Any]] = [
    lambda cache, seq_id, _: cache.append_token(seq_id),
    lambda cache, seq_id, prompt: cache.allocate_blocks_for_tokens(seq_id, len(prompt) + 1),
    lambda cache, seq_id, _: cache.free_sequence(seq_id),
    lambda cache, seq_id, prompt: cache.fork(seq_id, len(prompt)),
    serve,
    serve,
    lambda cache, _, prompt: cache.evict(len(prompt) % 3),
    lambda cache, seq_id, prompt: cache.register_prefix(len(prompt), _head(cache, seq_id)),
    lambda cache, seq_id, prompt: cache.attach_prefix(len(prompt), seq_id),
    lambda cache, _, prompt: cache.allocate(len(prompt) % 3),
]


def judge(cache: nbkv.PagedKVCache, rng: random.Random) -> int:
    """Carry on with bits flipped that no audit reports; return how many of them were dead."""
    num_dead = 0
    for _ in range(NUM_UNREPORTED):
        damaged = None
        while damaged is None:
            offset, bit = random_place(cache, rng)
            damaged = twin(cache, offset, 1 << bit)
            try:
                damaged.check_integrity()
            except nbkv.IntegrityError:
                damaged = None
        place, seed = locate(cache, offset, bit), rng.randrange(2**30)
        said = carry_on(damaged, seed)
        damaged.check_integrity()
        if is_dead(cache, place):
            num_dead += 1
            assert said == carry_on(twin(cache), seed), place
    return num_dead


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_not_reported_after_a_life_does_no_harm(
    policy: str, setting: str, rng: random.Random
) -> None:
    assert judge(lived(policy, setting, rng), rng) > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_not_reported_in_a_crowded_cache_does_no_harm(
    policy: str, rng: random.Random
) -> None:
    assert judge(crowded(policy), rng) > 0
