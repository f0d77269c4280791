"""A paged KV-cache engine for transformer inference: flat records, njit kernels, no torch."""

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
    IntegrityError,
    KVCacheError,
    LeaseError,
    OutOfBlocksError,
    PrefixError,
    SnapshotError,
    StaleHandleError,
    StepError,
    UnknownSequenceError,
)
from nbkv.hashing import Salt, hash_tokens
from nbkv.layout import NO_BLOCK
from nbkv.plan import StepBuffers, StepPlan
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
    "IntegrityError",
    "KVCacheError",
    "LeaseError",
    "OutOfBlocksError",
    "PagedKVCache",
    "PrefixError",
    "PrefixMatch",
    "Salt",
    "SnapshotError",
    "StaleHandleError",
    "StepBuffers",
    "StepError",
    "StepPlan",
    "UnknownSequenceError",
    "hash_tokens",
    "kernel",
    "page_tables",
]
