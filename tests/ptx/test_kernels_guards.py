"""What a CudaPool refuses, it refuses before anything is launched."""

import numpy as np
import pytest

from nbkv import CacheConfig, HostPool
from nbkv.errors import ArgumentError, ConfigError
from ptx.wheels import require_wheels

require_wheels()

from ptx.pool_device import OnDevice, PTXDevice, pool_class  # noqa: E402


class Guarded:
    """A pool, and what may be handed to it."""

    def __init__(self, dtype="float16", cc=(9, 0), **shape):
        self.device = PTXDevice(cc)
        shape = {"block_size": 4, "num_blocks": 6, "num_layers": 2} | shape
        self.config = CacheConfig(**shape, num_kv_heads=2, head_dim=16, dtype=dtype)
        self.pool = pool_class(self.device)(self.config)
        self.device.reports.clear()

    def rows(self, *leading, kind=np.float16):
        return self.device.put(np.ones((*leading, 2, 16), kind))

    def refuses(self, error, match, method, *args):
        before = self.pool._owner.owner.copy()
        with pytest.raises(error, match=match):
            getattr(self.pool, method)(*args)
        assert self.device.reports == []
        assert (self.pool._owner.owner == before).all()
        assert not self.pool._block_marks.any()


@pytest.fixture
def guarded():
    return Guarded()


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([[0, 6]], "block ids, 0 to 5"),
        ([[-1, 2]], "block ids, 0 to 5"),
        ([[0, 2], [1, 2]], "no other pair has"),
        ([[0, 2], [2, 3]], "not source and destination"),
        ([[1, 1]], "not source and destination"),
        ([[0, 1, 2]], r"\(n, 2\)"),
        ([0, 1], "2 dimensions"),
    ],
)
def test_copies_that_cannot_be_made_together_are_refused(guarded, pairs, match):
    guarded.refuses(ArgumentError, match, "copy_blocks", pairs)
    guarded.refuses(ArgumentError, match, "copy_partial", pairs, [1] * len(pairs))


@pytest.mark.parametrize(("counts", "match"), [([5], "0 to 4"), ([-1], "0 to 4"), ([1, 2], "one")])
def test_counts_that_do_not_fit_are_refused(guarded, counts, match):
    guarded.refuses(ArgumentError, match, "copy_partial", [[0, 1]], counts)


@pytest.mark.parametrize(
    ("slots", "match"),
    [([0, 24, 1], "0 to 23"), ([0, -2, 1], "-1 or 0"), ([3, 1, 3], "stands in it once")],
)
def test_slots_out_of_range_or_twice_are_refused(guarded, slots, match):
    key = guarded.rows(3)
    guarded.refuses(ArgumentError, match, "append", 0, key, key, slots)
    every = guarded.rows(2, 3)
    guarded.refuses(ArgumentError, match, "append_all", every, every, slots)


def test_sources_of_a_wrong_shape_dtype_or_place_are_refused(guarded):
    key, slots = guarded.rows(2), [0, 1]
    put = guarded.device.put
    for wrong, match in (
        (guarded.rows(3), "value's shape"),
        (guarded.rows(2, kind=np.float32), "value's dtype"),
        (put(np.ones((2, 2, 8), np.float16)), "value's shape"),
        (put(np.ones((2, 2, 32), np.float16)[..., ::2]), "last stride"),
        (put(np.ones((2, 2, 18), np.float16)[..., 1:17]), "multiples of 8 bytes"),
        (np.ones((2, 2, 16), np.float16), "in the CPU's memory"),
    ):
        guarded.refuses(ArgumentError, match, "append", 0, key, wrong, slots)
    guarded.refuses(ArgumentError, "layer is 2", "append", 2, key, key, slots)
    guarded.refuses(ArgumentError, "one for each of 2", "append", 0, key, key, [0])
    guarded.refuses(TypeError, "must be integers", "append", 0, key, key, [0.5, 1])
    guarded.refuses(TypeError, "must be an array", "append", 0, key, None, slots)


def test_slots_in_device_memory_must_have_a_shape_and_dtype(guarded):
    key, put = guarded.rows(2), guarded.device.put
    for wrong, match in (
        (put(np.zeros(3, np.int64)), "slot_mapping's shape"),
        (put(np.zeros(2, np.int16)), "slot_mapping's dtype"),
        (put(np.zeros(4, np.int64)[::2]), "slot_mapping's stride"),
        (
            OnDevice(
                np.zeros(2, np.int64), put(np.zeros(3)).__cuda_array_interface__["data"][0] + 4
            ),
            "slot_mapping's address",
        ),
    ):
        guarded.refuses(ArgumentError, match, "append", 0, key, key, wrong)


def test_quantising_pools_take_aligned_floats_only():
    guarded = Guarded("int8")
    key, put = guarded.rows(2), guarded.device.put
    shifted = put(np.ones((2, 2, 20), np.float16)[..., 4:])
    guarded.refuses(ArgumentError, "multiples of 16 bytes", "append", 0, key, shifted, [0, 1])
    words = put(np.ones((2, 2, 16), np.int8))
    guarded.refuses(ArgumentError, "value's dtype", "append", 0, key, words, [0, 1])


def test_blocks_out_of_range_are_refused_by_gather_scatter_and_zero(guarded):
    values = guarded.rows(2, 6)
    for ids, match in (([0, 6], "0 to 5"), ([-1, 0], "0 to 5")):
        guarded.refuses(ArgumentError, match, "gather", 0, ids, 6)
        guarded.refuses(ArgumentError, match, "scatter", 0, ids, values)
        guarded.refuses(ArgumentError, match, "zero", ids)
    guarded.refuses(ArgumentError, "block 1 twice", "scatter", 0, [1, 1], values)
    guarded.refuses(ArgumentError, "num_tokens is 9", "gather", 0, [1, 2], 9)
    guarded.refuses(ArgumentError, "out's shape", "gather", 0, [1, 2], 5, values)
    guarded.refuses(ArgumentError, "values' num_tokens", "scatter", 0, [1], values)
    read_only = np.ones((2, 6, 2, 16), np.float16)
    read_only.flags.writeable = False
    out = guarded.device.put(read_only)
    guarded.refuses(ArgumentError, "out is 'read-only'", "gather", 0, [1, 2], 6, out)


def test_swaps_need_a_page_locked_pool_of_the_same_shape(guarded):
    host = HostPool(guarded.config)
    for name in ("swap_out", "swap_in"):
        guarded.refuses(ArgumentError, "not page-locked", name, [0], host, [1])
        guarded.device.map_host(host)
        guarded.refuses(ArgumentError, "0 to 5", name, [6], host, [1])
        guarded.refuses(ArgumentError, "0 to 5", name, [0], host, [6])
        guarded.refuses(ArgumentError, "as many as", name, [0, 1], host, [1])
        guarded.refuses(TypeError, "HostPool", name, [0], guarded.pool, [1])
        hnd = HostPool(guarded.config, token_order="HND")
        guarded.refuses(ArgumentError, "token_order", name, [0], hnd, [1])
        other = HostPool(CacheConfig(4, 6, 1, 2, 16))
        guarded.refuses(ArgumentError, "num_layers", name, [0], other, [1])
        guarded.device.mapped.clear()
    guarded.device.map_host(host)
    guarded.refuses(ArgumentError, "twice", "swap_out", [0, 1], host, [1, 1])
    guarded.refuses(ArgumentError, "twice", "swap_in", [1, 1], host, [0, 1])


def test_fp8_scales_of_two_pools_must_agree_to_swap():
    guarded = Guarded("fp8")
    host = HostPool(guarded.config)
    host.set_scales(2)
    guarded.device.map_host(host)
    guarded.refuses(ArgumentError, "scales", "swap_out", [0], host, [0])


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ({"head_dim": 3}, "head_dim is 3"),
        ({"dtype": "fp8", "head_dim": 12}, "head_dim of 8"),
        ({"num_blocks": 2**31 - 1}, "below 2147483648"),
        ({"num_layers": 40_000}, "at most 65535"),
    ],
)
def test_configurations_that_kernels_cannot_address_are_refused(shape, match):
    whole = {"block_size": 4, "num_blocks": 4, "num_layers": 1, "num_kv_heads": 1} | shape
    with pytest.raises(ConfigError, match=match):
        pool_class(PTXDevice((9, 0)))(CacheConfig(**({"head_dim": 16} | whole)))


def test_fp8_needs_a_device_that_converts_it():
    with pytest.raises(ConfigError, match=r"needs 8\.9"):
        Guarded("fp8", cc=(8, 0))
    assert Guarded("fp8", cc=(8, 9)).pool.nbytes


def test_memory_of_the_other_kind_is_not_wrapped():
    config = CacheConfig(4, 6, 1, 2, 16)
    array = np.zeros((6, 1, 2, 4, 2, 16), np.float16)
    device = PTXDevice((9, 0))
    with pytest.raises(ArgumentError, match="in the CPU's memory"):
        pool_class(device).wrap(config, array)
    with pytest.raises(ArgumentError, match="in a device's memory"):
        HostPool.wrap(config, device.put(array))
    raw = np.zeros(array.size + 4, np.float16)
    shifted = raw[2:-2].reshape(array.shape)
    with pytest.raises(ArgumentError, match="multiples of 8 bytes"):
        pool_class(device).wrap(config, OnDevice(shifted, device.memory.add(raw) + 4))
