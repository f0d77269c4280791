"""The events of a block pool, in vLLM's own types: imported when a pool has events."""

import importlib
from typing import Any


class EventQueue:
    """Collects what became findable and what is so no more.

    Parameters
    ----------
    medium : str
        Where the blocks lie, as the events say.
    """

    def __init__(self, medium: str) -> None:
        self._types: Any = importlib.import_module("vllm.distributed.kv_events")
        self._utils: Any = importlib.import_module("vllm.v1.core.kv_cache_utils")
        self._medium = medium
        self.queue: list[Any] = []

    def stored(self, request: Any, span: tuple[int, int], group: int, **blocks: Any) -> None:
        """Note blocks that can be found now, or are found again.

        Parameters
        ----------
        request : vllm.v1.request.Request
        span : (int, int)
            The blocks of the request that are looked at, in blocks.
        group : int
        **blocks
            ``hashes``, one for each block of the request; ``block_size``; ``skipped``, the
            positions in `span` that have no entry.
        """
        utils, size, hashes = self._utils, blocks["block_size"], blocks["hashes"]
        start, end = span
        extras, names, image = [], [], 0
        for i in range(start, end):
            if i in blocks["skipped"]:
                continue
            extra, image = utils.generate_block_hash_extra_keys(
                request, i * size, (i + 1) * size, image
            )
            extras.append(extra)
            names.append(utils.maybe_convert_block_hash(hashes[i]))
        parent = utils.maybe_convert_block_hash(hashes[start - 1]) if start else None
        lora = request.lora_request
        event = self._types.BlockStored(
            block_hashes=names,
            parent_block_hash=parent,
            token_ids=request.all_token_ids[start * size : end * size],
            block_size=size,
            lora_id=lora.adapter_id if lora else None,
            medium=self._medium,
            lora_name=lora.name if lora else None,
            extra_keys=utils.to_event_extra_keys(extras),
            group_idx=group,
            session_id=request.session_id,
        )
        self.queue.append(event)

    def removed(self, key: bytes) -> None:
        """Note a block that can be found no more.

        Parameters
        ----------
        key : bytes
            Its hash, with its group behind it.
        """
        utils = self._utils
        event = self._types.BlockRemoved(
            block_hashes=[utils.maybe_convert_block_hash(utils.get_block_hash(key))],
            medium=self._medium,
            group_idx=utils.get_group_id(key),
        )
        self.queue.append(event)

    def cleared(self) -> None:
        """Note that nothing can be found any more."""
        self.queue.append(self._types.AllBlocksCleared())

    def take(self) -> list[Any]:
        """Hand over the events and start anew.

        Returns
        -------
        list of vllm.distributed.kv_events.KVCacheEvent
        """
        taken, self.queue = self.queue, []
        return taken


def hashes_by_block(hashes: Any, hash_block_size: int, block_size: int) -> Any:
    """View a request's hashes at the block size of a group.

    Parameters
    ----------
    hashes : sequence of bytes
    hash_block_size, block_size : int
        Tokens a hash, and a block.

    Returns
    -------
    sequence of bytes
    """
    if hash_block_size == block_size:
        return hashes
    utils: Any = importlib.import_module("vllm.v1.core.kv_cache_utils")
    return utils.resolve_block_hashes(hashes, hash_block_size, block_size)
