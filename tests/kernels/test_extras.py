"""Extra keys of sequences: kept, shared, compared and given back."""

import pytest
from invariants import assert_intact
from step_support import compute, handles, hit_blocks, int32, table
from support import make_cache

import nbkv
from nbkv.layout import INDEXED

IMAGE = (1, 3, "cat")


@pytest.mark.parametrize("length", [3, 4, 5, 6])
def test_an_extra_key_is_in_every_block_that_it_touches(length: int) -> None:
    cache = make_cache(8, 2)
    prompt = list(range(6))
    key = (2, length, "cat")
    compute(cache, 1, prompt, extra_keys=[key])
    assert hit_blocks(cache, prompt, extra_keys=[key]) == 3
    assert hit_blocks(cache, prompt) == 1
    # The same digest from another token on is another content.
    assert hit_blocks(cache, prompt, extra_keys=[(3, 6, "cat")]) == 1


def test_tokens_behind_the_last_extra_key_are_plain() -> None:
    cache = make_cache(8, 2)
    handle, _ = compute(cache, 1, [1, 2, 3, 4], extra_keys=[IMAGE])
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(5, 6))
    extra = cache.block_keys["extra_key"][table(cache, 1)]
    assert (extra != 0).tolist() == [True, True, False]
    assert hit_blocks(cache, [1, 2, 3, 4, 5, 6], extra_keys=[IMAGE]) == 3


def test_room_for_extra_keys_comes_back_with_their_sequence() -> None:
    cache = make_cache(8, 2, max_extra_keys=3)
    two = [(0, 1, 5), (1, 2, 6)]
    handle, _ = cache.admit(1, [1], extra_keys=two)
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=r"extra_keys is 2 keys: max_extra_keys"):
        cache.admit(2, [1], extra_keys=two)
    # A child has the same, which are too many as well.
    with pytest.raises(nbkv.CapacityError, match=r"src is 1: max_extra_keys"):
        cache.fork(1, 3)
    assert (cache.state_bytes() == before).all()
    cache.finish(handles(handle))
    cache.admit(2, [1], extra_keys=two)
    cache.admit(3, [1], extra_keys=two[:1])
    with pytest.raises(nbkv.CapacityError, match="extra_keys is 1 keys: max_extra_keys"):
        cache.admit(4, [1], extra_keys=two[:1])


def test_a_fork_goes_on_with_its_parents_keys() -> None:
    cache = make_cache(12, 2)
    keys = [(0, 1, "cat"), (3, 4, "dog")]
    handle, _ = cache.admit(1, [1, 2, 3, 4], extra_keys=keys)
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(1, 2))
    cache.fork(1, 2)
    cache.finish(handles(handle))
    cache.commit(cache.plan(handles(cache.handle(2)), 2), tokens=int32(3, 4))
    assert hit_blocks(cache, [1, 2, 3, 4], extra_keys=keys) == 2
    assert hit_blocks(cache, [1, 2, 3, 4], extra_keys=keys[:1]) == 1
    assert_intact(cache)


@pytest.mark.parametrize(
    "other",
    [
        {"salt": nbkv.Salt(tenant="b"), "extra_keys": [IMAGE]},
        {"salt": nbkv.Salt(tenant="a"), "extra_keys": [(1, 3, "dog")]},
        {"salt": nbkv.Salt(tenant="a"), "extra_keys": [(0, 3, "cat")]},
        {"salt": nbkv.Salt(tenant="a"), "extra_keys": [(1, 4, "cat")]},
        {"salt": nbkv.Salt(tenant="a"), "extra_keys": [IMAGE, (5, 6, "cat")]},
        {"salt": nbkv.Salt(tenant="a")},
        {"extra_keys": [IMAGE]},
    ],
)
def test_sequences_of_other_prompts_do_not_continue_each_other(other: dict[str, object]) -> None:
    cache = make_cache(12, 2)
    same = {"salt": nbkv.Salt(tenant="a"), "extra_keys": [IMAGE]}
    first, _ = compute(cache, 1, [1, 2, 3, 4], **same)
    second, _ = compute(cache, 2, [1, 2, 3, 5], **same)
    cache.reorder(handles(first, second), int32(0, 0))
    third, _ = compute(cache, 3, [1, 2, 3, 4], **other)
    before = cache.state_bytes()
    for parents, at in ((int32(0, 0), 1), (int32(1, 1), 0)):
        with pytest.raises(nbkv.ArgumentError, match=rf"parents\[{at}\] is {1 - at}; "):
            cache.reorder(handles(first, third), parents)
    assert (cache.state_bytes() == before).all()


def test_keys_beyond_a_cut_end_indexing() -> None:
    cache = make_cache(12, 2)
    handle, _ = compute(cache, 1, [1, 2, 3, 4], extra_keys=[(2, 4, "cat")])
    cache.truncate(1, 2)
    # What is written there now may be the image, or not: the cache cannot know.
    cache.commit(cache.plan(handles(handle), 2), tokens=int32(3, 4))
    assert not cache.blocks["flags"][table(cache, 1)[1]] & INDEXED
    assert hit_blocks(cache, [1, 2, 3, 4]) == 1
    assert_intact(cache)
