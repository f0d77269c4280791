"""CudaPool on a device agrees with HostPool byte for byte."""

import numpy as np
import pytest
from cuda_plans import Twins, assert_same, random_config, random_layout, run_plan

from nbkv import CacheConfig, HostPool, attention


def put(array):
    """Return a device array with a view's strides: its base goes over whole."""
    from numba import cuda

    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    flat = np.lib.stride_tricks.as_strided(base, (base.size,), (base.itemsize,))
    on_device = cuda.to_device(flat)
    start = array.__array_interface__["data"][0] - flat.__array_interface__["data"][0]
    interface = {
        "version": 3,
        "data": (on_device.__cuda_array_interface__["data"][0] + start, False),
        "shape": array.shape,
        "strides": array.strides,
        "typestr": array.dtype.str,
    }
    return cuda.from_cuda_array_interface(interface, owner=on_device, sync=False)


def fetch(array):
    """Return a device array's content, whatever its strides."""
    from numba import cuda

    from nbkv.pools.foreign import describe, row_major

    found = describe("array", array)
    span = sum((n - 1) * s for n, s in zip(found.shape, found.strides, strict=True))
    item = array.dtype.itemsize
    raw = {
        "version": 3,
        "data": (found.address, False),
        "shape": (span + item,),
        "strides": (1,),
        "typestr": "|u1",
    }
    if 0 in found.shape:
        return np.zeros(found.shape, array.dtype)
    cuda.synchronize()
    host = cuda.from_cuda_array_interface(raw, owner=array, sync=False).copy_to_host()
    strides = found.strides or row_major(found.shape, item)
    return np.ndarray(found.shape, array.dtype, host, strides=strides)


def make_twins(rng, dtype):
    from nbkv import CudaPool

    config, options = random_config(rng, dtype, max_units=64), random_layout(rng)
    peer_options = random_layout(rng) | {"token_order": options["token_order"]}
    return Twins(
        cuda=CudaPool(config, **options),
        host=HostPool(config, **options),
        peer=HostPool(config, **peer_options, pinned=True),
        peer_twin=HostPool(config, **peer_options),
        put=put,
        fetch=fetch,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "fp8", "int8"])
def test_random_plans_agree_with_hostpool(dtype, rng):
    from numba import cuda

    if dtype == "fp8" and cuda.get_current_device().compute_capability < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")
    for _ in range(20):
        run_plan(rng, make_twins(rng, dtype), num_calls=20)


def test_a_pool_of_four_gibibytes_is_addressed_beyond_32_bits():
    from nbkv import CudaPool

    config = CacheConfig(16, 2200, num_layers=32, num_kv_heads=8, head_dim=128)
    pool = CudaPool(config)
    rows = np.random.default_rng(0).standard_normal((32, 2, 16, 8, 128)).astype(np.float16)
    pool.scatter(None, [2199], put(rows))
    pool.copy_blocks([[2199, 0]])
    assert (fetch(pool.gather(None, [0], 16)) == rows).all()


def test_decode_agrees_with_the_hosts(rng):
    from nbkv import CudaPool

    config = CacheConfig(16, 64, 1, 2, 128)
    cuda_pool, host = CudaPool(config), HostPool(config)
    generator = np.random.default_rng(rng.randrange(2**31))
    values = generator.standard_normal((2, 1024, 2, 128)).astype(np.float16)
    cuda_pool.scatter(0, range(64), put(values))
    host.scatter(0, range(64), values)
    table = generator.permutation(64).reshape(4, 16).astype(np.int32)
    lengths = np.array([250, 1, 0, 256], np.int32)
    query = generator.standard_normal((4, 8, 128)).astype(np.float32)
    exact = attention.decode(query, host, table, lengths, layer=0)
    ours = attention.decode(put(query), cuda_pool, table, lengths, layer=0)
    assert abs(fetch(ours) - exact).max() <= 4e-6


def test_kernels_compiled_ahead_of_time_are_found():
    from numba import cuda

    from nbkv.pools import cuda_warmup
    from nbkv.pools.cuda_jit import KERNELS

    capability = tuple(map(int, cuda.get_current_device().compute_capability[:2]))
    list(cuda_warmup.compile_for(capability))
    twin = cuda_warmup.load(KERNELS["copy"], capability)
    assert twin is not None
    twin.bind()
    assert twin.regs_per_thread <= 32
    assert twin.local_mem_per_thread == 0


def test_a_swap_is_ordered_behind_and_before_the_pools_own_calls(rng):
    from nbkv import CudaPool

    config = CacheConfig(16, 32, 8, 8, 128)
    pool, peer = CudaPool(config), HostPool(config, pinned=True)
    rows = np.random.default_rng(1).standard_normal((8, 2, 16, 8, 128)).astype(np.float16)
    given = put(rows)
    for _ in range(20):
        pool.scatter(None, [3], given)
        done = pool.swap_out([3], peer, [5])
        pool.zero([3])
        done.synchronize()
        gathered = peer.gather(None, [5], 16)
        assert (gathered == rows).all()
        pool.swap_in([4], peer, [5])
        assert (fetch(pool.gather(None, [4], 16)) == rows).all()
    twins = Twins(pool, peer, None, None, put, fetch)
    pool.swap_out(range(32), peer, range(32)).synchronize()
    peer._slot_marks[...] = pool._slot_marks
    assert_same(twins)
