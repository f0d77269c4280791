"""Caches with every shape of table, and page tables rendered from them in plain Python."""

import random

import numpy as np

import nbkv
from nbkv import layout

CANARY = -77


def plant_hole(cache: nbkv.PagedKVCache, seq_id: int, num_columns: int) -> None:
    """Empty a sequence's first columns, as a sliding window would; only to be read afterwards."""
    row = cache.handle(seq_id) & 0xFFFFFFFF
    start = int(cache.header["sequences_start"][0])
    rows = cache._arena[start : start + (row + 1) * layout.SEQUENCE_DTYPE.itemsize]
    rows.view(layout.SEQUENCE_DTYPE)["first_block"][row] = num_columns
    start = int(cache.header["tables_start"][0]) + 4 * row * int(cache.header["table_stride"][0])
    cache._arena[start : start + 4 * num_columns].view(np.int32)[:] = layout.NO_BLOCK


def random_cache(rng: random.Random, with_holes: bool = True) -> nbkv.PagedKVCache:
    """Make a cache of forks, cut, empty and overlong tables, some of them with holes."""
    block_size = rng.randint(1, 5)
    cache = nbkv.PagedKVCache(
        nbkv.CacheConfig(block_size, 64, rng.randint(1, 3), 1, 8, max_sequences=16)
    )
    for seq_id in range(12):
        kind = rng.randrange(5)
        if kind == 0:
            cache.add_sequence(seq_id)
        elif kind == 1 and seq_id > 0:
            cache.fork(seq_id - 1, seq_id)
        else:
            cache.allocate_blocks_for_tokens(seq_id, rng.randint(1, 4 * block_size))
            if kind == 2:
                cache.truncate(seq_id, rng.randint(0, cache.num_cached_tokens(seq_id)))
            if kind == 3:
                cache.allocate_block(seq_id)
    for seq_id in rng.sample(range(12), 3):
        cache.free_sequence(seq_id)
    for seq_id in range(12):
        if with_holes and seq_id in cache and rng.random() < 0.4:
            plant_hole(cache, seq_id, rng.randint(0, len(cache.block_table(seq_id))))
    return cache


class Rendering:
    """One batch, as lists."""

    def __init__(self, cache: nbkv.PagedKVCache, rng: random.Random, shorter: bool) -> None:
        alive = [seq_id for seq_id in range(12) if seq_id in cache]
        # A sequence may stand in a batch twice.
        self.seq_ids = [rng.choice(alive) for _ in range(rng.randint(0, 8))]
        self.block_size = cache.config.block_size
        self.lengths = [cache.num_cached_tokens(seq_id) for seq_id in self.seq_ids]
        self.full_lengths = list(self.lengths)
        if shorter:
            self.lengths = [rng.randint(0, length) for length in self.lengths]
        self.num_tokens = np.array(self.lengths, np.int32) if shorter else None
        self.whole_tables = [cache.block_table(seq_id).tolist() for seq_id in self.seq_ids]
        self.tables = [
            table[: -(-length // self.block_size)]
            for table, length in zip(self.whole_tables, self.lengths, strict=True)
        ]
        self.counts = [rng.randint(0, length) for length in self.lengths]

    def names(self, cache: nbkv.PagedKVCache, by_id: bool) -> np.ndarray:
        if by_id:
            return np.array(self.seq_ids, np.uint64)
        return np.array([cache.handle(seq_id) for seq_id in self.seq_ids], np.int64)

    def pages(self) -> list[list[int]]:
        return [[block for block in table if block != -1] for table in self.tables]

    def last_page_len(self) -> list[int]:
        size = self.block_size
        return [
            (length - 1) % size + 1 if pages else 0
            for length, pages in zip(self.lengths, self.pages(), strict=True)
        ]

    def slots(self, i: int, start: int, count: int, stride: int | None = None) -> list[int]:
        size, table = self.block_size, self.whole_tables[i]
        return [
            -1 if table[p // size] == -1 else table[p // size] * (stride or size) + p % size
            for p in range(start, start + count)
        ]

    def last_slots(self, stride: int | None = None) -> list[int]:
        return [
            slot
            for i, count in enumerate(self.counts)
            for slot in self.slots(i, self.lengths[i] - count, count, stride)
        ]


def join(lists: list[list[int]]) -> list[int]:
    """Return the items of all lists, one list after another."""
    return [item for items in lists for item in items]


def starts_of(lists: list[list[int]]) -> list[int]:
    """Return where each list begins when they are joined, and where the last one ends."""
    starts = [0]
    for items in lists:
        starts.append(starts[-1] + len(items))
    return starts


def canaries(shape: int | tuple[int, ...], dtype: type = np.int32) -> np.ndarray:
    """Make an output that shows where it was written."""
    return np.full(shape, CANARY, dtype)
