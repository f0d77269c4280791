"""Leases: which blocks they keep, for how long, and in which order they let go."""

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, table
from support import make_cache

import nbkv
from nbkv import layout


def test_a_lease_lists_the_blocks_of_committed_tokens_head_first() -> None:
    cache = make_cache(8, 2)
    handle, _ = compute(cache, 1, [1, 2, 3, 4, 5])
    cache.plan(handles(handle), 4)
    lease = cache.pin(handle)
    # Of five committed tokens; the planned ones and their blocks are not in it.
    assert cache.leased_blocks(lease).tolist() == [0, 1, 2]
    assert cache.blocks["pin_count"][:5].tolist() == [1, 1, 1, 0, 0]
    assert cache.leased_blocks(lease).dtype == np.int32


def test_an_empty_sequence_has_an_empty_lease() -> None:
    cache = make_cache(8, 2)
    handle, _ = cache.admit(1, [1, 2])
    lease = cache.pin(handle)
    assert cache.leased_blocks(lease).tolist() == []
    cache.unpin(lease)
    assert_intact(cache)


def test_holes_of_a_window_are_not_leased() -> None:
    cache = make_cache(8, 2, window=3)
    handle, _ = compute(cache, 1, [1, 2, 3, 4, 5, 6])
    assert table(cache, 1) == [-1, -1, 2]
    assert cache.leased_blocks(cache.pin(handle)).tolist() == [2]


def test_the_last_to_let_go_frees_head_first_and_caches_tail_first() -> None:
    cache = make_cache(8, 2)
    handle, _ = compute(cache, 1, [1, 2, 3, 4])
    cache.append_tokens(handles(handle), 3)  # blocks 2 and 3, without ids: private
    first, second = cache.pin(handle), cache.pin(handle)
    cache.finish(handles(handle))
    cache.unpin(first)
    assert (cache.num_held_blocks, cache.num_free_blocks) == (4, 4)
    with pytest.raises(nbkv.OutOfBlocksError):
        cache.allocate_blocks_for_tokens(9, 10)
    cache.unpin(second)
    assert (cache.num_held_blocks, cache.num_cached_blocks, cache.num_free_blocks) == (0, 2, 6)
    assert hit_blocks(cache, [1, 2, 3, 4]) == 2
    # Fresh blocks go before the free list, and that before what is cached.
    assert cache.allocate_blocks_for_tokens(9, 16).tolist() == [4, 5, 6, 7, 2, 3, 1, 0]
    assert cache.last_evicted.tolist() == [1, 0]
    assert_intact(cache)


def test_a_pinned_block_is_copied_before_its_tokens_would_be_written() -> None:
    cache = make_cache(8, 4)
    handle, _ = compute(cache, 1, [1, 2, 3])
    lease = cache.pin(handle)
    # Behind its valid tokens a pinned block may be written to in place.
    plan = cache.plan(handles(handle), 1)
    assert (plan.copies.tolist(), plan.slot_mapping.tolist()) == ([], [3])
    cache.commit(plan)
    cache.truncate(1, 2)
    plan = cache.plan(handles(handle), 1)
    assert plan.copies.tolist() == [[0, 0, 1, 2]]
    assert plan.table_changes.tolist() == [[0, 0, 0, 1]]
    assert cache.leased_blocks(lease).tolist() == [0]
    assert_intact(cache)


def test_the_open_tail_of_a_pinned_sequence_is_closed() -> None:
    cache = make_cache(8, 4)
    handle, _ = compute(cache, 1, [1, 2])
    assert cache.sequences["flags"][0] & layout.TAIL_OPEN
    cache.pin(handle)
    assert not cache.sequences["flags"][0] & layout.TAIL_OPEN
    assert cache.blocks["num_tokens"][0] == 2


def test_what_steps_in_flight_may_touch_waits_when_a_lease_ends() -> None:
    cache = make_cache(4, 2, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2, 3])
    lease = cache.pin(handle)
    other, _ = cache.admit(2, [9])
    plan = cache.plan(handles(other), 1)
    cache.finish(handles(handle))
    cache.unpin(lease)
    assert (cache.num_fenced_blocks, cache.num_usable_blocks) == (2, 1)
    cache.complete(plan.step_id)
    assert (cache.num_fenced_blocks, cache.num_usable_blocks) == (0, 3)
    assert_intact(cache)


def test_a_lease_that_is_over_is_told_from_one_in_its_place() -> None:
    cache = make_cache(8, 2, max_leases=1)
    handle, _ = compute(cache, 1, [1, 2])
    old = cache.pin(handle)
    cache.unpin(old)
    new = cache.pin(handle)
    assert new & 0xFFFFFFFF == old & 0xFFFFFFFF
    before = cache.state_bytes()
    for lease in (old, 0, 1, 2**40, 2**63 - 1):
        for call in (cache.unpin, cache.leased_blocks):
            with pytest.raises(nbkv.LeaseError, match=rf"lease is {lease}; "):
                call(lease)
    assert (cache.state_bytes() == before).all()
    assert cache.leased_blocks(new).tolist() == [0]


def test_leases_their_blocks_and_a_blocks_pins_are_limited() -> None:
    cache = make_cache(8, 2, max_leases=2, max_leased_blocks=3)
    short, _ = compute(cache, 1, [1, 2])
    longer, _ = compute(cache, 2, [3, 4, 5])
    lease = cache.pin(longer)
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=rf"handle is {longer}: max_leased_blocks"):
        cache.pin(longer)
    assert (cache.state_bytes() == before).all()
    cache.pin(short)
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=rf"handle is {short}: max_leases"):
        cache.pin(short)
    assert (cache.state_bytes() == before).all()
    cache.unpin(lease)
    cache.pin(longer)
    assert cache.header["num_leased_blocks"][0] == 3


def test_a_block_takes_no_more_pins_than_it_can_count() -> None:
    cache = make_cache(8, 2)
    handle, _ = compute(cache, 1, [1, 2, 3, 4])
    start, end = int(cache.header["blocks_start"][0]), int(cache.header["blocks_end"][0])
    blocks = cache.writable_arena()[start:end].view(layout.BLOCK_DTYPE)
    blocks["pin_count"][1] = 2**15 - 1
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=rf"handle is {handle}: .*32767 leases"):
        cache.pin(handle)
    assert (cache.state_bytes() == before).all()
