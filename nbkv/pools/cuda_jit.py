"""The one place that calls ``cuda.jit``: kernels with one signature each, kept on disk.

Kernels take addresses and plain numbers only, never arrays: an array argument costs a launch
more than twice what a number does, and foreign memory then needs no wrapper of numba's. Every
integer is an int64 and every float a float64, so that Python's own numbers match.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from numba import cuda, types
from numba.cuda import config

from nbkv import _jit

#: Whether numba runs CUDA kernels as Python threads (``NUMBA_ENABLE_CUDASIM=1``).
SIMULATED: Final = bool(config.ENABLE_CUDASIM)


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
    return cuda.jit(device=True, forceinline=True)(function)


def _dispatcher(function: Callable[..., None]) -> Any:  # noqa: ANN401
    if SIMULATED:
        return cuda.jit(function)
    # numba stamps what it keeps with the kernel's own file only: see nbkv._jit.
    outer = config.CACHE_DIR
    config.CACHE_DIR = str(_jit.CACHE_DIR or "")
    try:
        return cuda.jit(cache=_jit.CACHE_DIR is not None)(function)
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
