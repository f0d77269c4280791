"""Arguments of steps made into what the kernels take, and what refused them named."""

from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from nbkv._arguments import (
    check_count,
    check_counts,
    check_tokens,
    check_vector,
    refuse,
)
from nbkv._lifetimes import Handles, Lifetimes
from nbkv.config import CacheConfig
from nbkv.hashing import Tokens
from nbkv.kernels.plan import PREEMPT, RAISE, STOP
from nbkv.plan import StepBuffers, StepPlan
from nbkv.statuses import (
    BAD_ACCEPTED,
    BUFFERS_IN_USE,
    BUFFERS_TOO_SMALL,
    NEGATIVE_COUNT,
    STEP_OUTSTANDING,
    TOKENS_MISSING,
)

_EXHAUSTION: Final = {"raise": RAISE, "stop": STOP, "preempt": PREEMPT}
_INT32_MAX: Final = 2**31 - 1
_NONE_64: Final = np.empty(0, np.int64)
_NONE_32: Final = np.empty(0, np.int32)
_BLAMES_BUFFERS: Final = (BUFFERS_IN_USE, BUFFERS_TOO_SMALL)


class StepArguments(Lifetimes):
    """Checks what `StepCalls` is given."""

    def __init__(self, config: CacheConfig) -> None:
        super().__init__(config)
        self._one_count = np.empty(1, np.int32)

    def _buffers_for(self, out: StepBuffers | None) -> StepBuffers:
        if type(out) is StepBuffers:
            if not out.is_writable:
                refuse("out", out.plan, "in memory that is writable")
            return out
        if out is None:
            return StepBuffers.for_cache(self)
        raise TypeError(f"out is {out!r}; it must be a nbkv.StepBuffers")

    def _take_batch(
        self,
        sequences: Handles,
        counts: npt.NDArray[np.int32] | int,
        lookahead: int,
        on_exhaustion: str,
        rank: npt.NDArray[np.int64] | None,
        victims: Handles | None,
    ) -> tuple[Any, ...]:
        """Make a batch into what kernels take, but leave it to them to look at its arrays.

        A kernel raises TypeError where they are not as they should be; what then is right but
        of another form, seq_ids say, `_check_batch` converts.
        """
        # By type first: an array compares with 0 element by element.
        plain = type(lookahead) is int and type(on_exhaustion) is str
        plain = plain and lookahead == 0 and on_exhaustion == "raise"
        if plain and rank is None and victims is None:
            if type(counts) is int and 0 <= counts <= _INT32_MAX:
                numbers = self._one_count
                numbers[0] = counts
                return sequences, numbers, 0, RAISE, _NONE_64, _NONE_64
            arrays = type(counts) is np.ndarray and type(sequences) is np.ndarray
            if arrays and counts.size == sequences.size:  # type: ignore[union-attr]
                return sequences, counts, 0, RAISE, _NONE_64, _NONE_64
        return self._check_batch(sequences, counts, lookahead, on_exhaustion, rank, victims)

    def _check_batch(
        self,
        sequences: Handles,
        counts: npt.NDArray[np.int32] | int,
        lookahead: int,
        on_exhaustion: str,
        rank: npt.NDArray[np.int64] | None,
        victims: Handles | None,
    ) -> tuple[Any, ...]:
        """Make a batch into what kernels take, looking at everything."""
        handles = self._handles("sequences", sequences)
        if type(counts) is int and 0 <= counts <= _INT32_MAX:
            numbers = self._one_count
            numbers[0] = counts
        else:
            numbers = check_counts("counts", counts, handles.size)
        options = self._check_options(handles.size, lookahead, on_exhaustion, rank, victims)
        return handles, numbers, *options

    def _check_options(
        self,
        size: int,
        lookahead: int,
        on_exhaustion: str,
        rank: npt.NDArray[np.int64] | None,
        victims: Handles | None,
    ) -> tuple[Any, ...]:
        """Make the options of a plan into what kernels take."""
        mode = _EXHAUSTION.get(on_exhaustion) if isinstance(on_exhaustion, str) else None
        if mode is None:
            allowed = ", ".join(_EXHAUSTION)
            refuse("on_exhaustion", on_exhaustion, f"one of {allowed}")
        ahead = check_count("lookahead", lookahead)
        if ahead > _INT32_MAX:
            refuse("lookahead", lookahead, f"0 to {_INT32_MAX}")
        others = _NONE_64 if victims is None else self._handles("victims", victims)
        ranks = _NONE_64
        if rank is not None:
            ranks = check_vector("rank", rank, np.int64)
            wanted = size + others.size
            if ranks.size != wanted:
                allowed = f"as many as sequences and victims, {wanted}"
                refuse("rank", f"{ranks.size} numbers", allowed)
        return ahead, mode, ranks, others

    def _check_committed(
        self, num_accepted: npt.NDArray[np.int32] | None, tokens: Tokens | None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], bool]:
        """Make what a plan came to into what kernels take."""
        accepted = _NONE_32
        if num_accepted is not None:
            accepted = check_vector("num_accepted", num_accepted, np.int32)
        if tokens is None:
            return accepted, _NONE_32, False
        return accepted, check_tokens("tokens", tokens), True

    def _fail_plan(
        self,
        status: int,
        buffers: StepBuffers,
        sequences: Handles,
        counts: npt.NDArray[np.int32] | int,
        victims: Handles | None,
    ) -> NoReturn:
        """Blame what refused a plan."""
        at = int(self._runtime["detail"][0])
        if status in _BLAMES_BUFFERS:
            self._fail(status, "out", buffers.plan)
        if status == STEP_OUTSTANDING:
            self._fail(status, "sequences", f"a batch of {len(sequences)}")
        if status == NEGATIVE_COUNT:
            value = counts[at] if isinstance(counts, np.ndarray) else counts
            self._fail(status, f"counts[{at}]", value)
        if at < len(sequences):
            self._fail(status, f"sequences[{at}]", sequences[at])
        if victims is not None and at - len(sequences) < len(victims):
            self._fail(status, f"victims[{at - len(sequences)}]", victims[at - len(sequences)])
        self._fail(status, "sequences", f"a batch of {len(sequences)}")

    def _fail_commit(
        self,
        status: int,
        plan: StepPlan,
        buffers: StepBuffers,
        accepted: npt.NDArray[np.int32],
        tokens: npt.NDArray[np.int32],
    ) -> NoReturn:
        """Blame what refused a commit."""
        if status in _BLAMES_BUFFERS:
            self._fail(status, "out", buffers.plan)
        if status == BAD_ACCEPTED:
            self._fail(status, "num_accepted", accepted.tolist())
        if status == TOKENS_MISSING:
            self._fail(status, "tokens", tokens.size)
        self._fail(status, "plan", plan)
