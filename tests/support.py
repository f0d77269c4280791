"""What several test files need: the reference data, and one way to make a cache."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core.runtime import _nrt_python, rtsys

import nbkv

DATA = Path(os.environ.get("NBKV_DATA", Path(__file__).parents[1] / "../shared"))
INTERPRETED = bool(numba.config.DISABLE_JIT)


def need(*parts: str) -> Path:
    """Return the path of a reference file, or skip the test and say what is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no reference data at {path}: set NBKV_DATA to the folder that has it")
    return path


def make_cache(num_blocks: int = 8, block_size: int = 2, **options: Any) -> nbkv.PagedKVCache:
    """Make a small cache; the K/V shape does not matter unless given."""
    shape = {"num_layers": 1, "num_kv_heads": 1, "head_dim": 8} | options
    return nbkv.PagedKVCache(nbkv.CacheConfig(block_size, num_blocks, **shape))


@contextmanager
def compiled_allocations() -> Iterator[Callable[[], tuple[int, ...]]]:
    """Give a function that tells how often compiled code has allocated and freed so far."""
    _nrt_python.memsys_enable_stats()
    try:
        yield lambda: tuple(rtsys.get_allocation_stats())
    finally:
        _nrt_python.memsys_disable_stats()


def stats_list(cache: nbkv.PagedKVCache) -> list[int]:
    """Return the six counters in the order of the seed's vectors."""
    stats = cache.stats
    return [
        stats.total_allocations,
        stats.total_deallocations,
        stats.cache_hits,
        stats.cache_misses,
        stats.evictions,
        stats.cow_copies,
    ]
