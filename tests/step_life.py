"""A random life in steps: what a careless scheduler might do next, on engine and model.

Prompts come from a tiny alphabet, so that prefixes are shared and blocks turn out equal.
Each method takes the generator that decides; hypothesis' own or `random.Random`.
"""

import random
from collections.abc import Sequence
from typing import Any

from device_model import Device
from naive_plans import Step
from pairing import chain_hashes
from pairing_steps import StepPair

SEQ_IDS = [0, 1, 2, 3, 4, 5, 2**63, 2**64 - 1]
NAMES = [0, 5, 2**64 - 1]
MODES = ["raise", "stop", "preempt"]


class StepLife:
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

    # --- whole sequences -------------------------------------------------------------
    def finish(self, rng: random.Random) -> None:
        self.pair.do("finish", self.some(rng)[: rng.randint(1, 3)])

    def follow(self, source: int, target: int) -> None:
        """A sequence was opened over another one's tokens."""
        if not self.pair.refused:
            self.prompts[target] = list(self.prompts.get(source, []))
            line = self.naive.sequences[target]
            said = self.device.said.get(self.naive.sequences[source], [])
            self.device.said[line] = said[: line.num_tokens]

    def fork(self, rng: random.Random) -> None:
        source, target = self.alive(rng), self.unborn(rng)
        self.pair.do("fork", source, target)
        self.follow(source, target)

    def share(self, rng: random.Random) -> None:
        source, target = self.alive(rng), self.unborn(rng)
        self.pair.do("share_prefix", source, target, rng.randint(0, 3))
        self.follow(source, target)

    def truncate(self, rng: random.Random) -> None:
        seq_id = self.alive(rng)
        line = self.naive.sequences.get(seq_id)
        most = line.num_committed if line else 0
        self.pair.do("truncate", seq_id, max(0, most - rng.randint(-1, 2 * self.naive.block_size)))
        if rng.random() < 0.5:
            self.prompts.pop(seq_id, None)  # it goes on differently

    def reorder(self, rng: random.Random) -> None:
        seq_ids = self.some(rng)
        parents = [rng.randint(0, max(0, len(seq_ids) - 1)) for _ in seq_ids]
        if parents and rng.random() < 0.03:
            parents[0] = len(parents)
        lines = [self.naive.sequences.get(s) for s in seq_ids]
        said = [list(self.device.said.get(x, [])) for x in lines]
        self.pair.do("reorder", seq_ids, parents)
        if not self.pair.refused:
            for i, parent in enumerate(parents):
                if parent != i:
                    self.device.said[lines[i]] = said[parent][: lines[i].num_tokens]
                    self.prompts.pop(seq_ids[i], None)

    # --- names, leases, the cache ----------------------------------------------------
    def register(self, rng: random.Random) -> None:
        name, seq_id = rng.choice(NAMES), self.alive(rng)
        table = self.naive.block_table(seq_id) or [0]
        blocks = table[: rng.randint(0, len(table))]
        if -1 in blocks:
            return  # a hole is no block_id
        known = name in self.naive.names
        self.pair.do("register_prefix", name, blocks)
        if not self.pair.refused and not known:
            owner = next(x for x in self.naive.sequences.values() if self.naive._leads(x, blocks))
            said = self.device.said.get(owner, [])
            self.named[name] = said[: len(blocks) * self.naive.block_size]

    def attach(self, rng: random.Random) -> None:
        name, seq_id = rng.choice(NAMES), self.unborn(rng)
        self.pair.do("attach_prefix", name, seq_id)
        if not self.pair.refused:
            self.prompts.pop(seq_id, None)
            self.device.said[self.naive.sequences[seq_id]] = list(self.named.get(name, []))

    def unregister(self, rng: random.Random) -> None:
        self.pair.do("unregister_prefix", rng.choice(NAMES))

    def pin(self, rng: random.Random) -> None:
        self.pair.do("pin", self.alive(rng))

    def unpin(self, rng: random.Random) -> None:
        leases = sorted(self.naive.leases)
        wrong = not leases or rng.random() < 0.05
        self.pair.do("unpin", 0 if wrong else rng.choice(leases))

    def evict(self, rng: random.Random) -> None:
        self.pair.do("evict", rng.randint(0, 3))

    def reset(self, rng: random.Random) -> None:
        self.pair.do("reset_prefix_cache")

    def end(self) -> None:
        """End everything and let sequences take the pool: ids show the whole order."""
        for step in list(self.naive.in_flight):
            self.pair.do("commit", step)
        if self.naive.num_steps:
            self.pair.do("complete", self.naive.num_steps)
        self.check_content()
        for lease in sorted(self.naive.leases):
            self.pair.do("unpin", lease)
        self.pair.do("finish", sorted(self.naive.sequences))
        for seq_id in range(1000, 1000 + self.naive.max_sequences):
            columns = min(self.naive.max_blocks_per_sequence, self.naive.num_usable)
            self.pair.do("admit", seq_id, [])
            self.pair.do("plan", [seq_id], [columns * self.naive.block_size])
            self.pair.do("commit", self.naive.in_flight[0])
        self.pair.check()

    # --- single calls ----------------------------------------------------------------
    def single(self, rng: random.Random) -> None:
        """One of the calls that know no steps."""
        seq_id, size = self.alive(rng), self.naive.block_size
        choice = rng.randint(0, 6)
        if choice == 0:
            self.pair.do("allocate_block", seq_id)
        elif choice == 1:
            self.pair.do("allocate_blocks_for_tokens", seq_id, rng.randint(1, 2 * size + 1))
        elif choice == 2:
            self.pair.do("append_token", seq_id)
        elif choice == 3:
            chosen = self.some(rng)
            self.pair.do("append_tokens", chosen, [rng.randint(0, size + 1) for _ in chosen])
        elif choice == 4:
            self.pair.do("free_sequence", seq_id)
        elif choice == 5:
            path = [rng.randint(0, 1) for _ in range(rng.randint(0, 3))]
            left = len(path) * size - rng.randint(0, size - 1) if path else rng.randint(0, 3)
            self.pair.do("add_sequence", self.unborn(rng), chain_hashes(path), left)
        else:
            self.pair.do("lookup_prefix", rng.choice(NAMES))
