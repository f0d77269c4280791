"""Free blocks against a queue: never used ones first, then first in, first out."""

import random
from collections import deque

import numpy as np
import pytest
from invariants import free_list
from support import make_cache

from nbkv._jit import kernel
from nbkv.kernels.free_list import allocate, allocate_run, push_free
from nbkv.kernels.state import open_state


@kernel
def push_one(arena, block_id):
    state = open_state(arena)
    state.header["num_held_blocks"][0] -= 1
    push_free(state, block_id)


@kernel
def take_one(arena):
    return allocate(open_state(arena))


@kernel
def take_run(arena, out, count):
    allocate_run(open_state(arena), out, 1, count, 2)


@pytest.mark.parametrize("num_blocks", [1, 3, 20])
def test_blocks_come_out_in_the_order_they_went_in(num_blocks: int, rng: random.Random) -> None:
    cache = make_cache(num_blocks)
    queue, held = deque(range(num_blocks)), []
    for step in range(600):
        choice = rng.random()
        if queue and choice < 0.3:
            block = take_one(cache._arena)
            assert block == queue.popleft()
            assert cache.blocks["num_tokens"][block] == 0
            held.append(block)
        elif queue and choice < 0.5:
            count = rng.randrange(len(queue) + 1)
            out = np.full(num_blocks + 2, -5, np.int32)
            take_run(cache._arena, out, count)
            taken = [queue.popleft() for _ in range(count)]
            assert out.tolist() == [-5, *taken] + [-5] * (num_blocks + 1 - count)
            assert cache.blocks["num_tokens"][taken].tolist() == [2] * count
            held += taken
        elif held:
            block = held.pop(rng.randrange(len(held)))
            push_one(cache._arena, block)
            queue.append(block)
        fresh = int(cache.header["num_fresh_blocks"][0])
        assert [*range(fresh, num_blocks), *free_list(cache)] == list(queue)
        assert cache.num_free_blocks == len(queue)
        assert cache.num_held_blocks == len(held), step


def test_a_block_handed_out_again_is_as_new() -> None:
    cache = make_cache(1, 4)
    cache.add_sequence(1, [5])
    cache.fork(1, 2)
    cache.free_sequence(1)
    cache.free_sequence(2)
    assert cache.allocate_block(3) == 0
    block = cache.blocks[0]
    fields = ("ref_count", "num_tokens", "flags", "parent", "num_children", "access_count")
    assert [int(block[field]) for field in fields] == [1, 0, 0, -1, 0, 1]
    assert (block["generation"], block["alloc_order"]) == (2, 2)
