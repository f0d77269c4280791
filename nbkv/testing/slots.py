"""The slots of a pool: what a token's words are, who wrote each slot, and what a read finds."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.errors import ArgumentError
from nbkv.pools import HostPool
from nbkv.testing.failures import SlotError

#: Who wrote a slot last. Step 0: nobody since its block was handed out.
STAMP_DTYPE: Final = np.dtype([("seq_id", "u8"), ("position", "i8"), ("step_id", "i8")])

_SPREAD: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_FOLD: Final = np.uint64(0xBF58_476D_1CE4_E5B9)


def words_of(digests: npt.NDArray[np.uint64], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Make the words of tokens' keys and values: integers below 2**24, exact in float32.

    Parameters
    ----------
    digests : uint64 array, shape (n,)
    shape : tuple of int
        Of one token's words: (num_layers, kv_factor, num_kv_heads, head_dim).

    Returns
    -------
    float32 array, shape (n, *shape)
        No two of a token's words are alike, so that one in the wrong layer or head shows.
    """
    places = np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * _SPREAD
    mixed = digests[:, None] ^ places
    mixed ^= mixed >> np.uint64(29)
    mixed *= _FOLD
    return (mixed >> np.uint64(40)).astype(np.float32).reshape(-1, *shape)


class Slots:
    """A pool of float32, every slot NaN until it is written, and a stamp for each slot.

    Parameters
    ----------
    pool : HostPool

    Attributes
    ----------
    stamps : STAMP_DTYPE array, shape (num_blocks * block_size,)
    generations : int64 array, shape (num_blocks,)
        How often each block had been handed out when it was last handed out here.
    """

    def __init__(self, pool: HostPool) -> None:
        self.pool, self._data = pool, pool.data
        if self._data.dtype != np.float32:
            raise ArgumentError(f"pool has words of {self._data.dtype}; they must be float32")
        blocks, layers, factor, self.block_size, heads, width = self._data.shape
        self.shape = (layers, factor, heads, width)
        self.stamps = np.zeros(blocks * self.block_size, STAMP_DTYPE)
        self.generations = np.zeros(blocks, np.int64)
        self._data[...] = np.nan

    def hand_out(
        self, block_ids: npt.NDArray[np.int64], generations: npt.NDArray[np.int64], step_id: int
    ) -> None:
        """Give blocks to new owners: whatever they held is gone."""
        late = np.flatnonzero(self.generations[block_ids] >= generations)
        if late.size:
            block_id = int(block_ids[late[0]])
            self._fail_reused(step_id, "is handed out", block_id, int(generations[late[0]]))
        self.generations[block_ids] = generations
        self._data[block_ids] = np.nan
        self.stamps.reshape(-1, self.block_size)[block_ids] = np.zeros((), STAMP_DTYPE)

    def check_owners(
        self, action: str, block_ids: npt.NDArray[Any], generations: npt.NDArray[Any], step_id: int
    ) -> None:
        """Fail unless blocks are still those that a step was planned with."""
        reused = np.flatnonzero(self.generations[block_ids] != generations)
        if reused.size:
            at = reused[0]
            self._fail_reused(step_id, action, int(block_ids[at]), int(generations[at]))

    def _fail_reused(self, step_id: int, action: str, block_id: int, expected: int) -> None:
        known = int(self.generations[block_id])
        found = f"a block handed out anew ({known} times by now), still in use by steps in flight"
        if known < expected:
            found = f"a block that a step in flight is to hand out ({known} times so far)"
        raise SlotError(
            action,
            found,
            f"it as the plan knew it ({expected} times)",
            step_id=step_id,
            block_id=block_id,
            slot=block_id * self.block_size,
        )

    def write(
        self,
        slots: npt.NDArray[np.int64],
        digests: npt.NDArray[np.uint64],
        stamps: npt.NDArray[Any],
    ) -> None:
        """Write tokens' keys and values, all layers at once."""
        words = words_of(digests, self.shape)
        keys = np.ascontiguousarray(words[:, :, 0].swapaxes(0, 1))
        values = None
        if self.shape[1] == 2:
            values = np.ascontiguousarray(words[:, :, 1].swapaxes(0, 1))
        self.pool.append_all(keys, values, slots)
        written = slots >= 0
        self.stamps[slots[written]] = stamps[written]

    def copy(self, copies: npt.NDArray[np.int32]) -> None:
        """Copy the first tokens of blocks: rows (layer group, source, destination, tokens)."""
        self.pool.copy_partial(
            np.ascontiguousarray(copies[:, 1:3]), np.ascontiguousarray(copies[:, 3])
        )
        rows = self.stamps.reshape(-1, self.block_size)
        for _, source, destination, kept in copies.tolist():
            rows[destination, :kept] = rows[source, :kept]

    def ruin(self, slots: npt.NDArray[np.int64]) -> None:
        """Leave slots as a step does that failed half-way: nothing in them is of use."""
        flat = slots[slots >= 0]
        self._data[flat // self.block_size, :, :, flat % self.block_size] = np.nan
        self.stamps[flat] = np.zeros((), STAMP_DTYPE)

    def find_wrong(
        self, slots: npt.NDArray[np.int64], digests: npt.NDArray[np.uint64]
    ) -> tuple[int, str] | None:
        """Read slots as an attention kernel would, every word of them.

        Returns
        -------
        tuple or None
            The first position in `slots` that does not hold its digest's words, and what is
            found there, in words; None when all are right.
        """
        block_ids = slots // self.block_size
        columns, places = np.unique(block_ids, return_inverse=True)
        room = columns.size * self.block_size
        gathered = self.pool.gather(None, columns.astype(np.int32), room)
        found = gathered[:, :, places * self.block_size + slots % self.block_size]
        found = np.moveaxis(found, 2, 0)
        wrong = found != words_of(digests, self.shape)
        bad = np.flatnonzero(wrong.reshape(slots.size, -1).any(axis=1))
        if not bad.size:
            return None
        at = int(bad[0])
        return at, self._describe(int(slots[at]), found[at], wrong[at])

    def _describe(
        self, slot: int, words: npt.NDArray[np.float32], wrong: npt.NDArray[np.bool_]
    ) -> str:
        stamp = self.stamps[slot]
        layer, factor, head, _ = (int(x) for x in np.argwhere(wrong)[0])
        place = "" if wrong.all() else f" (layer {layer}, {'KV'[factor]}, head {head})"
        if np.isnan(words[wrong]).all():
            return f"nothing written since the block was handed out{place}"
        return (
            f"what sequence {stamp['seq_id']} wrote in step {stamp['step_id']}"
            f" as its position {stamp['position']}{place}"
        )
