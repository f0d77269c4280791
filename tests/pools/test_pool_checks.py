"""What a pool refuses, by name and value, and that it is as it was then."""

from functools import partial

import numpy as np
import pytest
from pool_support import fill, make_config, make_pool, numbers, pair_of

import nbkv
from nbkv import ArgumentError

KEY = np.ones((3, 2, 8), np.float32)
KEYS = np.ones((3, 3, 2, 8), np.float32)
FIXED = KEY.copy()
FIXED.flags.writeable = False


class OnDevice:
    """Stands for a device's array: its address is never used."""

    __cuda_array_interface__ = KEY.__array_interface__


REFUSED = {
    "append": [
        ((3, KEY, KEY, [0, 1, 2]), "layer is 3; it must be 0 to 2"),
        ((-1, KEY, KEY, [0, 1, 2]), "layer is -1; it must be at least 0"),
        ((0, KEY, KEY, [0, 1]), "slot_mapping is '2 slots'; it must be one for each of 3 tokens"),
        ((0, KEY, KEY, [0, 1, 28]), r"slot_mapping\[2\] is 28; it must be -1 or 0 to 27"),
        ((0, KEY, KEY, [0, -2, 1]), r"slot_mapping\[1\] is -2"),
        ((0, KEY, KEY, [4, 1, 4]), r"slot_mapping\[2\] is 4; it must be a slot that stands"),
        ((0, KEY, KEY, np.zeros((3, 1), int)), r"slot_mapping's shape is \(3, 1\)"),
        ((0, KEY, KEY, np.array([2**63, 0, 1], np.uint64)), "slot_mapping is 9223372036854775808"),
        ((0, KEY, KEY[:2], [0, 1, 2]), r"value's shape is \(2, 2, 8\); it must be \(3, 2, 8\)"),
        ((0, KEY[:, :1], KEY, [0, 1, 2]), r"key's shape is \(3, 1, 8\)"),
        (
            (0, KEY.astype(np.float16), KEY, [0, 1, 2]),
            "key's dtype is 'float16'; it must be one of",
        ),
        ((0, KEY, KEY.astype(np.float64), [0, 1, 2]), "value's dtype is 'float64'"),
        ((0, np.ones((3, 2, 16), np.float32)[..., ::2], KEY, [0, 1, 2]), "key's last stride is 8"),
        ((0, OnDevice(), KEY, [0, 1, 2]), 'key is "in a device\'s memory"; it must be in the CPU'),
    ],
    "append_all": [
        ((KEYS[:2], KEYS, [0, 1, 2]), r"keys's shape is \(2, 3, 2, 8\); it must be \(3, any, 2, 8"),
        ((KEYS, KEYS[:, :2], [0, 1, 2]), "values's shape"),
        ((KEYS, KEYS, [0, 0, 2]), r"slot_mapping\[1\] is 0"),
    ],
    "copy_blocks": [
        (([[0, 7]],), r"pairs\[0\] is \[0, 7\]; it must be block ids, 0 to 6"),
        (([[0, 1], [-1, 2]],), r"pairs\[1\] is \[-1, 2\]"),
        (([[0, 1], [2, 1]],), r"pairs\[1\] is \[2, 1\]; it must be a pair whose destination"),
        (([[0, 1], [1, 2]],), r"pairs\[1\] is \[1, 2\]; it must be blocks that are not source"),
        (([[1, 2], [0, 1]],), r"pairs\[1\] is \[0, 1\]; it must be blocks that are not source"),
        (([[3, 3]],), r"pairs\[0\] is \[3, 3\]"),
        (([[0, 1, 2]],), r"pairs' shape is \(1, 3\)"),
        (([0, 1],), "pairs's shape"),
    ],
    "copy_partial": [
        (([[0, 1]], [5]), r"num_tokens\[0\] is 5; it must be 0 to 4"),
        (([[0, 1], [0, 2]], [1, -1]), r"num_tokens\[1\] is -1"),
        (([[0, 1]], [1, 2]), "num_tokens is '2 counts'; it must be one for each of 1"),
        (([[0, 1], [1, 2]], [1, 1]), r"pairs\[1\] is \[1, 2\]"),
    ],
    "gather": [
        ((0, [7], 1), r"block_ids\[0\] is 7; it must be 0 to 6"),
        ((0, [0], 5), "num_tokens is 5; it must be 0 to 4"),
        ((3, [0], 1), "layer is 3"),
        ((0, [0], 3, KEYS[:2, :2]), "out's shape"),
        ((0, [0], 3, np.zeros((2, 3, 2, 8), np.float16)), "out's dtype is 'float16'"),
        ((0, [0], 3, np.broadcast_to(KEY, (2, 3, 2, 8))), "out is 'read-only'"),
        ((None, [0], 3, np.zeros((2, 3, 2, 8), np.float32)), "out's shape"),
    ],
    "scatter": [
        ((0, [0, 0], KEYS[:2]), "block_ids is 'block 0 twice'"),
        ((0, [0, -1], KEYS[:2]), r"block_ids\[1\] is -1"),
        ((0, [], KEYS[:2]), "values' num_tokens is 3; it must be 0 to 0"),
        ((0, [0], KEYS), "values's shape"),
        ((None, [0], KEYS), "values's shape"),
    ],
    "zero": [(([7],), r"block_ids\[0\] is 7"), (([-1],), r"block_ids\[0\] is -1")],
    "set_scales": [((1.0,), "config.dtype is 'float32'; it must be fp8")],
}


@pytest.mark.parametrize(
    ("method", "args", "message"),
    [(method, *case) for method, cases in REFUSED.items() for case in cases],
)
def test_a_refusal_says_why_and_changes_nothing(rng, method, args, message) -> None:
    pool, plain = pair_of(rng, make_config(), ("block_major", "HND"))
    fill(rng, pool, plain)
    with pytest.raises(ArgumentError, match=message):
        getattr(pool, method)(*args)
    plain.assert_equals(pool)
    # Nor has it left a mark: what is right still goes through.
    pool.append_all(KEYS, KEYS, [4, 0, 1])
    pool.copy_blocks([[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("method", "args", "message"),
    [
        ("append", (0, KEY, KEY, [0.5, 1, 2]), "slot_mapping is float64; it must be integers"),
        ("append", (0, KEY, KEY, "abc"), "slot_mapping is"),
        ("append", (0, KEY, None, [0, 1, 2]), "value is a NoneType; it must be an array"),
        ("append", (0.5, KEY, KEY, [0, 1, 2]), "layer is 0.5; it must be an integer"),
        ("copy_blocks", ([[0, 1], [2]],), "pairs is"),
        ("swap_out", ([0], 3, [0]), "host_pool is 3; it must be a"),
    ],
)
def test_other_types_are_type_errors(rng, method, args, message) -> None:
    pool, plain = pair_of(rng, make_config(), ("block_major", "NHD"))
    fill(rng, pool, plain)
    with pytest.raises(TypeError, match=message):
        getattr(pool, method)(*args)
    plain.assert_equals(pool)


def test_nothing_to_do_is_done() -> None:
    pool = nbkv.HostPool(make_config())
    pool.append(0, KEY[:0], KEY[:0], [])
    pool.append_all(KEYS[:, :0], KEYS[:, :0], np.empty(0, np.int32))
    pool.copy_blocks([])
    pool.copy_partial(np.empty((0, 2), np.int32), [])
    pool.zero([])
    pool.scatter(0, [], KEYS[:2, :0])
    assert pool.gather(0, [], 0).shape == (2, 0, 2, 8)
    assert not pool.data.any()


def test_sources_may_be_read_only() -> None:
    pool = nbkv.HostPool(make_config())
    pool.append(0, FIXED, FIXED, [5, 6, 7])
    assert pool.data.sum() == 2 * 3 * 16


def test_a_latent_has_no_value() -> None:
    pool = nbkv.HostPool(make_config(kv_factor=1))
    with pytest.raises(ArgumentError, match="value is 'an array'; it must be None"):
        pool.append(0, KEY, KEY, [0, 1, 2])
    pool.append(0, KEY, None, [0, 1, 2])


@pytest.mark.parametrize("scales", [0, -1, np.nan, np.inf, [1, 0], 1e-40])
def test_scales_that_cannot_be_inverted_are_refused(scales) -> None:
    pool = nbkv.HostPool(make_config("fp8"))
    pool.set_scales([[[2], [3]]] * 3)
    with pytest.raises(ArgumentError, match="scales is"):
        pool.set_scales(scales)
    with pytest.raises(ArgumentError, match="scales' shape is"):
        pool.set_scales(np.ones(5))
    assert pool.scales.tolist() == [[[2, 2], [3, 3]]] * 3
    with pytest.raises(ValueError, match="read-only"):
        pool.scales[0] = 1


def test_only_fp8_and_int8_have_scales() -> None:
    with pytest.raises(ArgumentError, match="scales of float32 there are none"):
        _ = nbkv.HostPool(make_config()).scales
    with pytest.raises(ArgumentError, match="dtype is 'int8'"):
        nbkv.HostPool(make_config("int8")).set_scales(1)


def test_pools_that_differ_do_not_exchange_blocks(rng) -> None:
    pool, plain = pair_of(rng, make_config("fp8"), ("block_major", "NHD"))
    fill(rng, pool, plain)
    other = nbkv.HostPool(make_config("fp8"))
    with pytest.raises(ArgumentError, match="host_pool's scales is"):
        pool.swap_out([0], other, [0])
    with pytest.raises(ArgumentError, match="host_pool's head_dim is 16; it must be that of"):
        pool.swap_in([0], nbkv.HostPool(make_config("fp8", head_dim=16)), [0])
    with pytest.raises(ArgumentError, match="host_pool is 'this pool'"):
        pool.swap_in([0], pool, [1])
    other.set_scales(pool.scales)
    with pytest.raises(ArgumentError, match="host_block_ids is '1 blocks'; it must be as many as"):
        pool.swap_out([0, 1], other, [0])
    with pytest.raises(ArgumentError, match="block_ids is 'block 1 twice'"):
        pool.swap_in([1, 1], other, [0, 2])
    with pytest.raises(ArgumentError, match="stream is 1; it must be None"):
        pool.swap_in([1], other, [0], 1)
    plain.assert_equals(pool)
    pool.swap_out([1, 1], other, [0, 2])  # a source may be read twice


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "x"}, "layout is 'x'; it must be one of block_major, layer_major"),
        ({"token_order": "DHN"}, "token_order is 'DHN'; it must be one of NHD, HND"),
        ({"memory": np.zeros(100, np.uint8)}, "memory is '100 bytes'; it must be at least 10752"),
        ({"memory": np.zeros(10753, np.uint8)[1:]}, "memory's address is"),
        ({"memory": np.zeros(10752, np.int8)}, "memory is 'int8 array"),
        ({"memory": np.zeros(10752, np.uint8), "pinned": True}, "pinned is True"),
    ],
)
def test_pools_that_cannot_be_made_are_refused(options, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        nbkv.HostPool(make_config(), **options)


def test_a_pool_larger_than_memory_is_refused() -> None:
    config = nbkv.CacheConfig(2**14, 2**30, 1000, 1000, 2**20)
    with pytest.raises(ArgumentError, match="more than can be allocated"):
        nbkv.HostPool(config)


def test_memory_that_is_given_is_used(rng) -> None:
    memory = np.zeros(10752 + 64, np.uint8)
    pool = nbkv.HostPool(make_config(), memory=memory[16 - memory.ctypes.data % 16 :])
    pool.append(2, KEY, KEY, [0, 1, 2])
    assert np.count_nonzero(memory.view(np.uint8)) == 2 * 2 * 48


def test_a_cuda_pool_needs_numba_cuda(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nbkv.pools.cuda", None)
    with pytest.raises(ImportError, match=r"CudaPool needs numba-cuda.*nbkv\[cu12\]"):
        _ = nbkv.CudaPool
    with pytest.raises(AttributeError, match="no attribute 'Pool'"):
        _ = nbkv.Pool
    with pytest.raises(AttributeError, match="no attribute 'Pool'"):
        _ = nbkv.pools.Pool


def test_calls_from_two_threads_meet_no_half_written_block(rng) -> None:
    # Large enough to release the GIL and to be spread over threads.
    from concurrent.futures import ThreadPoolExecutor

    size = 4 if nbkv._jit.INTERPRETED else 512
    config = make_config(num_blocks=16, block_size=size, num_layers=2, head_dim=256)
    pool = make_pool(config, ("layer_major", "HND"))
    pool.num_threads = 3
    keys = numbers(rng, (2, 8 * size, 2, 256))
    with ThreadPoolExecutor(2) as executor:
        halves = [np.arange(8 * size) + start for start in (0, 8 * size)]
        calls = [executor.submit(partial(pool.append_all, keys, -keys, half)) for half in halves]
        for call in calls:
            call.result()
    pool.copy_blocks(np.stack([np.arange(8), np.arange(8, 16)], 1))
    for ids in (np.arange(8), np.arange(8, 16)):
        got = pool.gather(None, ids, 8 * size)
        assert got[:, 0].tobytes() == keys.tobytes()
        assert got[:, 1].tobytes() == (-keys).tobytes()
