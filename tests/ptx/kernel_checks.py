"""What the CUDA kernels must do, small enough to be run on every planted bug."""

import numpy as np
from cuda_plans import Twins, assert_same, bytes_of

from nbkv import CacheConfig, HostPool
from ptx.pool_device import PTXDevice, pool_class
from ptx.test_kernels_plans import fetch
from ptx.test_kernels_sweep import test_rows_of_heads_move_exactly as sweep_heads
from ptx.test_kernels_sweep import test_wide_rows_move_exactly as sweep_wide

SIZES = [1, 9, 33, 64, 97, 129, 130]
CC = (9, 0)
SPECIAL = [0.0, -0.0, np.inf, -np.inf, 448.0, 1e-4, -1e-42, 3e38, 0.4375, -17.0]


def check_wide():
    sweep_wide(CC, SIZES)


def check_heads():
    sweep_heads(CC, SIZES[:4], narrow=False)


def check_block_sizes():
    """Appends, gathers and zeroes in blocks whose size is no power of two."""
    for size in (1, 3, 7, 16):
        config = CacheConfig(size, 9, 2, 2, 8)
        twins = make_twins(config, "NHD")
        rows = np.arange(2 * 2 * 9 * size * 16, dtype=np.float16).reshape(2, 2, 9 * size, 2, 8)
        twins.host.scatter(None, range(9), rows)
        twins.cuda.scatter(None, range(9), twins.put(rows))
        ids = [5, 0, 8]
        ours, theirs = twins.cuda.gather(1, ids, 3 * size), twins.host.gather(1, ids, 3 * size)
        assert (fetch(ours) == theirs).all()
        assert_same(twins)


def make_twins(config, token_order):
    device = PTXDevice(CC)
    cuda = pool_class(device)(config, token_order=token_order)
    host = HostPool(config, token_order=token_order)
    return Twins(cuda, host, None, None, device.put, fetch)


def check_numbers(dtype):
    """Quantise and read back numbers of every kind, and copy them with their scales."""
    generator = np.random.default_rng(5)
    for order in ("NHD", "HND"):
        config = CacheConfig(4, 3, 1, 3, 40, dtype=dtype)
        twins = make_twins(config, order)
        numbers = generator.standard_normal((2, 12, 3, 40)).astype(np.float32)
        numbers[:, ::3, :, 3] = generator.choice(SPECIAL, (2, 4, 3))
        numbers[:, 1, 1, 2] = np.uint32(0xFFC00000).view(np.float32)
        numbers[:, 2, :, ::4], numbers[:, 2, :, 1::4] = np.inf, -np.inf
        numbers[:, 4] = [np.inf, np.nan] * 20
        if dtype == "fp8":
            for pool in (twins.host, twins.cuda):
                pool.set_scales([[[0.5], [2]]])
        twins.host.scatter(0, [0, 1, 2], numbers)
        twins.cuda.scatter(0, [0, 1, 2], twins.put(numbers))
        assert_same(twins)
        twins.host.copy_partial([[0, 1]], [3])
        twins.cuda.copy_partial([[0, 1]], [3])
        assert_same(twins)
        for kind in (np.float32, np.float16):
            out = np.zeros((2, 12, 3, 40), kind)
            theirs = twins.host.gather(0, [2, 1, 0], 12, out.copy())
            ours = fetch(twins.cuda.gather(0, [2, 1, 0], 12, twins.put(out)))
            assert (bytes_of(ours) == bytes_of(theirs)).all()


def check_fp8():
    check_numbers("fp8")


def check_int8():
    check_numbers("int8")


def check_decode():
    twins = make_twins(CacheConfig(4, 8, 1, 2, 16, dtype="int8"), "NHD")
    generator = np.random.default_rng(3)
    values = generator.standard_normal((2, 32, 2, 16)).astype(np.float32)
    twins.host.scatter(0, range(8), values)
    twins.cuda.scatter(0, range(8), twins.put(values))
    query = generator.standard_normal((2, 4, 16)).astype(np.float32)
    table = np.array([[3, -1, 5, 0], [1, 2, 6, 7]], np.int32)
    lengths = np.array([15, 13], np.int32)
    found = fetch(twins.cuda.attend(0, twins.put(query), table, lengths, tokens_per_split=7))
    for i in range(2):
        rows = twins.host.gather(0, np.maximum(table[i], 0), int(lengths[i])).astype(np.float64)
        kept = table[i, np.arange(lengths[i]) // 4] >= 0
        for j in range(4):
            scores = rows[0, kept, j // 2] @ query[i, j] / 4
            weights = np.exp(scores - scores.max())
            exact = weights / weights.sum() @ rows[1, kept, j // 2]
            assert abs(found[i, j] - exact).max() <= 2e-6


def check_counts():
    twins = make_twins(CacheConfig(4, 4, 1, 2, 8), "NHD")
    rows = np.arange(2 * 16 * 16, dtype=np.float16).reshape(2, 16, 2, 8)
    twins.host.scatter(0, range(4), rows)
    twins.cuda.scatter(0, range(4), twins.put(rows))
    twins.host.copy_partial([[0, 2], [1, 3]], [3, 1])
    twins.cuda.copy_partial([[0, 2], [1, 3]], [3, 1])
    assert_same(twins)
