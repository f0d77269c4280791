"""Real traffic through the engine: the reference's integers, and a model that is plainly right."""

import gzip
import json
from collections import deque
from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from support import INTERPRETED, need

import nbkv

KINDS = {"lru": "lru_leaf", "fifo": "fifo_leaf", "frequency": "lfu_leaf"}
TRACES = ["mooncake_conversation", "weka_a"]
Rows = list[tuple[list[int], list[int]]]
COUNTED = ("hit_blocks", "hit_tokens", "inserts", "evictions")


def load(name: str, num_rows: int | None = None, longest: int | None = None) -> Rows:
    """Read a trace: each row's hashes and how many tokens each block stands for."""
    rows: Rows = []
    with gzip.open(need("traces", f"{name}.jsonl.gz"), "rt") as lines:
        for line in lines:
            row = json.loads(line)
            size, hashes = row["block_size"], row["hash_ids"][:longest]
            weights = row.get("block_tokens") or [
                min(size, max(1, row["input_length"] - j * size)) for j in range(len(hashes))
            ]
            rows.append((hashes, weights[: len(hashes)]))
            if len(rows) == num_rows:
                break
    return rows


def run_engine(rows: Rows, capacity: int, policy: str, running: int) -> dict[str, int]:
    """Replay rows through add_sequence and free_sequence."""
    longest = max(len(hashes) for hashes, _ in rows)
    config = nbkv.CacheConfig(
        16,
        capacity,
        1,
        1,
        1,
        eviction_policy=policy,
        max_sequences=running,
        max_blocks_per_sequence=max(longest, 1),
    )
    cache = nbkv.PagedKVCache(config)
    alive: deque[int] = deque()
    counts = dict.fromkeys(COUNTED, 0)
    for seq_id, (hashes, weights) in enumerate(rows):
        if len(alive) == running:
            cache.free_sequence(alive.popleft())
        cache.add_sequence(seq_id, np.array(hashes, np.uint64))
        alive.append(seq_id)
        hits = cache.num_hit_tokens(seq_id) // 16
        counts["hit_blocks"] += hits
        counts["hit_tokens"] += sum(weights[:hits])
    counts["inserts"] = cache.stats.total_allocations
    counts["evictions"] = cache.stats.evictions
    assert_intact(cache)
    return counts


class BruteForce:
    """The reference's semantics with one dict and a search for every victim."""

    def __init__(self, capacity: int, policy: str) -> None:
        self.capacity, self.policy = capacity, policy
        self.blocks: dict[int, dict[str, Any]] = {}
        self.clock = 0
        self.counts = dict.fromkeys(COUNTED, 0)

    def key(self, block: int) -> tuple[int, ...]:
        last, uses, born = (self.blocks[block][k] for k in ("last", "uses", "born"))
        return {"lru": (last,), "fifo": (born,), "frequency": (uses, last)}[self.policy]

    def evict(self) -> None:
        parents = {b["parent"] for b in self.blocks.values()}
        idle = [k for k, b in self.blocks.items() if not b["holders"] and k not in parents]
        del self.blocks[min(idle, key=self.key)]
        self.counts["evictions"] += 1

    def add(self, hashes: list[int], weights: list[int]) -> None:
        hits = 0
        while hits < len(hashes) and hashes[hits] in self.blocks:
            self.blocks[hashes[hits]]["holders"] += 1
            hits += 1
        self.counts["hit_blocks"] += hits
        self.counts["hit_tokens"] += sum(weights[:hits])
        for j in range(hits, len(hashes)):
            if len(self.blocks) == self.capacity:
                self.evict()
            parent = hashes[j - 1] if j else None
            self.blocks[hashes[j]] = {
                "parent": parent,
                "holders": 1,
                "last": 0,
                "uses": 0,
                "born": None,
            }
            self.counts["inserts"] += 1

    def release(self, hashes: list[int]) -> None:
        for chain_hash in reversed(hashes):
            block = self.blocks[chain_hash]
            self.clock += 1
            block["last"] = self.clock
            block["uses"] += 1
            block["holders"] -= 1
            if block["born"] is None:
                block["born"] = self.clock


def run_brute_force(rows: Rows, capacity: int, policy: str, running: int) -> dict[str, int]:
    """Replay rows through the model."""
    model = BruteForce(capacity, policy)
    alive: deque[list[int]] = deque()
    for hashes, weights in rows:
        if len(alive) == running:
            model.release(alive.popleft())
        model.add(hashes, weights)
        alive.append(hashes)
    return model.counts


@pytest.mark.parametrize("running", [1, 4])
@pytest.mark.parametrize("policy", KINDS)
@pytest.mark.parametrize("trace", TRACES)
def test_a_head_of_a_trace_does_what_brute_force_does(
    trace: str, policy: str, running: int
) -> None:
    rows = load(trace, 60 if INTERPRETED else 200, longest=40)
    capacity = 170
    counts = run_engine(rows, capacity, policy, running)
    assert counts == run_brute_force(rows, capacity, policy, running)
    assert counts["evictions"] > 50


def reference(trace: str) -> dict[str, Any]:
    """Read the reference's results of a trace."""
    return json.loads(need("traces", "ref", "ref_prefix.json").read_text())["traces"][trace]


@pytest.mark.skipif(INTERPRETED, reason="a whole trace takes minutes without the compiler")
@pytest.mark.parametrize("running", [1, 8])
@pytest.mark.parametrize("policy", KINDS)
@pytest.mark.parametrize("trace", TRACES)
def test_whole_traces_give_the_references_integers(trace: str, policy: str, running: int) -> None:
    wanted = reference(trace)["policies"][f"{KINDS[policy]}_w{running}"]
    rows = load(trace)
    checked = 0
    for capacity, result in wanted.items():
        if result["overflow_requests"] == 0:
            counts = run_engine(rows, int(capacity), policy, running)
            assert counts == {name: result[name] for name in COUNTED}, capacity
            checked += 1
    assert checked >= 2
