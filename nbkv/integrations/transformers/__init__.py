"""nbkv inside Hugging Face transformers: continuous batching, and a cache for `generate`.

Importing it needs transformers 5.23, torch and psutil: ``pip install 'nbkv[transformers]'``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nbkv.integrations.transformers.versions import check_versions

if TYPE_CHECKING:
    from nbkv.integrations.transformers.batching import (
        Batching,
        BatchingStats,
        install,
        installed,
        uninstall,
    )
    from nbkv.integrations.transformers.paged_cache import PagedCache
    from nbkv.integrations.transformers.reuse import Admitted
    from nbkv.integrations.transformers.shapes import model_shape

__all__ = [
    "Admitted",
    "Batching",
    "BatchingStats",
    "PagedCache",
    "install",
    "installed",
    "model_shape",
    "uninstall",
]

#: Modules that names come from, imported when the first of them is asked for.
_HOMES = dict.fromkeys(__all__, "batching") | {
    "Admitted": "reuse",
    "PagedCache": "paged_cache",
    "model_shape": "shapes",
}

check_versions()


def __getattr__(name: str) -> Any:
    """Import what a name stands for: transformers takes seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
