"""A device that runs plans late, and looks at every slot that it touches."""

import random
from collections import deque
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_vector
from nbkv.cache import PagedKVCache
from nbkv.errors import ArgumentError
from nbkv.plan import StepPlan
from nbkv.pools import HostPool
from nbkv.testing.failures import ScheduleError
from nbkv.testing.ledger import Ledger
from nbkv.testing.running import Runner
from nbkv.testing.slots import Slots
from nbkv.testing.steps import Step
from nbkv.testing.transfers import Transfers
from nbkv.testing.watching import Watch


class LaggingExecutor:
    """Runs a scheduler's plans late on a pool, and fails when a slot holds the wrong thing.

    It stands in for the device and its model. What each token's keys and values have to be is
    known from the tokens, salt and extra keys that its sequence was given, not from the
    cache: each plan is carried out as a device would, some steps late, and then everything
    is read that attention would read, through block tables kept current by
    `StepPlan.table_changes`.

    It sees the cache's calls by itself: make it before the first of them, then hand each plan
    to `submit`.

    Parameters
    ----------
    cache : PagedKVCache
        Not used yet. Its calls are followed until `close`.
    pool : HostPool, optional
        Of dtype float32, with the cache's blocks. When omitted, a small one: two layers, one
        head.
    lag : int or (int, int)
        Steps that wait at least, a number or drawn for each step from such a range, the end
        included; `wait`, `advance` and `drain` run them earlier.
    seed : int
        Of what is drawn: lags, and which blocks are written to at once.
    vocabulary : int
        Different tokens that are made up where `submit` is given none. Few make sequences
        meet again.

    Raises
    ------
    ArgumentError
        The cache is in use, or the pool does not suit it.

    Notes
    -----
    With ``run_ahead`` it takes the fence at its word: in half of the steps, the blocks that a
    plan hands out lose their content at once, before the steps in flight have run, as if a
    transfer into them began. Blocks under a lease are read late, and for the last time at
    `PagedKVCache.unpin`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbkv import CacheConfig, PagedKVCache
    >>> from nbkv.testing import LaggingExecutor
    >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64, run_ahead=True))
    >>> with LaggingExecutor(cache, lag=2) as executor:
    ...     handle, _ = cache.admit(7, [1, 2, 3])
    ...     first = cache.plan(np.array([handle]), 3)
    ...     tokens = executor.submit(first)
    ...     second = cache.plan(np.array([handle]), 1)
    ...     _ = executor.submit(second)
    ...     print(tokens, executor.num_waiting)
    ...     _ = cache.commit(first, tokens=executor.wait(first))
    ...     cache.complete(first.step_id)
    ...     executor.drain()
    [1 2 3] 2
    """

    def __init__(
        self,
        cache: PagedKVCache,
        pool: HostPool | None = None,
        *,
        lag: int | tuple[int, int] = 3,
        seed: int = 0,
        vocabulary: int = 64,
    ) -> None:
        if not isinstance(cache, PagedKVCache):
            raise TypeError(f"cache is {cache!r}; it must be a nbkv.PagedKVCache")
        low, high = lag if isinstance(lag, tuple) else (lag, lag)
        self._lag = check_count("lag", low), check_count("lag", high)
        self._vocabulary = max(1, check_count("vocabulary", vocabulary))
        self._rng = random.Random(seed)
        self.cache, self.ledger = cache, Ledger(cache)
        self.pool = _small_pool(cache) if pool is None else pool
        if self.pool.data.shape[0::3][:2] != (cache.total_blocks, cache.config.block_size):
            raise ArgumentError(
                f"pool has shape {self.pool.data.shape}; it must have the cache's"
                f" {cache.total_blocks} blocks of {cache.config.block_size} tokens"
            )
        self._slots = Slots(self.pool)
        self._runner = Runner(self._slots, self.ledger)
        self._transfers = Transfers(self.ledger, self._slots)
        self._planned: deque[Step] = deque()
        self._waiting: deque[Step] = deque()
        self._watch = Watch(cache, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.drain()
        self.close()

    def close(self) -> None:
        """Stop following the cache."""
        self._watch.close()

    # --- what a scheduler calls ------------------------------------------------------
    def submit(
        self, plan: StepPlan, tokens: npt.NDArray[np.int32] | None = None
    ) -> npt.NDArray[np.int32]:
        """Take a plan, as a device does that works it off some time later.

        Parameters
        ----------
        plan : StepPlan
            The oldest that was not submitted. Its buffers may be filled again afterwards.
        tokens : int32 array, shape (num_tokens,), optional
            Those that the step computes, entry after entry, drafts included. When omitted they
            are made up: the prompt's first, then such as depend on all tokens before.

        Returns
        -------
        int32 array
            The tokens, for the commit.

        Raises
        ------
        ScheduleError
            Another plan comes first, or nobody saw it being made.
        SlotError
            Of a step whose turn it is now.
        """
        if not self._planned or self._planned[0].step_id != plan.step_id:
            wanted = f"step {self._planned[0].step_id}" if self._planned else "no step"
            raise ScheduleError(
                f"step {plan.step_id} is submitted; {wanted} comes next: submit every plan once,"
                " in order"
            )
        step = self._planned[0]
        if tokens is not None:
            tokens = check_vector("tokens", tokens, np.int32)
            if tokens.size != step.num_tokens:
                raise ArgumentError(
                    f"tokens has {tokens.size} ids; it must have {step.num_tokens}, one for each"
                    " planned position"
                )
            tokens = tokens.copy()
        self._planned.popleft()
        self.ledger.speak(step, tokens, self._vocabulary)
        self._waiting.append(step)
        lag = self._rng.randint(*self._lag)
        while len(self._waiting) > lag:
            self.advance()
        return self._tokens_of(step)

    def advance(self) -> int:
        """Run the step that waits longest; return its id, or 0 when none waits.

        Raises
        ------
        SlotError
        """
        if not self._waiting:
            return 0
        step = self._waiting.popleft()
        self._runner.run(step)
        self._transfers.read_one(self._rng.choice, self.executed_step)
        return step.step_id

    def wait(self, plan: StepPlan) -> npt.NDArray[np.int32]:
        """Run all steps up to a plan's.

        Parameters
        ----------
        plan : StepPlan
            Submitted, not committed.

        Returns
        -------
        int32 array
            The tokens whose keys and values the step wrote.

        Raises
        ------
        ScheduleError
            It was not submitted.
        SlotError
        """
        for step in self.ledger.uncommitted:
            if step.step_id == plan.step_id and step.tokens is not None:
                while self.executed_step < step.step_id:
                    self.advance()
                return self._tokens_of(step)
        raise ScheduleError(f"step {plan.step_id} is waited for; it is not submitted, or committed")

    def drain(self) -> None:
        """Run all steps, then look through every sequence and everything that can be found.

        Raises
        ------
        ScheduleError
            A plan was not submitted.
        SlotError
        """
        if self._planned:
            raise ScheduleError(f"step {self._planned[0].step_id} was planned and not submitted")
        while self._waiting:
            self.advance()
        self._runner.audit()

    @property
    def num_waiting(self) -> int:
        """Steps submitted and not run."""
        return len(self._waiting)

    @property
    def executed_step(self) -> int:
        """The last step that has run, or was withdrawn."""
        steps = self._waiting or self._planned
        return steps[0].step_id - 1 if steps else int(self.cache.header["num_steps"][0])

    def _tokens_of(self, step: Step) -> npt.NDArray[np.int32]:
        assert step.tokens is not None
        return step.tokens.copy()

    # --- what the watch tells --------------------------------------------------------
    def planned(self, plan: StepPlan) -> None:
        """Take a plan over at the moment it is made; `Watch` calls it."""
        step = self.ledger.take_plan(plan)
        self._planned.append(step)
        step.is_early = self.cache.config.run_ahead and self._rng.random() < 0.5
        if step.is_early:
            self._runner.hand_out(step)

    def settled(self) -> None:
        """Let blocks reserved outside of steps be written to at once; `Watch` calls it."""
        if self.cache.config.run_ahead:
            fresh = self.ledger.take_fresh()
            self._slots.hand_out(fresh, self.ledger.generations[fresh], 0)

    def before_commit(self, given: dict[str, Any]) -> None:
        """Check what is about to be committed; `Watch` calls it."""
        step = self.ledger.uncommitted[0]
        if step.tokens is None:
            raise ScheduleError(f"step {step.step_id} is committed; it was not submitted")
        accepted, tokens = given.get("num_accepted"), given.get("tokens")
        counts = [entry.count for entry in step.entries]
        taken = counts if accepted is None else np.asarray(accepted).tolist()
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

    def before_complete(self, step_id: int) -> None:
        """Check that a step has run; `Watch` calls it."""
        if self.executed_step < step_id <= int(self.cache.header["num_steps"][0]):
            raise ScheduleError(
                f"step {step_id} is completed; only steps up to {self.executed_step} have run"
            )

    def failed(self, step_id: int, withdrawn: npt.NDArray[Any]) -> None:
        """Leave what failed steps leave behind; `Watch` calls it."""
        while self._waiting and self._waiting[0].step_id < step_id:
            self.advance()
        for step in (*self._waiting, *self._planned):
            self._runner.withdraw(step)
        self._runner.ruin_since(step_id)
        self._waiting.clear()
        self._planned.clear()
        self.ledger.withdraw(withdrawn)
        self._transfers.withdraw(step_id)

    def pinned(self, lease: int, handle: int) -> None:
        """Note a transfer; `Watch` calls it."""
        self._transfers.start(lease, handle)

    def before_unpin(self, lease: int) -> None:
        """Read a lease for the last time; `Watch` calls it."""
        self._transfers.end(lease, self.executed_step)


def _small_pool(cache: PagedKVCache) -> HostPool:
    shape = {"num_layers": 2, "num_kv_heads": 1, "head_dim": 2}
    return HostPool(replace(cache.config, dtype="float32", **shape))
