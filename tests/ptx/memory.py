"""Global memory: NumPy arrays at virtual addresses, with every access checked."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptx.faults import LaunchError, MisalignedError, OutOfBoundsError, ReadOnlyError
from ptx.values import Array

FIRST_ADDRESS = 0x7000_0000_0000
# More than 2**32 between buffers: an address computed in 32 bits lands in none of them.
ADDRESS_STEP = 1 << 33
ALIGNMENT = 256


@dataclass
class Buffer:
    """One array's bytes at a virtual address; `data` shares the array's memory."""

    name: str
    address: int
    data: Array
    writable: bool
    owner: Array
    views: dict[int, Array] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.data.size

    def words(self, size: int) -> Array:
        """Return the bytes as unsigned words of `size` bytes; the buffer must be aligned."""
        if size not in self.views:
            whole = self.data[: self.data.size // size * size]
            self.views[size] = whole.view(f"u{size}")
        return self.views[size]

    def load(self, offset: Array, size: int) -> Array:
        """Read one word at each byte offset."""
        if self.address % size == 0:
            return self.words(size)[offset // size]
        return np.ascontiguousarray(self.data[offset[:, None] + np.arange(size)]).view(f"u{size}")[
            :, 0
        ]

    def store(self, offset: Array, size: int, words: Array) -> None:
        """Write one word at each byte offset; the last of two to one place stays."""
        if self.address % size == 0:
            self.words(size)[offset // size] = words
        else:
            split = np.ascontiguousarray(words).view(np.uint8).reshape(-1, size)
            self.data[offset[:, None] + np.arange(size)] = split


class _Bytes:
    """The memory between two addresses, as NumPy's array interface describes it."""

    def __init__(self, array: Array, low: int, high: int) -> None:
        self.array = array
        self.__array_interface__ = {
            "data": (low, not array.flags.writeable),
            "shape": (high - low,),
            "typestr": "|u1",
            "version": 3,
        }


def bytes_of(array: Array) -> Array:
    """Return the bytes from an array's first to its last, whatever its strides, uncopied.

    The bytes between the elements of a strided view are part of it: a kernel gets addresses
    and strides, and may touch whatever they reach.
    """
    if array.size == 0:
        return np.empty(0, np.uint8)
    return np.asarray(_Bytes(array, *np.lib.array_utils.byte_bounds(array)))


def _host_address(array: Array) -> int:
    return array.__array_interface__["data"][0]


class GlobalMemory:
    """The device's memory: arrays that kernels reach by address.

    A kernel's stores go to the arrays themselves. Addresses stay what they are for as long as
    the memory lives, so that a test can put them into an array of int64.
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._next = FIRST_ADDRESS
        self._starts = np.empty(0, np.int64)
        self._ends = np.zeros(1, np.int64)

    def add(
        self,
        array: Array,
        name: str = "",
        *,
        address: int | None = None,
        writable: bool | None = None,
    ) -> int:
        """Register an array and return the address of its first element.

        Parameters
        ----------
        array : ndarray
            Any dtype and strides; it is not copied. The span from its lowest to its highest
            byte becomes reachable. A part of an array that is in already has its place there.
        name : str
            For messages.
        address : int, optional
            Where the lowest byte lies; by default the next free multiple of 256, more than
            ``2**32`` behind the last buffer.
        writable : bool, optional
            Whether kernels may store to it; by default as the array's flag says.

        Returns
        -------
        int
            The address of element 0, which a negative stride puts behind the lowest byte.

        Raises
        ------
        LaunchError
            When it would overlap a buffer.
        """
        data = bytes_of(array)
        low = _host_address(data)
        first = _host_address(array) - low
        if address is None and data.size:
            for buffer in self.buffers:
                inside = low - _host_address(buffer.data)
                if inside >= 0 and inside + data.size <= buffer.data.size:
                    return buffer.address + inside + first
        if address is None:
            address = self._next
            self._next += (data.size // ADDRESS_STEP + 1) * ADDRESS_STEP
        for buffer in self.buffers:
            if address < buffer.end and buffer.address < address + data.size:
                raise LaunchError(f"{name or 'an array'} would overlap {buffer.name}")
        allowed = array.flags.writeable if writable is None else writable
        label = name or f"buffer {len(self.buffers)}"
        self.buffers.append(Buffer(label, address, data, allowed, array))
        self._index()
        return address + first

    def remove(self, address: int) -> None:
        """Forget the buffer that holds an address: from now on nothing may touch it."""
        kept = [one for one in self.buffers if not one.address <= address < one.end]
        if len(kept) == len(self.buffers):
            raise LaunchError(self.describe(address))
        self.buffers = kept
        self._index()

    def _index(self) -> None:
        self.buffers.sort(key=lambda buffer: buffer.address)
        self._starts = np.array([buffer.address for buffer in self.buffers], np.int64)
        # Index -1, below every buffer, must exist where there is none.
        self._ends = np.array([buffer.end for buffer in self.buffers] or [0], np.int64)

    def _locate(self, address: Array, size: int) -> Array:
        """Return the index of the buffer each access lies in."""
        # Signed, so that an address below zero is below every buffer.
        signed = address.view(np.int64)
        misaligned = np.flatnonzero(signed & (size - 1))
        if misaligned.size:
            lane = int(misaligned[0])
            message = f"address {address[lane]:#x} is no multiple of {size}"
            raise MisalignedError(f"{message}: {self.describe(int(address[lane]))}", lane)
        index = np.searchsorted(self._starts, signed, side="right") - 1
        outside = np.flatnonzero((index < 0) | (signed + size > self._ends[index]))
        if outside.size:
            lane = int(outside[0])
            raise OutOfBoundsError(f"{size} bytes at {self.describe(int(address[lane]))}", lane)
        return index

    def describe(self, address: int) -> str:
        """Say where an address lies, for messages."""
        below = [buffer for buffer in self.buffers if buffer.address <= address < 1 << 63]
        if not below:
            return f"address {address:#x} is in no buffer"
        offset = address - below[-1].address
        return f"byte {offset} of {below[-1].name}, which has {below[-1].data.size} bytes"

    def load(self, address: Array, size: int, count: int) -> list[Array]:
        """Read `count` consecutive words of `size` bytes at each address."""
        index = self._locate(address, size * count)
        words = [np.empty(address.size, f"u{size}") for _ in range(count)]
        for i, buffer, chosen in self._parts(index):
            offset = address.view(np.int64)[chosen] - self._starts[i]
            for k in range(count):
                words[k][chosen] = buffer.load(offset + k * size, size)
        return words

    def store(self, address: Array, size: int, words: list[Array]) -> None:
        """Write consecutive words of `size` bytes at each address."""
        index = self._locate(address, size * len(words))
        for i, buffer, chosen in self._parts(index):
            if not buffer.writable:
                lane = int(np.flatnonzero(index == i)[0])
                raise ReadOnlyError(f"{buffer.name} is read only", lane)
            offset = address.view(np.int64)[chosen] - self._starts[i]
            for k, word in enumerate(words):
                buffer.store(offset + k * size, size, word[chosen])

    def _parts(self, index: Array) -> list[tuple[int, Buffer, Any]]:
        """Split the accesses by buffer; nearly always they share one."""
        first = int(index[0])
        if (index == first).all():
            return [(first, self.buffers[first], slice(None))]
        return [
            (int(i), self.buffers[int(i)], np.flatnonzero(index == i)) for i in np.unique(index)
        ]
