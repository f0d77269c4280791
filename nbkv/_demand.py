"""Kernels that wait to be compiled until somebody needs them.

Creating a cache compiles what every cache uses (`nbkv._jit.entry`), and waits for no more.
"""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, TypeVar

from nbkv._jit import INTERPRETED, compile_entries, compile_into, folder_of
from nbkv._libraries import KernelLibrary

F = TypeVar("F", bound=Callable[..., Any])

#: Each with its one signature.
ON_DEMAND: dict[Any, str] = {}
_READY: dict[Any, Any] = {}
_COMPILING = Lock()


def on_demand(signature: str, releases_gil: bool = False) -> Callable[[F], F]:
    """Compile a kernel that `ready` makes ready, for exactly one signature.

    For what many processes never call: creating a cache does not wait for it.

    Parameters
    ----------
    signature : str
        numba's notation.
    releases_gil : bool
        Other Python threads run meanwhile: for what takes a millisecond and more.
    """

    def decorate(function: F) -> F:
        if INTERPRETED:
            compiled = function
        else:
            folder = folder_of(function.__module__)
            compiled = compile_into(folder, function, KernelLibrary, releases_gil)
        ON_DEMAND[compiled] = signature
        return compiled

    return decorate


def ready(function: F) -> F:
    """Return a kernel made by `on_demand` as machine code, compiled or loaded if need be.

    As `nbkv._jit.make_ready` has it, this takes it on trust that arguments are of the one
    signature.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
    """
    code: F | None = _READY.get(function)
    if code is None:
        with _COMPILING:
            # Another thread may have been first.
            code = _READY.get(function) or _make_ready(function)
    return code


def _make_ready(function: F) -> F:
    code: Any = function
    if not INTERPRETED:
        kernel: Any = function
        kernel.compile(ON_DEMAND[function])
        kernel.disable_compile()
        (compiled,) = kernel.overloads.values()
        code = compiled.entry_point
    _READY[function] = code
    made: F = code
    return made


def compile_everything() -> Iterator[str]:
    """Compile, or load from disk, the entry kernels and then those on demand.

    Yields
    ------
    str
        The name of the kernel just made ready.
    """
    yield from compile_entries()
    for function in ON_DEMAND:
        ready(function)
        yield function.__name__
