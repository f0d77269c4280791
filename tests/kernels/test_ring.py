"""The recency ring against an ordered dict: order, holes, sweeps and wrapping."""

import random

import pytest
from support import INTERPRETED, make_cache

from nbkv._jit import kernel
from nbkv.kernels.ring import prefetch_victims, ring_insert, ring_pop, ring_remove
from nbkv.kernels.state import open_state


@kernel
def insert_one(arena, block_id):
    ring_insert(open_state(arena), block_id)


@kernel
def remove_one(arena, block_id):
    ring_remove(open_state(arena), block_id)


@kernel
def pop_one(arena):
    return ring_pop(open_state(arena))


@pytest.mark.parametrize("num_blocks", [1, 5, 32, 70])
@pytest.mark.parametrize("churn", [0.1, 0.5, 0.9])
def test_ring_gives_blocks_back_in_order_of_release(
    num_blocks: int, churn: float, rng: random.Random
) -> None:
    arena = make_cache(num_blocks)._arena
    order: dict[int, None] = {}
    outside = list(range(num_blocks))
    for _ in range(1500 if INTERPRETED else 6000):
        if order and (not outside or rng.random() < 0.49):
            if rng.random() < churn:
                block = rng.choice(list(order))
                remove_one(arena, block)
            else:
                block = pop_one(arena)
                assert block == next(iter(order))
            del order[block]
            outside.append(block)
        elif outside:
            block = outside.pop(rng.randrange(len(outside)))
            insert_one(arena, block)
            order[block] = None
    assert [pop_one(arena) for _ in range(len(order))] == list(order)


def test_the_newest_reused_again_and_again_leaves_the_oldest_in_place() -> None:
    arena = make_cache(32)._arena
    for block in range(32):
        insert_one(arena, block)
    for _ in range(500):  # many times round the ring, the head never moves
        for block in (31, 30, 29):
            remove_one(arena, block)
            insert_one(arena, block)
    assert [pop_one(arena) for _ in range(32)] == [*range(29), 31, 30, 29]


@pytest.mark.parametrize("num_blocks", [2, 5, 33])
def test_a_sweep_may_be_overtaken_at_any_moment(num_blocks: int, rng: random.Random) -> None:
    arena = make_cache(num_blocks)._arena
    order: dict[int, None] = {}
    for _ in range(30 if INTERPRETED else 200):
        for block in set(range(num_blocks)) - set(order):
            insert_one(arena, block)
            order[block] = None
        # The oldest holds the head while the others go round, until a sweep runs.
        for _ in range(rng.randrange(150)):
            block = rng.choice(list(order)[1:])
            remove_one(arena, block)
            insert_one(arena, block)
            del order[block]
            order[block] = None
        for _ in range(rng.randrange(1, num_blocks + 1)):
            block = next(iter(order))
            assert pop_one(arena) == block
            del order[block]


@kernel
def look_ahead(arena):
    prefetch_victims(open_state(arena))


@pytest.mark.parametrize("entry", [2**31 - 1, 70, -5])
def test_looking_ahead_reads_no_record_of_what_is_not_a_block(entry: int) -> None:
    # Beyond the tail a ring may hold anything; with its bounds checked this would raise.
    arena = make_cache(70)._arena.copy()
    insert_one(arena, 3)
    start, end = (int(open_state(arena).header[f"ranks_{edge}"][0]) for edge in ("start", "end"))
    arena[start:end].view("i4")[1:] = entry
    look_ahead(arena)
    assert pop_one(arena) == 3
