"""The engine and the model side by side: every operation on both, every answer compared."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from invariants import assert_intact
from naive import NaiveCache, Refused
from support import make_cache, stats_list

import nbkv


def chain_hashes(path: Sequence[int]) -> list[int]:
    """Make prefix-unique hashes, one a block, of a path through a tree of prompts."""
    hashes, before = [], 0x9E3779B97F4A7C15
    for choice in path:
        before = ((before ^ (choice + 1)) * 0xD1342543DE82EF95 + 1) % 2**64
        hashes.append(before)
    return hashes


def plain(answer: Any) -> Any:
    """Turn numpy answers into what the model answers."""
    return answer.tolist() if hasattr(answer, "tolist") else answer


class Pair:
    """A cache and its model."""

    def __init__(
        self, block_size: int, num_blocks: int, policy: str = "lru", **limits: int | None
    ) -> None:
        self.engine = make_cache(num_blocks, block_size, eviction_policy=policy, **limits)
        per_block = self.engine.config.bytes_per_block
        self.naive = NaiveCache(block_size, num_blocks, policy, bytes_per_block=per_block, **limits)
        self.handles: dict[int, int] = {}
        self.stale: list[int] = []

    def do(self, name: str, *args: Any) -> Any:
        """Run a method of both; they must answer alike, and alike refuse."""
        wanted, kind, detail, got = None, None, None, None
        before = self.engine.state_bytes()
        try:
            wanted = getattr(self.naive, name)(*args)
        except Refused as refusal:
            kind, detail = refusal.kind, refusal.detail
        try:
            got = self.on_engine(name, *args)
            raised = None
        except nbkv.KVCacheError as error:
            raised = type(error).__name__
            if isinstance(error, nbkv.OutOfBlocksError):
                assert error.needed > error.free + error.evictable
                assert error.free == self.naive.num_free
                assert error.fenced == 0
                if detail:
                    assert (error.needed, error.evictable) == detail
        assert raised == kind
        if kind:
            assert (self.engine.state_bytes() == before).all()
        elif name != "add_sequence":
            assert plain(got) == wanted
        self.note_handles()
        self.compare()
        return wanted

    def on_engine(self, name: str, *args: Any) -> Any:
        """Call the engine as its users do: arrays for batches and hashes."""
        if name == "append_tokens":
            seq_ids, counts = args
            counts = np.array(counts, np.int32)
            if all(s in self.handles for s in seq_ids) and sum(seq_ids) % 2:
                rows = np.array([self.handles[s] for s in seq_ids], np.int64)
                return self.engine.append_tokens(rows, counts)
            return self.engine.append_tokens(np.array(seq_ids, np.uint64), counts)
        if name == "add_sequence":
            seq_id, hashes, num_tokens = args
            given = np.array(hashes, np.uint64) if hashes else None
            return self.engine.add_sequence(seq_id, given, num_tokens)
        return getattr(self.engine, name)(*args)

    def note_handles(self) -> None:
        """Keep the handles of living sequences; those of the gone must have become stale."""
        now = {s: self.engine.handle(s) for s in self.naive.sequences}
        for seq_id, handle in self.handles.items():
            if now.get(seq_id) != handle:
                self.stale.append(handle)
        self.handles = now
        assert not set(self.stale) & set(now.values())

    def compare(self) -> None:
        """Everything that can be seen is the same."""
        engine, naive = self.engine, self.naive
        assert stats_list(engine) == naive.stats
        assert engine.last_evicted.tolist() == naive.last_evicted
        assert [tuple(x) for x in engine.last_copies.tolist()] == naive.last_copies
        assert engine.num_free_blocks == naive.num_free
        assert engine.num_cached_blocks == len(naive.cached)
        assert engine.num_held_blocks == len(naive.held)
        assert engine.num_sequences == len(naive.sequences)
        assert engine.utilization == naive.utilization
        assert engine.memory_usage_bytes == naive.memory_usage_bytes
        assert engine.fragmentation() == naive.fragmentation()
        for seq_id in naive.sequences:
            assert engine.block_table(seq_id).tolist() == naive.block_table(seq_id)
            assert engine.num_cached_tokens(seq_id) == naive.num_cached_tokens(seq_id)
            assert engine.num_hit_tokens(seq_id) == naive.num_hit_tokens(seq_id)

    def drain(self) -> None:
        """End everything and let one sequence take the pool: ids show the whole order."""
        for seq_id in sorted(self.naive.sequences):
            self.do("free_sequence", seq_id)
        self.naive.max_blocks_per_sequence = self.engine.config.max_blocks_per_sequence
        while self.naive.num_free + len(self.naive.cached) > 0:
            width = min(self.naive.max_blocks_per_sequence, self.naive.num_blocks)
            if len(self.naive.sequences) == self.naive.max_sequences:
                break
            left = self.naive.num_free + len(self.naive.cached)
            seq_id = 1000 + len(self.naive.sequences)
            self.do("allocate_blocks_for_tokens", seq_id, min(width, left) * self.naive.block_size)
        assert_intact(self.engine)
