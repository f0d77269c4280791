"""The rank heap against a sorted list."""

import random

import pytest
from support import make_cache

from nbkv._jit import kernel
from nbkv.kernels.heap import heap_first, heap_insert, heap_remove, heap_replace_first
from nbkv.kernels.state import open_state


@kernel
def insert_one(arena, primary, secondary, block_id):
    heap_insert(open_state(arena), primary, secondary, block_id)


@kernel
def remove_one(arena, block_id):
    heap_remove(open_state(arena), block_id)


@kernel
def replace_one(arena, primary, secondary, block_id):
    heap_replace_first(open_state(arena), primary, secondary, block_id)


@kernel
def first_one(arena):
    return heap_first(open_state(arena))


@pytest.mark.parametrize("num_blocks", [1, 2, 6, 40])
def test_heap_knows_its_smallest_and_where_all_are(num_blocks: int, rng: random.Random) -> None:
    cache = make_cache(num_blocks, eviction_policy="frequency")
    arena = cache._arena
    ranks: dict[int, tuple[int, int]] = {}
    outside = list(range(num_blocks))
    for step in range(1200):
        rank = rng.randrange(4), step + rng.choice([0, 2**40])
        choice = rng.random()
        if outside and choice < 0.5:
            block = outside.pop(rng.randrange(len(outside)))
            insert_one(arena, *rank, block)
            ranks[block] = rank
        elif ranks and outside and choice < 0.7:
            smallest = min(ranks, key=ranks.__getitem__)
            block = outside.pop()
            replace_one(arena, *rank, block)
            del ranks[smallest]
            outside.append(smallest)
            ranks[block] = rank
        elif ranks:
            block = rng.choice(sorted(ranks))
            remove_one(arena, block)
            del ranks[block]
            outside.append(block)
        assert cache.header["heap_size"][0] == len(ranks)
        if ranks:
            assert first_one(arena) == min(ranks, key=ranks.__getitem__)
    while ranks:
        block = first_one(arena)
        assert block == min(ranks, key=ranks.__getitem__)
        remove_one(arena, block)
        assert cache.blocks["link"][block] == -1
        del ranks[block]
