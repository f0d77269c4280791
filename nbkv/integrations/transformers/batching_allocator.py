"""nbkv as the allocator of full attention layers, and as the pool that it allocates from."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Self, cast

from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.cache_allocators import (
    CachePool,
    FullAttentionCacheAllocator,
)
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import (
    BlockLedger,
)

from nbkv.cache import PagedKVCache
from nbkv.config import BYTES_PER_ELEMENT, CacheConfig
from nbkv.integrations.transformers.batching_requests import RequestBlocks

FULL_ATTENTION: Final = "full_attention"
#: Requests with blocks at once; a table of this many rows costs memory only where it is used.
_MAX_REQUESTS: Final = 4_096
#: A batch never needs more sectors than this: what `needs_new_sectors` says when it must wait.
_TOO_MANY_SECTORS: Final = 1


class BlockPool(CachePool):  # type: ignore[misc]
    """The pool that transformers counts on: nbkv's blocks once an allocator has bound them.

    Until then, as where a model has sliding layers, it is transformers' own. Afterwards there
    are no sectors, and what can be had is what is free or evictable: nbkv evicts as it hands
    out, block by block.
    """

    requests: RequestBlocks | None = None

    def bind(self, requests: RequestBlocks) -> None:
        """Let nbkv say what is free."""
        self.requests = requests
        self.reset()

    def reset(self) -> None:
        """Give all sectors back."""
        super().reset()
        if self.requests is not None:
            self.free_sectors: list[int] = []

    def try_to_free_sectors(self) -> None:
        """Make sectors of blocks, where there are sectors."""
        if self.requests is None:
            super().try_to_free_sectors()

    def count_free_blocks(self, index: int) -> int:
        """Count the blocks that a request can have now."""
        if self.requests is None:
            return int(super().count_free_blocks(index))
        return self.requests.cache.num_usable_blocks


class PrefixLedger(BlockLedger):  # type: ignore[misc]
    """The ledger that transformers empties: nbkv's prefix cache."""

    def __init__(self, requests: RequestBlocks) -> None:
        super().__init__()
        self._requests = requests

    def reset(self) -> None:
        """Forget every prefix."""
        super().reset()
        self._requests.cache.reset_prefix_cache()

    def evict_cached_blocks(self) -> list[int]:
        """Evict nothing: cached blocks count as room already, and go one by one."""
        return []


class BlockTables(Mapping[str, list[int]]):
    """Block tables by request, read from the cache."""

    def __init__(self, requests: RequestBlocks) -> None:
        self._requests = requests

    def __getitem__(self, request_id: str) -> list[int]:
        """Return a request's blocks in logical order."""
        return self._requests.table(request_id)

    def __contains__(self, request_id: object) -> bool:
        """Tell whether a request has a table."""
        return request_id in self._requests.names()

    def __iter__(self) -> Iterator[str]:
        """Go through the requests."""
        return iter(self._requests.names())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._requests.names())


class PrefixHit(list[int]):
    """A prompt that hits, with as many entries as it hits blocks."""

    def __init__(self, prompt: list[int], num_blocks: int) -> None:
        super().__init__(range(num_blocks))
        self.prompt = prompt


class BlockAllocator(FullAttentionCacheAllocator):  # type: ignore[misc]
    """Full attention layers on nbkv's blocks, in transformers' memory.

    For a model that has other layers too, transformers' own allocator is made instead: such
    layers share one memory, sector by sector.

    Attributes
    ----------
    requests : RequestBlocks
        From when the memory is registered on.
    """

    requests: RequestBlocks
    #: Told of each new allocator's requests.
    observers: ClassVar[list[Callable[[RequestBlocks], None]]] = []

    def __new__(cls, **arguments: Any) -> Self:
        """Make an allocator, or transformers' own for a model that is not full attention only."""
        if set(group_layers_by_attn_type(arguments["config"])) == {FULL_ATTENTION}:
            return cast(Self, super().__new__(cls))
        other: Any = FullAttentionCacheAllocator(**arguments)
        return cast(Self, other)

    def register_cache_tensor(
        self,
        bytes_per_sector: int,
        non_trash_bytes: int,
        cache_tensor: Any,
        pool: BlockPool,
    ) -> None:
        """Take the memory, and number its blocks as transformers does: trash comes first."""
        super().register_cache_tensor(bytes_per_sector, non_trash_bytes, cache_tensor, pool)
        reserved = 2 * self.blocks_per_sector
        dtype = str(self.cache_dtype).removeprefix("torch.")
        config = CacheConfig(
            self.tokens_per_page,
            self.num_blocks + reserved,
            num_layers=self.pages_per_block,
            num_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            dtype=dtype if dtype in BYTES_PER_ELEMENT else "float32",
            max_sequences=min(max(self.num_blocks, 64), _MAX_REQUESTS),
            max_blocks_per_sequence=self.num_blocks,
            run_ahead=True,
        )
        self.requests = RequestBlocks(
            PagedKVCache(config), num_reserved=reserved, shares=self.use_block_sharing
        )
        self.block_table = BlockTables(self.requests)
        self.ledger = PrefixLedger(self.requests)
        pool.bind(self.requests)
        for observer in self.observers:
            observer(self.requests)

    def needs_new_sectors(self, request_id: str, past_length: int, query_length: int) -> int:
        """Return 0 if the tokens fit, more sectors than there ever are if not."""
        fits = self.requests.has_room(request_id, past_length + query_length)
        return 0 if fits else _TOO_MANY_SECTORS

    def needs_new_blocks(self, request_id: str, past_length: int, query_length: int) -> int:
        """Return how many more blocks a request needs for the tokens."""
        return self.requests.num_missing(request_id, past_length + query_length)

    def allocate_cache_to_request(
        self, request_id: str, past_length: int, query_length: int
    ) -> None:
        """Give a request the blocks that it needs for the tokens."""
        self.requests.reserve(request_id, past_length + query_length)

    def free_blocks(self, request_id: str, no_cache: bool = False) -> None:
        """End a request. `no_cache` is to make room: what stays cached counts as room here."""
        self.requests.num_preemptions += no_cache and request_id in self.requests.names()
        self.requests.finish(request_id)

    def free_all_requests(self) -> None:
        """End every request."""
        self.requests.finish_all()

    def match_prefix_blocks(self, prompt_ids: list[int]) -> list[int]:
        """Find a prompt's cached prefix, at least one token left to compute."""
        num_tokens, _ = self.requests.find_hit(prompt_ids)
        return PrefixHit(prompt_ids, num_tokens // self.tokens_per_page)

    def acquire_prefix_blocks(self, request_id: str, prefix_len: int, block_ids: PrefixHit) -> None:
        """Open a request over what `match_prefix_blocks` has found."""
        self.requests.open(request_id, block_ids.prompt, prefix_len)

    def mark_complete_blocks(
        self, request_id: str, token_ids: list[int], new_new_blocks: int
    ) -> None:
        """Do nothing: a commit publishes the blocks of a whole batch."""

    def count_shareable_blocks(self, source_request_id: str, past_length: int) -> int:
        """Count the blocks that a fork can share instead of copying."""
        return self.requests.num_shareable(source_request_id, past_length)

    def fork_blocks(
        self, source_request_id: str, dest_request_id: str, past_length: int
    ) -> tuple[list[int], list[int]]:
        """Fork a request; return which blocks the caller must copy, and where to."""
        return self.requests.fork(source_request_id, dest_request_id, past_length)


def requests_of(cache: Any) -> RequestBlocks | None:
    """Return the requests of a `PagedAttentionCache`; None where transformers keeps them."""
    allocator = cache.cache_allocators.get(FULL_ATTENTION)
    return allocator.requests if isinstance(allocator, BlockAllocator) else None
