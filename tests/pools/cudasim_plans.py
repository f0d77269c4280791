"""Every kernel and every host wrapper of CudaPool under numba's simulator: run as a script.

``NUMBA_ENABLE_CUDASIM=1 python cudasim_plans.py SEED``; a process of its own, since numba decides
when it is imported. A thread of a block is a Python thread here, so pools are small.
"""

import random
import sys
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402
from cuda_plans import CALLS, Twins, assert_same, fill, random_layout  # noqa: E402

from nbkv import CacheConfig, HostPool, attention  # noqa: E402
from nbkv.pools import cuda_simulated  # noqa: E402
from nbkv.pools.cuda import CudaPool  # noqa: E402
from nbkv.pools.cuda_device import Device  # noqa: E402
from nbkv.pools.cuda_jit import KERNELS, SIMULATED  # noqa: E402

assert SIMULATED
#: Kernels that were launched.
LAUNCHED = set()
KEPT = []


class CheckedDevice(Device):
    """Knows which memory kernels may touch."""

    def allocate(self, num_bytes):
        memory = super().allocate(num_bytes)
        cuda_simulated.RANGES.append((memory.address, memory.address + max(num_bytes, 1)))
        KEPT.append(memory)
        return memory

    def launch(self, kernel, grid, block, stream, args):
        assert block[0] * block[1] * block[2] <= 64
        LAUNCHED.add(kernel.name)
        super().launch(kernel, grid, block, stream, args)


def allow(array):
    """Let kernels touch a host array, which a simulated device reaches."""
    cuda_simulated.RANGES.append(np.lib.array_utils.byte_bounds(array))
    KEPT.append(array)
    return array


class CheckedPool(CudaPool):
    """On a CheckedDevice."""

    @staticmethod
    def _new_device():
        return CheckedDevice()


def make_twins(rng, dtype, head_dim, kv_factor):
    heads, size = rng.choice([1, 2, 3]), rng.choice([2, 3, 4])
    config = CacheConfig(size, 4, 2, heads, head_dim, dtype=dtype, kv_factor=kv_factor)
    options = random_layout(rng)
    peers = [HostPool(config, **options) for _ in range(2)]
    allow(peers[0]._owner)
    cuda, host = CheckedPool(config, **options), HostPool(config, **options)
    return Twins(cuda, host, *peers, allow, np.asarray)


def attend(rng, twins):
    """Compare attention with the host's."""
    g = twins.host.geometry
    generator = np.random.default_rng(rng.randrange(2**31))
    shape = (g.kv_factor, g.num_blocks * g.block_size, g.num_kv_heads, g.head_dim)
    numbers = generator.standard_normal(shape).astype(np.float32)
    if g.dtype == "bfloat16":
        numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    elif g.dtype == "float16":
        numbers = numbers.astype(np.float16)
    for pool in (twins.host, twins.cuda):
        pool.scatter(0, range(g.num_blocks), allow(numbers))
    query = generator.standard_normal((2, 2 * g.num_kv_heads, g.head_dim)).astype(np.float32)
    table = np.array([[1, -1, 0], [3, 2, 1]], np.int32)
    lengths = np.array([3 * g.block_size - 1, g.block_size + 1], np.int32)
    ours = twins.cuda.attend(0, allow(query), table, lengths, tokens_per_split=g.block_size)
    theirs = attention.decode(query, twins.host, table, lengths, layer=0)
    error = abs(np.asarray(ours) - theirs).max()
    assert error <= 2e-6, (error, twins.host.config)


def run(seed):
    rng = random.Random(seed)
    shapes = [
        ("float32", 8, 2),
        ("float16", 12, 2),
        ("bfloat16", 8, 1),
        ("fp8", 16, 2),
        ("int8", 24, 2),
        ("int8", 32, 1),
        ("float16", 8, 2),
    ]
    for dtype, head_dim, kv_factor in shapes:
        twins = make_twins(rng, dtype, head_dim, kv_factor)
        if dtype == "fp8":
            for pool in (twins.host, twins.cuda, twins.peer, twins.peer_twin):
                pool.set_scales(0.5)
        fill(rng, twins)
        for call in CALLS:
            call(rng, twins)
            assert_same(twins)
        if head_dim % 8 == 0:
            attend(rng, twins)
    # What chance has left out: contiguous rows, and heads and chunks of an odd size.
    for order, head_dim, size in (("NHD", 8, 2), ("HND", 8, 2), ("NHD", 4, 1)):
        config = CacheConfig(size, 4, 1, 2 if head_dim == 8 else 1, head_dim)
        peer = HostPool(config, token_order=order, layout="layer_major")
        allow(peer._owner)
        pool = CheckedPool(config, token_order=order, layout="layer_major")
        shape = (2, 4 * size, config.num_kv_heads, head_dim)
        rows = allow(np.arange(np.prod(shape), dtype=np.float16).reshape(shape))
        pool.append(0, rows[0], rows[1], list(range(4 * size)))
        assert (np.asarray(pool.gather(0, range(4), 4 * size)) == rows).all()
        pool.copy_blocks([[0, 1]])
        pool.copy_partial([[1, 2]], [1])
        pool.swap_out([2], peer, [3])
        assert (peer.data[3] == np.asarray(pool.data)[2]).all()
    missing = set(KERNELS) - LAUNCHED
    assert not missing, missing


if __name__ == "__main__":
    # float32 overflows and makes NaN where kernels saturate; a GPU does not warn.
    warnings.simplefilter("ignore", RuntimeWarning)
    run(int(sys.argv[1]))
    print(f"{len(LAUNCHED)} kernels simulated")
