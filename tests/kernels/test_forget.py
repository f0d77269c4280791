"""Forgetting: eviction on request, and everything at once."""

import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache


@pytest.mark.parametrize(
    ("policy", "order"),
    [("lru", [3, 2, 1, 0]), ("fifo", [1, 0, 3, 2]), ("frequency", [3, 2, 1, 0])],
)
def test_eviction_on_request_follows_the_policy(policy: str, order: list[int]) -> None:
    cache = make_cache(8, 2, eviction_policy=policy)
    rows = [compute(cache, i, [i] * 4)[0] for i in (1, 2)]
    cache.finish(handles(*rows[::-1]))
    assert cache.evict(0).size == 0
    assert cache.evict(3).tolist() == order[:3]
    assert cache.evict(2**70).tolist() == order[3:]
    assert (cache.stats.evictions, cache.num_free_blocks) == (4, 8)
    assert_intact(cache)


def test_what_is_held_or_leased_is_not_evicted() -> None:
    cache = make_cache(8, 2)
    rows = [compute(cache, i, [i, i])[0] for i in (1, 2, 3)]
    lease = cache.pin(rows[1])
    cache.finish(handles(*rows[1:]))
    assert cache.evict(9).tolist() == [2]
    cache.unpin(lease)
    assert cache.evict(9).tolist() == [1]
    assert table(cache, 1) == [0]


def test_a_reset_forgets_keys_and_names_and_frees_by_block_id() -> None:
    cache = make_cache(8, 2)
    rows = [compute(cache, i, [i] * 4)[0] for i in (1, 2)]
    cache.register_prefix(7, [2, 3])
    cache.finish(handles(*rows[::-1]))
    held, _ = compute(cache, 3, [3, 3])
    assert cache.reset_prefix_cache() == 4
    assert cache.lookup_prefix(7) is None
    assert [hit_blocks(cache, [i, i]) for i in (1, 2, 3)] == [0, 0, 0]
    # Whoever lives keeps its blocks, and nothing of it is indexed again.
    cache.commit(cache.plan(handles(held), 2), tokens=int32(3, 3))
    assert table(cache, 3) == [4, 5]
    assert hit_blocks(cache, [3, 3, 3, 3]) == 0
    cache.finish(handles(held))
    assert cache.num_free_blocks == 8
    assert cache.allocate_blocks_for_tokens(9, 16).tolist() == [6, 7, 0, 1, 2, 3, 4, 5]
    assert_intact(cache)


def test_a_reset_frees_what_waits_behind_the_fence_in_place() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    handle, _ = compute(cache, 1, [1, 2])
    plan = cache.plan(handles(handle), 1)
    cache.finish(handles(handle))
    assert cache.reset_prefix_cache() == 1
    assert (cache.num_free_blocks, cache.num_fenced_blocks) == (8, 2)
    cache.complete(plan.step_id)
    assert cache.num_fenced_blocks == 0
    assert_intact(cache)


def test_what_comes_after_a_reset_is_found_as_ever() -> None:
    cache = make_cache(8, 2)
    cache.reset_prefix_cache()
    compute(cache, 1, [1, 2, 3, 4])
    assert cache.admit(2, [1, 2, 3, 4])[1] == 4
