"""nbkv as the block manager of transformers' continuous batching: in and out again."""

import contextlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from transformers.generation.continuous_batching import cache, input_outputs, scheduler

from nbkv.cache import PagedKVCache
from nbkv.integrations.transformers.batching_allocator import (
    FULL_ATTENTION,
    BlockAllocator,
    BlockPool,
)
from nbkv.integrations.transformers.batching_requests import RequestBlocks
from nbkv.integrations.transformers.batching_scheduler import (
    BlockFIFOScheduler,
    BlockPrefillFirstScheduler,
)
from nbkv.integrations.transformers.batching_tensors import preparing


@dataclass(frozen=True, slots=True)
class BatchingStats:
    """What nbkv has done for a model's continuous batching.

    Attributes
    ----------
    prompt_tokens : int
        Of requests begun, those begun again after a preemption included.
    hit_tokens : int
        Of which this many were cached, and not computed again.
    evictions : int
        Cached blocks given up for others.
    preemptions : int
        Requests whose blocks were taken back.
    total_blocks, free_blocks, evictable_blocks, held_blocks : int
        Blocks that requests can have: all; those without content; those that are cached and
        held by nobody; and the others.
    """

    prompt_tokens: int
    hit_tokens: int
    evictions: int
    preemptions: int
    total_blocks: int
    free_blocks: int
    evictable_blocks: int
    held_blocks: int


class Batching:
    """Continuous batching on nbkv: what can be seen of it from outside."""

    def __init__(self) -> None:
        self._latest: RequestBlocks | None = None

    def observe(self, requests: RequestBlocks) -> None:
        """Take the blocks of the model that has begun to batch last."""
        self._latest = requests

    @property
    def cache(self) -> PagedKVCache | None:
        """The cache of the model that has begun to batch last; None before the first."""
        return None if self._latest is None else self._latest.cache

    @property
    def stats(self) -> BatchingStats | None:
        """What `cache` has done so far."""
        if self._latest is None:
            return None
        blocks = self._latest.cache
        return BatchingStats(
            prompt_tokens=self._latest.num_prompt_tokens,
            hit_tokens=self._latest.num_hit_tokens,
            evictions=blocks.stats.evictions,
            preemptions=self._latest.num_preemptions,
            total_blocks=self._latest.num_blocks,
            free_blocks=blocks.num_free_blocks,
            evictable_blocks=blocks.num_cached_blocks,
            held_blocks=blocks.num_held_blocks - self._latest.num_reserved_blocks,
        )


class _Patch:
    """One thing of transformers' that is replaced: an attribute, or an entry of a mapping."""

    def __init__(self, owner: Any, name: str, ours: Any) -> None:
        self._owner, self._name, self._ours = owner, name, ours
        self._theirs = self._read()

    def _read(self) -> Any:
        if isinstance(self._owner, MutableMapping):
            return self._owner[self._name]
        return vars(self._owner)[self._name]

    def _write(self, value: Any) -> None:
        if isinstance(self._owner, MutableMapping):
            self._owner[self._name] = value
        else:
            setattr(self._owner, self._name, value)

    def apply(self) -> None:
        self._write(self._ours)

    def check(self) -> None:
        """Refuse to restore what somebody else has replaced since."""
        if self._read() is not self._ours:
            owner = getattr(self._owner, "__name__", "a mapping of continuous batching")
            raise RuntimeError(
                f"{self._name} of {owner} was replaced after nbkv.integrations.transformers"
                " was installed; undo that first"
            )

    def restore(self) -> None:
        self._write(self._theirs)


def _patches() -> list[_Patch]:
    """Return all that is replaced; there is nothing else."""
    batches = input_outputs.ContinuousBatchingIOs
    prepare = preparing(batches.prepare_batch_tensors)
    return [
        _Patch(cache.ATTN_TYPE_TO_ALLOCATOR, FULL_ATTENTION, BlockAllocator),
        _Patch(cache, "CachePool", BlockPool),
        _Patch(scheduler.SCHEDULER_MAPPING, "fifo", BlockFIFOScheduler),
        _Patch(scheduler.SCHEDULER_MAPPING, "prefill_first", BlockPrefillFirstScheduler),
        _Patch(batches, "prepare_batch_tensors", prepare),
    ]


_BATCHING: Final = Batching()
_applied: list[_Patch] = []


def install() -> Batching:
    """Let nbkv manage the blocks of every model that begins to batch from now on.

    ``model.generate_batch`` and ``model.init_continuous_batching`` are used as before. Once
    installed, calling it again changes nothing.

    Returns
    -------
    Batching
        What nbkv does meanwhile; the same object each time.

    Examples
    --------
    >>> batching = install()  # doctest: +SKIP
    >>> outputs = model.generate_batch(prompts)  # doctest: +SKIP
    >>> batching.stats.hit_tokens  # doctest: +SKIP
    1536
    """
    if not _applied:
        _applied.extend(_patches())
        for patch in _applied:
            patch.apply()
        BlockAllocator.observers.append(_BATCHING.observe)
    return _BATCHING


def uninstall() -> None:
    """Restore transformers exactly; when nbkv is not installed, change nothing.

    A model that batches already goes on with nbkv's blocks until its manager stops, without
    finding any prefix.

    Raises
    ------
    RuntimeError
        What `install` replaced was replaced again since; nothing is restored then.
    """
    for patch in _applied:
        patch.check()
    for patch in _applied:
        patch.restore()
    if _applied:
        BlockAllocator.observers.remove(_BATCHING.observe)
    _applied.clear()


@contextlib.contextmanager
def installed() -> Iterator[Batching]:
    """Have nbkv installed in a ``with`` block, and afterwards as it was before.

    Yields
    ------
    Batching
    """
    was_installed = bool(_applied)
    try:
        yield install()
    finally:
        if not was_installed:
            uninstall()
