"""A paged KV-cache engine for transformer inference: flat records, njit kernels, no torch."""

from nbkv import page_tables
from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig, EvictionPolicy
from nbkv.errors import (
    ArgumentError,
    CapacityError,
    ConfigError,
    DuplicateSequenceError,
    KVCacheError,
    OutOfBlocksError,
    PrefixError,
    StaleHandleError,
    UnknownSequenceError,
)
from nbkv.layout import NO_BLOCK
from nbkv.stats import CacheStats

__version__ = "0.1.0"

__all__ = [
    "NO_BLOCK",
    "ArgumentError",
    "CacheConfig",
    "CacheStats",
    "CapacityError",
    "ConfigError",
    "DuplicateSequenceError",
    "EvictionPolicy",
    "KVCacheError",
    "OutOfBlocksError",
    "PagedKVCache",
    "PrefixError",
    "StaleHandleError",
    "UnknownSequenceError",
    "page_tables",
]
