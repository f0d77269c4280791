"""Compiling a caller's own functions that call kernels, with a disk cache that does not go stale.

Numba decides whether cached machine code is fresh from the file of the function alone. What
an embedder compiles contains nbkv's kernels, so an upgrade of nbkv, or an edit of another
file of the embedder's, would leave the old code in use.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, overload

from nbkv._jit import (
    DIGEST_DIGITS,
    INTERPRETED,
    add_package,
    compile_into,
    digest_sources,
    find_cache_dir,
)
from nbkv._libraries import KernelLibrary

F = TypeVar("F", bound=Callable[..., Any])


@cache
def _folder_for(package: str, file: str) -> Path | None:
    """Find the folder for machine code of a package's functions, or of a lone file's."""
    digest = hashlib.sha256(digest_sources().encode())
    if package:
        for folder in sys.modules[package].__path__:
            add_package(digest, Path(folder))
    elif Path(file).is_file():
        digest.update(Path(file).read_bytes())
    else:
        return None
    return find_cache_dir(digest.hexdigest()[:DIGEST_DIGITS])


@overload
def kernel(function: F) -> F: ...
@overload
def kernel() -> Callable[[F], F]: ...
def kernel(function: F | None = None) -> F | Callable[[F], F]:
    """Compile a function of your own that calls the kernels of `nbkv.embed`.

    As numba's own decorator with its cache, but the machine code on disk is used only while
    all sources are the same that it was made from: nbkv's, and all ``.py`` files of the
    top-level package that the function belongs to (of a script or a lone module, that file).
    Define the function at module level: numba keeps no code of closures.

    Parameters
    ----------
    function : callable, optional
        ``@nbkv.kernel`` and ``@nbkv.kernel()`` are the same.

    Returns
    -------
    callable
        Compiled at its first call, for the types that it is called with. With
        ``NUMBA_DISABLE_JIT=1``, the function itself.

    Examples
    --------
    >>> import nbkv
    >>> @nbkv.kernel
    ... def twice(number: int) -> int:
    ...     return 2 * number
    >>> twice(21)
    42
    """
    if function is None:
        return kernel
    if INTERPRETED:
        return function
    package = str(function.__globals__.get("__package__") or "").partition(".")[0]
    folder = _folder_for(package, function.__code__.co_filename)
    return compile_into(folder, function, KernelLibrary)
