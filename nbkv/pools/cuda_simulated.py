"""What stands for the CUDA intrinsics where numba simulates a GPU (``NUMBA_ENABLE_CUDASIM=1``).

Memory is the process's own. An access that is not aligned, or outside `RANGES` where there are
any, is an error, which a GPU would not always make of it. Integers are Python's, wrapped where
a kernel casts them.
"""

import ctypes
import threading
from typing import Any, Final

import numpy as np

#: Runs of memory that may be touched, as (first address, one past the last); all where empty.
RANGES: list[tuple[int, int]] = []
WARP: Final = 32


class FaultError(Exception):
    """A simulated kernel touched memory that it must not."""


def _check(address: int, size: int) -> int:
    address = int(address)
    if address % size:
        raise FaultError(f"{size} bytes at {hex(address)}: not aligned")
    if RANGES and not any(low <= address and address + size <= high for low, high in RANGES):
        raise FaultError(f"{size} bytes at {hex(address)}: outside of every buffer")
    return address


def load16(address: int) -> tuple[int, int]:
    """Read 16 bytes."""
    _check(address, 16)
    return load8(address), load8(address + 8)


def store16(address: int, values: tuple[int, int]) -> None:
    """Write 16 bytes."""
    _check(address, 16)
    store8(address, values[0])
    store8(address + 8, values[1])


def load8(address: int) -> int:
    """Read 8 bytes, unsigned."""
    return int(ctypes.c_uint64.from_address(_check(address, 8)).value)


def store8(address: int, value: int) -> None:
    """Write 8 bytes."""
    ctypes.c_uint64.from_address(_check(address, 8)).value = int(value)


def load4(address: int) -> int:
    """Read 4 bytes, signed."""
    return int(ctypes.c_int32.from_address(_check(address, 4)).value)


def store4(address: int, value: int) -> None:
    """Write 4 bytes."""
    ctypes.c_int32.from_address(_check(address, 4)).value = int(value)


def load_float(address: int) -> np.float32:
    """Read a float32."""
    return float_of(load4(address))


def store_float(address: int, value: np.float32) -> None:
    """Write a float32."""
    store4(address, bits_of(value))


def bits_of(number: np.float32) -> int:
    """Return a float32's bits."""
    return int(np.float32(number).view(np.uint32))


def float_of(bits: int) -> np.float32:
    """Return the float32 of 32 bits."""
    found: np.float32 = np.uint32(bits & 0xFFFFFFFF).view(np.float32)
    return found


def multiply_high(one: int, other: int) -> int:
    """Return the upper 32 bits of a product."""
    return (one & 0xFFFFFFFF) * (other & 0xFFFFFFFF) >> 32


def floats_of_halves(halves: int) -> tuple[np.float32, np.float32]:
    """Return two float16 as float32."""
    first, second = np.array([halves], np.uint32).view(np.float16).astype(np.float32)
    return first, second


def halves_of_floats(low: np.float32, high: np.float32) -> int:
    """Round two float32 to float16."""
    with np.errstate(over="ignore"):
        return int(np.array([low, high], np.float32).astype(np.float16).view(np.uint32)[0])


def bfloats_of_floats(low: np.float32, high: np.float32) -> int:
    """Round two float32 to bfloat16; NaN is 0x7FFF, as on a GPU."""
    return _bfloat(low) | _bfloat(high) << 16


def _bfloat(number: np.float32) -> int:
    bits = bits_of(number)
    if bits & 0x7FFFFFFF > 0x7F800000:
        return 0x7FFF
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def fp8_of_floats(low: np.float32, high: np.float32) -> int:
    """Round two float32 to e4m3fn; NaN is 0x7F, as on a GPU."""
    return _fp8(low) | _fp8(high) << 8


def _fp8(number: np.float32) -> int:
    if np.isnan(number):
        return 0x7F
    sign = bits_of(number) >> 24 & 0x80
    magnitude = min(abs(float(number)), 448.0)
    # Three bits behind the leading one; below 2**-6 steps of 2**-9.
    exponent = max(int(np.frexp(magnitude)[1]) - 1, -6) if magnitude else -6
    steps = int(np.rint(magnitude * 2.0 ** (3 - exponent)))
    return sign | ((exponent + 6) * 8 + steps)


def rint_to_int8(number: np.float32) -> int:
    """Round to an int8; NaN is 0."""
    return 0 if np.isnan(number) else int(np.clip(np.rint(number), -128, 127))


def exp2_of(number: np.float32) -> np.float32:
    """Return a power of two."""
    found: np.float32 = np.exp2(np.float32(number))
    return found


class _Warp:
    """The 32 threads of a warp while they exchange numbers."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(WARP)
        self.numbers = [np.float32(0)] * WARP


_WARPS: dict[tuple[int, ...], _Warp] = {}
_LOCK = threading.Lock()


def exchange(number: np.float32, mask: int) -> np.float32:
    """Return another lane's number; raises where a lane stays away."""
    from nbkv.pools.cuda_jit import cuda

    thread, shape = cuda.threadIdx, cuda.blockDim
    place = thread.x + shape.x * (thread.y + shape.y * thread.z)
    with _LOCK:
        warp = _WARPS.setdefault((id(cuda.current()), place // WARP), _Warp())
    warp.numbers[place % WARP] = number
    warp.barrier.wait(timeout=10)
    found: np.float32 = warp.numbers[place % WARP ^ mask]
    warp.barrier.wait(timeout=10)
    return found


def integer(bits: int, is_signed: bool) -> Any:  # noqa: ANN401
    """Make a cast to an integer of so many bits."""

    def cast(value: Any) -> int:  # noqa: ANN401
        wrapped = int(value) & (1 << bits) - 1
        return wrapped - (1 << bits) if is_signed and wrapped >> bits - 1 else wrapped

    return cast
