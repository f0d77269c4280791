"""A repaired arena is sound; what nothing was wrong with is as it was."""

import random
from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from lives import SETTINGS, crowded, lived
from meaning import is_hashed, locate
from step_support import compute, handles, hit_blocks
from support import INTERPRETED, make_cache
from test_harmless_flips import carry_on, twin
from test_integrity_flips import random_place

import nbkv
from nbkv import layout

POLICIES = ["lru", "fifo", "frequency"]
NUM_REPAIRS = 6 if INTERPRETED else 60
#: What repair can make again from the rest, without loss.
DERIVED_COUNTS = {
    "num_free_blocks",
    "num_cached_blocks",
    "num_held_blocks",
    "num_sequences",
    "num_names",
    "num_leases",
    "free_head",
    "free_row",
    "ring_head",
    "ring_tail",
    "heap_size",
}


def contents(cache: nbkv.PagedKVCache) -> dict[int, tuple[list[int], int]]:
    """Return what every sequence has: its table and its committed tokens."""
    rows = cache.sequences[cache.sequences["state"] == layout.ROW_ACTIVE]
    found = {}
    for row in rows:
        table = cache.block_table(int(row["seq_id"]))
        assert table is not None
        found[int(row["seq_id"])] = table.tolist(), int(row["num_committed"])
    return found


def damage(cache: nbkv.PagedKVCache, rng: random.Random, flips: int) -> nbkv.PagedKVCache:
    """Copy a cache and flip bits until the audit reports it."""
    while True:
        damaged = twin(cache)
        for _ in range(flips):
            offset, bit = random_place(cache, rng)
            damaged.writable_arena()[offset] ^= 1 << bit
        try:
            damaged.check_integrity()
        except nbkv.IntegrityError:
            return damaged


def check_repaired(cache: nbkv.PagedKVCache, damaged: nbkv.PagedKVCache, flips: int) -> int:
    """Repair; whoever is not dropped has what it had. Returns how many were dropped."""
    had = contents(cache)
    report = damaged.repair()
    assert_intact(damaged)
    assert report.violation
    assert str(report).startswith("found: ")
    has = contents(damaged)
    dropped = {x.seq_id for x in report.dropped}
    if flips == 1:
        # A flipped seq_id, or a count that was cut, is a difference too, but never silent.
        for seq_id in set(had) | set(has):
            if had.get(seq_id) != has.get(seq_id):
                named = " ".join(report.changes)
                assert seq_id in dropped or "sequence row" in named, (report, seq_id)
    assert len(has) <= len(had) + flips
    assert damaged.repair().violation is None
    return len(dropped)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_one_flip_after_a_life_is_repaired(policy: str, setting: str, rng: random.Random) -> None:
    cache = lived(policy, setting, rng)
    for _ in range(NUM_REPAIRS):
        damaged = damage(cache, rng, 1)
        assert check_repaired(cache, damaged, 1) <= 2 + len(contents(cache)) // 2
        carry_on(damaged, rng.randrange(2**30))
        assert_intact(damaged)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("flips", [1, 2, 5, 40, 400])
def test_many_flips_of_a_crowded_cache_are_repaired(
    policy: str, flips: int, rng: random.Random
) -> None:
    cache = crowded(policy)
    for _ in range(NUM_REPAIRS):
        damaged = damage(cache, rng, flips)
        check_repaired(cache, damaged, flips)
        carry_on(damaged, rng.randrange(2**30))
        assert_intact(damaged)


def remembers_itself(cache: nbkv.PagedKVCache, slot: int) -> bool:
    """Tell whether a slot of the index has a key that tokens prove, or none."""
    occupant = int(at(cache, "prefix_index", layout.INDEX_DTYPE)["occupant"][slot])
    return occupant == 0 or is_hashed(cache, occupant - 1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setting", ["plain", "window", "no dedup"])
def test_what_is_derived_is_made_again_without_loss(
    policy: str, setting: str, rng: random.Random
) -> None:
    cache = lived(policy, setting, rng, single_calls=False)
    for _ in range(NUM_REPAIRS):
        offset, bit = random_place(cache, rng)
        place = locate(cache, offset, bit)
        derived = place.section in ("seq_index", "prefix_index", "name_index", "ranks")
        if not derived and place.field not in DERIVED_COUNTS:
            continue
        if place.section == "prefix_index" and not remembers_itself(cache, place.row):
            continue
        damaged = twin(cache, offset, 1 << bit)
        assert damaged.repair().dropped == []
        seed = rng.randrange(2**30)
        assert carry_on(damaged, seed) == carry_on(twin(cache), seed), place


def served() -> nbkv.PagedKVCache:
    cache = make_cache(16, 2)
    compute(cache, 1, [1, 2, 3, 4, 5, 6, 7])
    compute(cache, 2, [1, 2, 3, 4, 9])
    compute(cache, 3, [8, 8, 8, 8])
    cache.finish(handles(cache.handle(3)))
    return cache


def at(cache: nbkv.PagedKVCache, section: str, dtype: Any) -> Any:
    start, end = (int(cache.header[f"{section}_{edge}"][0]) for edge in ("start", "end"))
    return cache.writable_arena()[start:end].view(dtype)


def test_an_arena_in_order_is_left_alone() -> None:
    cache = served()
    before = cache.arena.copy()
    report = cache.repair()
    assert (cache.arena == before).all()
    assert report.violation is None
    assert report.changes == {}
    assert str(report) == "nothing to repair"


def test_a_count_is_repaired_and_nothing_else() -> None:
    cache, other = served(), served()
    at(cache, "blocks", layout.BLOCK_DTYPE)["ref_count"][1] = 9
    report = cache.repair()
    assert report.violation == "block 1: ref_count is 9 but 2 table entries hold it"
    assert report.changes == {"block ref_count": 1, "sequence row flags": 2, "block num_tokens": 2}
    assert report.examples["block ref_count"] == ["block 1 from 9 to 2"]
    assert contents(cache) == contents(other)
    assert hit_blocks(cache, [8, 8, 8, 8, 8]) == 2


def test_a_table_entry_out_of_range_drops_its_sequence_by_name() -> None:
    cache, other = served(), served()
    tables = at(cache, "tables", layout.INT32)
    row = cache.handle(2) & 0xFFFFFFFF
    tables[row * int(cache.header["table_stride"][0]) + 2] = 999
    report = cache.repair()
    assert [(x.seq_id, x.row) for x in report.dropped] == [(2, row)]
    assert report.dropped[0].reason == "column 2 of its table has block 999"
    assert contents(cache) == {1: contents(other)[1]}
    assert hit_blocks(cache, [1, 2, 3, 4, 5, 6]) == 3


def test_two_claims_to_one_block_drop_both_sequences() -> None:
    cache = served()
    tables = at(cache, "tables", layout.INT32)
    stride = int(cache.header["table_stride"][0])
    first, second = (cache.handle(x) & 0xFFFFFFFF for x in (1, 2))
    tables[second * stride + 2] = tables[first * stride + 3]
    report = cache.repair()
    assert {x.seq_id for x in report.dropped} == {1, 2}
    assert all("in another column" in x.reason for x in report.dropped)
    assert cache.num_sequences == 0
    assert hit_blocks(cache, [1, 2, 3, 4, 5, 6]) == 3


def test_changed_tokens_are_forgotten_with_what_follows_them() -> None:
    cache = served()
    at(cache, "tokens", layout.INT32)[2 * cache.block_table(1)[1]] = 77
    with pytest.raises(nbkv.IntegrityError, match="do not hash to its chain hash"):
        cache.check_integrity()
    cache.repair()
    assert hit_blocks(cache, [1, 2, 3, 4, 5, 6]) == 1
    assert hit_blocks(cache, [8, 8, 8, 8, 8]) == 2
    assert set(contents(cache)) == {1, 2}


def test_a_damaged_header_is_written_anew() -> None:
    cache, other = served(), served()
    cache.writable_arena()[: layout.HEADER_BYTES // 2] = 0
    cache.repair()
    assert contents(cache) == contents(other)
    assert_intact(cache)


def test_plans_in_flight_survive_a_repair() -> None:
    cache = make_cache(16, 2)
    handle, _ = cache.admit(1, [1, 2, 3, 4])
    plan = cache.plan(handles(handle), 4)
    at(cache, "seq_index", layout.INDEX_DTYPE)["tag"] = 0
    cache.repair()
    cache.commit(plan, tokens=np.array([1, 2, 3, 4], np.int32))
    cache.check_integrity()
    assert hit_blocks(cache, [1, 2, 3, 4, 5]) == 2
