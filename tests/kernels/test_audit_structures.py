"""What an audit finds wrong in rings, heaps, trees and indexes, by name."""

from typing import Any

import numpy as np
import pytest
from support import make_cache

import nbkv
from nbkv import layout
from nbkv.repairing.views import Views


def cached_chain(policy: str, length: int = 6) -> tuple[nbkv.PagedKVCache, Views]:
    """Make a chain of cached blocks and some single ones."""
    cache = make_cache(16, 2, eviction_policy=policy)
    cache.add_sequence(1, np.arange(1, length + 1, dtype=np.uint64))
    cache.add_sequence(2, np.array([50], np.uint64))
    cache.add_sequence(3, np.array([60], np.uint64))
    for seq_id in (2, 1, 3):
        cache.free_sequence(seq_id)
    return cache, Views(cache.writable_arena(), cache.config)


RING: list[tuple[str, Any, Any, str]] = [
    ("ranks", 1, 9, "the recency ring has block 9 at 1, where it does not belong"),
    ("ranks", 0, -1, "does not begin with a living entry|are there"),
    ("header.ring_head", 0, 1, "num_cached_blocks is 8 but 7 are there"),
    ("header.ring_tail", 0, 900, "ring_tail is 900; it must be 0 to 64"),
    ("header.ring_sweeping", 0, 2, "ring_sweeping is 2; it must be 0 to 1"),
    ("header.heap_size", 0, 1, "heap_size is 1; it must be 0 to 0"),
    ("blocks.last_access", 7, 1, "behind one let go later"),
    ("blocks.last_access", 0, 1, "it was let go after its parent|was let go after"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "row", "value", "words"), RING)
def test_a_violation_of_the_ring_is_named(place: str, row: int, value: int, words: str) -> None:
    cache, views = cached_chain("lru")
    put(views, place, row, value)
    with pytest.raises(nbkv.IntegrityError, match=words):
        cache.check_integrity()


def put(views: Views, place: str, row: int, value: int) -> None:
    name, _, field = place.partition(".")
    array = getattr(views, name)
    (array[field] if field else array)[row] = value


def test_a_ring_that_begins_with_a_gap_is_named() -> None:
    cache, views = cached_chain("lru")
    size = int(cache.header["ring_tail"][0])
    views.ranks[1 : size + 1] = views.ranks[:size].copy()
    views.ranks[0] = nbkv.NO_BLOCK
    views.blocks["link"][views.ranks[1 : size + 1]] += 1
    views.header["ring_tail"] = size + 1
    with pytest.raises(nbkv.IntegrityError, match="does not begin with a living entry"):
        cache.check_integrity()


@pytest.mark.parametrize("policy", ["fifo", "frequency"])
def test_a_violation_of_the_heap_is_named(policy: str) -> None:
    for place, row, value, words in (
        ("ranks.block", 0, 0, "the rank heap has block 0 at 0, where it does not belong"),
        ("ranks.secondary", 0, -1, "under a rank that is not its own"),
        ("header.heap_size", 0, 2, "heap_size is 2 but 3 are there"),
        ("header.ring_head", 0, 1, "ring_head is 1; it must be 0 to 0"),
        ("blocks.link", 0, 1, "the rank heap has block 0 at 1, where it does not belong"),
    ):
        cache, views = cached_chain(policy)
        put(views, place, row, value)
        with pytest.raises(nbkv.IntegrityError, match=words):
            cache.check_integrity()
    cache, views = cached_chain(policy)
    first, last = views.ranks[0].copy(), views.ranks[2].copy()
    views.ranks[0], views.ranks[2] = last, first
    views.blocks["link"][last["block"]], views.blocks["link"][first["block"]] = 0, 2
    with pytest.raises(nbkv.IntegrityError, match="above which a later one stands"):
        cache.check_integrity()


def linked(**changes: tuple[int, int]) -> str:
    """Change fields of a held chain of three and of a cached block; return what is found."""
    cache = make_cache(16, 2)
    cache.add_sequence(1, np.array([1, 2, 3], np.uint64))
    cache.add_sequence(2, np.array([50], np.uint64))
    cache.free_sequence(2)
    blocks = Views(cache.writable_arena(), cache.config).blocks
    for field, (row, value) in changes.items():
        blocks[field][row] = value
    return str(cache.find_violation())


def test_wrong_parents_are_named() -> None:
    assert linked() == "None"
    assert "column 1 of its table has block 1, whose parent is not block 0" in linked(parent=(1, 3))
    assert "block 0: num_children is 1 but it is the parent of 2" in linked(parent=(3, 0))


def test_a_circle_of_parents_is_named() -> None:
    cache = make_cache(16, 2)
    handles = cache.allocate(2)
    cache.index(handles, np.array([1, 2], np.uint64), np.array([-1, handles[0]]))
    views = Views(cache.writable_arena(), cache.config)
    views.blocks["parent"][0] = 1
    views.blocks["num_children"][1] = 1
    with pytest.raises(nbkv.IntegrityError, match="its parents lead back to block 0"):
        cache.check_integrity()


def test_links_to_the_wrong_kind_of_block_are_named() -> None:
    cache = make_cache(16, 2)
    handles = cache.allocate(3)
    cache.index(handles[:1], np.array([1], np.uint64), np.array([-1]))
    cache.index(handles[1:2], np.array([2], np.uint64), handles[:1])
    views = Views(cache.writable_arena(), cache.config)
    before = views.arena.copy()
    for place, row, value, words in (
        ("blocks.parent", 1, 2, "parent is block 2, which is neither indexed nor"),
        ("blocks.parent", 2, 0, "parent is 0; it must be -1"),
        ("blocks.flags", 0, 1, "parent is block 0, which is not indexed by the same"),
    ):
        put(views, place, row, value)
        assert words in str(cache.find_violation())
        views.arena[:] = before


def test_a_second_block_under_a_key_is_named() -> None:
    cache = make_cache(16, 2)
    handles = cache.allocate(2)
    cache.index(handles, np.array([1, 1], np.uint64), np.array([-1, handles[0]]))
    views = Views(cache.writable_arena(), cache.config)
    views.blocks["parent"][1] = nbkv.NO_BLOCK
    views.blocks["num_children"][0] = 0
    views.blocks["child"][0] = nbkv.NO_BLOCK
    with pytest.raises(nbkv.IntegrityError, match="under its key the index has number"):
        cache.check_integrity()


def test_a_sequence_twice_is_named() -> None:
    cache = make_cache(16, 2)
    cache.append_token(5)
    cache.append_token(5 + 2**40)
    views = Views(cache.writable_arena(), cache.config)
    slot = int(np.flatnonzero(views.seq_index["occupant"] == 2)[0])
    first = int(np.flatnonzero(views.seq_index["occupant"] == 1)[0])
    views.sequences["seq_id"][1] = 5
    views.seq_index[slot] = 0
    bucket = first // layout.INDEX_WAYS * layout.INDEX_WAYS
    empty = bucket + int(np.flatnonzero(views.seq_index["occupant"][bucket : bucket + 8] == 0)[0])
    views.seq_index[empty] = (views.seq_index["tag"][first], 2)
    with pytest.raises(nbkv.IntegrityError, match="under its key the index has number"):
        cache.check_integrity()
