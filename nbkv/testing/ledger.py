"""The host's side: what each sequence has said, and what a device's block tables have become.

Everything here is of the moment a call returns; `nbkv.testing.executor` keeps what the
device knows, which is older.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.cache import PagedKVCache
from nbkv.errors import ArgumentError
from nbkv.layout import NO_BLOCK, ROW_ACTIVE
from nbkv.page_tables import apply_changes
from nbkv.plan import StepBuffers, StepPlan
from nbkv.testing.failures import ScheduleError, SlotError
from nbkv.testing.histories import History
from nbkv.testing.steps import Entry, Step

_ROW_MASK: Final = 0xFFFFFFFF
_ROW_BITS: Final = 32


class Ledger:
    """What a scheduler has told a cache so far, and what follows for each slot.

    Parameters
    ----------
    cache : PagedKVCache
        In which nothing has been done yet.

    Attributes
    ----------
    histories : dict
        Of the sequences alive, by handle.
    names : dict
        What named prefixes hold, by hash.
    published : dict
        What a block must hold, by the chain hash under which a commit made it findable.
    uncommitted : deque of Step
    mirror : int32 array
        A device's block tables, kept current by changes and by rows sent whole.
    writers : int64 array
        The step that each slot was last planned to be written in.
    """

    def __init__(self, cache: PagedKVCache) -> None:
        if cache.num_free_blocks != cache.total_blocks or cache.num_sequences:
            raise ArgumentError("cache is in use; nothing is known of what its blocks hold")
        self.cache = cache
        self.block_size = cache.config.block_size
        self.histories: dict[int, History] = {}
        self.names: dict[int, History] = {}
        self.published: dict[tuple[int, int], npt.NDArray[np.uint64]] = {}
        self.uncommitted: deque[Step] = deque()
        self.mirror = np.full(cache.tables.shape, NO_BLOCK, np.int32)
        self.writers = np.zeros(cache.total_blocks * self.block_size, np.int64)
        self._generations = self._read_generations()
        self._fresh: list[npt.NDArray[np.int64]] = []
        # Buffers that hold a commit's report, and how much of it has been seen.
        self._reported: dict[int, tuple[StepBuffers, int, int]] = {}

    def _read_generations(self) -> npt.NDArray[np.int64]:
        return self.cache.blocks["generation"].astype(np.int64)

    # --- sequences -------------------------------------------------------------------
    def settle(self) -> None:
        """Note what a call did beside its purpose: sequences ended, blocks handed out."""
        rows = self.cache.sequences
        for handle in list(self.histories):
            row = handle & _ROW_MASK
            alive = rows["state"][row] == ROW_ACTIVE
            if not alive or rows["generation"][row] != handle >> _ROW_BITS:
                del self.histories[handle]
        generations = self._read_generations()
        self._fresh.append(np.flatnonzero(generations != self._generations))
        self._generations = generations

    def take_fresh(self) -> npt.NDArray[np.int64]:
        """Return the blocks handed out since the last time."""
        fresh = np.unique(np.concatenate((np.empty(0, np.int64), *self._fresh)))
        self._fresh.clear()
        return fresh

    @property
    def generations(self) -> npt.NDArray[np.int64]:
        """How often each block has been handed out."""
        return self._generations

    def open(self, handle: int, history: History) -> None:
        """Note a sequence that has been opened with tokens in its table."""
        self.histories[handle] = history
        self.send_row(handle)

    def send_row(self, handle: int) -> None:
        """Give the device a row of the block tables whole."""
        row = handle & _ROW_MASK
        count = int(self.cache.sequences["num_blocks"][row])
        self.mirror[row] = NO_BLOCK
        self.mirror[row, :count] = self.cache.tables[row, :count]

    def counts(self, entry: Entry) -> bool:
        """Tell whether an entry's sequence still stands on the tokens that it was planned with."""
        history = self.histories.get(entry.handle)
        if history is None or len(history) < entry.end:
            return False
        return history.digests[entry.end - 1] == entry.history.digests[entry.end - 1]

    def cut(self, handle: int, num_tokens: int) -> None:
        """Let a sequence go on from its first tokens."""
        history = self.history(handle)
        self.histories[handle] = history.like(history.seq_id, num_tokens)

    def history(self, handle: int) -> History:
        """Return what a sequence has said.

        Raises
        ------
        ScheduleError
            It was opened where nobody saw it.
        """
        if handle not in self.histories:
            raise ScheduleError(
                f"the sequence with handle {handle} was opened by a call that the executor"
                " cannot follow; open sequences with admit, fork, share_prefix or attach_prefix"
            )
        return self.histories[handle]

    def leader(self, block_ids: Iterable[int]) -> History | None:
        """Find a sequence whose table begins with these blocks."""
        wanted = [int(block_id) for block_id in block_ids]
        for handle, history in self.histories.items():
            table = self.cache.tables[handle & _ROW_MASK, : len(wanted)]
            if table.tolist() == wanted and len(history) >= len(wanted) * self.block_size:
                return history.like(history.seq_id, len(wanted) * self.block_size)
        return None

    # --- steps -----------------------------------------------------------------------
    def take_plan(self, plan: StepPlan) -> Step:
        """Take a plan over, at the moment it is made."""
        key = id(plan.buffers)
        _, seen, _ = self._reported.pop(key, (None, 0, 0))
        apply_changes(self.mirror, plan.table_changes[seen:])
        step = Step(
            plan.step_id,
            [self._entry(*row) for row in plan.entries.tolist()],
            plan.slot_mapping.copy(),
            plan.copies.copy(),
            plan.evicted.copy(),
            self.take_fresh(),
            self._generations,
        )
        self.writers[step.copied_slots(self.block_size)] = step.step_id
        self.writers[step.slot_mapping[step.slot_mapping >= 0]] = step.step_id
        self.uncommitted.append(step)
        return step

    def _entry(self, row: int, generation: int, start: int, count: int) -> Entry:
        handle = (generation << _ROW_BITS) | row
        window = self.cache.config.window
        first = 0 if window is None else max(0, start - window + 1)
        columns = slice(first // self.block_size, -(-(start + count) // self.block_size))
        table = self.mirror[row, columns].copy()
        return Entry(handle, self.history(handle), start, count, first, table)

    def speak(self, step: Step, tokens: npt.NDArray[np.int32] | None, vocabulary: int) -> None:
        """Let the sequences of a step say its tokens, or make them up."""
        at = 0
        said: list[int] = []
        for entry in step.entries:
            self._check_start(step, entry)
            if tokens is None:
                said += entry.history.draw(entry.count, vocabulary)
            else:
                entry.history.say(tokens[at : at + entry.count].tolist())
            entry.expected = entry.history.expect(entry.first, entry.end)
            at += entry.count
        step.tokens = np.array(said, np.int32) if tokens is None else tokens

    def _check_start(self, step: Step, entry: Entry) -> None:
        if len(entry.history) != entry.start:
            block_id = int(entry.block_ids[-1]) if entry.block_ids.size else NO_BLOCK
            raise SlotError(
                "plans tokens in",
                f"a start at position {entry.start}",
                f"position {len(entry.history)}, which follows what stands",
                step_id=step.step_id,
                seq_id=entry.history.seq_id,
                position=entry.start,
                block_id=block_id,
                slot=-1,
            )

    def commit(
        self,
        report: StepPlan,
        num_accepted: npt.NDArray[np.int32] | None,
        tokens: npt.NDArray[np.int32] | None,
    ) -> None:
        """Take over what a commit of the oldest step reported."""
        step = self.uncommitted.popleft()
        key = id(report.buffers)
        _, num_changes, num_skipped = self._reported.get(key, (None, 0, 0))
        apply_changes(self.mirror, report.table_changes[num_changes:])
        skipped = set(report.skipped[num_skipped:].tolist())
        counts = (report.buffers, len(report.table_changes), len(report.skipped))
        self._reported[key] = counts
        for i, entry in enumerate(step.entries):
            accepted = entry.count if num_accepted is None else int(num_accepted[i])
            if i in skipped:
                continue
            if accepted < entry.count and entry.handle in self.histories:
                self.cut(entry.handle, entry.start + accepted)
            if tokens is not None:
                self._publish(entry, entry.start + accepted)

    def _publish(self, entry: Entry, end: int) -> None:
        """Note what blocks that are full now may be found under."""
        size = self.block_size
        if entry.start // size == end // size:
            return
        history = entry.history
        keys = history.keys(end // size * size, size, self.cache.config.hash_seed)
        for column in range(entry.start // size, end // size):
            key = (int(keys[column, 0]), int(keys[column, 1]))
            self.published[key] = history.expect(column * size, (column + 1) * size)

    def withdraw(self, withdrawn: npt.NDArray[Any]) -> None:
        """Take over that steps have failed."""
        self.uncommitted.clear()
        for _, handle, num_tokens in withdrawn.tolist():
            self.cut(handle, num_tokens)

    # --- what there is to audit ------------------------------------------------------
    def placed(self) -> Iterator[tuple[History, int, npt.NDArray[np.int64]]]:
        """Give each sequence, the first position that it still has, and the slots from there."""
        rows = self.cache.sequences
        for handle, history in self.histories.items():
            row = handle & _ROW_MASK
            first = int(rows["first_block"][row]) * self.block_size
            positions = np.arange(first, int(rows["num_tokens"][row]))
            blocks = self.cache.tables[row, positions // self.block_size].astype(np.int64)
            yield history, first, blocks * self.block_size + positions % self.block_size
