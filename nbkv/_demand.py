"""Kernels that wait to be compiled until somebody needs them.

Creating a cache compiles what every cache uses (`nbkv._jit.entry`), and waits for no more.
"""

from collections.abc import Callable
from threading import Lock
from types import FunctionType
from typing import Any, TypeVar

from nbkv._jit import ENTRIES, INTERPRETED, compile_entry, make_ready

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
        compiled = compile_entry(function, signature, releases_gil)
        ON_DEMAND[compiled] = signature
        return compiled

    return decorate


def on_demand_twins(signature: str) -> Callable[[F], tuple[F, F]]:
    """Compile a kernel twice, as `on_demand` does: for short calls and for long ones.

    Returns
    -------
    callable
        Its result is a pair: the kernel that keeps the GIL, and the one that releases it.
    """

    def decorate(function: F) -> tuple[F, F]:
        # Numba keeps machine code under a function's name, whatever options it was made with.
        apart: Any = FunctionType(
            function.__code__, function.__globals__, f"{function.__name__}_apart"
        )
        apart.__module__, apart.__doc__ = function.__module__, function.__doc__
        apart.__qualname__ = f"{function.__qualname__}_apart"
        return on_demand(signature)(function), on_demand(signature, releases_gil=True)(apart)

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


def name_kernels() -> dict[str, Any]:
    """Name the entry kernels and those on demand, by module and function."""
    kernels = [*(function for function, _ in ENTRIES), *ON_DEMAND]
    return {f"{function.__module__}.{function.__name__}": function for function in kernels}


def compile_kernel(function: Callable[..., Any]) -> None:
    """Compile, or load from disk, a kernel of `name_kernels`."""
    if function in ON_DEMAND:
        ready(function)
    else:
        make_ready(function)
