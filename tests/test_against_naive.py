"""The engine against the model: whatever is done in whatever order, both do the same."""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from invariants import assert_intact
from pairing import Pair, chain_hashes
from support import INTERPRETED

POLICIES = ["lru", "fifo", "frequency"]
SEQ_IDS = st.sampled_from([0, 1, 2, 3, 7, 2**63, 2**64 - 1])
NAMES = st.sampled_from([0, 5, 2**63 + 1, 2**64 - 1])
PATHS = st.lists(st.integers(0, 1), max_size=5)


PICKS = st.integers(0, 7)


def rewrite(pair: Pair, pick: int, back: int, count: int) -> None:
    """Cut a living sequence short and write on: over keys, names and shared blocks."""
    if alive := list(pair.naive.sequences):
        seq_id = alive[pick % len(alive)]
        pair.do("truncate", seq_id, max(0, pair.naive.num_cached_tokens(seq_id) - back))
        pair.do("append_tokens", [seq_id], [count])


def register_what_is_full(pair: Pair, name: int, pick: int, drop: int) -> None:
    """Name the full blocks of a living sequence, or all but the last ones."""
    if alive := list(pair.naive.sequences):
        seq_id = alive[pick % len(alive)]
        full = pair.naive.num_cached_tokens(seq_id) // pair.naive.block_size - drop
        pair.do("register_prefix", name, pair.naive.block_table(seq_id)[: max(0, full)])


class Machine(RuleBasedStateMachine):
    """Small pools, so that every rule soon meets exhaustion, sharing and eviction."""

    pair: Pair

    @initialize(
        policy=st.sampled_from(POLICIES),
        block_size=st.integers(1, 4),
        num_blocks=st.integers(1, 10),
        max_sequences=st.sampled_from([2, 4, 8]),
        width=st.sampled_from([None, None, 2, 4]),
        num_names=st.sampled_from([None, 2]),
    )
    def start(
        self,
        policy: str,
        block_size: int,
        num_blocks: int,
        max_sequences: int,
        width: int | None,
        num_names: int | None,
    ) -> None:
        self.pair = Pair(
            block_size,
            num_blocks,
            policy,
            max_sequences=max_sequences,
            max_blocks_per_sequence=width,
            max_named_prefixes=num_names,
        )

    @rule(seq_id=SEQ_IDS)
    def allocate_block(self, seq_id: int) -> None:
        self.pair.do("allocate_block", seq_id)

    @rule(seq_id=SEQ_IDS, num_tokens=st.integers(1, 14))
    def allocate_blocks_for_tokens(self, seq_id: int, num_tokens: int) -> None:
        self.pair.do("allocate_blocks_for_tokens", seq_id, num_tokens)

    @rule(seq_id=SEQ_IDS)
    def append_token(self, seq_id: int) -> None:
        self.pair.do("append_token", seq_id)

    @rule(
        work=st.lists(st.tuples(SEQ_IDS, st.integers(0, 6)), max_size=4),
    )
    def append_tokens_of_anyone(self, work: list[tuple[int, int]]) -> None:
        self.pair.do("append_tokens", [s for s, _ in work], [n for _, n in work])

    @precondition(lambda self: self.pair.naive.sequences)
    @rule(data=st.data())
    def append_tokens(self, data: st.DataObject) -> None:
        alive = sorted(self.pair.naive.sequences)
        chosen = data.draw(st.lists(st.sampled_from(alive), min_size=1, unique=True))
        size = len(chosen)
        counts = data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
        self.pair.do("append_tokens", chosen, counts)

    @rule(seq_id=SEQ_IDS)
    def free_sequence(self, seq_id: int) -> None:
        self.pair.do("free_sequence", seq_id)

    @rule(seq_id=SEQ_IDS, num_tokens=st.integers(0, 14))
    def truncate(self, seq_id: int, num_tokens: int) -> None:
        self.pair.do("truncate", seq_id, num_tokens)

    @rule(pick=PICKS, back=st.integers(0, 6), count=st.integers(0, 3))
    def rewrite(self, pick: int, back: int, count: int) -> None:
        rewrite(self.pair, pick, back, count)

    @rule(source=SEQ_IDS, onto=SEQ_IDS, num_blocks=st.integers(0, 4))
    def share_prefix(self, source: int, onto: int, num_blocks: int) -> None:
        self.pair.do("share_prefix", source, onto, num_blocks)

    @rule(source=SEQ_IDS, onto=SEQ_IDS)
    def fork(self, source: int, onto: int) -> None:
        self.pair.do("fork", source, onto)

    @rule(name=NAMES, seq_id=SEQ_IDS, num_blocks=st.integers(1, 4))
    def register_prefix(self, name: int, seq_id: int, num_blocks: int) -> None:
        table = self.pair.naive.block_table(seq_id) or [0]
        self.pair.do("register_prefix", name, table[:num_blocks])

    @rule(name=NAMES, pick=PICKS, drop=st.integers(0, 2))
    def register_what_is_full(self, name: int, pick: int, drop: int) -> None:
        register_what_is_full(self.pair, name, pick, drop)

    @rule(name=NAMES)
    def lookup_prefix(self, name: int) -> None:
        self.pair.do("lookup_prefix", name)

    @rule(name=NAMES, seq_id=SEQ_IDS)
    def attach_prefix(self, name: int, seq_id: int) -> None:
        self.pair.do("attach_prefix", name, seq_id)

    @rule(name=NAMES)
    def unregister_prefix(self, name: int) -> None:
        self.pair.do("unregister_prefix", name)

    @rule(seq_id=SEQ_IDS, path=PATHS, cut=st.integers(0, 3), beyond=st.integers(0, 5))
    def add_sequence(self, seq_id: int, path: list[int], cut: int, beyond: int) -> None:
        size = self.pair.naive.block_size
        num_tokens = len(path) * size - cut % size if cut and path else None
        if beyond > 3:
            num_tokens = len(path) * size + beyond
        self.pair.do("add_sequence", seq_id, chain_hashes(path), num_tokens)

    @invariant()
    def nothing_is_out_of_joint(self) -> None:
        if hasattr(self, "pair"):
            assert_intact(self.pair.engine)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.drain()


TestAgainstNaive = Machine.TestCase
TestAgainstNaive.settings = settings(
    max_examples=100 if INTERPRETED else 400, stateful_step_count=40 if INTERPRETED else 60
)


def random_step(pair: Pair, rng: random.Random) -> None:
    """Do something that mostly succeeds."""
    alive = list(pair.naive.sequences)
    size = pair.naive.block_size
    seq_id = rng.choice(alive) if alive and rng.random() < 0.8 else rng.randrange(20)
    choice = rng.random()
    if choice < 0.30:
        path = [int(rng.random() < 0.3) for _ in range(rng.randrange(1, 9))]
        left = None if rng.random() < 0.7 else len(path) * size - rng.randrange(size)
        pair.do("add_sequence", rng.randrange(20), chain_hashes(path), left)
    elif choice < 0.55:
        pair.do("free_sequence", seq_id)
    elif choice < 0.65 and alive:
        chosen = rng.sample(alive, rng.randrange(1, len(alive) + 1))
        pair.do("append_tokens", chosen, [rng.randrange(3) for _ in chosen])
    elif choice < 0.72:
        pair.do("fork", seq_id, rng.randrange(20))
    elif choice < 0.80:
        rewrite(pair, rng.randrange(20), rng.randrange(8), rng.randrange(4))
    elif choice < 0.86:
        pick = rng.randrange(20)
        register_what_is_full(pair, rng.randrange(30), pick, rng.randrange(2))
        if rng.random() < 0.3:
            rewrite(pair, pick, rng.randrange(8), 1)
    elif choice < 0.91:
        pair.do("attach_prefix", rng.randrange(30), rng.randrange(20))
    elif choice < 0.94:
        pair.do("unregister_prefix", rng.randrange(30))
    else:
        pair.do("allocate_blocks_for_tokens", seq_id, rng.randrange(1, 3 * size))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("num_blocks", [24, 60])
def test_a_long_life_is_the_same_in_both(policy: str, num_blocks: int, rng: random.Random) -> None:
    """Long enough for the recency ring to go round many times and rows to be reused often."""
    pair = Pair(3, num_blocks, policy)
    for step in range(500 if INTERPRETED else 4000):
        random_step(pair, rng)
        if step % 40 == 0:
            assert_intact(pair.engine)
    assert pair.naive.evictions > 20
    assert pair.naive.cow_copies > 5
    pair.drain()
