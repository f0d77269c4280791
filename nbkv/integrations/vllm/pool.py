"""`BlockPool`: vLLM's pool of blocks, kept in an arena of nbkv."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from nbkv._keyed_blocks import KeyedBlocks
from nbkv.errors import ArgumentError
from nbkv.integrations.vllm.blocks import Block, FreeBlockQueue
from nbkv.integrations.vllm.caching import CachingCalls
from nbkv.integrations.vllm.events import EventQueue

_log = logging.getLogger(__name__)
#: `vllm.distributed.kv_events.MEDIUM_GPU`.
_MEDIUM = "GPU"


class BlockPool(CachingCalls):
    """Hands blocks out, finds them by vLLM's hashes, and takes them back.

    A stand-in for `vllm.v1.core.block_pool.BlockPool` of vLLM 0.32, whose parameters it takes;
    it imports vLLM only for events and for groups whose blocks are longer than the hashes'.

    Parameters
    ----------
    num_gpu_blocks : int
        Block 0 is the null block.
    enable_caching : bool
    hash_block_size : int
        Tokens a hash.
    enable_kv_cache_events : bool
    metrics_collector : vllm.v1.core.kv_cache_metrics.KVCacheMetricsCollector, optional
    medium : str
        Named in events.

    Notes
    -----
    What vLLM does in silence is an error here: to free a block that nobody holds, to touch
    one whose content is gone, or to name a block that there is not.
    """

    def __init__(
        self,
        num_gpu_blocks: int,
        enable_caching: bool,
        hash_block_size: int,
        enable_kv_cache_events: bool = False,
        metrics_collector: Any = None,
        medium: str = _MEDIUM,
    ) -> None:
        self.num_gpu_blocks = num_gpu_blocks
        self.enable_caching = enable_caching
        self.hash_block_size = hash_block_size
        self.enable_kv_cache_events = enable_kv_cache_events
        self.metrics_collector = metrics_collector
        self.medium = medium
        self.num_hashed_tokens = [0] * num_gpu_blocks
        self._blocks = KeyedBlocks(num_gpu_blocks, hash_block_size)
        self._events = EventQueue(medium) if enable_kv_cache_events else None
        self.blocks = [Block(i, self, self._blocks) for i in range(num_gpu_blocks)]
        self.free_block_queue = FreeBlockQueue(self.blocks, self._blocks)
        self.null_block = self.blocks[self._blocks.take(1)[0][0]]

    def get_new_blocks(self, num_blocks: int) -> list[Block]:
        """Hand blocks out, evicting where those that cannot be found do not suffice.

        Parameters
        ----------
        num_blocks : int

        Returns
        -------
        list of Block

        Raises
        ------
        OutOfBlocksError
        """
        ids, evicted = self._blocks.take(num_blocks)
        objects = self.blocks
        new = [objects[block_id] for block_id in ids]
        if self._events is not None:
            for _, key in evicted:
                self._events.removed(key)
        if self.metrics_collector:
            for block in new:
                self.metrics_collector.on_block_evicted(block)
                self.metrics_collector.on_block_allocated(block)
        return new

    def touch(self, blocks: Iterable[Block]) -> None:
        """Hold blocks once more, so that nobody evicts them.

        Parameters
        ----------
        blocks : iterable of Block
            Held by someone, or findable; null blocks are passed over.

        Raises
        ------
        BlockError
        """
        held = [block for block in blocks if not block.is_null]
        if held:
            self._blocks.hold([block.block_id for block in held])
        if self.metrics_collector:
            for block in held:
                self.metrics_collector.on_block_accessed(block)

    def free_blocks(self, ordered_blocks: Iterable[Block]) -> None:
        """Give back one hold of each block, all or nothing.

        Parameters
        ----------
        ordered_blocks : iterable of Block
            The first is evicted first; vLLM lists a request's blocks from its last. What
            cannot be found is handed out before all that can.

        Raises
        ------
        BlockError
            A block has fewer holds than times it stands here: it was freed before.
        """
        own: list[int] = []
        others: dict[Any, list[Block]] = {}
        for block in ordered_blocks:
            if block.pool is not self:
                others.setdefault(block.pool, []).append(block)
            elif not block.is_null:
                own.append(block.block_id)
        if own:
            self._blocks.let_go(own)
        for pool, blocks in others.items():
            pool.free_blocks(blocks)

    def evict_blocks(self, block_ids: Iterable[int]) -> None:
        """Let blocks be found no more, whoever holds them.

        Parameters
        ----------
        block_ids : iterable of int

        Raises
        ------
        ArgumentError
            There is no such block.
        """
        ids = list(block_ids)
        for block_id in ids:
            if not 0 <= block_id < self.num_gpu_blocks:
                raise ArgumentError(
                    f"block_ids has {block_id}; allowed: 0 to {self.num_gpu_blocks - 1}"
                )
        for block_id in ids:
            key = self._blocks.forget(block_id)
            if key is not None and self._events is not None:
                self._events.removed(key)
            if self.metrics_collector:
                self.metrics_collector.on_block_evicted(self.blocks[block_id])

    def reset_prefix_cache(self) -> bool:
        """Let no block be found any more, if none is held.

        Returns
        -------
        bool
            Whether it was done.
        """
        num_held = self.num_gpu_blocks - self.get_num_free_blocks() - 1
        if num_held:
            _log.warning("prefix cache not reset: %d blocks are not freed yet", num_held)
            return False
        self._blocks.reset()
        if self.metrics_collector:
            self.metrics_collector.reset()
        if self._events is not None:
            self._events.cleared()
        return True

    def is_block_writable(self, block: Block) -> bool:
        """Tell whether a block's one holder may write to it.

        Parameters
        ----------
        block : Block

        Returns
        -------
        bool
        """
        return not block.is_null and block.ref_cnt == 1 and block.block_hash is None

    def get_num_free_blocks(self) -> int:
        """Count the blocks that nobody holds.

        Returns
        -------
        int
        """
        return self._blocks.num_free

    def get_usage(self) -> float:
        """Tell which part of the blocks is held, the null block aside.

        Returns
        -------
        float
            0 to 1.
        """
        total = self.num_gpu_blocks - 1
        return 1.0 - self.get_num_free_blocks() / total if total else 0.0

    def take_events(self) -> list[Any]:
        """Hand over the events since the last time.

        Returns
        -------
        list of vllm.distributed.kv_events.KVCacheEvent
        """
        return [] if self._events is None else self._events.take()

    def cache_partial_block(self, *_: Any, **__: Any) -> None:
        """Refuse: entries inside a block are for hybrid models."""
        raise _unsupported("cache_partial_block")

    def move_block_hashes(self, src_block: Block, dst_block: Block) -> None:
        """Refuse: copies of running states are for hybrid models."""
        raise _unsupported("move_block_hashes")

    def unpin_blocks(self, blocks: Iterable[Block], on_reuse: Callable[[Block], None]) -> None:
        """Refuse: blocks that are read after they were freed are for HiSparse."""
        raise _unsupported("unpin_blocks")


def _unsupported(call: str) -> NotImplementedError:
    return NotImplementedError(f"nbkv's BlockPool has no {call}: hybrid models keep vLLM's own")
