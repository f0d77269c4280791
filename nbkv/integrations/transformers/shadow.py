"""nbkv in the shadow of transformers' continuous batching: its own allocator, watched."""

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from nbkv.shadow import Shadow, ShadowError

_log = logging.getLogger(__name__)
_SEAM = "transformers.generation.continuous_batching.cache"
_FULL_ATTENTION = "full_attention"


class Watch:
    """What is known of the allocators made while it was installed.

    Attributes
    ----------
    shadows : list of Shadow
        One for each model that has begun to batch, the latest last.
    """

    def __init__(self) -> None:
        self.shadows: list[Shadow] = []

    def check(self) -> None:
        """Raise the first difference, if there is one.

        A difference is not raised where it arises: that is a thread of transformers'.

        Raises
        ------
        ShadowError
        """
        for shadow in self.shadows:
            if shadow.difference is not None:
                raise ShadowError(shadow.difference)


class _Watched:
    """Goes in front of transformers' allocator for full attention."""

    _watch: Watch
    _shadow: Shadow
    _prompt: Sequence[int] = ()
    #: Requests that this step has room for already: a batch asks once for each.
    _served: set[str]
    # Of transformers' class.
    index: int
    num_blocks: int
    tokens_per_page: int
    blocks_per_sector: int
    block_table: dict[str, list[int]]
    ledger: Any
    pool: Any

    def _after_cache_tensor_init(self, *arguments: Any) -> None:
        super()._after_cache_tensor_init(*arguments)  # type: ignore[misc]
        self._shadow = Shadow(self.num_blocks, self.tokens_per_page)
        self._watch.shadows.append(self._shadow)
        self._served = set()
        for name in ("evict_cached_blocks", "reset"):
            wrapped = partial(self._evicting, getattr(self.ledger, name))
            setattr(self.ledger, name, wrapped)

    def _evicting(self, call: Callable[[], Any]) -> Any:
        blocks = list(self.ledger.block_to_hash)
        answer = call()
        self._shadow.evicted(block for block in blocks if block not in self.ledger.block_to_hash)
        return answer

    def _compare(self, compare: Callable[..., None], call: str, *arguments: Any) -> None:
        """Compare, then free blocks too; note what differs."""
        cached, sectors = len(self.ledger.cached_blocks), self.pool.num_free_sectors
        num_free = self.pool.count_free_blocks(self.index) + sectors * self.blocks_per_sector
        try:
            compare(call, *arguments)
            self._shadow.check_free(call, num_free + cached)
        except ShadowError as error:
            _log.exception("transformers and nbkv part: %s", error)

    def match_prefix_blocks(self, prompt_ids: Sequence[int]) -> Any:
        """Pass on; the prompt is compared once its hits are taken."""
        self._prompt = prompt_ids
        return super().match_prefix_blocks(prompt_ids)  # type: ignore[misc]

    def acquire_prefix_blocks(self, request_id: str, *arguments: Any) -> None:
        """Pass on, and compare the hits."""
        super().acquire_prefix_blocks(request_id, *arguments)  # type: ignore[misc]
        table, call = list(self.block_table[request_id]), "acquire_prefix_blocks"
        self._compare(self._shadow.opened, call, request_id, table, self._prompt, len(table))

    def allocate_cache_to_request(self, request_id: str, *lengths: int) -> None:
        """Pass on, and compare the table."""
        if request_id in self._served:
            self._served.clear()
            self._shadow.next_step()
        self._served.add(request_id)
        is_new = request_id not in self.block_table
        super().allocate_cache_to_request(request_id, *lengths)  # type: ignore[misc]
        table, call = list(self.block_table[request_id]), "allocate_cache_to_request"
        if is_new:
            self._compare(self._shadow.opened, call, request_id, table, ())
        else:
            self._compare(self._shadow.grown, call, request_id, table)

    def fork_blocks(self, source: str, dest: str, past_length: int) -> Any:
        """Pass on, and compare the new table."""
        num_shared = self.count_shareable_blocks(source, past_length)  # type: ignore[attr-defined]
        copies = super().fork_blocks(source, dest, past_length)  # type: ignore[misc]
        table = list(self.block_table[dest])
        self._compare(self._shadow.forked, "fork_blocks", dest, table, source, num_shared)
        return copies

    def mark_complete_blocks(self, request_id: str, token_ids: Sequence[int], num_new: int) -> None:
        """Pass on, and compare the table, in which equal blocks may have taken others' place."""
        super().mark_complete_blocks(request_id, token_ids, num_new)  # type: ignore[misc]
        table, num_full = list(self.block_table[request_id]), 0
        while num_full < len(table) and table[num_full] in self.ledger.block_to_hash:
            num_full += 1
        call, filled = "mark_complete_blocks", self._shadow.filled
        self._compare(filled, call, request_id, table, token_ids, num_full)

    def free_blocks(self, request_id: str, no_cache: bool = False) -> None:
        """Pass on, and compare the table as it was."""
        table = self.block_table.get(request_id)
        super().free_blocks(request_id, no_cache)  # type: ignore[misc]
        if table is not None:
            self._compare(self._shadow.closed, "free_blocks", request_id, table)
            if no_cache:
                self._shadow.evicted(table)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch each model that begins to batch inside of a ``with`` block.

    Yields
    ------
    Watch
    """
    allocators: Any = importlib.import_module(_SEAM).ATTN_TYPE_TO_ALLOCATOR
    theirs, watch = allocators[_FULL_ATTENTION], Watch()
    allocators[_FULL_ATTENTION] = type("WatchedAllocator", (_Watched, theirs), {"_watch": watch})
    try:
        yield watch
    finally:
        allocators[_FULL_ATTENTION] = theirs
