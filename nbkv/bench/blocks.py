"""Allocating, freeing and evicting blocks."""

import time

import numpy as np

from nbkv.arena import section_sizes
from nbkv.bench.timing import best_of, seconds_of
from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig, EvictionPolicy

BLOCK_SIZE = 16
PROMPT_TOKENS = 2_048
PROMPT_BLOCKS = PROMPT_TOKENS // BLOCK_SIZE
LONG_BLOCKS = 6_250
NUM_PROMPTS = 64
CHAIN = 16  # blocks of a cached prefix
TAKEN_AT_ONCE = 1_024
LARGE = 2**20


def small_config(num_blocks: int, **fields: object) -> CacheConfig:
    """Make a configuration whose K/V shape plays no part."""
    values = {"num_layers": 1, "num_kv_heads": 1, "head_dim": 1, **fields}
    return CacheConfig(BLOCK_SIZE, num_blocks, **values)  # type: ignore[arg-type]


def prompt_nanoseconds(rounds: int) -> tuple[float, float]:
    """Time `allocate_blocks_for_tokens` of 128 blocks and `free_sequence` of them, a block each."""
    cache = PagedKVCache(small_config(2 * NUM_PROMPTS * PROMPT_BLOCKS))
    allocate, free, clock = cache.allocate_blocks_for_tokens, cache.free_sequence, time.perf_counter
    best_allocate = best_free = float("inf")
    for _ in range(rounds):
        began = clock()
        for seq_id in range(NUM_PROMPTS):
            allocate(seq_id, PROMPT_TOKENS)
        allocated = clock()
        for seq_id in range(NUM_PROMPTS):
            free(seq_id)
        freed = clock()
        best_allocate = min(best_allocate, allocated - began)
        best_free = min(best_free, freed - allocated)
    scale = 1e9 / (NUM_PROMPTS * PROMPT_BLOCKS)
    return best_allocate * scale, best_free * scale


def long_free_microseconds(rounds: int) -> float:
    """Time `free_sequence` of 6,250 blocks."""
    cache = PagedKVCache(small_config(2 * LONG_BLOCKS))

    def free_one() -> float:
        cache.allocate_blocks_for_tokens(1, LONG_BLOCKS * BLOCK_SIZE)
        return seconds_of(lambda: cache.free_sequence(1))

    return best_of(rounds, free_one) * 1e6


class Evicting:
    """A cache whose every block is cached.

    Parameters
    ----------
    num_blocks : int
        A multiple of `TAKEN_AT_ONCE`.
    policy : str
        An eviction policy.
    scattered : bool
        Neighbours in a chain lie far apart and chains are released in a random order, as
        after a long time of service; else as in a cache that was filled once.
    """

    def __init__(self, num_blocks: int, policy: str, scattered: bool) -> None:
        self.scattered = scattered
        self.num_chains = num_blocks // CHAIN
        self.num_blocks = num_blocks
        self.cache = PagedKVCache(
            small_config(
                num_blocks,
                eviction_policy=policy,
                max_sequences=self.num_chains,
                max_blocks_per_sequence=TAKEN_AT_ONCE,
            )
        )
        self.rng = np.random.default_rng(1)
        self.next_hash = 1
        if scattered:
            self._scatter_free_blocks()
        self.fill()

    def _scatter_free_blocks(self) -> None:
        """Give neighbours in the free list ids far apart: one block a sequence at a time."""
        handles = [self.cache.add_sequence(chain) for chain in range(self.num_chains)]
        order = np.array(handles, np.int64)
        for _ in range(CHAIN):
            self.rng.shuffle(order)
            self.cache.append_tokens(order, BLOCK_SIZE)
        for chain in self.rng.permutation(self.num_chains).tolist():
            self.cache.free_sequence(chain)

    def fill(self) -> None:
        """Put fresh chains into all free blocks and release them."""
        cache = self.cache
        num_chains = cache.num_free_blocks // CHAIN
        hashes = np.arange(self.next_hash, self.next_hash + num_chains * CHAIN, dtype=np.uint64)
        self.next_hash += len(hashes)
        for chain, row in enumerate(hashes.reshape(num_chains, CHAIN)):
            cache.add_sequence(chain, row)
        order = self.rng.permutation(num_chains) if self.scattered else np.arange(num_chains)
        for chain in order.tolist():
            cache.free_sequence(chain)

    def take(self, num_takes: int) -> float:
        """Evict and allocate `TAKEN_AT_ONCE` blocks ``num_takes`` times; nanoseconds a block."""
        allocate, first = self.cache.allocate_blocks_for_tokens, self.num_chains
        began = time.perf_counter()
        for seq_id in range(first, first + num_takes):
            allocate(seq_id, TAKEN_AT_ONCE * BLOCK_SIZE)
        seconds = time.perf_counter() - began
        for seq_id in range(first, first + num_takes):
            self.cache.free_sequence(seq_id)
        return seconds / (num_takes * TAKEN_AT_ONCE) * 1e9

    def nanoseconds_a_block(self, rounds: int) -> float:
        """Evict and allocate a part of the cache at a time, refilled each time; best round."""
        num_takes = max(1, min(64, self.num_blocks // TAKEN_AT_ONCE // 2))
        best = float("inf")
        for _ in range(rounds):
            best = min(best, self.take(num_takes))
            self.fill()
        return best


def creation_seconds(rounds: int) -> float:
    """Time the creation of a cache of 1,048,576 blocks."""
    config = small_config(LARGE)
    return best_of(rounds, lambda: seconds_of(lambda: PagedKVCache(config)))


def metadata_bytes_a_block() -> float:
    """Compute what one more block costs, by the policy that costs most.

    The difference between two sizes leaves out what grows with the sequences.
    """

    def total(num_blocks: int, policy: EvictionPolicy) -> int:
        config = small_config(num_blocks, eviction_policy=policy, max_blocks_per_sequence=1_024)
        return sum(section_sizes(config).values())

    return max((total(2 * LARGE, p) - total(LARGE, p)) / LARGE for p in EvictionPolicy)
