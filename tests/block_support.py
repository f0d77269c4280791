"""What the tests of blocks by themselves share."""

from typing import Any

import numpy as np

import nbkv
from nbkv import NO_BLOCK

Cache = nbkv.PagedKVCache
BLOCK = 0xFFFFFFFF


def raw(*block_ids: int) -> Any:
    return np.array(block_ids, np.int32)


def keys(*hashes: int) -> Any:
    return np.array(hashes, np.uint64)


def ids_of(handles: Any) -> list[int]:
    """Return the block ids in handles, -1 where there is none."""
    return [NO_BLOCK if h < 0 else h & BLOCK for h in handles.tolist()]


def chain_parents(handles: Any) -> Any:
    return np.concatenate((np.array([NO_BLOCK]), handles[:-1]))


def indexed_chain(cache: Cache, *hashes: int) -> Any:
    """Allocate blocks and index them one under the other."""
    handles = cache.allocate(len(hashes))
    assert cache.index(handles, keys(*hashes), chain_parents(handles)).all()
    return handles


def holds(cache: Cache) -> list[int]:
    """Return the reference counts."""
    return cache.blocks["ref_count"].tolist()
