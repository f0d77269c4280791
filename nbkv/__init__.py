"""A paged KV-cache engine for transformer inference: flat records, njit kernels, no torch."""

import importlib
from typing import Any

from nbkv import page_tables
from nbkv._admission import PrefixMatch
from nbkv._user_kernels import kernel
from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig, EvictionPolicy
from nbkv.errors import (
    ArgumentError,
    BlockError,
    CapacityError,
    ConfigError,
    DuplicateSequenceError,
    KVCacheError,
    LeaseError,
    OutOfBlocksError,
    PrefixError,
    StaleHandleError,
    StepError,
    UnknownSequenceError,
)
from nbkv.hashing import Salt, hash_tokens
from nbkv.layout import NO_BLOCK
from nbkv.plan import StepBuffers, StepPlan
from nbkv.pools import HostPool
from nbkv.stats import CacheStats

__version__ = "0.1.0"

__all__ = [
    "NO_BLOCK",
    "ArgumentError",
    "BlockError",
    "CacheConfig",
    "CacheStats",
    "CapacityError",
    "ConfigError",
    "DuplicateSequenceError",
    "EvictionPolicy",
    "HostPool",
    "KVCacheError",
    "LeaseError",
    "OutOfBlocksError",
    "PagedKVCache",
    "PrefixError",
    "PrefixMatch",
    "Salt",
    "StaleHandleError",
    "StepBuffers",
    "StepError",
    "StepPlan",
    "UnknownSequenceError",
    "hash_tokens",
    "kernel",
    "page_tables",
]

#: Loaded when first asked for: they bring in what most programs do not need.
_LAZY_MODULES = ("attention", "testing")


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load `CudaPool` or one of the lazy modules."""
    if name == "CudaPool":
        return importlib.import_module("nbkv.pools").CudaPool
    if name in _LAZY_MODULES:
        return importlib.import_module(f"nbkv.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
