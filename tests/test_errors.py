"""Every refusal: the right kind, a message with argument, value and range, nothing changed."""

import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from pairing import chain_hashes
from support import make_cache

import nbkv
from nbkv import statuses

Cache = nbkv.PagedKVCache
U8 = np.uint64
HASHES = chain_hashes([0, 1, 0])


def busy_cache() -> Cache:
    """Make a cache of 6 blocks of 2 with all kinds of blocks; 2 blocks are free, 1 cached.

    Sequence 1 holds 0 and 1 with 3 tokens; 4 is empty; 7 names block 2 of sequence 5, gone.
    """
    cache = make_cache(6, max_sequences=3, max_blocks_per_sequence=4, max_named_prefixes=2)
    cache.allocate_blocks_for_tokens(1, 3)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(5, 2))
    cache.free_sequence(5)
    cache.fork(1, 2)
    cache.append_token(2)
    cache.add_sequence(4)
    return cache


def ids(*seq_ids: int) -> Any:
    return np.array(seq_ids, U8)


def stale(cache: Cache) -> Any:
    return np.array([cache.handle(1) + (1 << 32)])


# kind, what the message must hold, the call
REFUSALS: list[tuple[type[Exception], str, Callable[[Cache], Any]]] = [
    # identities
    (TypeError, r"seq_id is 1\.5; .*integer", lambda c: c.append_token(1.5)),
    (TypeError, r"seq_id is '1'; .*integer", lambda c: c.append_token("1")),
    (TypeError, r"seq_id is True; .*integer", lambda c: c.append_token(True)),
    (TypeError, r"seq_id is None; .*integer", lambda c: c.free_sequence(None)),
    (ValueError, r"seq_id is -1; .*0", lambda c: c.append_token(-1)),
    (ValueError, rf"seq_id is {2**64}; .*{2**64 - 1}", lambda c: c.append_token(2**64)),
    (ValueError, rf"seq_id is {2**64}; .*{2**64 - 1}", lambda c: c.allocate_block(2**64)),
    (ValueError, r"seq_id is -3", lambda c: c.block_table(-3)),
    (TypeError, r"seq_id is 2\.0", lambda c: c.num_cached_tokens(2.0)),
    (ValueError, r"prefix_hash is -1", lambda c: c.lookup_prefix(-1)),
    (ValueError, rf"prefix_hash is {2**64}", lambda c: c.register_prefix(2**64, [0])),
    (ValueError, rf"dst is {2**64}", lambda c: c.fork(1, 2**64)),
    (TypeError, r"src is \[1\]", lambda c: c.share_prefix([1], 9, 1)),
    # counts
    (nbkv.ArgumentError, r"num_tokens is -2; .*0", lambda c: c.allocate_blocks_for_tokens(1, -2)),
    (TypeError, r"num_tokens is 2\.0", lambda c: c.allocate_blocks_for_tokens(1, 2.0)),
    (nbkv.ArgumentError, r"num_tokens is 4; .*0 to 3", lambda c: c.truncate(1, 4)),
    (nbkv.ArgumentError, r"num_tokens is -1; .*0", lambda c: c.truncate(1, -1)),
    (nbkv.ArgumentError, r"num_tokens is \d+; .*0 to 3", lambda c: c.truncate(1, 2**70)),
    (nbkv.ArgumentError, r"num_blocks is -1; .*0", lambda c: c.share_prefix(1, 9, -1)),
    # availability
    (nbkv.OutOfBlocksError, r"needed 5 .*2 free.*1 evict", lambda c: c.append_tokens(ids(1, 4), 5)),
    (nbkv.OutOfBlocksError, r"needed 4 .*2 free", lambda c: c.allocate_blocks_for_tokens(4, 8)),
    (nbkv.OutOfBlocksError, r"needed 50 ", lambda c: c.allocate_blocks_for_tokens(4, 100)),
    (nbkv.OutOfBlocksError, r"needed ", lambda c: c.allocate_blocks_for_tokens(4, 2**80)),
    (nbkv.OutOfBlocksError, r"needed 6 ", lambda c: c.append_tokens(ids(1, 4, 2), 4)),
    (nbkv.OutOfBlocksError, r"needed ", lambda c: c.append_tokens(ids(1), 2**31 - 1)),
    # sequences
    (nbkv.UnknownSequenceError, r"seq_id is 9; ", lambda c: c.free_sequence(9)),
    (nbkv.UnknownSequenceError, r"seq_id is 9; ", lambda c: c.truncate(9, 0)),
    (nbkv.UnknownSequenceError, r"seq_id is 9; ", lambda c: c.handle(9)),
    (nbkv.UnknownSequenceError, r"src is 9; ", lambda c: c.fork(9, 8)),
    (nbkv.UnknownSequenceError, r"src is 9; ", lambda c: c.share_prefix(9, 8, 1)),
    (nbkv.UnknownSequenceError, r"\[1\].* 9", lambda c: c.append_tokens(ids(1, 9), 1)),
    (nbkv.StaleHandleError, r"sequences\[0\]", lambda c: c.append_tokens(stale(c), 1)),
    (nbkv.StaleHandleError, r"-1", lambda c: c.append_tokens(np.array([-1]), 1)),
    (nbkv.StaleHandleError, r"0", lambda c: c.append_tokens(np.array([0]), 1)),
    (nbkv.DuplicateSequenceError, r"dst is 2; ", lambda c: c.share_prefix(1, 2, 1)),
    (nbkv.DuplicateSequenceError, r"dst is 1; ", lambda c: c.share_prefix(1, 1, 1)),
    (nbkv.DuplicateSequenceError, r"dst is 1; ", lambda c: c.fork(1, 1)),
    (nbkv.DuplicateSequenceError, r"seq_id is 1; ", lambda c: c.attach_prefix(7, 1)),
    (nbkv.DuplicateSequenceError, r"seq_id is 4; ", lambda c: c.add_sequence(4)),
    (nbkv.DuplicateSequenceError, r"\[2\].* 1", lambda c: c.append_tokens(ids(1, 2, 1), 1)),
    # prefixes
    (nbkv.PrefixError, r"num_blocks is 0; .*1 to 2", lambda c: c.share_prefix(1, 9, 0)),
    (nbkv.PrefixError, r"num_blocks is 3; .*1 to 2", lambda c: c.share_prefix(1, 9, 3)),
    (nbkv.PrefixError, r"block_ids .*empty", lambda c: c.register_prefix(8, [])),
    (nbkv.PrefixError, r"block_ids is \[0, 1\]; ", lambda c: c.register_prefix(8, [0, 1])),
    (nbkv.PrefixError, r"block_ids is \[1\]; ", lambda c: c.register_prefix(8, [1])),
    (nbkv.PrefixError, r"block_ids is \[2\]; ", lambda c: c.register_prefix(8, [2])),
    (nbkv.PrefixError, r"prefix_hash is 7; ", lambda c: c.register_prefix(7, [0])),
    (nbkv.PrefixError, r"prefix_hash is 99; ", lambda c: c.attach_prefix(99, 9)),
    (nbkv.PrefixError, r"prefix_hash is 99; ", lambda c: c.unregister_prefix(99)),
    (nbkv.ArgumentError, r"block_ids\[1\] is 6; .*0 to 5", lambda c: c.register_prefix(8, [0, 6])),
    (nbkv.ArgumentError, r"block_ids\[0\] is -1; ", lambda c: c.register_prefix(8, [-1])),
    (TypeError, r"block_ids\[0\] is 0\.0", lambda c: c.register_prefix(8, [0.0])),
    # capacities
    (nbkv.CapacityError, r"seq_id is 9.*max_sequences.* 3", lambda c: c.append_token(9)),
    (nbkv.CapacityError, r"seq_id is 9.*max_sequences.* 3", lambda c: c.allocate_block(9)),
    (nbkv.CapacityError, r"seq_id is 9.*max_sequences.* 3", lambda c: c.add_sequence(9, HASHES)),
    (nbkv.CapacityError, r"seq_id is 9.*max_sequences.* 3", lambda c: c.attach_prefix(7, 9)),
    (nbkv.CapacityError, r"dst is 9.*max_sequences.* 3", lambda c: c.fork(1, 9)),
    (
        nbkv.CapacityError,
        r"seq_id is 4.*max_blocks_per_sequence.* 4",
        lambda c: c.allocate_blocks_for_tokens(4, 9),
    ),
    (
        nbkv.CapacityError,
        r"sequences\[0\].* 4.*max_blocks_per_sequence.* 4",
        lambda c: c.append_tokens(ids(4), 9),
    ),
    # arrays
    (nbkv.ArgumentError, r"sequences .*int32", lambda c: c.append_tokens(np.ones(1, np.int32), 1)),
    (
        nbkv.ArgumentError,
        r"sequences .*\(1, 1\)",
        lambda c: c.append_tokens(np.ones((1, 1), U8), 1),
    ),
    (TypeError, r"sequences is a list", lambda c: c.append_tokens([1], 1)),
    (nbkv.ArgumentError, r"counts .*int64", lambda c: c.append_tokens(ids(1), np.array([1]))),
    (
        nbkv.ArgumentError,
        r"counts .*\(2,\).*1",
        lambda c: c.append_tokens(ids(1), np.ones(2, np.int32)),
    ),
    (nbkv.ArgumentError, r"counts is -1; ", lambda c: c.append_tokens(ids(1), -1)),
    (
        nbkv.ArgumentError,
        r"counts\[1\] is -1; .*0",
        lambda c: c.append_tokens(ids(1, 2), np.array([1, -1], np.int32)),
    ),
    (TypeError, r"counts is 1\.0", lambda c: c.append_tokens(ids(1), 1.0)),
    (
        nbkv.ArgumentError,
        r"out .*1.*2",
        lambda c: c.append_tokens(ids(1, 2), 1, np.zeros(1, np.int64)),
    ),
    (
        nbkv.ArgumentError,
        r"out .*int32.*int64",
        lambda c: c.append_tokens(ids(1), 1, np.zeros(4, np.int32)),
    ),
    (TypeError, r"out is a list", lambda c: c.append_tokens(ids(1), 1, [0])),
    (nbkv.ArgumentError, r"out .*1.*2", lambda c: c.block_table(1, out=np.zeros(1, np.int32))),
    (nbkv.ArgumentError, r"out .*int64", lambda c: c.block_table(1, out=np.zeros(4, np.int64))),
    (
        nbkv.ArgumentError,
        r"out .*contiguous",
        lambda c: c.block_table(1, out=np.zeros(8, np.int32)[::2]),
    ),
    (nbkv.ArgumentError, r"out .*writable", lambda c: c.block_table(1, out=c.tables[0])),
    (nbkv.ArgumentError, r"block_hashes .*int64", lambda c: c.add_sequence(9, np.array([1]))),
    (ValueError, r"block_hashes\[1\] is -1", lambda c: c.add_sequence(9, [1, -1])),
    (TypeError, r"block_hashes is 5", lambda c: c.add_sequence(9, 5)),
    (TypeError, r"block_hashes is 'ab'", lambda c: c.add_sequence(9, "ab")),
    (nbkv.ArgumentError, r"num_tokens is 4; .*5", lambda c: c.add_sequence(9, HASHES, 4)),
    (nbkv.ArgumentError, r"num_tokens is 0; .*1", lambda c: c.add_sequence(9, HASHES[:1], 0)),
    (nbkv.ArgumentError, r"num_tokens is -1; ", lambda c: c.add_sequence(9, None, -1)),
]


@pytest.mark.parametrize(
    ("kind", "message", "call"), REFUSALS, ids=[f"{i}-{m}" for i, (_, m, _) in enumerate(REFUSALS)]
)
def test_a_refusal_says_why_and_changes_nothing(
    kind: type[Exception], message: str, call: Callable[[Cache], Any]
) -> None:
    cache = busy_cache()
    before = cache.state_bytes()
    with pytest.raises(kind, match=message) as caught:
        call(cache)
    assert type(caught.value) is kind or kind is ValueError
    assert (cache.state_bytes() == before).all()
    assert_intact(cache)


def test_a_cache_goes_on_after_every_refusal() -> None:
    cache = busy_cache()
    for kind, _, call in REFUSALS:
        with pytest.raises(kind):
            call(cache)
    cache.append_token(1)
    cache.free_sequence(2)
    assert cache.allocate_blocks_for_tokens(4, 6).size == 3
    assert_intact(cache)


def test_named_prefixes_have_a_capacity() -> None:
    cache = busy_cache()
    cache.register_prefix(8, [0])
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match=r"prefix_hash is 9.*max_named_prefixes.* 2"):
        cache.register_prefix(9, [0])
    assert (cache.state_bytes() == before).all()
    cache.register_prefix(8, [0])
    cache.unregister_prefix(7)
    cache.register_prefix(9, [0])


def test_a_long_prefix_does_not_fit_into_a_shorter_sequence_count() -> None:
    cache = make_cache(6, max_sequences=1)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    before = cache.state_bytes()
    with pytest.raises(nbkv.CapacityError, match="max_sequences"):
        cache.attach_prefix(7, 2)
    assert (cache.state_bytes() == before).all()


def test_lack_of_blocks_comes_with_numbers() -> None:
    cache = busy_cache()
    with pytest.raises(nbkv.OutOfBlocksError) as caught:
        cache.allocate_blocks_for_tokens(4, 8)
    error = caught.value
    assert (error.needed, error.free, error.evictable, error.fenced) == (4, 2, 1, 0)
    again = pickle.loads(pickle.dumps(error))
    assert (again.needed, str(again)) == (4, str(error))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_size": 0}, r"block_size is 0; .*at least 1.*at most 32767"),
        ({"block_size": 2**15}, r"block_size is 32768; .*32767"),
        ({"block_size": 2.0}, r"block_size is 2\.0; .*integer"),
        ({"block_size": True}, r"block_size is True"),
        ({"num_blocks": -4}, r"num_blocks is -4; .*at least 1"),
        ({"num_blocks": 2**31}, r"num_blocks is 2147483648; .*2147483647"),
        ({"num_layers": 0}, r"num_layers is 0"),
        ({"num_kv_heads": "8"}, r"num_kv_heads is '8'; .*integer"),
        ({"head_dim": -1}, r"head_dim is -1"),
        ({"dtype": "float64"}, r"dtype is 'float64'; allowed: .*float16"),
        ({"dtype": None}, r"dtype is None"),
        ({"eviction_policy": "mru"}, r"eviction_policy is 'mru'; allowed: lru, fifo, frequency"),
        ({"eviction_policy": 1}, r"eviction_policy is 1"),
        ({"max_sequences": 0}, r"max_sequences is 0"),
        ({"max_blocks_per_sequence": 0}, r"max_blocks_per_sequence is 0"),
        ({"max_named_prefixes": 0}, r"max_named_prefixes is 0"),
    ],
)
def test_a_configuration_is_checked_where_it_is_written(
    change: dict[str, Any], message: str
) -> None:
    fields = {"block_size": 2, "num_blocks": 4, "num_layers": 1, "num_kv_heads": 1, "head_dim": 8}
    with pytest.raises(nbkv.ConfigError, match=message):
        nbkv.CacheConfig(**fields | change)


def test_more_metadata_than_memory_is_refused() -> None:
    config = nbkv.CacheConfig(2**15 - 1, 2**31 - 1, 1, 1, 1, max_sequences=2**30)
    with pytest.raises(nbkv.ConfigError, match=r"num_blocks is 2147483647"):
        nbkv.PagedKVCache(config)


def test_a_cache_is_made_from_a_configuration() -> None:
    with pytest.raises(TypeError, match="config is 5"):
        nbkv.PagedKVCache(5)


def test_every_error_is_a_kind_of_kvcacheerror() -> None:
    kinds = [
        nbkv.ConfigError,
        nbkv.ArgumentError,
        nbkv.OutOfBlocksError,
        nbkv.UnknownSequenceError,
        nbkv.StaleHandleError,
        nbkv.DuplicateSequenceError,
        nbkv.PrefixError,
        nbkv.BlockError,
        nbkv.CapacityError,
    ]
    assert all(issubclass(kind, nbkv.KVCacheError) for kind in kinds)
    assert issubclass(nbkv.ConfigError, ValueError)
    assert issubclass(nbkv.ArgumentError, ValueError)
    assert issubclass(nbkv.StaleHandleError, nbkv.UnknownSequenceError)
    assert not any(issubclass(kind, KeyError) for kind in kinds)


def test_every_status_has_a_reason_of_its_own() -> None:
    from nbkv._failures import fail

    cache = busy_cache()
    names = [n for n, v in vars(statuses).items() if n.isupper() and isinstance(v, int) and v < 0]
    assert len(names) >= 16
    for name in names:
        with pytest.raises(nbkv.KVCacheError, match=re.compile("^(needed|argument|counts|out) ")):
            fail(getattr(statuses, name), cache.header, cache._runtime, "argument", "value")
