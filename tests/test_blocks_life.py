"""Adapters and sequences in one cache, whatever is done in whatever order."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from block_support import BLOCK
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from invariants import assert_intact
from support import INTERPRETED, make_cache

import nbkv
from nbkv import NO_BLOCK, layout

HASHES = st.integers(0, 2)
SEQ_IDS = st.integers(1, 4)
PICKS = st.lists(st.integers(0, 30), min_size=1, max_size=5)
LINKED = layout.INDEXED | layout.NAMED
KINDS = layout.INDEXED | layout.CALLER_KEYED | layout.DETACHED


class Life(RuleBasedStateMachine):
    """A small pool in which what adapters hold is written down beside it."""

    cache: nbkv.PagedKVCache
    holds: Counter[int]  # handle -> external holds
    lost: list[int]  # handles of blocks that were given up

    @initialize(
        policy=st.sampled_from(["lru", "fifo", "frequency"]),
        block_size=st.integers(1, 3),
        num_blocks=st.integers(2, 12),
    )
    def start(self, policy: str, block_size: int, num_blocks: int) -> None:
        self.cache = make_cache(num_blocks, block_size, eviction_policy=policy, max_sequences=4)
        self.holds, self.lost = Counter(), []

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call; a refusal changes nothing and returns None."""
        before = self.cache.state_bytes()
        try:
            return function(*args, **options)
        except nbkv.KVCacheError:
            assert (self.cache.state_bytes() == before).all()
            return None

    def living(self) -> list[int]:
        """Return the handles of all blocks that are not free."""
        blocks = self.cache.blocks[: self.cache.header["num_fresh_blocks"][0]]
        return [
            int(blocks["generation"][b]) << 32 | b
            for b in range(len(blocks))
            if blocks["state"][b] != layout.FREE
        ]

    def pick(self, choices: list[int], picks: list[int]) -> Any:
        return np.array([choices[i % len(choices)] for i in picks if choices], np.int64)

    @rule(count=st.integers(0, 4))
    def allocate(self, count: int) -> None:
        usable = self.cache.num_usable_blocks
        handles = self.call(self.cache.allocate, count)
        assert (handles is None) == (count > usable)
        if handles is not None:
            assert len(set(handles.tolist())) == count
            self.holds.update(handles.tolist())

    @rule(picks=PICKS, by_handle=st.booleans())
    def acquire(self, picks: list[int], by_handle: bool) -> None:
        handles = self.pick(self.living(), picks)
        given = handles if by_handle else (handles & BLOCK).astype(np.int32)
        flags = self.cache.blocks["flags"].copy()
        if self.call(self.cache.acquire, given) is not None or self.refused(handles, flags):
            return
        self.holds.update(handles.tolist())

    def refused(self, handles: Any, flags: Any) -> bool:
        """Tell whether acquiring was refused, and that it was refused rightly."""
        total = int(self.cache.header["num_external_holds"][0])
        if total == self.holds.total() + len(handles):
            return False
        assert total == self.holds.total()
        ids = (handles & BLOCK).tolist()
        empty = [b for b in ids if self.cache.blocks["num_tokens"][b] == 0]
        assert empty or any(flags[b] & layout.NAMED for b in ids)
        return True

    @rule(hashes=st.lists(HASHES, max_size=4))
    def acquire_found(self, hashes: list[int]) -> None:
        found = self.cache.find(np.array(hashes, np.uint64))
        found = found[found >= 0]
        self.cache.acquire(found)
        self.holds.update(found.tolist())

    @rule(picks=PICKS)
    def release(self, picks: list[int]) -> None:
        handles = self.pick(sorted(self.holds.elements()), picks)
        enough = all(self.holds[h] >= n for h, n in Counter(handles.tolist()).items())
        before = self.cache.stats.total_deallocations
        self.call(self.cache.release, handles)
        given_back = self.cache.stats.total_deallocations - before
        assert given_back in ((0, len(handles)) if enough else (0,))
        if given_back:
            self.holds.subtract(handles.tolist())
            self.holds += Counter()
        elif enough and len(handles):
            assert any(self.cache.blocks["flags"][h & BLOCK] & layout.NAMED for h in handles)

    @rule(picks=PICKS, hashes=st.lists(HASHES, min_size=5, max_size=5), under=PICKS)
    def index(self, picks: list[int], hashes: list[int], under: list[int]) -> None:
        handles = self.pick(sorted(self.holds), picks)
        parents = self.pick([NO_BLOCK, *self.living()], (under * 5)[: len(handles)])
        if len(handles) > 1 and under[0] % 2:
            parents[1:] = handles[:-1]
        keys = np.array(hashes[: len(handles)], np.uint64)
        indexed = self.call(self.cache.index, handles, keys, parents)
        if indexed is None:
            return
        for i in range(len(handles)):
            found = self.cache.find(keys[i : i + 1], parents[i : i + 1])[0]
            if indexed[i]:
                assert found == handles[i]
            else:
                assert found != handles[i]

    @rule(hashes=st.lists(HASHES, max_size=4))
    def find(self, hashes: list[int]) -> None:
        blocks, keys = self.cache.blocks, self.cache.block_keys
        expected, before = [], NO_BLOCK
        for key in hashes:
            fitting = [
                h
                for h in self.living()
                if int(blocks["flags"][h & BLOCK]) & KINDS == layout.INDEXED | layout.CALLER_KEYED
                and blocks["parent"][h & BLOCK] == before
                and keys["hash_low"][h & BLOCK] == key
                and keys["num_keyed_tokens"][h & BLOCK] == self.cache.config.block_size
            ]
            assert len(fitting) <= 1
            if not fitting:
                break
            expected += fitting
            before = fitting[0] & BLOCK
        expected += [-1] * (len(hashes) - len(expected))
        assert self.cache.find(np.array(hashes, np.uint64)).tolist() == expected

    @rule(seq_id=SEQ_IDS, hashes=st.lists(HASHES, max_size=4), more=st.integers(0, 4))
    def add_sequence(self, seq_id: int, hashes: list[int], more: int) -> None:
        tokens = max(0, len(hashes) * self.cache.config.block_size - 1) + more
        self.call(self.cache.add_sequence, seq_id, hashes, tokens)

    @rule(seq_id=SEQ_IDS, tokens=st.lists(st.integers(0, 1), max_size=8))
    def admit(self, seq_id: int, tokens: list[int]) -> None:
        self.call(self.cache.admit, seq_id, tokens)

    @rule(
        counts=st.lists(st.integers(0, 5), min_size=4, max_size=4),
        lookahead=st.integers(0, 3),
        picks=PICKS,
        rejected=st.sampled_from([0, 1, 3, 9]),
        preempts=st.booleans(),
    )
    def step(
        self, counts: list[int], lookahead: int, picks: list[int], rejected: int, preempts: bool
    ) -> None:
        alive = [i for i in range(1, 5) if i in self.cache]
        batch = np.array([self.cache.handle(i) for i in alive], np.int64)
        plan = self.call(
            self.cache.plan,
            batch,
            np.array(counts[: len(alive)], np.int32),
            lookahead=lookahead,
            on_exhaustion="preempt" if preempts else "raise",
        )
        if plan is None:
            return
        survivors = plan.survivors.tolist()
        if survivors and picks[0] % 2:
            # What may be capacity again in a moment.
            table = self.cache.block_table(alive[survivors[-1]])
            picks = [handle & BLOCK in table[-2:] for handle in self.living()]
            picks = [at for at, last in enumerate(picks) if last]
        self.acquire(picks, True)
        accepted = [max(0, counts[i] - rejected) for i in survivors]
        tokens = [(i + at) % 2 for i, count in enumerate(accepted) for at in range(count)]
        self.cache.commit(plan, np.array(accepted, np.int32), tokens)

    @rule(seq_id=SEQ_IDS, num_tokens=st.integers(0, 8))
    def truncate(self, seq_id: int, num_tokens: int) -> None:
        self.call(self.cache.truncate, seq_id, num_tokens)

    @rule(seq_id=SEQ_IDS, num_tokens=st.integers(1, 5))
    def append(self, seq_id: int, num_tokens: int) -> None:
        self.call(self.cache.allocate_blocks_for_tokens, seq_id, num_tokens)

    @rule(src=SEQ_IDS, dst=SEQ_IDS)
    def fork(self, src: int, dst: int) -> None:
        self.call(self.cache.fork, src, dst)

    @rule(seq_id=SEQ_IDS)
    def free_sequence(self, seq_id: int) -> None:
        self.call(self.cache.free_sequence, seq_id)

    @rule(seq_id=SEQ_IDS, name=st.integers(0, 2), drop=st.integers(0, 2))
    def register(self, seq_id: int, name: int, drop: int) -> None:
        full = self.cache.num_cached_tokens(seq_id) // self.cache.config.block_size - drop
        if full > 0:
            self.call(self.cache.register_prefix, name, self.cache.block_table(seq_id)[:full])

    @rule(seq_id=SEQ_IDS, name=st.integers(0, 2))
    def attach(self, seq_id: int, name: int) -> None:
        self.call(self.cache.attach_prefix, name, seq_id)

    @rule(name=st.integers(0, 2))
    def unregister(self, name: int) -> None:
        self.call(self.cache.unregister_prefix, name)

    @rule(count=st.integers(0, 3))
    def evict(self, count: int) -> None:
        self.cache.evict(count)

    @rule()
    def reset(self) -> None:
        self.cache.reset_prefix_cache()

    @invariant()
    def what_adapters_hold_is_theirs(self) -> None:
        cache = self.cache
        assert cache.num_external_holds == self.holds.total()
        for handle, count in self.holds.items():
            block = handle & BLOCK
            assert cache.blocks["generation"][block] == handle >> 32
            assert cache.blocks["state"][block] == layout.HELD
            assert cache.blocks["ref_count"][block] >= count

    @invariant()
    def records_are_intact(self) -> None:
        assert_intact(self.cache)


@pytest.mark.slow
def test_adapters_and_sequences_live_together() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    examples = 60 if INTERPRETED else 300
    run_state_machine_as_test(
        Life, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )
