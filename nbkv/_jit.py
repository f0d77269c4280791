"""The one place that calls ``numba.njit``."""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba as nb
import numpy as np
from numba.core.sigutils import normalize_signature

from nbkv._folders import folder_of
from nbkv._libraries import (
    CalleeLibrary,
    EntryLibrary,
    KernelCache,
    KernelLibrary,
    PartLibrary,
    compiler_into,
)
from nbkv._unboxing import look_at_arrays

F = TypeVar("F", bound=Callable[..., Any])

#: Kernels the facade calls, each with the one signature it is compiled for.
ENTRIES: list[tuple[Any, str]] = []
#: NUMBA_DISABLE_JIT=1: kernels run as the Python they are written in.
INTERPRETED = bool(nb.config.DISABLE_JIT)
#: The engine's machine code.
CACHE_DIR = None if INTERPRETED else folder_of("nbkv.kernels")


def kernel(function: F) -> F:
    """Compile `function` with numba at its first call and keep the result on disk.

    Inlined by force: a kernel called from another is a part of it, and a call that is not
    inlined reloads what its caller had at hand.
    """
    # Part of every kernel that calls it, and of none's machine code by itself: Python does
    # not call it, and what is kept on disk are its callers. A test's own, Python calls.
    part = function.__module__.startswith("nbkv.")
    return _compile_called(function, PartLibrary if part else KernelLibrary)


def outlined_kernel(function: F) -> F:
    """Compile a kernel that is called instead of inlined: large, and off the shortest path."""
    return _compile_called(function, CalleeLibrary)


def _compile_called(function: F, kind: type[KernelLibrary]) -> F:
    if INTERPRETED:
        return function
    compiled = compile_into(folder_of(function.__module__), function, kind)
    widen_arguments(compiled)
    return compiled


def compile_into(
    folder: Path | None, function: F, kind: type[KernelLibrary], releases_gil: bool = False
) -> F:
    """Compile a function at its first call and keep the result in a folder, if there is one.

    Parameters
    ----------
    folder : Path or None
    function : callable
    kind : type
        `PartLibrary`: inlined into every kernel that calls it, not called from Python.
        `CalleeLibrary`: called by kernels. `EntryLibrary`: called from Python, by the facade.
        `KernelLibrary`: called from anywhere.
    releases_gil : bool
        Other Python threads run while it does.
    """
    part, called = kind is PartLibrary, issubclass(kind, (PartLibrary, CalleeLibrary))
    outer = nb.config.CACHE_DIR
    nb.config.CACHE_DIR = str(folder or "")
    try:
        options: dict[str, Any] = {"no_cpython_wrapper": called, "no_cfunc_wrapper": True}
        options["nogil"] = releases_gil
        compiler = compiler_into(kind)
        compiled: F = nb.njit(forceinline=part, pipeline_class=compiler, **options)(function)
        # What others call goes to disk with each of them, as the process that compiled them
        # made it. By itself it could come from another process than its callers.
        if folder is not None and not called:
            compiled._cache = KernelCache(function)
    finally:
        nb.config.CACHE_DIR = outer
    return compiled


def widen_arguments(compiled: Any) -> None:  # noqa: ANN401
    """Compile a kernel that other kernels call once for all signed integers: as int64.

    Numba would compile it, and all that it calls, once more for an int32 or a constant, of
    which it makes nothing: what is inlined has the constant anyway.
    """
    resolve = compiled.get_call_template

    def resolve_widened(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:  # noqa: ANN401
        return resolve(tuple(map(_widen, args)), {name: _widen(kws[name]) for name in kws})

    compiled.get_call_template = resolve_widened


def _widen(kind: nb.types.Type) -> nb.types.Type:
    kind = nb.types.unliteral(kind)
    narrow = isinstance(kind, nb.types.Integer) and kind.signed
    return nb.types.int64 if narrow else kind


def wrapping_kernel(function: F) -> F:
    """Compile a kernel whose numbers wrap, or overflow; interpreted, numpy would warn of them."""
    if INTERPRETED:
        quiet: F = np.errstate(over="ignore", invalid="ignore")(function)
        return quiet
    return kernel(function)


def entry(signature: str) -> Callable[[F], F]:
    """Compile a kernel that the facade calls, for exactly one signature.

    Parameters
    ----------
    signature : str
        numba's notation. One signature only, so that a Python int is a uint64 where a
        seq_id is meant, and no call ever compiles in the middle of serving.
    """

    def decorate(function: F) -> F:
        compiled = compile_entry(function, signature)
        ENTRIES.append((compiled, signature))
        return compiled

    return decorate


def compile_entry(function: F, signature: str, releases_gil: bool = False) -> F:
    """Compile a kernel at its first call, one that the facade calls with this signature only."""
    if INTERPRETED:
        kinds, _ = normalize_signature(signature)
        return cast(F, look_at_arrays(function, kinds))
    folder = folder_of(function.__module__)
    return compile_into(folder, function, EntryLibrary, releases_gil)


@cache
def make_ready(function: Callable[..., Any]) -> None:
    """Compile one entry kernel, or load it from disk, unless it is ready.

    From then on its module's name for it is the machine code itself. numba's dispatch looks
    at every argument to choose among signatures, of which there is one: 70 to 110 ns a call.
    An array that has not exactly the signature's dtype, dimensions and layout is a TypeError.

    Parameters
    ----------
    function : callable
        Made by `entry`.
    """
    signature = next(signature for known, signature in ENTRIES if known is function)
    if not INTERPRETED and not function.signatures:
        function.compile(signature)
        function.disable_compile()
        (code,) = function.overloads.values()
        setattr(sys.modules[function.__module__], function.__name__, code.entry_point)


def ready_entry(name: str) -> Any:  # noqa: ANN401
    """Return an entry kernel as other compiled functions can call it, ready.

    Its module's own name for it may be the bare machine code already (`make_ready`), which
    compiled functions cannot call.

    Parameters
    ----------
    name : str
        Of exactly one entry kernel.

    Returns
    -------
    callable
        With its one signature, to which numba converts what it is called with.
    """
    (function,) = (known for known, _ in ENTRIES if known.__name__ == name)
    make_ready(function)
    return function


def compile_entries() -> Iterator[str]:
    """Compile, or load from disk, each entry kernel that is not yet ready.

    Yields
    ------
    str
        The name of the kernel just made ready.
    """
    for function, _ in ENTRIES:
        make_ready(function)
        yield function.__name__
