"""Shared and local memory: an area for each block or thread, knowing which bytes were written."""

import numpy as np

from ptx.faults import MisalignedError, OutOfBoundsError, UninitialisedError
from ptx.values import Array


class ScratchMemory:
    """Equal areas side by side, one for each owner (a block or a thread)."""

    def __init__(self, space: str, num_owners: int, num_bytes: int) -> None:
        self.space = space
        # Whole 16-byte words, so that an area can be read as words of any size.
        self.stride = -(-num_bytes // 16) * 16
        self.num_bytes = num_bytes
        self.data = np.zeros(num_owners * self.stride, np.uint8)
        self.written = np.zeros(num_owners * self.stride, np.bool_)

    def _flat(self, owner: Array, offset: Array, size: int, what: str) -> Array:
        if (offset % np.uint64(size)).any():
            raise MisalignedError(f"{what}: {self.space} offset is no multiple of {size}")
        if (offset + np.uint64(size) > self.num_bytes).any():
            raise OutOfBoundsError(
                f"{what}: byte {int(offset.max())} of {self.num_bytes} of {self.space} memory"
            )
        return owner * self.stride + offset.astype(np.int64)

    def load(self, owner: Array, offset: Array, size: int, count: int, what: str) -> list[Array]:
        """Read `count` words of `size` bytes at each offset of each owner's area."""
        flat = self._flat(owner, offset, size * count, what)
        known = self.written.view(f"u{size}")[flat[:, None] // size + np.arange(count)]
        if (known != int.from_bytes(b"\x01" * size, "little")).any():
            raise UninitialisedError(f"{what}: {self.space} memory that nothing has written")
        view = self.data.view(f"u{size}")
        return [view[flat // size + k] for k in range(count)]

    def store(self, owner: Array, offset: Array, size: int, words: list[Array], what: str) -> None:
        """Write words of `size` bytes at each offset of each owner's area."""
        flat = self._flat(owner, offset, size * len(words), what)
        view = self.data.view(f"u{size}")
        known = self.written.view(f"u{size}")
        for k, word in enumerate(words):
            view[flat // size + k] = word
            known[flat // size + k] = int.from_bytes(b"\x01" * size, "little")
