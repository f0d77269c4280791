"""Compile the CUDA kernels for a device that is not there, into the cache that launches look in.

numba-cuda saves a kernel only once a device has taken it. Here the device is stood in for while
numba compiles, links and saves, so that a process on a real one finds machine code under the
same key: signature, toolkit version and compute capability.
"""

from collections.abc import Iterator
from typing import Any

from nbkv.errors import ArgumentError
from nbkv.pools import cuda_decode, cuda_fp8, cuda_int8, cuda_kernels, cuda_partials
from nbkv.pools.cuda_jit import CACHE_DIR, KERNELS, Kernel, offline

#: Kernels are in KERNELS once these are imported.
_MODULES = (cuda_kernels, cuda_fp8, cuda_int8, cuda_decode, cuda_partials)
_ARCHITECTURE_SPECIFIC = (9, 0)


def parse_capability(text: str) -> tuple[int, int]:
    """Parse a compute capability.

    Parameters
    ----------
    text : str
        ``9.0``.

    Returns
    -------
    tuple of int

    Raises
    ------
    ArgumentError
        It is none, or older than 8.0.
    """
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()) or int(major) < 8:
        raise ArgumentError(f"compute capability is {text!r}; it must be 8.0 or above, like 9.0")
    return int(major), int(minor)


def kernels_for(capability: tuple[int, int]) -> list[Kernel]:
    """Return the kernels that a compute capability can run."""
    return [kernel for kernel in KERNELS.values() if kernel.needs <= capability]


def compile_for(capability: tuple[int, int]) -> Iterator[tuple[str, bool]]:
    """Compile every kernel for a compute capability, or find it compiled.

    Parameters
    ----------
    capability : tuple of int

    Yields
    ------
    name : str
    was_there : bool
        Whether the disk cache had it.

    Raises
    ------
    ArgumentError
        There is nowhere to keep it, or numba simulates.
    """
    if CACHE_DIR is None:
        raise ArgumentError("kernels for CUDA are kept on disk only, and nothing is kept here")
    for kernel in kernels_for(capability):
        yield kernel.name, _compile(kernel, capability)


def _compile(kernel: Kernel, capability: tuple[int, int]) -> bool:
    """Put one kernel into the disk cache; tell whether it was there."""
    from numba.cuda.dispatcher import _Kernel

    dispatcher = kernel.dispatcher
    with offline(capability):
        if load(kernel, capability) is not None:
            return True
        made = _Kernel(kernel.function, kernel.argument_types, **dispatcher.targetoptions)
        made._codelibrary.get_cubin(cc=linked_capability(capability))
        dispatcher._cache.save_overload(kernel.argument_types, made)
    return False


def load(kernel: Kernel, capability: tuple[int, int]) -> Any:  # noqa: ANN401
    """Load a kernel from the disk cache as a launch on such a device does, or return None."""
    dispatcher = kernel.dispatcher
    with offline(capability):
        return dispatcher._cache.load_overload(kernel.argument_types, dispatcher.targetctx)


def linked_capability(capability: tuple[int, int]) -> tuple[int, int, str]:
    """Return what numba links for on a device: its own features too, from 9.0 on."""
    return (*capability, "a" if capability >= _ARCHITECTURE_SPECIFIC else "")
