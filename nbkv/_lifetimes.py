"""The part of the facade that ends, keeps and reorders what steps have made."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_vector, is_plain, refuse
from nbkv._batches import BatchCalls
from nbkv.kernels import failing, forget, leases, reorder, steps
from nbkv.layout import INT64
from nbkv.statuses import DIFFERENT_PROMPTS, UNKNOWN_LEASE

Handles = npt.NDArray[np.int64] | npt.NDArray[np.uint64]

_INT64_MAX: Final = 2**63 - 1
_ROW_MASK: Final = 0xFFFFFFFF
#: One row of what `Lifetimes.fail` returns.
WITHDRAWN_DTYPE: Final = np.dtype([("seq_id", "u8"), ("handle", "i8"), ("num_tokens", "i8")])


class Lifetimes(BatchCalls):
    """Steps complete or fail, sequences end, blocks are pinned, forgotten and evicted."""

    def complete(self, step_id: int) -> None:
        """Say that a step and all before it have run: what they fenced may be reused.

        Parameters
        ----------
        step_id : int
            `StepPlan.step_id`; one that is completed already changes nothing.

        Raises
        ------
        StepError
            No such step was planned.
        """
        number = min(check_count("step_id", step_id), _INT64_MAX)
        status = steps.complete_step(self._arena, number)
        if status < 0:
            self._fail(status, "step_id", step_id)

    def fail(self, step_id: int) -> npt.NDArray[Any]:
        """Withdraw a step that failed, and all after it: nothing they computed is used.

        Blocks that they filled are un-indexed, and every sequence that holds one, or has
        tokens planned by them, is cut to before. Where tokens of such a step were committed
        already, cuts are at block boundaries.

        Parameters
        ----------
        step_id : int
            All steps before it are committed, and it is not completed.

        Returns
        -------
        structured array
            WITHDRAWN_DTYPE: seq_id, handle (still good) and num_tokens left of each
            sequence that lost tokens, committed or planned.

        Raises
        ------
        StepError
        """
        number = min(check_count("step_id", step_id), _INT64_MAX)
        handles = np.empty(self.config.max_sequences, np.int64)
        count = failing.fail_step(self._arena, number, handles)
        if count < 0:
            self._fail(count, "step_id", step_id)
        self._forget_withdrawn()
        withdrawn = np.empty(count, WITHDRAWN_DTYPE)
        rows = handles[:count] & _ROW_MASK
        withdrawn["handle"] = handles[:count]
        withdrawn["seq_id"] = self._sequences["seq_id"][rows]
        withdrawn["num_tokens"] = self._sequences["num_tokens"][rows]
        return withdrawn

    def _forget_withdrawn(self) -> None:
        """Forget the plans that nobody can commit any more."""

    def finish(self, sequences: Handles) -> None:
        """End a batch of sequences, all or nothing; their indexed blocks stay cached.

        Parameters
        ----------
        sequences : int64 or uint64 array
            Handles or seq_ids.

        Raises
        ------
        UnknownSequenceError, DuplicateSequenceError
        """
        handles = self._handles("sequences", sequences)
        status = steps.finish_rows(self._arena, handles)
        if status < 0:
            at = int(self._runtime["detail"][0])
            self._fail(status, f"sequences[{at}]", sequences[at])

    def reorder(self, sequences: Handles, parents: npt.NDArray[np.int32]) -> None:
        """Let each sequence of a batch go on as another one of it: a step of beam search.

        They go on from committed tokens; what a sequence that changes has planned beyond is
        void. Nothing is copied here: the next plan copies a partial last block for all but
        one of those that share it.

        Parameters
        ----------
        sequences : int64 or uint64 array, shape (n,)
        parents : int32 array, shape (n,)
            Sequence i becomes what ``sequences[parents[i]]`` was; seq_ids and handles stay.

        Raises
        ------
        UnknownSequenceError, DuplicateSequenceError
        ArgumentError
            A parent is out of range, or has another salt or other extra keys.
        """
        handles = self._handles("sequences", sequences)
        places = check_vector("parents", parents, np.int32)
        if places.size != handles.size:
            refuse("parents", f"{places.size} positions", f"as long as sequences, {handles.size}")
        for i in np.flatnonzero((places < 0) | (places >= handles.size))[:1]:
            refuse(f"parents[{i}]", int(places[i]), f"0 to {handles.size - 1}")
        status = reorder.reorder_rows(self._arena, handles, places)
        if status < 0:
            at = int(self._runtime["detail"][0])
            if status == DIFFERENT_PROMPTS:
                self._fail(status, f"parents[{at}]", int(places[at]))
            self._fail(status, f"sequences[{at}]", sequences[at])

    def pin(self, handle: int) -> int:
        """Keep the blocks of a sequence's committed tokens from reuse, even when it ends.

        Writing into a pinned block's tokens is by a copy. What is pinned stays in place
        until `unpin`, so that its bytes can be sent meanwhile.

        Parameters
        ----------
        handle : int

        Returns
        -------
        int
            The lease.

        Raises
        ------
        StaleHandleError
        CapacityError
            max_leases or max_leased_blocks is reached.
        """
        number = self._check_int64("handle", handle)
        lease = leases.pin_blocks(self._arena, number)
        if lease < 0:
            self._fail(lease, "handle", handle)
        return lease

    def unpin(self, lease: int) -> None:
        """End a lease; blocks that nobody else holds become cached or free.

        Parameters
        ----------
        lease : int
            From `pin`.

        Raises
        ------
        LeaseError
            It is over already, or never was.
        """
        number = self._check_int64("lease", lease)
        status = leases.unpin_blocks(self._arena, number)
        if status == UNKNOWN_LEASE:
            self._fail(status, "lease", lease)

    def leased_blocks(self, lease: int) -> npt.NDArray[np.int32]:
        """Return the blocks of a lease in logical order: int32."""
        number = self._check_int64("lease", lease)
        out = np.empty(self.config.table_width, np.int32)
        count = leases.list_leased(self._arena, number, out)
        if count < 0:
            self._fail(count, "lease", lease)
        return out[:count].copy()

    def evict(self, num_blocks: int) -> npt.NDArray[np.int32]:
        """Evict cached blocks, in the policy's order.

        Parameters
        ----------
        num_blocks : int
            At most so many; blocks behind the fence are left.

        Returns
        -------
        int32 array
            Their ids.
        """
        forget.evict(self._arena, min(check_count("num_blocks", num_blocks), _INT64_MAX))
        return self.last_evicted

    def reset_prefix_cache(self) -> int:
        """Forget everything cached, every key and every name: after new weights, say.

        Sequences alive keep their blocks, but nothing of theirs is ever indexed again.

        Returns
        -------
        int
            Blocks that became free.
        """
        return forget.reset_prefix_cache(self._arena)

    def _check_int64(self, name: str, value: object) -> int:
        number = check_count(name, value)
        if number > _INT64_MAX:
            refuse(name, value, f"0 to {_INT64_MAX} (int64)")
        return number

    def _handles(self, name: str, sequences: Handles) -> npt.NDArray[np.int64]:
        """Take handles as they are, and look seq_ids up."""
        if is_plain(sequences, INT64):
            return sequences
        if not isinstance(sequences, np.ndarray) or sequences.dtype != np.uint64:
            return check_vector(name, sequences, np.int64)
        seq_ids = check_vector(name, sequences, np.uint64)
        handles = np.empty(seq_ids.size, np.int64)
        status = steps.resolve_ids(self._arena, seq_ids, handles)
        if status < 0:
            at = int(self._runtime["detail"][0])
            self._fail(status, f"{name}[{at}]", seq_ids[at])
        return handles
