"""The device a CudaPool is on: memory, streams and launches, and nothing of pools.

Everything that touches numba's driver is here, so that tests can put an interpreter of the
compiled code in a GPU's place.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Final

import numba.cuda
import numpy as np
import numpy.typing as npt

from nbkv.errors import ArgumentError
from nbkv.pools.cuda_jit import SIMULATED, Kernel
from nbkv.pools.foreign import Foreign
from nbkv.pools.views import view_at

#: Configured launches kept at once; a decode loop needs a few.
_MAX_CONFIGURED: Final = 1024


@dataclass(frozen=True, eq=False)
class Memory:
    """A run of device memory.

    Attributes
    ----------
    address : int
        A multiple of 256.
    owner : object
        Keeps it allocated.
    """

    address: int
    owner: Any


class _Described:
    """Memory as numba takes it."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__cuda_array_interface__ = interface


class Device:
    """The current CUDA device, or numba's simulation of one.

    Attributes
    ----------
    max_threads : int
        Threads of a block that kernels are launched with, at most.
    """

    def __init__(self) -> None:
        # Simulated threads are Python's.
        self.max_threads = 64 if SIMULATED else 128
        self._configured: dict[tuple[Any, ...], Any] = {}

    def compute_capability(self) -> tuple[int, int]:
        """Return the device's compute capability; simulated, the newest any kernel needs."""
        if SIMULATED:
            return (9, 0)
        major, minor = numba.cuda.get_current_device().compute_capability[:2]
        return int(major), int(minor)

    def allocate(self, num_bytes: int) -> Memory:
        """Allocate device memory, not initialised.

        Raises
        ------
        ArgumentError
            There is not that much.
        """
        size = max(num_bytes, 1)
        if SIMULATED:
            raw = np.empty(size + 256, np.uint8)
            return Memory(-(-raw.__array_interface__["data"][0] // 256) * 256, raw)
        try:
            array = numba.cuda.device_array(size, np.uint8)
        except Exception as error:
            # numba's CudaAPIError has no kind of its own for this; 2 is the driver's code.
            if getattr(error, "code", None) == 2 or "MEMORY" in str(error):
                raise ArgumentError(
                    f"{num_bytes} bytes of device memory are needed, more than are free"
                ) from None
            raise
        return Memory(int(array.__cuda_array_interface__["data"][0]), array)

    def reaches(self, array: Foreign) -> bool:
        """Tell whether kernels can be given an array's address."""
        return SIMULATED or array.on_cuda

    def mapped_address(self, address: int) -> int | None:
        """Return where the device finds page-locked host memory, or None if it is not."""
        if SIMULATED:
            return address
        from numba.cuda.cudadrv import driver

        try:
            return int(driver.get_devptr_for_active_ctx(address))
        except driver.CudaAPIError:
            return None

    def fill_zero(self, memory: Memory, num_bytes: int, stream: Any) -> None:
        """Zero the first bytes of memory."""
        if SIMULATED:
            self.view(memory.address, (num_bytes,), (1,), np.dtype(np.uint8), memory)[...] = 0
            return
        from numba.cuda.cudadrv import driver

        driver.device_memset(memory.owner, 0, num_bytes, stream)

    def view(
        self,
        address: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: "np.dtype[Any]",
        owner: object,
    ) -> Any:
        """View device memory as numba's array, which torch and CuPy take as it is.

        Parameters
        ----------
        address : int
        shape, strides : tuple of int
            Strides in bytes.
        dtype : numpy.dtype
        owner : object
            Kept for as long as the view.
        """
        if SIMULATED:
            return view_at(address, shape, strides, dtype, owner)
        interface = {
            "version": 3,
            "data": (address, False),
            "shape": shape,
            "strides": strides,
            "typestr": dtype.str,
        }
        return numba.cuda.from_cuda_array_interface(interface, owner=owner, sync=False)

    def upload(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Copy a contiguous host array to device memory, in the order of the stream."""
        if array.size == 0:
            return
        flat = array.reshape(-1).view(np.uint8)
        target = self.view(address, flat.shape, (1,), flat.dtype, None)
        if SIMULATED:
            target[...] = flat
        else:
            target.copy_to_device(flat, stream=stream)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        stream: Any,
        args: tuple[int | float, ...],
    ) -> None:
        """Launch a kernel; a grid without blocks does nothing.

        Parameters
        ----------
        kernel : Kernel
        grid, block : tuple of int
        stream : object
            Of `as_stream`.
        args : tuple of int or float
        """
        if 0 in grid:
            return
        key = (kernel.name, grid, block, stream if isinstance(stream, int) else id(stream))
        # numba's simulation gives one object for every configuration.
        configured = None if SIMULATED else self._configured.get(key)
        if configured is None:
            if len(self._configured) >= _MAX_CONFIGURED:
                self._configured.clear()
            with warnings.catch_warnings():
                # That a grid is small: a decode step's is, and nothing can be done about it.
                warnings.filterwarnings("ignore", message="Grid size")
                configured = kernel.dispatcher[grid, block, stream]
            # The stream is kept with it: an id is an object's only while the object lives.
            self._configured[key] = configured
        configured(*args)

    def as_stream(self, stream: Any) -> Any:
        """Make numba's stream of another library's.

        Parameters
        ----------
        stream : object
            None or 0 (the default stream), a handle, numba's stream, torch's
            (``cuda_stream``), CuPy's (``ptr``) or anything with ``__cuda_stream__``.

        Returns
        -------
        object

        Raises
        ------
        TypeError
        """
        if stream is None or (isinstance(stream, int) and stream == 0):
            return 0
        if SIMULATED or hasattr(stream, "auto_synchronize"):
            return stream
        if isinstance(stream, int):
            return numba.cuda.external_stream(stream)
        for name in ("cuda_stream", "ptr"):
            handle = getattr(stream, name, None)
            if isinstance(handle, int):
                return numba.cuda.external_stream(handle) if handle else 0
        if hasattr(stream, "__cuda_stream__"):
            return numba.cuda.external_stream(int(stream.__cuda_stream__()[1]))
        raise TypeError(
            f"stream is {stream!r}; it must be a handle or a stream of numba, torch or CuPy"
        )

    def new_stream(self) -> Any:
        """Create a stream."""
        return numba.cuda.stream()

    def record(self, stream: Any) -> Any:
        """Note the point that a stream has come to."""
        event = numba.cuda.event() if SIMULATED else numba.cuda.event(timing=False)
        event.record(stream or numba.cuda.default_stream())
        return event

    def wait(self, stream: Any, event: Any) -> None:
        """Let what is launched into a stream from now on wait for an event."""
        event.wait(stream or numba.cuda.default_stream())


def page_locked(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Allocate zeroed host memory that a device reads and writes by itself.

    Parameters
    ----------
    num_bytes : int

    Returns
    -------
    uint8 array
        Freed when it goes.
    """
    memory: npt.NDArray[np.uint8] = numba.cuda.pinned_array(num_bytes, np.uint8)
    memory[...] = 0
    return memory


class Staging:
    """A place on the device for the small arrays of one call, used again by the next.

    One a stream: the stream's order keeps the next call's upload behind this call's kernel.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory = Memory(0, None)
        self._num_bytes = 0

    def put(self, stream: Any, *arrays: npt.NDArray[Any]) -> list[int]:
        """Upload arrays and return their addresses, each a multiple of 16.

        Parameters
        ----------
        stream : object
        *arrays : numpy.ndarray

        Returns
        -------
        list of int
        """
        offsets, needed = [], 0
        for array in arrays:
            offsets.append(needed)
            needed += -(-array.nbytes // 16) * 16
        start = self.room(needed)
        for array, offset in zip(arrays, offsets, strict=True):
            self._device.upload(start + offset, np.ascontiguousarray(array), stream)
        return [start + offset for offset in offsets]

    def room(self, num_bytes: int) -> int:
        """Return the address of so many bytes, allocated anew where it was fewer."""
        if num_bytes > self._num_bytes:
            self._num_bytes = max(2 * self._num_bytes, num_bytes, 4096)
            # numba frees the old memory once what is launched has used it.
            self._memory = self._device.allocate(self._num_bytes)
        return self._memory.address
