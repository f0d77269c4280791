"""One step carried out as a device would: evicted blocks out, copies, writes, reads."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.layout import CALLER_KEYED, FREE, INDEXED
from nbkv.testing.failures import SlotError
from nbkv.testing.ledger import Ledger
from nbkv.testing.slots import Slots
from nbkv.testing.steps import Entry, Step

_KINDS: Final = INDEXED | CALLER_KEYED


class Runner:
    """Carries steps out on the slots of a pool, and checks each access.

    Parameters
    ----------
    slots : Slots
    ledger : Ledger
    """

    def __init__(self, slots: Slots, ledger: Ledger) -> None:
        self._slots, self._ledger = slots, ledger
        self._size = ledger.block_size

    def hand_out(self, step: Step) -> None:
        """Copy a step's evicted blocks out, then let its new blocks lose what they held."""
        for evicted in step.evicted:
            key = (int(evicted["hash_low"]), int(evicted["hash_high"]))
            if key in self._ledger.published:
                self._check_block(int(evicted["block"]), key, "copies out", step.step_id)
        self._slots.hand_out(step.fresh, step.generations[step.fresh], step.step_id)

    def run(self, step: Step, *, in_order: bool) -> None:
        """Carry a step out.

        Parameters
        ----------
        step : Step
        in_order : bool
            False where later steps may have run before: then a sequence that has ended or
            was cut may find what another one wrote since, and nobody uses what comes of it.

        Raises
        ------
        SlotError
        """
        if not step.is_early:
            self.hand_out(step)
        self._copy(step)
        self._write(step)
        for entry in step.entries:
            if entry.count and (in_order or self._ledger.counts(entry)):
                self._read(step, entry)

    def _own(self, step: Step, action: str, block_ids: npt.NDArray[np.integer[Any]]) -> None:
        """Check that blocks are still the ones that a step was planned with."""
        generations = step.generations[block_ids]
        self._slots.check_owners(action, block_ids, generations, step.step_id)

    def _copy(self, step: Step) -> None:
        if not len(step.copies):
            return
        sources, destinations = step.copies[:, 1], step.copies[:, 2]
        self._own(step, "copies from", sources)
        self._own(step, "copies to", destinations)
        # One launch copies all of them, in no order.
        twice = np.isin(destinations, sources)
        ids, counts = np.unique(destinations, return_counts=True)
        for block_id in (*destinations[twice].tolist(), *ids[counts > 1].tolist()):
            raise SlotError(
                "copies to",
                "a block that another copy of the step reads or writes",
                "one that nothing else of the step's copies touches",
                step_id=step.step_id,
                block_id=block_id,
                slot=block_id * self._size,
            )
        self._slots.copy(step.copies)

    def _write(self, step: Step) -> None:
        slots = step.slot_mapping
        if slots.size != step.num_tokens:
            raise AssertionError(f"{step.num_tokens} tokens have {slots.size} slots")
        self._own(step, "writes to", slots[slots >= 0] // self._size)
        ids, counts = np.unique(slots[slots >= 0], return_counts=True)
        for slot in ids[counts > 1].tolist():
            raise SlotError(
                "writes to",
                "two tokens of the step",
                "one",
                step_id=step.step_id,
                block_id=slot // self._size,
                slot=slot,
            )
        self._slots.write(slots, step.digests(), step.stamps())

    def _read(self, step: Step, entry: Entry) -> None:
        columns = entry.block_ids
        bad = np.flatnonzero((columns < 0) | (columns >= self._slots.generations.size))
        if bad.size:
            column = entry.first // self._size + int(bad[0])
            block_id = int(columns[bad[0]])
            raise SlotError(
                "reads",
                f"column {column} of the device's block table is {block_id}",
                "a block",
                step_id=step.step_id,
                seq_id=entry.history.seq_id,
                position=max(entry.first, column * self._size),
                block_id=block_id,
                slot=-1,
            )
        self._own(step, "reads", columns.astype(np.int64))
        history, slots = entry.history, entry.slots(self._size)
        self._check(slots, entry.expected, "reads", step.step_id, history.seq_id, entry.first)

    def _check(
        self,
        slots: npt.NDArray[np.int64],
        digests: npt.NDArray[np.uint64],
        action: str,
        step_id: int,
        seq_id: int = -1,
        first: int = 0,
    ) -> None:
        if not slots.size:
            return
        wrong = self._slots.find_wrong(slots, digests)
        if wrong is None:
            return
        at, found = wrong
        whose = "what was committed there" if seq_id < 0 else f"the tokens of sequence {seq_id}"
        raise SlotError(
            action,
            found,
            whose if seq_id < 0 else f"{whose} up to position {first + at}",
            step_id=step_id,
            seq_id=seq_id,
            position=-1 if seq_id < 0 else first + at,
            block_id=int(slots[at]) // self._size,
            slot=int(slots[at]),
        )

    def _check_block(self, block_id: int, key: tuple[int, int], action: str, step_id: int) -> None:
        slots = np.arange(block_id * self._size, (block_id + 1) * self._size)
        self._check(slots, self._ledger.published[key], action, step_id)

    # --- steps that failed -----------------------------------------------------------
    def withdraw(self, step: Step) -> None:
        """Leave a step that never ran: its new blocks are its sequences' all the same."""
        if not step.is_early:
            self._slots.hand_out(step.fresh, step.generations[step.fresh], step.step_id)
        self._slots.ruin(step.slot_mapping)
        self._slots.ruin(step.copied_slots(self._size))

    def ruin_since(self, step_id: int) -> None:
        """Leave nothing of use in what steps from this one on have written."""
        self._slots.ruin(np.flatnonzero(self._slots.stamps["step_id"] >= step_id))

    # --- between steps ---------------------------------------------------------------
    def audit(self) -> None:
        """Look through every sequence's tokens and every block that can be found.

        All steps have run.
        """
        for history, first, slots in self._ledger.placed():
            digests = history.expect(first, first + slots.size)
            self._check(slots, digests, "looks at", 0, history.seq_id, first)
        cache = self._ledger.cache
        blocks, keys = cache.blocks, cache.block_keys
        found = (blocks["flags"] & _KINDS == INDEXED) & (blocks["state"] != FREE)
        for block_id in np.flatnonzero(found).tolist():
            key = (int(keys["hash_low"][block_id]), int(keys["hash_high"][block_id]))
            if key not in self._ledger.published:
                raise SlotError(
                    "looks at",
                    "a block that can be found by prefix",
                    "nobody to find what no commit has published",
                    block_id=block_id,
                    slot=block_id * self._size,
                )
            self._check_block(block_id, key, "looks at", 0)
