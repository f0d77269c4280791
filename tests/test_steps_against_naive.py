"""Whole steps on engine and model: whatever is planned, committed or lost, both do the same."""

import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pairing_steps import StepPair
from step_life import StepLife
from support import INTERPRETED

POLICIES = ["lru", "fifo", "frequency"]
RANDOMS = st.randoms(use_true_random=False)

CONFIGS = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(POLICIES),
        "block_size": st.integers(1, 4),
        "num_blocks": st.integers(1, 14),
        "max_sequences": st.sampled_from([2, 4, 8]),
        "max_blocks_per_sequence": st.sampled_from([None, None, 4, 20]),
        "run_ahead": st.booleans(),
        "hit_visibility": st.sampled_from(["planned", "completed"]),
        "partial_reuse": st.booleans(),
        "dedup": st.sampled_from([True, True, False]),
        "window": st.sampled_from([None, None, None, 1, 3, 6]),
        "watermark": st.sampled_from([0, 0, 2]),
        "max_extra_keys": st.sampled_from([None, 2]),
        "max_leases": st.sampled_from([1024, 2]),
        "max_leased_blocks": st.sampled_from([None, 3]),
    }
)


class StepMachine(RuleBasedStateMachine):
    """Small pools, so that every rule soon meets exhaustion, sharing and eviction."""

    single_calls = False
    life: StepLife

    @initialize(config=CONFIGS)
    def start(self, config: dict[str, Any]) -> None:
        config["watermark"] = min(config["watermark"], config["num_blocks"])
        self.life = StepLife(StepPair(**config), single_calls=self.single_calls)

    @rule(rng=RANDOMS)
    def admit(self, rng: random.Random) -> None:
        self.life.admit(rng)

    @rule(rng=RANDOMS)
    def admit_again(self, rng: random.Random) -> None:
        self.life.admit(rng)

    @rule(rng=RANDOMS)
    def plan(self, rng: random.Random) -> None:
        self.life.plan(rng)

    @rule(rng=RANDOMS)
    def commit(self, rng: random.Random) -> None:
        self.life.commit(rng)

    @rule(rng=RANDOMS)
    def plan_and_commit(self, rng: random.Random) -> None:
        self.life.plan(rng)
        self.life.commit(rng)

    @rule(rng=RANDOMS)
    def step(self, rng: random.Random) -> None:
        self.life.step(rng)

    @rule(rng=RANDOMS)
    def complete(self, rng: random.Random) -> None:
        self.life.complete(rng)

    @rule(rng=RANDOMS)
    def fail(self, rng: random.Random) -> None:
        self.life.fail(rng)

    @rule(rng=RANDOMS)
    def finish(self, rng: random.Random) -> None:
        self.life.finish(rng)

    @rule(rng=RANDOMS)
    def fork(self, rng: random.Random) -> None:
        self.life.fork(rng)

    @rule(rng=RANDOMS)
    def share(self, rng: random.Random) -> None:
        self.life.share(rng)

    @rule(rng=RANDOMS)
    def truncate(self, rng: random.Random) -> None:
        self.life.truncate(rng)

    @rule(rng=RANDOMS)
    def reorder(self, rng: random.Random) -> None:
        self.life.reorder(rng)

    @rule(rng=RANDOMS)
    def name(self, rng: random.Random) -> None:
        rng.choice([self.life.register, self.life.register, self.life.unregister])(rng)

    @rule(rng=RANDOMS)
    def attach(self, rng: random.Random) -> None:
        self.life.attach(rng)

    @rule(rng=RANDOMS)
    def pin_or_unpin(self, rng: random.Random) -> None:
        rng.choice([self.life.pin, self.life.unpin])(rng)

    @rule(rng=RANDOMS)
    def evict_or_reset(self, rng: random.Random) -> None:
        rng.choice([self.life.evict, self.life.evict, self.life.reset])(rng)

    @invariant()
    def nothing_is_out_of_joint(self) -> None:
        if hasattr(self, "life"):
            self.life.pair.check()

    def teardown(self) -> None:
        if hasattr(self, "life"):
            self.life.end()


class MixedMachine(StepMachine):
    """The same with calls in between that know no steps."""

    single_calls = True

    @rule(rng=RANDOMS)
    def single(self, rng: random.Random) -> None:
        self.life.single(rng)

    @rule(rng=RANDOMS)
    def another_single(self, rng: random.Random) -> None:
        self.life.single(rng)


AT_ONCE = settings(
    max_examples=100 if INTERPRETED else 300, stateful_step_count=40 if INTERPRETED else 60
)
TestStepsAgainstNaive = StepMachine.TestCase
TestStepsAgainstNaive.settings = AT_ONCE
TestMixedAgainstNaive = MixedMachine.TestCase
TestMixedAgainstNaive.settings = AT_ONCE


# How often a busy scheduler does what, out of a hundred.
OFTEN = {
    "admit": 18,
    "plan": 20,
    "commit": 20,
    "step": 8,
    "complete": 8,
    "finish": 8,
    "fork": 5,
    "truncate": 4,
    "reorder": 2,
    "register": 2,
    "attach": 2,
    "pin": 2,
    "unpin": 3,
    "share": 1,
    "unregister": 1,
    "evict": 1,
}
RARELY = {"fail": 40, "reset": 1}


def random_step(life: StepLife, rng: random.Random) -> None:
    """Do something that mostly succeeds."""
    often = OFTEN | ({"single": 8} if life.single_calls else {})
    weights = RARELY if rng.random() < 0.01 else often
    (name,) = rng.choices(list(weights), list(weights.values()))
    getattr(life, name)(rng)


SETTINGS = {
    "plain": {},
    "run ahead": {"run_ahead": True, "partial_reuse": True},
    "completed": {"run_ahead": True, "hit_visibility": "completed", "watermark": 3},
    "window": {"window": 7, "run_ahead": True, "partial_reuse": True, "block_size": 2},
    "no dedup": {"dedup": False, "partial_reuse": True, "block_size": 4},
}


def make_life(policy: str, setting: str, single_calls: bool, alone: bool = False) -> StepLife:
    options = {"block_size": 3, "num_blocks": 24, "max_sequences": 8} | SETTINGS[setting]
    pair = StepPair(policy=policy, alone=alone, **options)
    return StepLife(pair, single_calls=single_calls)


def live(life: StepLife, rng: random.Random, num_events: int) -> None:
    for event in range(num_events):
        random_step(life, rng)
        if event % 20 == 0:
            life.pair.check()
    life.end()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("single_calls", [False, True])
def test_a_long_life_in_steps_is_the_same_in_both(
    policy: str, setting: str, single_calls: bool, rng: random.Random
) -> None:
    """Long enough for the recency ring to go round and rows and rare events to come again."""
    life = make_life(policy, setting, single_calls)
    live(life, rng, 200 if INTERPRETED else 1500)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("single_calls", [False, True])
def test_a_long_life_of_the_model_keeps_every_token_where_it_belongs(
    policy: str, setting: str, single_calls: bool, rng: random.Random
) -> None:
    life = make_life(policy, setting, single_calls, alone=True)
    live(life, rng, 2000)
    naive = life.naive
    assert min(naive.num_steps, naive.cache_hits, naive.evictions) > 30
    assert min(naive.cow_copies, naive.preemptions) > 1
