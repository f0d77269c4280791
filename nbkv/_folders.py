"""Where machine code is kept: a folder for each version of what it is made from.

Numba decides whether cached machine code is fresh from the text of the file that holds
the function, so it misses edits in a callee's file and in imported constants. Kernels
therefore have a cache folder named after every source that they can be made from.
"""

import atexit
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numba as nb

#: What a package's kernels are made from, where that is not everything in nbkv: files and
#: folders, the package's own included. A test proves that each list has all that the package
#: imports, so that editing what is above it (the facade, the commands) keeps its machine code.
SOURCES: dict[str, tuple[str, ...]] = {
    "nbkv.kernels": (
        "_addresses.py",
        "_buckets.py",
        "_folders.py",
        "_intrinsics.py",
        "_jit.py",
        "_libraries.py",
        "_twins.py",
        "_unboxing.py",
        "kernels",
        "layout.py",
        "statuses.py",
        "step_layout.py",
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
    return find_cache_dir(digest_sources(package))
