"""The decode kernels' PTX against attention in float64 over what the pool holds."""

import math

import numpy as np
import pytest
from cuda_plans import random_layout

from nbkv import CacheConfig, HostPool, attention
from nbkv.errors import ArgumentError, ConfigError
from ptx.wheels import require_wheels

require_wheels()

from ptx.pool_device import PTXDevice, pool_class  # noqa: E402
from ptx.test_kernels_plans import fetch  # noqa: E402

TOLERANCE = 2e-6
#: dtype, head_dim, KV heads, kv_factor, query heads a KV head.
SHAPES = [
    ("float16", 64, 2, 2, 2),
    ("float32", 32, 1, 2, 1),
    ("bfloat16", 16, 2, 2, 3),
    ("fp8", 24, 2, 2, 1),
    ("int8", 128, 2, 2, 2),
    ("float16", 264, 1, 2, 1),
    ("float16", 576, 1, 1, 4),
]
CASES = [
    (cc, *shape)
    for cc in ((8, 0), (8, 9), (9, 0), (10, 0))
    for shape in SHAPES
    if (cc != (8, 9) or shape[0] == "fp8") and (cc != (8, 0) or shape[0] != "fp8")
]
LENGTHS = np.array([19, 0, 1, 7, 20], np.int32)


def words_of(numbers, dtype):
    if dtype == "bfloat16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return numbers.astype(np.float32 if dtype == "float32" else np.float16)


def make_pools(rng, cc, dtype, head_dim, heads, kv_factor):
    config = CacheConfig(4, 25, 2, heads, head_dim, dtype=dtype, kv_factor=kv_factor)
    options = random_layout(rng)
    device = PTXDevice(cc)
    cuda, host = pool_class(device)(config, **options), HostPool(config, **options)
    generator = np.random.default_rng(rng.randrange(2**31))
    numbers = generator.standard_normal((kv_factor, 100, heads, head_dim)).astype(np.float32)
    values = words_of(numbers, dtype)
    if dtype == "fp8":
        for pool in (cuda, host):
            pool.set_scales(0.25)
    cuda.scatter(1, range(25), device.put(values))
    host.scatter(1, range(25), values)
    return cuda, host, generator


def attend_exactly(query, host, table, lengths):
    """Attend in float64; tokens of holes are left out."""
    result = np.zeros(query.shape)
    group = query.shape[1] // host.config.num_kv_heads
    for i, length in enumerate(lengths):
        tokens = np.arange(length)
        blocks = table[i, tokens // 4]
        if not (blocks >= 0).any():
            continue
        rows = host.gather(1, np.maximum(blocks[::4], 0), length)
        if host.config.dtype == "bfloat16":
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        rows = rows.astype(np.float64)[:, blocks >= 0]
        for j in range(query.shape[1]):
            scores = rows[0, :, j // group] @ query[i, j].astype(np.float64)
            weights = np.exp((scores - scores.max()) / math.sqrt(host.config.head_dim))
            result[i, j] = weights / weights.sum() @ rows[-1, :, j // group]
    return result


@pytest.mark.parametrize(("cc", "dtype", "head_dim", "heads", "kv_factor", "group"), CASES)
def test_decode_is_exact_to_the_last_bits(cc, dtype, head_dim, heads, kv_factor, group, rng):
    cuda, host, generator = make_pools(rng, cc, dtype, head_dim, heads, kv_factor)
    table = generator.permutation(25).reshape(5, 5).astype(np.int32)
    table[4, 2] = -1
    query = generator.standard_normal((5, heads * group, head_dim)).astype(np.float32)
    exact = attend_exactly(query, host, table, LENGTHS)
    for tokens_per_split in (3, 8, None):
        found = cuda.attend(
            1, cuda._device.put(query), table, LENGTHS, tokens_per_split=tokens_per_split
        )
        assert abs(fetch(found) - exact).max() <= TOLERANCE
    public = attention.decode(cuda._device.put(query), cuda, table, LENGTHS, layer=1)
    assert abs(fetch(public) - exact).max() <= TOLERANCE
    assert not fetch(public)[1].any()


@pytest.mark.parametrize("kind", [np.float16, np.uint16])
def test_decode_reads_and_writes_sixteen_bits(kind, rng):
    cuda, host, generator = make_pools(rng, (9, 0), "float16", 64, 1, 2)
    table = generator.permutation(25).reshape(5, 5).astype(np.int32)
    wide = generator.standard_normal((5, 2, 64)).astype(np.float32)
    query = wide.astype(kind) if kind == np.float16 else words_of(wide, "bfloat16")
    value = query if kind == np.float16 else (query.astype(np.uint32) << 16).view(np.float32)
    exact = attend_exactly(value, host, table, LENGTHS)
    put = cuda._device.put
    out = np.zeros_like(query)
    # Tables and lengths in device memory, where they are taken on trust.
    cuda.attend(1, put(query), put(table), put(LENGTHS), out=put(out), scale=0.125)
    found = out if kind == np.float16 else (out.astype(np.uint32) << 16).view(np.float32)
    assert abs(found - exact).max() <= (2e-3 if kind == np.float16 else 2e-2)


def test_decode_refuses_what_does_not_fit():
    device = PTXDevice((9, 0))
    cuda = pool_class(device)(CacheConfig(4, 8, 1, 2, 16))
    query = device.put(np.zeros((2, 4, 16), np.float32))
    table, lengths = np.zeros((2, 2), np.int32), np.array([3, 8], np.int32)
    before = len(device.reports)
    for wrong, names in (
        ((device.put(np.zeros((2, 3, 16), np.float32)), table, lengths), "query's shape"),
        ((device.put(np.zeros((2, 4, 16), np.float64)), table, lengths), "query's dtype"),
        ((np.zeros((2, 4, 16), np.float32), table, lengths), "query"),
        ((query, table[:1], lengths), "block_table"),
        ((query, table + 8, lengths), r"block_table\[0, 0\]"),
        ((query, table, lengths + 1), "seq_lens"),
        ((query, device.put(table.astype(np.int64)), lengths), "block_table's dtype"),
    ):
        with pytest.raises(ArgumentError, match=names):
            cuda.attend(0, *wrong)
    with pytest.raises(ConfigError, match="head_dim is 4"):
        pool_class(device)(CacheConfig(4, 8, 1, 2, 4)).attend(0, query, table, lengths)
    assert len(device.reports) == before
