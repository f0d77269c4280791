"""What tests of single kernels need of whole steps: a prompt computed in one call."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import nbkv


def int32(*values: int) -> "np.ndarray[Any, Any]":
    return np.array(values, np.int32)


def handles(*values: int) -> "np.ndarray[Any, Any]":
    return np.array(values, np.int64)


def compute(
    cache: nbkv.PagedKVCache, seq_id: int, prompt: Sequence[int], **options: Any
) -> tuple[int, nbkv.StepPlan]:
    """Admit a prompt, plan what is not cached and commit it: its handle, and what changed."""
    handle, hits = cache.admit(seq_id, prompt, **options)
    plan = cache.plan(handles(handle), len(prompt) - hits)
    report = cache.commit(plan, tokens=int32(*prompt[hits:]))
    if cache.config.run_ahead:
        cache.complete(report.step_id)
    return handle, report


def table(cache: nbkv.PagedKVCache, seq_id: int) -> list[int]:
    """Return a live sequence's table as a list."""
    ids = cache.block_table(seq_id)
    assert ids is not None
    return list(ids.tolist())


def hit_blocks(cache: nbkv.PagedKVCache, prompt: Sequence[int], **options: Any) -> int:
    return cache.match_prefix(prompt, **options).num_hit_blocks
