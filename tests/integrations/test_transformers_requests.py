"""`RequestBlocks` by itself: plans ahead of what is known, forks, ends."""

from dataclasses import dataclass, field

import needs
import numpy as np
import pytest
from invariants import assert_intact

needs.transformers()

from nbkv import CacheConfig, OutOfBlocksError, PagedKVCache  # noqa: E402
from nbkv.integrations.transformers.batching_requests import RequestBlocks  # noqa: E402

PAGE = 4


@dataclass
class Request:
    request_id: str
    initial_tokens: list[int]
    generated_tokens: list[int] = field(default_factory=list)


def make_blocks(num_blocks=16, **more):
    config = CacheConfig(PAGE, num_blocks, 1, 1, 8, run_ahead=True, max_sequences=4)
    return RequestBlocks(PagedKVCache(config), **more)


def plan(blocks, *requests_and_ends):
    requests = [request for request, _ in requests_and_ends]
    ends = np.array([end for _, end in requests_and_ends], np.int32)
    for request, end in requests_and_ends:
        blocks.reserve(request.request_id, int(end))
    return blocks.plan(requests, ends)


def test_a_plan_waits_for_its_tokens_and_is_found_once_they_are_known():
    blocks = make_blocks()
    request = Request("a", [1, 2, 3])
    blocks.reserve("a", 2 * PAGE)
    for end in (3, 4):
        blocks.plan([request], np.array([end], np.int32))
    blocks.commit()
    assert blocks.find_hit([1, 2, 3, 9, 5]) == (0, 0)  # of which the fourth is not known yet
    request.generated_tokens.append(9)
    blocks.commit()
    assert blocks.find_hit([1, 2, 3, 9, 5]) == (PAGE, 0)
    assert blocks.find_hit([1, 2, 3, 0, 5]) == (0, 0)
    blocks.finish("a")
    assert blocks.find_hit([1, 2, 3, 9, 5]) == (PAGE, 1)
    assert_intact(blocks.cache)


def test_a_plan_of_a_request_that_ended_does_not_wait():
    blocks = make_blocks()
    ended, alive = Request("a", [1]), Request("b", [2] * PAGE)
    blocks.reserve("a", 2)
    plan(blocks, (ended, 1), (alive, PAGE))
    blocks.commit()
    plan(blocks, (ended, 2), (alive, PAGE + 1))
    blocks.finish("a")
    alive.generated_tokens.append(3)
    blocks.commit()
    blocks.reserve("b", 2 * PAGE)  # refused while tokens of it are planned and not committed
    assert_intact(blocks.cache)


def test_tokens_that_came_by_a_copy_are_planned_with_the_next_ones():
    blocks = make_blocks()
    parent = Request("a", [1, 2, 3, 4, 5, 6, 7])
    plan(blocks, (parent, 6))
    assert blocks.num_shareable("a", 6) == 1
    source, target = blocks.fork("a", "b", 6)
    assert source == blocks.table("a")[1:] == [1]
    assert target == blocks.table("b")[1:] == [2]
    assert blocks.table("a")[0] == blocks.table("b")[0] == 0
    child = Request("b", parent.initial_tokens)
    handles = plan(blocks, (parent, 7), (child, 7))
    assert blocks.cache.sequences["num_tokens"][handles & 0xFFFFFFFF].tolist() == [7, 7]
    parent.generated_tokens.append(8)
    child.generated_tokens.append(9)
    blocks.commit()
    plan(blocks, (parent, 8), (child, 8))
    blocks.commit()
    assert blocks.find_hit([1, 2, 3, 4, 5, 6, 7, 8, 0]) == (8, 0)
    assert blocks.find_hit([1, 2, 3, 4, 5, 6, 7, 9, 0]) == (8, 0)
    blocks.finish_all()
    assert blocks.cache.num_held_blocks == 0
    assert_intact(blocks.cache)


def test_room_is_what_is_free_or_evictable_and_not_revived():
    blocks = make_blocks(num_blocks=4, num_reserved=1)
    assert blocks.num_blocks == 3
    request = Request("a", list(range(2 * PAGE)))
    plan(blocks, (request, 2 * PAGE))
    blocks.commit()
    assert not blocks.has_room("b", 2 * PAGE)
    blocks.finish("a")
    assert blocks.has_room("b", 3 * PAGE)
    assert not blocks.has_room("b", 3 * PAGE + 1)
    num_hit, num_revived = blocks.find_hit([*request.initial_tokens, 1])
    assert (num_hit, num_revived) == (2 * PAGE, 2)
    assert blocks.has_room_behind(num_hit, num_revived, 3 * PAGE)
    assert not blocks.has_room_behind(num_hit, num_revived, 4 * PAGE)
    blocks.reserve("b", 3 * PAGE)
    assert blocks.cache.stats.evictions == 2
    with pytest.raises(OutOfBlocksError):
        blocks.reserve("b", 4 * PAGE)


def test_there_is_no_room_for_more_requests_than_the_cache_has_rows():
    blocks = make_blocks()
    for name in "abcd":
        assert blocks.has_room(name, 1)
        blocks.reserve(name, 1)
    assert blocks.has_room("a", 2 * PAGE)
    assert not blocks.has_room("e", 1)
    assert not blocks.has_room_behind(0, 0, 1)
    blocks.finish("b")
    assert blocks.has_room("e", 1)


def test_without_sharing_nothing_is_found_or_shared():
    blocks = make_blocks(shares=False)
    request = Request("a", list(range(2 * PAGE)))
    plan(blocks, (request, 2 * PAGE))
    assert blocks.num_shareable("a", 2 * PAGE) == 0
    blocks.finish("a")
    blocks.commit()
    assert blocks.find_hit([*request.initial_tokens, 1]) == (0, 0)
    assert blocks.cache.num_free_blocks == 16


def test_buffers_are_used_again_and_grow(monkeypatch):
    from nbkv.integrations.transformers import batching_requests

    monkeypatch.setattr(batching_requests, "_SMALLEST_BUFFERS", 2)
    blocks = make_blocks()
    request = Request("a", list(range(40)))
    sizes = []
    for end in (1, 2, 10, 12):
        plan(blocks, (request, end))
        sizes.append(blocks._planned[0].plan.buffers.data.size)
        blocks.commit()
    assert sizes[0] == sizes[1] < sizes[2] == sizes[3]
    assert blocks.find_hit(request.initial_tokens) == (12, 0)


def test_unknown_requests_end_quietly():
    make_blocks().finish("nobody")
