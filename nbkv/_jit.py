"""The one place that calls ``numba.njit``.

Numba decides whether cached machine code is fresh from the text of the file that holds
the function, so it misses edits in a callee's file and in imported constants. Kernels
therefore have a cache folder named after every source that they can be made from.
"""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba as nb
import numpy as np

from nbkv._libraries import (
    CalleeLibrary,
    KernelCache,
    KernelLibrary,
    PartLibrary,
    compiler_into,
)

F = TypeVar("F", bound=Callable[..., Any])

#: Kernels the facade calls, each with the one signature it is compiled for.
ENTRIES: list[tuple[Any, str]] = []
#: What a package's kernels are made from, where that is not everything in nbkv: files and
#: folders, the package's own included. A test proves that each list has all that the package
#: imports, so that editing what is above it (the facade, the commands) keeps its machine code.
SOURCES: dict[str, tuple[str, ...]] = {
    "nbkv.kernels": (
        "_addresses.py",
        "_buckets.py",
        "_demand.py",
        "_intrinsics.py",
        "_jit.py",
        "_libraries.py",
        "_twins.py",
        "kernels",
        "layout.py",
        "statuses.py",
        "step_layout.py",
        "violations.py",
    ),
}
DIGEST_DIGITS = 16
_REMEDY = (
    "set NBKV_CACHE_DIR to a writable folder, or run 'nbkv warmup --into DIR' when the"
    " image is built and set NBKV_CACHE_DIR=DIR"
)


def digest_sources(package: str = "") -> str:
    """Name the sources of kernels and the flags that change the code made from them.

    Parameters
    ----------
    package : str, optional
        A key of `SOURCES`. Default: all of nbkv's sources.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{nb.__version__} {nb.config.BOUNDSCHECK} {package}".encode())
    home = Path(__file__).parent
    for name in SOURCES.get(package, (".",)):
        source = home / name
        _add_files(digest, home, source.rglob("*.py") if source.is_dir() else [source])
    return digest.hexdigest()[:DIGEST_DIGITS]


def add_package(digest: "hashlib._Hash", package: Path) -> None:
    """Take the names and texts of all of a package's sources into a digest."""
    _add_files(digest, package, package.rglob("*.py"))


def _add_files(digest: "hashlib._Hash", home: Path, files: Iterable[Path]) -> None:
    for file in sorted(files):
        digest.update(file.relative_to(home).as_posix().encode())
        digest.update(file.read_bytes())


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def cache_root() -> Path:
    """Return the folder that machine code is kept under: ``NBKV_CACHE_DIR`` or the user's cache."""
    chosen = os.environ.get("NBKV_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "nbkv"


def find_cache_dir(digest: str) -> Path | None:
    """Find the folder for machine code made from sources with this digest.

    Returns
    -------
    Path or None
        None, with a warning, where nothing can be kept.
    """
    folder = cache_root() / digest
    if _can_write(folder):
        return folder
    if folder.is_dir():
        return _copy_cache(folder)
    _warn_of(cache_root())
    return None


@cache
def _warn_of(folder: Path) -> None:
    """Warn once, however many folders would lie below this one."""
    warnings.warn(
        f"nbkv cannot keep compiled code in {folder}, so every process compiles anew: {_REMEDY}",
        RuntimeWarning,
        stacklevel=3,
    )


def _copy_cache(folder: Path) -> Path | None:
    """Copy a baked image's cache: numba refuses a folder it cannot write to, even to read."""
    try:
        copy = Path(tempfile.mkdtemp(prefix="nbkv-"))
    except OSError:
        return None
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    for path in (copy, *copy.rglob("*")):
        if path.is_dir():
            path.chmod(0o700)
    return copy


#: NUMBA_DISABLE_JIT=1: kernels run as the Python they are written in.
INTERPRETED = bool(nb.config.DISABLE_JIT)
#: The engine's machine code.
CACHE_DIR = None if INTERPRETED else find_cache_dir(digest_sources("nbkv.kernels"))


def folder_of(module: str) -> Path | None:
    """Find the folder for machine code of a module of nbkv's.

    Parameters
    ----------
    module : str
        Its full name.
    """
    package = ".".join(module.split(".")[:2])
    return _folder_of_package(package if package in SOURCES else "")


@cache
def _folder_of_package(package: str) -> Path | None:
    return CACHE_DIR if package == "nbkv.kernels" else find_cache_dir(digest_sources(package))


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
        `CalleeLibrary`: called by kernels. `KernelLibrary`: called from Python.
    releases_gil : bool
        Other Python threads run while it does.
    """
    part, called = kind is PartLibrary, kind is not KernelLibrary
    outer = nb.config.CACHE_DIR
    nb.config.CACHE_DIR = str(folder or "")
    try:
        options: dict[str, Any] = {"no_cpython_wrapper": called, "no_cfunc_wrapper": True}
        options["nogil"] = releases_gil
        compiler = compiler_into(kind)
        compiled: F = nb.njit(forceinline=part, pipeline_class=compiler, **options)(function)
        if folder is not None and not part:
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
        compiled = function
        if not INTERPRETED:
            compiled = compile_into(folder_of(function.__module__), function, KernelLibrary)
        ENTRIES.append((compiled, signature))
        return compiled

    return decorate


@cache
def make_ready(function: Callable[..., Any]) -> None:
    """Compile one entry kernel, or load it from disk, unless it is ready.

    From then on its module's name for it is the machine code itself. numba's dispatch looks
    at every argument to choose among signatures, of which there is one: 70 to 110 ns a call.
    The machine code takes it on trust that an array has the signature's dtype and
    dimensions; the facade checks that.

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
