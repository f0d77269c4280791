"""Where vLLM looks its block pool up, and the version of which that is known."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbkv.integrations.vllm.pool import BlockPool

#: vLLM's version that this was tested with, but for its last number.
TESTED = "0.32"

_SEAM = "vllm.v1.core.kv_cache_coordinator"
_theirs: Any = None


def _coordinator() -> Any:
    """Import vLLM's module that makes the pool, of the version tested."""
    try:
        vllm = importlib.import_module("vllm")
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ImportError(
            f"nbkv.integrations.vllm needs vLLM {TESTED}, which is not installed:"
            f" pip install 'vllm=={TESTED}.0'"
        ) from error
    found = getattr(vllm, "__version__", "of no version")
    if found.split(".")[:2] != TESTED.split("."):
        raise ImportError(f"nbkv.integrations.vllm needs vLLM {TESTED}, found {found}")
    return importlib.import_module(_SEAM)


def install() -> None:
    """Let vLLM make its block pools of nbkv from now on; those it has stay as they are.

    Raises
    ------
    ImportError
        vLLM is missing, or of another version than 0.32.
    """
    global _theirs
    coordinator = _coordinator()
    if coordinator.BlockPool is not BlockPool:
        _theirs = coordinator.BlockPool
        coordinator.BlockPool = BlockPool


def uninstall() -> None:
    """Let vLLM make block pools of its own again; when nbkv is not installed, change nothing.

    Raises
    ------
    RuntimeError
        What `install` replaced was replaced again since; nothing is restored then.
    """
    global _theirs
    if _theirs is None:
        return
    coordinator = _coordinator()
    if coordinator.BlockPool is not BlockPool:
        raise RuntimeError(
            f"BlockPool of {_SEAM} was replaced after nbkv.integrations.vllm was installed;"
            " undo that first"
        )
    coordinator.BlockPool, _theirs = _theirs, None


@contextmanager
def installed() -> Iterator[None]:
    """Install for the time of a ``with`` block.

    Raises
    ------
    ImportError
        As `install`.
    """
    was_installed = _theirs is not None
    install()
    try:
        yield
    finally:
        if not was_installed:
            uninstall()
