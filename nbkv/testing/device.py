"""Steps that wait, and what the calls of a cache mean for them."""

import random
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv.cache import PagedKVCache
from nbkv.plan import StepPlan
from nbkv.pools import HostPool
from nbkv.testing.failures import ScheduleError
from nbkv.testing.ledger import Ledger
from nbkv.testing.running import Runner
from nbkv.testing.slots import Slots
from nbkv.testing.steps import Step
from nbkv.testing.transfers import Transfers


class Device:
    """Takes plans over when they are made, and runs them when it is told to.

    Parameters
    ----------
    cache : PagedKVCache
        Not used yet.
    pool : HostPool
    rng : random.Random

    Attributes
    ----------
    ledger : Ledger
    planned : deque of Step
        Those not submitted.
    waiting : deque of Step
        Those submitted and not run.
    """

    def __init__(self, cache: PagedKVCache, pool: HostPool, rng: random.Random) -> None:
        self.cache, self.rng = cache, rng
        self.ledger = Ledger(cache)
        self._slots = Slots(pool)
        self._runner = Runner(self._slots, self.ledger)
        self._transfers = Transfers(self.ledger, self._slots)
        config = cache.config
        self._in_order = not config.run_ahead or config.hit_visibility == "planned"
        self.planned: deque[Step] = deque()
        self.waiting: deque[Step] = deque()

    @property
    def executed_step(self) -> int:
        """The last step that has run, or was withdrawn."""
        steps = self.waiting or self.planned
        return steps[0].step_id - 1 if steps else int(self.cache.header["num_steps"][0])

    def advance(self) -> int:
        """Run the step that waits longest; return its id, or 0 when none waits."""
        if not self.waiting:
            return 0
        step = self._choose()
        self.waiting.remove(step)
        self._runner.run(step, in_order=self._in_order)
        self._transfers.read_one(self.rng, self.executed_step)
        return step.step_id

    def _choose(self) -> Step:
        """Choose the step that runs next."""
        if self._in_order:
            return self.waiting[0]
        free: list[Step] = []
        before: set[int] = set()
        for step in self.waiting:
            families = {id(entry.history.family) for entry in step.entries}
            if not families & before:
                free.append(step)
            before |= families
        return self.rng.choice(free)

    def audit(self) -> None:
        """Look through all that sequences have and prefixes find; no step waits."""
        self._runner.audit()

    # --- what calls mean -------------------------------------------------------------
    def take(self, plan: StepPlan) -> None:
        """Take a plan over at the moment it is made."""
        step = self.ledger.take_plan(plan)
        self.planned.append(step)
        step.is_early = self.cache.config.run_ahead and self.rng.random() < 0.5
        if step.is_early:
            self._runner.hand_out(step)

    def settle(self) -> None:
        """Let blocks that were reserved outside of steps be written to at once."""
        self.ledger.settle()
        if self.cache.config.run_ahead:
            fresh = self.ledger.take_fresh()
            self._slots.hand_out(fresh, self.ledger.generations[fresh], 0)

    def check_commit(
        self, num_accepted: npt.NDArray[np.int32] | None, tokens: npt.NDArray[np.int32] | None
    ) -> None:
        """Check that the oldest plan is committed with the tokens that it wrote."""
        step = self.ledger.uncommitted[0]
        if step.tokens is None:
            raise ScheduleError(f"step {step.step_id} is committed; it was not submitted")
        counts = [entry.count for entry in step.entries]
        taken = counts if num_accepted is None else np.asarray(num_accepted).tolist()
        if tokens is None or len(taken) != len(counts) or sum(taken) != len(tokens):
            return  # the cache refuses it, if it is wrong
        at = start = 0
        for entry, count, kept in zip(step.entries, counts, taken, strict=True):
            written = step.tokens[start : start + kept]
            wrong = np.flatnonzero(written != np.asarray(tokens[at : at + kept]))
            if wrong.size:
                raise ScheduleError(
                    f"step {step.step_id} is committed with token {tokens[at + wrong[0]]} at"
                    f" position {entry.start + wrong[0]} of sequence {entry.history.seq_id};"
                    f" it wrote keys and values of token {written[wrong[0]]}"
                )
            at, start = at + kept, start + count

    def check_complete(self, step_id: int) -> None:
        """Check that a step has run that is said to be completed."""
        if self.executed_step < step_id <= int(self.cache.header["num_steps"][0]):
            raise ScheduleError(
                f"step {step_id} is completed; only steps up to {self.executed_step} have run"
            )

    def fail(self, step_id: int, withdrawn: npt.NDArray[Any]) -> None:
        """Leave what steps leave behind that have failed."""
        self.ledger.settle()
        while self.waiting and self.waiting[0].step_id < step_id:
            self.advance()
        for step in (*self.waiting, *self.planned):
            self._runner.withdraw(step)
        self._runner.ruin_since(step_id)
        self.waiting.clear()
        self.planned.clear()
        self.ledger.withdraw(withdrawn)
        self._transfers.withdraw(step_id)

    def pin(self, lease: int, handle: int) -> None:
        """Begin a transfer of what a lease covers."""
        self._transfers.start(lease, handle)

    def unpin(self, lease: int) -> None:
        """Read what a lease covers for the last time."""
        self._transfers.end(lease, self.executed_step)
