"""What a random schedule does beside steps: sequences, leases, names and the cache."""

import random
from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.cache import PagedKVCache
from nbkv.hashing import Salt
from nbkv.layout import NO_BLOCK, ROW_ACTIVE

_ROW_BITS: Final = 32
ROW_MASK: Final = 0xFFFFFFFF


class Events:
    """Each method is one event; those that return False had nothing to do.

    Parameters
    ----------
    cache : PagedKVCache
    rng : random.Random
    """

    def __init__(self, cache: PagedKVCache, rng: random.Random) -> None:
        self.cache, self.rng = cache, rng
        self.counts: Counter[str] = Counter()
        self.prompts: dict[int, int] = {}  # length by seq_id
        self.leases: list[int] = []
        self.born = 0
        longest = 5 * cache.config.block_size + 1
        self.texts = [[rng.randrange(3) for _ in range(longest)] for _ in range(2)]

    # --- picking ---------------------------------------------------------------------
    def alive(self) -> list[int]:
        """Return the handles of the sequences alive, shuffled."""
        records = self.cache.sequences
        rows = np.flatnonzero(records["state"] == ROW_ACTIVE).tolist()
        handles = [int(records["generation"][row]) << _ROW_BITS | row for row in rows]
        self.rng.shuffle(handles)
        return handles

    def seq_id(self, handle: int) -> int:
        """Return whose handle it is."""
        return int(self.cache.sequences["seq_id"][handle & ROW_MASK])

    def some(self, most: int) -> npt.NDArray[np.int64]:
        """Pick a few sequences alive, maybe none."""
        handles = self.alive()
        return np.array(handles[: self.rng.randint(0, min(most, len(handles)))], np.int64)

    def name_new(self) -> int:
        """Make up a seq_id."""
        self.born += 1
        return self.born

    # --- sequences -------------------------------------------------------------------
    def admit(self) -> None:
        """Open a sequence for a prompt that begins like others."""
        rng, size = self.rng, self.cache.config.block_size
        text = rng.choice(self.texts)
        prompt = text[: rng.choice((rng.randint(0, len(text)), len(text)))]
        prompt += [rng.randrange(3) for _ in range(rng.randint(0, size))]
        options: dict[str, Any] = {}
        if rng.random() < 0.1:
            options["salt"] = Salt(tenant=rng.randrange(2))
        if len(prompt) > 2 and rng.random() < 0.15:
            start = rng.randrange(len(prompt) - 1)
            options["extra_keys"] = [(start, rng.randint(start + 1, len(prompt)), rng.randrange(2))]
        if rng.random() < 0.7:
            options["max_hit_tokens"] = max(0, len(prompt) - 1)
        if rng.random() < 0.1:
            options["reserve_tokens"] = len(prompt) + size
        options["must_fit"] = rng.random() < 0.3
        seq_id = self.name_new()
        self.cache.admit(seq_id, np.array(prompt, np.int32), **options)
        self.prompts[seq_id] = len(prompt)

    def finish(self) -> None:
        """Abort a few sequences."""
        self.cache.finish(self.some(2))

    def _pair(self) -> tuple[int, int]:
        handles = self.alive()
        return (self.seq_id(handles[0]) if handles else 0), self.name_new()

    def fork(self) -> None:
        """Fork a sequence."""
        self.cache.fork(*self._pair())

    def share(self) -> None:
        """Open a sequence over another one's first blocks."""
        self.cache.share_prefix(*self._pair(), self.rng.randint(1, 3))

    def truncate(self) -> bool:
        """Cut a sequence, up to three blocks back."""
        for handle in self.alive()[:1]:
            row = self.cache.sequences[handle & ROW_MASK]
            most = int(row["num_committed"])
            least = max(0, most - 3 * self.cache.config.block_size)
            self.cache.truncate(int(row["seq_id"]), self.rng.randint(least, most))
            return True
        return False

    def reorder(self) -> None:
        """Let a few sequences go on as one another."""
        handles = self.some(4)
        parents = [self.rng.randrange(handles.size) for _ in range(handles.size)]
        self.cache.reorder(handles, np.array(parents, np.int32))

    # --- leases, names, the cache ----------------------------------------------------
    def pin(self) -> bool:
        """Begin a lease."""
        for handle in self.alive()[:1]:
            self.leases.append(self.cache.pin(handle))
            return True
        return False

    def unpin(self) -> bool:
        """End a lease."""
        if not self.leases:
            return False
        self.cache.unpin(self.leases.pop(self.rng.randrange(len(self.leases))))
        return True

    def register(self) -> bool:
        """Name a sequence's first blocks."""
        size = self.cache.config.block_size
        for handle in self.alive():
            most = int(self.cache.sequences["num_committed"][handle & ROW_MASK]) // size
            table = self.cache.block_table(self.seq_id(handle))
            if most == 0 or table is None:
                continue
            blocks = table[: self.rng.randint(1, most)]
            if NO_BLOCK not in blocks:
                self.cache.register_prefix(self.rng.randrange(4), blocks)
                return True
        return False

    def attach(self) -> None:
        """Open a sequence over a named prefix."""
        self.cache.attach_prefix(self.rng.randrange(4), self.name_new())

    def evict(self) -> None:
        """Evict a few blocks."""
        self.cache.evict(self.rng.randint(0, 3))

    def reset(self) -> None:
        """Forget everything cached."""
        self.cache.reset_prefix_cache()
