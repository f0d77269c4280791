"""Blocks under leases, whose bytes somebody reads later than anything else does."""

import random
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv.testing.failures import SlotError
from nbkv.testing.ledger import Ledger
from nbkv.testing.slots import Slots

_ROW_MASK: Final = 0xFFFFFFFF


@dataclass(slots=True)
class Transfer:
    """What the blocks of one lease hold.

    Parameters
    ----------
    seq_id : int
        Whose they were.
    first : int
        Position of the first token.
    slots : int64 array
    digests : uint64 array
    writers : int64 array
        The step that each slot is written in.
    """

    seq_id: int
    first: int
    slots: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]
    writers: npt.NDArray[np.int64]


class Transfers:
    """All leases that last, as pinned.

    Parameters
    ----------
    ledger : Ledger
    slots : Slots
    """

    def __init__(self, ledger: Ledger, slots: Slots) -> None:
        self._ledger, self._slots = ledger, slots
        self._started: dict[int, Transfer] = {}

    def start(self, lease: int, handle: int) -> None:
        """Note what a lease covers: a sequence's committed tokens."""
        ledger, size = self._ledger, self._ledger.block_size
        row = ledger.cache.sequences[handle & _ROW_MASK]
        first = int(row["first_block"]) * size
        count = max(int(row["num_committed"]) - first, 0)
        history = ledger.history(handle)
        blocks = ledger.cache.leased_blocks(lease).astype(np.int64)
        offsets = np.arange(count)
        slots = blocks[offsets // size] * size + offsets % size
        digests = history.expect(first, first + count)
        self._started[lease] = Transfer(
            history.seq_id, first, slots, digests, ledger.writers[slots]
        )

    def read(self, lease: int, executed_step: int) -> None:
        """Read what has been written of a lease's tokens, as a sender would."""
        transfer = self._started[lease]
        kept = np.flatnonzero(transfer.writers <= executed_step)
        if not kept.size:
            return
        wrong = self._slots.find_wrong(transfer.slots[kept], transfer.digests[kept])
        if wrong is not None:
            at = int(kept[wrong[0]])
            slot = int(transfer.slots[at])
            raise SlotError(
                "a transfer under a lease reads",
                wrong[1],
                "what was pinned",
                seq_id=transfer.seq_id,
                position=transfer.first + at,
                block_id=slot // self._ledger.block_size,
                slot=slot,
            )

    def read_one(self, rng: random.Random, executed_step: int) -> None:
        """Read any one lease, late."""
        if self._started:
            self.read(rng.choice(sorted(self._started)), executed_step)

    def end(self, lease: int, executed_step: int) -> None:
        """Read a lease for the last time."""
        if lease in self._started:
            self.read(lease, executed_step)
            del self._started[lease]

    def withdraw(self, step_id: int) -> None:
        """Forget the tokens that failed steps were to write."""
        for transfer in self._started.values():
            kept = transfer.writers < step_id
            transfer.writers = np.where(kept, transfer.writers, np.iinfo(np.int64).max)
