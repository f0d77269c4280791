"""The part of the facade that a scheduler calls each step: plan, commit, and both in one."""

from collections import deque

import numpy as np
import numpy.typing as npt

from nbkv._arguments import (
    refuse,
)
from nbkv._lifetimes import Handles
from nbkv._step_arguments import StepArguments
from nbkv.config import CacheConfig
from nbkv.hashing import Tokens
from nbkv.kernels import steps
from nbkv.plan import StepBuffers, StepPlan
from nbkv.statuses import (
    BAD_ACCEPTED,
    STEP_NOT_NEXT,
    TOKENS_MISSING,
)


class StepCalls(StepArguments):
    """Plan, compute, commit: nothing is found by prefix before its keys and values exist."""

    def __init__(self, config: CacheConfig) -> None:
        super().__init__(config)
        self._outstanding: deque[StepPlan] = deque()

    def plan(
        self,
        sequences: Handles,
        counts: npt.NDArray[np.int32] | int,
        *,
        lookahead: int = 0,
        on_exhaustion: str = "raise",
        rank: npt.NDArray[np.int64] | None = None,
        victims: Handles | None = None,
        out: StepBuffers | None = None,
    ) -> StepPlan:
        """Plan a step: slots for these many new tokens of each sequence, all or nothing.

        Chunks of prompts and single tokens may be mixed. The tokens count as planned;
        `commit` makes them the sequence's own.

        Parameters
        ----------
        sequences : int64 or uint64 array, shape (n,)
            int64 are handles (faster), uint64 are seq_ids.
        counts : int32 array of shape (n,), or int
            New tokens of each, drafts included, or one number for all.
        lookahead : int
            Tokens behind the new ones for which each table is to have blocks too.
        on_exhaustion : str
            When blocks do not suffice: ``"raise"``; ``"stop"``: plan as many of the first
            entries as fit; ``"preempt"``: end sequences to make room (`StepPlan.preempted`), or
            leave out whom only blocks behind the fence could serve (`StepPlan.deferred`).
        rank : int64 array, optional
            For ``"preempt"``, one number for each of `sequences` and then `victims`: the
            highest goes first. When omitted, the latest arrival.
        victims : int64 or uint64 array, optional
            Sequences outside the batch that may be preempted too.
        out : StepBuffers, optional
            Takes the plan. New ones are made when omitted, which costs more than the plan.

        Returns
        -------
        StepPlan
            Valid until its buffers are filled again.

        Raises
        ------
        OutOfBlocksError, UnknownSequenceError, DuplicateSequenceError, CapacityError
        StepError
            Without ``run_ahead``: the plan before is not committed.
        ArgumentError

        Examples
        --------
        >>> import numpy as np
        >>> from nbkv import CacheConfig, PagedKVCache, StepBuffers
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> handles = np.array([cache.admit(seq_id, [1, 2, 3])[0] for seq_id in (7, 8)])
        >>> plan = cache.plan(handles, 3)
        >>> plan.slot_mapping, plan.seq_lens
        (array([0, 1, 2, 4, 5, 6]), array([3, 3], dtype=int32))
        """
        buffers = self._buffers_for(out)
        batch = self._take_batch(sequences, counts, lookahead, on_exhaustion, rank, victims)
        try:
            planned = steps.plan_step(self._arena, buffers.data, *batch)
        except TypeError:
            planned = None
        if planned is None:
            batch = self._check_batch(sequences, counts, lookahead, on_exhaustion, rank, victims)
            planned = steps.plan_step(self._arena, buffers.data, *batch)
        if planned < 0:
            self._fail_plan(planned, buffers, sequences, counts, victims)
        self._outstanding.append(buffers.plan)
        return buffers.plan

    def commit(
        self,
        plan: StepPlan,
        num_accepted: npt.NDArray[np.int32] | None = None,
        tokens: Tokens | None = None,
        *,
        out: StepBuffers | None = None,
    ) -> StepPlan:
        """Commit a plan: its keys and values are there, or will be in stream order.

        Records the tokens, indexes blocks that are full, exchanges those whose content is
        cached already, drops rejected drafts (keeping their blocks), and lets go what the
        window has left behind. Without ``run_ahead`` it completes the step as well.

        Parameters
        ----------
        plan : StepPlan
            The oldest that is not committed.
        num_accepted : int32 array, shape (num_entries,), optional
            Tokens kept of each entry, from its first; all when omitted.
        tokens : int32 array, optional
            Their ids, entry after entry, those of entries that are skipped included. Without
            them the sequences are not indexed any further.
        out : StepBuffers, optional
            Takes `StepPlan.table_changes` and `StepPlan.skipped`; the plan's own when
            omitted. A plan made into the same buffers afterwards adds its changes behind.

        Returns
        -------
        StepPlan
            Of those buffers.

        Raises
        ------
        StepError
            It is not the oldest.
        ArgumentError
        """
        if not isinstance(plan, StepPlan):
            raise TypeError(f"plan is {plan!r}; it must be a nbkv.StepPlan")
        if not plan.buffers.is_writable:
            refuse("plan", plan, "in memory that is writable")
        buffers = plan.buffers if out is None else self._buffers_for(out)
        accepted, ids, has_tokens = self._check_committed(num_accepted, tokens)
        status = steps.commit_step(
            self._arena, plan.buffers.data, buffers.data, accepted, ids, has_tokens
        )
        if status < 0:
            self._fail_commit(status, plan, buffers, accepted, ids)
        self._forget_outstanding(plan)
        return buffers.plan

    def step(
        self,
        sequences: Handles,
        counts: npt.NDArray[np.int32] | int,
        num_accepted: npt.NDArray[np.int32] | None = None,
        tokens: Tokens | None = None,
        *,
        lookahead: int = 0,
        on_exhaustion: str = "raise",
        rank: npt.NDArray[np.int64] | None = None,
        victims: Handles | None = None,
        out: StepBuffers | None = None,
    ) -> StepPlan:
        """Commit the oldest plan and plan the next step, in one call: what a loop calls.

        With no plan outstanding it only plans. When there is no room for the plan although
        the commit went through, nothing is raised: `StepPlan.status` says so.

        Parameters
        ----------
        sequences, counts, lookahead, on_exhaustion, rank, victims
            Of the next step, as `plan` takes them.
        num_accepted, tokens
            Of the plan to commit, as `commit` takes them.
        out : StepBuffers, optional
            Takes the next plan and what the commit changed; those of the committed plan
            when omitted.

        Returns
        -------
        StepPlan

        Raises
        ------
        As `plan` and `commit`, before either is done.
        """
        if not self._outstanding:
            return self.plan(
                sequences,
                counts,
                lookahead=lookahead,
                on_exhaustion=on_exhaustion,
                rank=rank,
                victims=victims,
                out=out,
            )
        last = self._outstanding[0]
        buffers = last.buffers if out is None else self._buffers_for(out)
        accepted, ids, has_tokens = self._check_committed(num_accepted, tokens)
        leading = self._arena, last.buffers.data, buffers.data, accepted, ids, has_tokens
        batch = self._take_batch(sequences, counts, lookahead, on_exhaustion, rank, victims)
        try:
            planned = steps.next_step(*leading, *batch)
        except TypeError:
            planned = None
        if planned is None:
            batch = self._check_batch(sequences, counts, lookahead, on_exhaustion, rank, victims)
            planned = steps.next_step(*leading, *batch)
        if planned < 0:
            if planned in (STEP_NOT_NEXT, BAD_ACCEPTED, TOKENS_MISSING):
                self._fail_commit(planned, last, buffers, accepted, ids)
            self._fail_plan(planned, buffers, sequences, counts, victims)
        self._outstanding.popleft()
        if buffers.plan.is_outstanding:
            self._outstanding.append(buffers.plan)
        return buffers.plan

    def _forget_outstanding(self, plan: StepPlan) -> None:
        if self._outstanding and self._outstanding[0] is plan:
            self._outstanding.popleft()

    def _forget_withdrawn(self) -> None:
        self._outstanding.clear()
