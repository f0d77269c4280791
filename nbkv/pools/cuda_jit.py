"""The one place that calls ``cuda.jit``: kernels with one signature each, kept on disk.

Kernels take addresses and plain numbers only, never arrays: an array argument costs a launch
more than twice what a number does, and foreign memory then needs no wrapper of numba's. Every
integer is an int64 and every float a float64, so that Python's own numbers match.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numba
import numba.cuda

# numba's own CUDA half, which is there without this package, has another interface.
import numba_cuda  # noqa: F401
import numpy as np
from numba import types

from nbkv import _jit
from nbkv.pools import cuda_simulated

#: Whether numba runs CUDA kernels as Python threads (``NUMBA_ENABLE_CUDASIM=1``).
SIMULATED: Final = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
#: Where compiled kernels are kept, if anywhere.
CACHE_DIR: Final = None if SIMULATED or _jit.INTERPRETED else _jit.folder_of(__name__)


class _SimulatedCuda:
    """``numba.cuda`` as the running simulated kernel sees it, in whichever module."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.current(), name)

    def current(self) -> Any:  # noqa: ANN401
        """Return numba's stand-in for the running kernel."""
        from numba.cuda.simulator import kernel

        return kernel._get_kernel_context()


# Kernels take these names from here, so that a simulated kernel has others.
if SIMULATED:
    cuda: Any = _SimulatedCuda()
    int32: Any = cuda_simulated.integer(32, is_signed=True)
    int64: Any = cuda_simulated.integer(64, is_signed=True)
    uint32: Any = cuda_simulated.integer(32, is_signed=False)
    uint64: Any = cuda_simulated.integer(64, is_signed=False)
    float32: Any = np.float32
else:
    cuda = numba.cuda
    int32, int64, uint32, uint64 = types.int32, types.int64, types.uint32, types.uint64
    float32 = types.float32


@dataclass(frozen=True)
class Kernel:
    """A kernel, the one signature it is compiled for, and what it needs.

    Attributes
    ----------
    name : str
    function : callable
        The Python it is written in.
    dispatcher : numba dispatcher
        ``dispatcher[grid, block, stream](*args)`` launches it.
    argument_types : tuple of numba type
    needs : tuple of int
        The oldest compute capability it is compiled for.
    """

    name: str
    function: Callable[..., None]
    dispatcher: Any
    argument_types: tuple[Any, ...]
    needs: tuple[int, int]


#: Every kernel by name, in the order of definition.
KERNELS: dict[str, Kernel] = {}


def cuda_kernel(
    num_numbers: int, num_floats: int = 0, needs: tuple[int, int] = (8, 0)
) -> Callable[[Callable[..., None]], Kernel]:
    """Make a kernel of a function.

    Parameters
    ----------
    num_numbers : int
        How many arguments are int64, addresses among them; they come first.
    num_floats : int
        How many float64 follow.
    needs : tuple of int
        The oldest compute capability.

    Returns
    -------
    callable
        A decorator.
    """

    def decorate(function: Callable[..., None]) -> Kernel:
        signature = (types.int64,) * num_numbers + (types.float64,) * num_floats
        made = Kernel(function.__name__, function, _dispatcher(function), signature, needs)
        KERNELS[made.name] = made
        return made

    return decorate


def device_function(function: Callable[..., Any]) -> Any:  # noqa: ANN401
    """Make a function that kernels call, always inlined."""
    if SIMULATED:
        return function
    return numba.cuda.jit(device=True, forceinline=True)(function)


def device_intrinsic(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of a function that types and generates code; simulated, its stand-in."""

    def decorate(function: Callable[..., Any]) -> Any:  # noqa: ANN401
        if SIMULATED:
            return getattr(cuda_simulated, name)
        from numba.cuda.extending import intrinsic

        function.__name__ = name
        return intrinsic(function)

    return decorate


def _dispatcher(function: Callable[..., None]) -> Any:  # noqa: ANN401
    if SIMULATED:
        return numba.cuda.jit(function)
    # numba stamps what it keeps with the kernel's own file only: see nbkv._jit.
    from numba.cuda.core import config

    outer = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_DIR or "")
    try:
        # Without link-time optimisation a launch runs the very PTX that the tests execute.
        # Given with the function: numba's decorator of keywords forgets this one.
        return numba.cuda.jit(function, cache=CACHE_DIR is not None, lto=False)
    finally:
        config.CACHE_DIR = outer


@contextlib.contextmanager
def offline(compute_capability: tuple[int, int]) -> Iterator[None]:
    """Let numba compile for a device that is not there.

    Parameters
    ----------
    compute_capability : tuple of int
    """
    from numba.cuda import codegen, dispatcher

    device = _NoDevice(compute_capability)
    outer = dispatcher.get_current_device, codegen.devices
    dispatcher.get_current_device = lambda: device
    codegen.devices = _NoDevices(device)
    try:
        yield
    finally:
        dispatcher.get_current_device, codegen.devices = outer


@dataclass(frozen=True)
class _NoDevice:
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class _NoContext:
    device: _NoDevice


class _NoDevices:
    """Stands in for numba's module of devices."""

    def __init__(self, device: _NoDevice) -> None:
        self._context = _NoContext(device)

    def get_context(self) -> _NoContext:
        return self._context
