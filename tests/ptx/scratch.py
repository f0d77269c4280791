"""Shared and local memory: an area for each block or thread, knowing which bytes were written."""

import numpy as np

from ptx.faults import MisalignedError, OutOfBoundsError, UninitialisedError
from ptx.values import Array


def _all_written(size: int) -> int:
    """Return a word of `size` bytes, each of which is True."""
    return int.from_bytes(b"\x01" * size, "little")


class ScratchMemory:
    """Equal areas side by side, one for each owner (a block or a thread)."""

    def __init__(self, space: str, num_owners: int, num_bytes: int) -> None:
        self.space = space
        # Whole 16-byte words, so that an area can be read as words of any size.
        self.stride = -(-num_bytes // 16) * 16
        self.num_bytes = num_bytes
        self.data = np.zeros(num_owners * self.stride, np.uint8)
        self.written = np.zeros(num_owners * self.stride, np.bool_)

    def _flat(self, owner: Array, offset: Array, size: int) -> Array:
        """Return where each access lies in all the areas."""
        signed = offset.view(np.int64)
        misaligned = np.flatnonzero(signed & (size - 1))
        if misaligned.size:
            lane = int(misaligned[0])
            where = f"byte {signed[lane]} of {self.space} memory"
            raise MisalignedError(f"{where} is no multiple of {size}", lane)
        outside = np.flatnonzero((signed < 0) | (signed + size > self.num_bytes))
        if outside.size:
            lane = int(outside[0])
            where = f"{size} bytes at byte {signed[lane]} of {self.space} memory"
            raise OutOfBoundsError(f"{where}, which has {self.num_bytes} bytes", lane)
        return owner * self.stride + signed

    def load(self, owner: Array, offset: Array, size: int, count: int) -> list[Array]:
        """Read `count` words of `size` bytes at each offset of each owner's area."""
        word = self._flat(owner, offset, size * count) // size
        known = self.written.view(f"u{size}")[word[:, None] + np.arange(count)]
        unwritten = np.flatnonzero((known != _all_written(size)).any(axis=1))
        if unwritten.size:
            lane = int(unwritten[0])
            where = f"byte {int(offset[lane])} of {self.space} memory"
            raise UninitialisedError(f"nothing has written {where}", lane)
        view = self.data.view(f"u{size}")
        return [view[word + k] for k in range(count)]

    def store(self, owner: Array, offset: Array, size: int, words: list[Array]) -> None:
        """Write words of `size` bytes at each offset of each owner's area."""
        place = self._flat(owner, offset, size * len(words)) // size
        for k, word in enumerate(words):
            self.data.view(f"u{size}")[place + k] = word
            self.written.view(f"u{size}")[place + k] = _all_written(size)
