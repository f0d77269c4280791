"""Blocks under keys of more than the 64 bits that the index has."""

import pytest
from invariants import assert_intact

import nbkv
from nbkv._keyed_blocks import KeyedBlocks, word_of

A, B = bytes(range(16)), bytes(range(16, 32))
#: Another key with the same 64 bits as A: both halves changed alike.
A_TWIN = bytes(byte ^ 0x55 for byte in A)


def published(keys, num_blocks=8, **options):
    blocks = KeyedBlocks(num_blocks, 4, **options)
    ids, _ = blocks.take(len(keys))
    blocks.publish(ids, keys)
    return blocks, ids


@pytest.mark.parametrize("at_once", [True, False])
def test_keys_of_the_same_64_bits_are_told_apart(at_once):
    assert word_of(A) == word_of(A_TWIN)
    if at_once:
        blocks, ids = published([A, A_TWIN, B])
    else:
        blocks, ids = published([A])
        more, _ = blocks.take(2)
        blocks.publish(more, [A_TWIN, B])
        ids += more
    assert blocks.find([A, A_TWIN, B, bytes(16)]) == [*ids, -1]
    assert [blocks.find_one(key) for key in (A, A_TWIN, B, bytes(16))] == [*ids, -1]
    blocks.let_go(ids)
    assert_intact(blocks.cache)


@pytest.mark.parametrize("newest_first", [True, False])
def test_of_equal_keys_one_is_found_after_the_other(newest_first):
    blocks, ids = published([A, A, A], newest_first=newest_first)
    order = ids[::-1] if newest_first else ids
    for block_id in order:
        assert blocks.find([A]) == [block_id]
        assert blocks.find_one(A) == block_id
        assert blocks.forget(block_id) == A
        assert blocks.forget(block_id) is None
    assert blocks.find([A]) == [-1]
    assert blocks.find_one(A) == -1


def test_what_is_evicted_is_told_with_its_key_oldest_first():
    blocks, ids = published([A, B, A], num_blocks=4)
    blocks.let_go(ids)
    taken, evicted = blocks.take(3)
    assert evicted == [(ids[0], A), (ids[1], B)]
    assert taken == [3, ids[0], ids[1]]
    assert blocks.find([A, B]) == [ids[2], -1]
    assert blocks.num_free == 1


def test_a_guess_is_not_believed_when_its_block_has_another_key():
    blocks, ids = published([A, B])
    assert [blocks.find_one(A), blocks.find_one(B)] == ids
    blocks.forget(ids[1])
    assert blocks.find_one(A) == ids[0]
    assert blocks.find_one(B) == -1


def test_a_forgotten_block_is_published_anew_under_another_key():
    blocks, ids = published([A])
    blocks.forget(ids[0])
    blocks.publish(ids, [B])
    assert blocks.find([A, B]) == [-1, ids[0]]
    blocks.publish(ids, [A])
    assert blocks.keys[ids[0]] == B
    other, _ = blocks.take(1)
    blocks.publish(other, [A])
    assert blocks.find([A, B]) == [other[0], ids[0]]


def test_reset_forgets_all_and_frees_what_is_cached():
    blocks, ids = published([A, A, B])
    blocks.let_go(ids[1:])
    blocks.reset()
    assert blocks.find([A, B]) == [-1, -1]
    assert (blocks.num_free, blocks.cache.num_cached_blocks) == (7, 0)
    assert_intact(blocks.cache)


def test_misuse_is_refused():
    blocks, ids = published([A])
    blocks.let_go(ids)
    with pytest.raises(nbkv.BlockError):
        blocks.let_go(ids)
    with pytest.raises(nbkv.BlockError):
        blocks.publish([5], [B])
    with pytest.raises(nbkv.BlockError):
        blocks.publish([5, 6], [B, A])
    with pytest.raises(nbkv.BlockError):
        blocks.hold([*ids, 5])
    assert blocks.num_free == 8
