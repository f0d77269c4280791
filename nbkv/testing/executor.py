"""A device that runs plans late, and looks at every slot that it touches."""

import random
from dataclasses import replace
from typing import Self

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_vector
from nbkv.cache import PagedKVCache
from nbkv.errors import ArgumentError
from nbkv.plan import StepPlan
from nbkv.pools import HostPool
from nbkv.testing.device import Device
from nbkv.testing.failures import ScheduleError
from nbkv.testing.steps import Step
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
    transfer into them began. With ``hit_visibility="completed"`` a later step may run before an
    earlier one, unless they have sequences in common, or some that forks, `reorder` or names
    have made relatives: what hits alone connect is not waited for.
    Blocks under a lease are read late, and for the last time at `PagedKVCache.unpin`.

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
        self.cache = cache
        self.pool = _small_pool(cache) if pool is None else pool
        blocks, _, _, block_size, _, _ = self.pool.data.shape
        if (blocks, block_size) != (cache.total_blocks, cache.config.block_size):
            raise ArgumentError(
                f"pool has {blocks} blocks of {block_size} tokens; it must have the cache's"
                f" {cache.total_blocks} of {cache.config.block_size}"
            )
        self._device = Device(cache, self.pool, random.Random(seed))
        self._watch = Watch(cache, self._device)

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
        if not self._device.planned or self._device.planned[0].step_id != plan.step_id:
            wanted = (
                f"step {self._device.planned[0].step_id}" if self._device.planned else "no step"
            )
            raise ScheduleError(
                f"step {plan.step_id} is submitted; {wanted} comes next: submit every plan once,"
                " in order"
            )
        step = self._device.planned[0]
        if tokens is not None:
            tokens = check_vector("tokens", tokens, np.int32)
            if tokens.size != step.num_tokens:
                raise ArgumentError(
                    f"tokens has {tokens.size} ids; it must have {step.num_tokens}, one for each"
                    " planned position"
                )
            tokens = tokens.copy()
        self._device.planned.popleft()
        self._device.ledger.speak(step, tokens, self._vocabulary)
        self._device.waiting.append(step)
        lag = self._device.rng.randint(*self._lag)
        while len(self._device.waiting) > lag:
            self.advance()
        return _tokens_of(step)

    def advance(self) -> int:
        """Run the step that waits longest; return its id, or 0 when none waits.

        Raises
        ------
        SlotError
        """
        return self._device.advance()

    def wait(self, plan: StepPlan) -> npt.NDArray[np.int32]:
        """Run all steps up to a plan's.

        Parameters
        ----------
        plan : StepPlan
            Submitted; its buffers are not filled again.

        Returns
        -------
        int32 array
            The tokens whose keys and values the step wrote.

        Raises
        ------
        ScheduleError
            It was not submitted, or it has run and is committed.
        SlotError
        """
        for step in (*self._device.waiting, *self._device.ledger.uncommitted):
            if step.step_id == plan.step_id and step.tokens is not None:
                while self.executed_step < step.step_id:
                    self.advance()
                return _tokens_of(step)
        raise ScheduleError(f"step {plan.step_id} is waited for; it is not submitted, or long past")

    def drain(self) -> None:
        """Run all steps, then look through every sequence and everything that can be found.

        Raises
        ------
        ScheduleError
            A plan was not submitted.
        SlotError
        """
        if self._device.planned:
            raise ScheduleError(
                f"step {self._device.planned[0].step_id} was planned and not submitted"
            )
        while self._device.waiting:
            self.advance()
        self._device.audit()

    @property
    def num_waiting(self) -> int:
        """Steps submitted and not run."""
        return len(self._device.waiting)

    @property
    def executed_step(self) -> int:
        """The last step that has run, or was withdrawn."""
        return self._device.executed_step


def _tokens_of(step: Step) -> npt.NDArray[np.int32]:
    assert step.tokens is not None
    return step.tokens.copy()


def _small_pool(cache: PagedKVCache) -> HostPool:
    small = replace(cache.config, dtype="float32", num_layers=2, num_kv_heads=1, head_dim=2)
    return HostPool(small)
