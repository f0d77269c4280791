"""Auditing and copying a cache of 1,048,576 blocks."""

import tempfile
from pathlib import Path

import numpy as np

from nbkv.bench.blocks import BLOCK_SIZE, LARGE, Evicting, small_config
from nbkv.bench.timing import best_of, seconds_of
from nbkv.cache import PagedKVCache
from nbkv.plan import StepBuffers

NUM_PROMPTS = 64
MILLISECONDS = 1e3


def filled_by_tokens(num_blocks: int = LARGE) -> PagedKVCache:
    """Make a cache whose every block is cached under its tokens, as 64 long prompts left it."""
    width = num_blocks // NUM_PROMPTS
    config = small_config(num_blocks, max_sequences=256, max_blocks_per_sequence=width)
    cache = PagedKVCache(config)
    buffers = StepBuffers.for_cache(cache, width * BLOCK_SIZE)
    rng = np.random.default_rng(1)
    for seq_id in range(NUM_PROMPTS):
        tokens = rng.integers(0, 128_000, width * BLOCK_SIZE, np.int32)
        handle, _ = cache.admit(seq_id, tokens)
        cache.commit(cache.plan(np.array([handle]), len(tokens), out=buffers), tokens=tokens)
    for seq_id in range(NUM_PROMPTS):
        cache.free_sequence(seq_id)
    return cache


class Copying:
    """Audit, snapshot and restore one cache, all memory written to before.

    Parameters
    ----------
    num_blocks : int
    """

    def __init__(self, num_blocks: int = LARGE) -> None:
        self.cache = filled_by_tokens(num_blocks)
        self.taken = self.cache.snapshot()
        self.cache.check_integrity()

    def audit(self, rounds: int) -> float:
        """Time `check_integrity`, in milliseconds."""
        return MILLISECONDS * best_of(rounds, lambda: seconds_of(self.cache.check_integrity))

    def snapshot(self, rounds: int) -> float:
        """Time `snapshot` into memory in use, in milliseconds."""
        out = self.taken
        return MILLISECONDS * best_of(rounds, lambda: seconds_of(lambda: self.cache.snapshot(out)))

    def restore(self, rounds: int, check: bool) -> float:
        """Time `restore`, in milliseconds."""
        cache, taken = self.cache, self.taken
        return MILLISECONDS * best_of(
            rounds, lambda: seconds_of(lambda: cache.restore(taken, check))
        )

    def save_and_load(self) -> tuple[float, float]:
        """Time `save` and `load`, in milliseconds; the disk decides."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache.nbkv"
            saving = seconds_of(lambda: self.cache.save(path))
            return MILLISECONDS * saving, MILLISECONDS * seconds_of(lambda: PagedKVCache.load(path))

    def repair(self) -> float:
        """Time `repair` of one wrong count, in milliseconds."""
        arena = self.cache.writable_arena()
        arena[int(self.cache.header["blocks_start"][0])] ^= 1
        return MILLISECONDS * seconds_of(self.cache.repair)


def scattered_audit(rounds: int) -> float:
    """Time `check_integrity` of blocks in random order, in milliseconds."""
    cache = Evicting(LARGE, "lru", scattered=True).cache
    return MILLISECONDS * best_of(rounds, lambda: seconds_of(cache.check_integrity))
