"""A plan as a device takes it over: copied out of its buffers, with what its reads must find."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv.testing.histories import History
from nbkv.testing.slots import STAMP_DTYPE


@dataclass(slots=True)
class Entry:
    """One sequence of a step.

    Parameters
    ----------
    handle : int
    history : History
        Of the sequence when it was planned, whatever happens to it afterwards.
    start, count : int
        First new position, and how many.
    first : int
        First position that is read: the window's.
    block_ids : int32 array
        The device's block table from the column of `first` on.
    """

    handle: int
    history: History
    start: int
    count: int
    first: int
    block_ids: npt.NDArray[np.int32]
    expected: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def end(self) -> int:
        """The position after the last."""
        return self.start + self.count

    def slots(self, block_size: int) -> npt.NDArray[np.int64]:
        """Return the slots of positions ``first:end``, by the table."""
        positions = np.arange(self.first, self.end)
        columns = positions // block_size - self.first // block_size
        return self.block_ids[columns].astype(np.int64) * block_size + positions % block_size


@dataclass(slots=True, eq=False)
class Step:
    """One planned step.

    Parameters
    ----------
    step_id : int
    entries : list of Entry
    slot_mapping, copies, evicted : array
        As `nbkv.StepPlan` has them.
    fresh : int64 array
        Blocks handed out since the plan before.
    generations : int64 array, shape (num_blocks,)
        How often each block had been handed out when this was planned.
    tokens : int32 array or None
        None until it is submitted.
    is_early : bool
        Whether its new blocks are written to before the steps in flight have run.
    """

    step_id: int
    entries: list[Entry]
    slot_mapping: npt.NDArray[np.int64]
    copies: npt.NDArray[np.int32]
    evicted: npt.NDArray[Any]
    fresh: npt.NDArray[np.int64]
    generations: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32] | None = None
    is_early: bool = False

    @property
    def num_tokens(self) -> int:
        """New tokens of all entries."""
        return sum(entry.count for entry in self.entries)

    def stamps(self) -> npt.NDArray[Any]:
        """Return what is stamped on each slot of `slot_mapping`."""
        stamps = np.zeros(self.num_tokens, STAMP_DTYPE)
        stamps["step_id"] = self.step_id
        at = 0
        for entry in self.entries:
            part = stamps[at : at + entry.count]
            part["seq_id"] = entry.history.seq_id
            part["position"] = np.arange(entry.start, entry.end)
            at += entry.count
        return stamps

    def digests(self) -> npt.NDArray[np.uint64]:
        """Return what is written to each slot of `slot_mapping`."""
        parts = [entry.history.expect(entry.start, entry.end) for entry in self.entries]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def copied_slots(self, block_size: int) -> npt.NDArray[np.int64]:
        """Return the slots that its copies write to."""
        parts = [
            np.arange(destination * block_size, destination * block_size + kept)
            for _, _, destination, kept in self.copies.tolist()
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)
