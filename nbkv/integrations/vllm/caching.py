"""The part of the pool that makes blocks findable and finds them."""

from collections.abc import Sequence
from typing import Any

from nbkv._keyed_blocks import KeyedBlocks
from nbkv.errors import BlockError
from nbkv.integrations.vllm.blocks import Block
from nbkv.integrations.vllm.events import EventQueue, hashes_by_block
from nbkv.layout import NO_BLOCK

_GROUP_BYTES = 4
_NOTHING_FOUND = -1


class CachingCalls:
    """Blocks by the hashes of requests, those of each group by themselves."""

    hash_block_size: int
    blocks: list[Block]
    num_hashed_tokens: list[int]
    _blocks: KeyedBlocks
    _events: EventQueue | None

    def get_cached_block(
        self, block_hash: bytes, kv_cache_group_ids: Sequence[int]
    ) -> list[Block] | None:
        """Find the block with a hash in each of some groups.

        Parameters
        ----------
        block_hash : bytes
        kv_cache_group_ids : sequence of int

        Returns
        -------
        list of Block or None
            One a group; None if a group has none.
        """
        found = []
        for group in kv_cache_group_ids:
            block_id = self._blocks.find_one(block_hash + group.to_bytes(_GROUP_BYTES, "big"))
            if block_id == _NOTHING_FOUND:
                return None
            found.append(self.blocks[block_id])
        return found

    def cache_full_blocks(
        self,
        request: Any,
        blocks: Sequence[Block],
        num_cached_blocks: int,
        num_full_blocks: int,
        block_size: int,
        kv_cache_group_id: int,
        block_mask: Sequence[bool] | None = None,
    ) -> None:
        """Make blocks of a request findable under the request's hashes.

        Parameters
        ----------
        request : vllm.v1.request.Request
        blocks : sequence of Block
            All of the request.
        num_cached_blocks, num_full_blocks : int
            The first block to cache, and the first not to.
        block_size : int
        kv_cache_group_id : int
        block_mask : sequence of bool, optional
            Which of them to cache; null blocks never are.

        Raises
        ------
        BlockError
            A block can be found already, or nobody holds it.
        """
        if num_cached_blocks >= num_full_blocks:
            return
        hashes = hashes_by_block(request.block_hashes, self.hash_block_size, block_size)
        suffix = kv_cache_group_id.to_bytes(_GROUP_BYTES, "big")
        ids, keys, skipped = [], [], set()
        for i in range(num_cached_blocks, num_full_blocks):
            block = blocks[i]
            if block.is_null or (block_mask is not None and not block_mask[i - num_cached_blocks]):
                skipped.add(i)
                continue
            if block.block_hash is not None:
                raise BlockError(f"block {block.block_id} is cached already: {block!r}")
            ids.append(block.block_id)
            keys.append(hashes[i] + suffix)
        before = blocks[num_cached_blocks - 1].block_id if num_cached_blocks else NO_BLOCK
        self._blocks.publish(ids, keys, before)
        cached = (i for i in range(num_cached_blocks, num_full_blocks) if i not in skipped)
        for i, block_id in zip(cached, ids, strict=True):
            self.num_hashed_tokens[block_id] = (i + 1) * block_size
        if self._events is not None:
            span = num_cached_blocks, num_full_blocks
            self._events.stored(
                request, span, kv_cache_group_id,
                hashes=hashes, block_size=block_size, skipped=skipped,
            )  # fmt: skip

    def emit_cached_block_events(
        self,
        request: Any,
        num_cached_blocks: int,
        block_size: int,
        kv_cache_group_id: int,
    ) -> None:
        """Note in the events that a request has hit its first blocks.

        Parameters
        ----------
        request : vllm.v1.request.Request
        num_cached_blocks, block_size, kv_cache_group_id : int
        """
        if self._events is not None and num_cached_blocks:
            hashes = hashes_by_block(request.block_hashes, self.hash_block_size, block_size)
            self._events.stored(
                request, (0, num_cached_blocks), kv_cache_group_id,
                hashes=hashes, block_size=block_size, skipped=(),
            )  # fmt: skip
