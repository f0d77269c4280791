"""Admitting, planning and committing as a careless scheduler might, on engine and model.

Prompts come from a tiny alphabet, so that prefixes are shared and blocks turn out equal.
Each method takes the generator that decides; hypothesis' own or `random.Random`.
"""

import random
from collections.abc import Sequence
from typing import Any

from device_model import Device
from naive_plans import Step
from pairing_steps import StepPair

SEQ_IDS = [0, 1, 2, 3, 4, 5, 2**63, 2**64 - 1]
MODES = ["raise", "stop", "preempt"]


class StepEvents:
    """One pair, and what its sequences are about to say."""

    def __init__(self, pair: StepPair, *, single_calls: bool) -> None:
        self.pair, self.naive = pair, pair.naive
        self.device = Device(self.naive)
        # What single calls add has no ids and is in no plan: a device cannot follow.
        self.single_calls = single_calls
        self.named: dict[int, list[Any]] = {}
        self.prompts: dict[int, list[int]] = {}
        self.planned: dict[int, list[list[int]]] = {}  # ids of each entry, by step

    # --- picking ---------------------------------------------------------------------
    def alive(self, rng: random.Random) -> int:
        """Pick a sequence, mostly one that lives."""
        living = sorted(self.naive.sequences)
        if living and rng.random() < 0.9:
            return rng.choice(living)
        return rng.choice(SEQ_IDS)

    def unborn(self, rng: random.Random) -> int:
        free = [s for s in SEQ_IDS if s not in self.naive.sequences]
        return rng.choice(free) if free and rng.random() < 0.9 else rng.choice(SEQ_IDS)

    def some(self, rng: random.Random, wrong: float = 0.05) -> list[int]:
        """Pick several sequences; rarely one twice or one that is gone."""
        living = sorted(self.naive.sequences)
        rng.shuffle(living)
        chosen = living[: rng.randint(0, len(living))]
        if rng.random() < wrong and len(chosen) < self.naive.max_sequences:
            chosen.insert(rng.randint(0, len(chosen)), rng.choice(SEQ_IDS))
        return chosen

    def tokens(self, rng: random.Random, count: int) -> list[int]:
        return [int(rng.random() < 0.15) for _ in range(count)]

    # --- admission -------------------------------------------------------------------
    def admit(self, rng: random.Random) -> None:
        size = self.naive.block_size
        prompt = self.tokens(rng, rng.randint(0, 4 * size + 1))
        options: dict[str, Any] = {"salt": rng.choice([None, None, None, 1, "a"])}
        if len(prompt) > 1 and rng.random() < 0.25:
            start = rng.randint(0, len(prompt) - 2)
            end = rng.randint(start + 1, len(prompt))
            options["extra_keys"] = ((start, end, rng.choice([7, 8])),)
        if rng.random() < 0.3:
            options["max_hit_tokens"] = max(0, len(prompt) - rng.randint(0, size + 1))
        self.pair.do("match_prefix", prompt, **options)
        if rng.random() < 0.3:
            options["reserve_tokens"] = rng.randint(0, len(prompt) + size)
        if rng.random() < 0.2:
            options["must_fit"] = True
        if rng.random() < 0.2:
            options["arrival"] = rng.randint(0, 20)
        seq_id = self.unborn(rng)
        self.pair.do("admit", seq_id, prompt, **options)
        if not self.pair.refused:
            self.prompts[seq_id] = prompt
            line = self.naive.sequences[seq_id]
            self.device.say(line, 0, prompt[: line.num_tokens])

    # --- plans -----------------------------------------------------------------------
    def counts(self, rng: random.Random, seq_ids: Sequence[int]) -> list[int]:
        """Chunks of prompts, then a token or a few drafts each; rarely nonsense."""
        counts = []
        for seq_id in seq_ids:
            line = self.naive.sequences.get(seq_id)
            left = len(self.prompts.get(seq_id, ())) - (line.num_tokens if line else 0)
            chunk = rng.randint(1, left) if left > 0 else rng.choice([1, 1, 1, 2, 4])
            counts.append(0 if rng.random() < 0.05 else chunk)
        if counts and rng.random() < 0.02:
            counts[rng.randrange(len(counts))] = -1
        return counts

    def next_ids(self, rng: random.Random, seq_id: int, start: int, count: int) -> list[int]:
        prompt = self.prompts.get(seq_id, [])
        drafts = self.tokens(rng, count)
        return (
            prompt[start : start + count]
            + drafts[: max(0, start + count - max(start, len(prompt)))]
        )

    def plan_options(self, rng: random.Random, seq_ids: Sequence[int]) -> dict[str, Any]:
        options: dict[str, Any] = {"on_exhaustion": rng.choice(MODES)}
        if rng.random() < 0.2:
            options["lookahead"] = rng.randint(0, 3)
        others = [s for s in sorted(self.naive.sequences) if s not in seq_ids]
        others = others[: self.naive.max_sequences - len(seq_ids)]
        if options["on_exhaustion"] == "preempt" and others and rng.random() < 0.5:
            options["victims"] = others[: rng.randint(1, len(others))]
        if options["on_exhaustion"] == "preempt" and rng.random() < 0.3:
            size = len(seq_ids) + len(options.get("victims", ()))
            options["rank"] = [rng.randint(0, 3) for _ in range(size)]
        return options

    def plan(self, rng: random.Random) -> None:
        seq_ids = self.some(rng)
        counts = self.counts(rng, seq_ids)
        step = self.pair.do("plan", seq_ids, counts, **self.plan_options(rng, seq_ids))
        if not self.pair.refused:
            self.note(rng, step)

    def note(self, rng: random.Random, step: Step) -> None:
        """Decide which ids a plan's tokens have, and give it to the device."""
        ids = [self.next_ids(rng, e.line.seq_id, e.start, e.count) for e in step.entries]
        self.planned[step.step_id] = ids
        if not self.single_calls:
            self.device.plan(step, ids)

    def accepted(self, rng: random.Random, step: Step) -> tuple[Any, Any]:
        """Accept most tokens; return num_accepted and their ids, rarely wrong ones."""
        counts = [e.count for e in step.entries]
        taken = [n if rng.random() < 0.8 else rng.randint(0, n) for n in counts]
        ids = self.planned[step.step_id]
        tokens: Any = [t for new, n in zip(ids, taken, strict=True) for t in new[:n]]
        if self.single_calls and rng.random() < 0.1:
            tokens = None
        if rng.random() < 0.02:
            tokens = [*(tokens or []), 1]
        if taken and rng.random() < 0.02:
            taken[rng.randrange(len(taken))] += 9
        return (None if taken == counts and rng.random() < 0.5 else taken), tokens

    def commit(self, rng: random.Random) -> None:
        flying = self.naive.in_flight
        if not flying:
            return
        step = flying[0] if rng.random() < 0.97 else rng.choice(flying)
        accepted, tokens = self.accepted(rng, step)
        self.pair.do("commit", step, accepted, tokens)
        self.check_content()

    def step(self, rng: random.Random) -> None:
        """Commit and plan in one call."""
        seq_ids = self.some(rng)
        counts = self.counts(rng, seq_ids)
        options = self.plan_options(rng, seq_ids)
        accepted, tokens = None, None
        if self.naive.in_flight:
            accepted, tokens = self.accepted(rng, self.naive.in_flight[0])
        step = self.pair.do("step", seq_ids, counts, accepted, tokens, **options)
        if not self.pair.refused and not step.exhausted:
            self.note(rng, step)

    def complete(self, rng: random.Random) -> None:
        newest = self.naive.num_steps
        step_id = rng.choice([newest, newest, rng.randint(0, newest + 1)])
        self.pair.do("complete", step_id)
        self.check_content()

    def fail(self, rng: random.Random) -> None:
        step_id = rng.randint(max(1, self.naive.completed_step), self.naive.num_steps + 1)
        self.pair.do("fail", step_id)
        if not self.pair.refused:
            self.device.fail(step_id)
        self.check_content()

    def check_content(self) -> None:
        """Once all that is planned has been executed, every slot must hold what it should."""
        if self.single_calls:
            return
        if not self.naive.run_ahead:
            self.device.run_until(self.naive.num_steps)
        self.device.run_until(self.naive.completed_step)
        if not self.device.waiting:
            for line in self.naive.sequences.values():
                self.device.check(line)
