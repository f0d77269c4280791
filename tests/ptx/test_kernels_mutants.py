"""Bugs planted in the kernels, each of which a check must notice."""

import sys

import numpy as np
import pytest
from cuda_plans import Twins, assert_same, bytes_of

from nbkv import CacheConfig, HostPool
from ptx.wheels import require_wheels

require_wheels()

from nbkv.pools import (  # noqa: E402
    cuda_addressing,
    cuda_decode,
    cuda_fp8,
    cuda_int8,
    cuda_jit,
    cuda_kernels,
    cuda_numbers,
    cuda_partials,
)
from ptx.faults import PTXError  # noqa: E402
from ptx.mutants import load_mutant  # noqa: E402
from ptx.pool_device import PTXDevice, pool_class  # noqa: E402
from ptx.test_kernels_plans import fetch  # noqa: E402
from ptx.test_kernels_sweep import (  # noqa: E402
    test_rows_of_heads_move_exactly as sweep_heads,
)
from ptx.test_kernels_sweep import (  # noqa: E402
    test_wide_rows_move_exactly as sweep_wide,
)

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


SKIP = "    if slot < 0:\n        return\n"
TO = "    to = find_row(words, find_plane(words, first_plane), slot)\n"
SOURCE = "    source = key if cuda.blockIdx.z == 0 else value\n"
MOVE = "        store16(to + 16 * int64(i), load16(source + 16 * int64(i)))\n"
NEXT = "        i = int32(i + int32(cuda.blockDim.x))\n"
GATHERED = "    to = out + plane * plane_stride + token * token_stride\n"
LAST = "        if i3 < n:\n            store16(to + 16 * int64(i3), v3)\n"
SWAPPED = "    to = word(words, plane) + second_of(pair)"
REPLACED_SOURCE = "    source = word(source_words, plane) + first_of(pair)"
ZERO_ROW = "            row = to + h * word(words, HEAD_STRIDE) + t * word(words, TOKEN_STRIDE)\n"
BARRIER = "            cuda.syncthreads()\n            offset"
#: Where kernels and what they call are, each only on those before it.
MODULES = [
    cuda_addressing,
    cuda_kernels,
    cuda_numbers,
    cuda_fp8,
    cuda_int8,
    cuda_partials,
    cuda_decode,
]
#: The module changed, the kernel launched, check, old text, new text.
MUTANTS = {
    "append: slot -1 is written": (
        cuda_kernels,
        "append",
        check_wide,
        SKIP + TO + SOURCE,
        TO + SOURCE,
    ),
    "append: one unit too many": (
        cuda_kernels,
        "append",
        check_wide,
        "    while i < n:\n" + MOVE + NEXT + "\n\n@cuda_kernel(12)\ndef append_heads",
        "    while i <= n:\n" + MOVE + NEXT + "\n\n@cuda_kernel(12)\ndef append_heads",
    ),
    "append: K and V change places": (
        cuda_kernels,
        "append",
        check_wide,
        SKIP + TO + SOURCE,
        SKIP + TO + SOURCE.replace("== 0", "!= 0"),
    ),
    "append_heads: the head's stride is forgotten": (
        cuda_kernels,
        "append_heads",
        check_heads,
        "        source += cuda.blockDim.y * source_stride\n",
        "",
    ),
    "append_heads: heads do not start at the thread's own": (
        cuda_kernels,
        "append_heads",
        check_heads,
        "    to += h * to_stride\n",
        "",
    ),
    "gather: planes overlap": (
        cuda_kernels,
        "gather",
        check_wide,
        GATHERED,
        GATHERED.replace("plane * plane_stride + ", ""),
    ),
    "gather: a block's offset is off by one": (
        cuda_addressing,
        "gather_heads",
        check_heads,
        "(int32(token) - int32(place) * size)",
        "(int32(token) - int32(place) * size + 1)",
    ),
    "copy: the last store is not guarded": (
        cuda_kernels,
        "copy",
        check_wide,
        LAST,
        "        store16(to + 16 * int64(i3), v3)\n",
    ),
    "copy: a load goes one too far": (
        cuda_kernels,
        "copy",
        check_wide,
        "        if i1 < n:\n            v1",
        "        if i1 <= n:\n            v1",
    ),
    "copy: turns overlap": (
        cuda_kernels,
        "copy",
        check_wide,
        "    step = int32(int32(cuda.gridDim.x) * int32(4 * threads))\n    while",
        "    step = int32(int32(cuda.gridDim.x) * int32(2 * threads))\n    while",
    ),
    "copy: a unit is 8 bytes in one place": (
        cuda_kernels,
        "copy",
        check_wide,
        "            v2 = load16(source + 16 *",
        "            v2 = load16(source + 8 *",
    ),
    "copy_rows: every pair has the first one's count": (
        cuda_kernels,
        "copy_rows",
        check_counts,
        "    n = load4(counts + 4 * int64(cuda.blockIdx.y))\n",
        "    n = load4(counts)\n",
    ),
    "copy_rows: scales stay behind": (
        cuda_kernels,
        "copy_rows",
        check_int8,
        "            store4(to + at, load4(source + at))\n",
        "            load4(source + at)\n",
    ),
    "swap: the planes of the wrong pool": (
        cuda_kernels,
        "swap",
        check_wide,
        REPLACED_SOURCE,
        REPLACED_SOURCE.replace("source_words, plane", "words, plane"),
    ),
    "swap: source and destination change places": (
        cuda_kernels,
        "swap",
        check_wide,
        SWAPPED,
        SWAPPED.replace("second_of", "first_of"),
    ),
    "zero: a thread block clears the first one's part": (
        cuda_kernels,
        "zero",
        check_wide,
        "            i = int32(int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + ",
        "            i = int32(",
    ),
    "division: the reciprocal is of half the number": (
        cuda_addressing,
        "append",
        check_block_sizes,
        "multiply_high(uint32(number) << uint32(1), ",
        "multiply_high(uint32(number), ",
    ),
    "fp8: a NaN loses its sign": (
        cuda_fp8,
        "append_fp8",
        check_fp8,
        " | (signs & uint32(0x8080))",
        "",
    ),
    "fp8: heads share the first one's place": (
        cuda_fp8,
        "append_fp8",
        check_fp8,
        "        row = to + h * word(words, HEAD_STRIDE)\n",
        "        row = to\n",
    ),
    "fp8: a NaN is read as a number": (
        cuda_fp8,
        "gather_fp8",
        check_fp8,
        "    return sign | nan if (code & uint32(0x7F)) == uint32(0x7F) else sign\n",
        "    return sign\n",
    ),
    "fp8: the exponent's bias is off by one": (
        cuda_fp8,
        "gather_fp8",
        check_fp8,
        "float32(2.0**120)",
        "float32(2.0**119)",
    ),
    "int8: minus infinity becomes -128": (
        cuda_int8,
        "append_int8",
        check_int8,
        "    second = max(rint_to_int8(float32(b * inverse)), int32(-127))\n",
        "    second = rint_to_int8(float32(b * inverse))\n",
    ),
    "int8: infinity counts as the largest": (
        cuda_int8,
        "append_int8",
        check_int8,
        "bits < uint32(0x7F800000)",
        "bits <= uint32(0x7F800000)",
    ),
    "int8: lanes do not all meet": (
        cuda_int8,
        "append_int8",
        check_int8,
        "    mask = int32(int32(cuda.blockDim.x) >> 1)\n",
        "    mask = int32(int32(cuda.blockDim.x) >> 2)\n",
    ),
    "int8: every lane writes the scale": (
        cuda_int8,
        "append_int8",
        check_int8,
        "            if cuda.threadIdx.x == 0:\n                store_float",
        "            if cuda.threadIdx.x >= 0:\n                store_float",
    ),
    "decode: no barrier before the maxima are read": (
        cuda_partials,
        "decode",
        check_decode,
        "    cuda.syncthreads()\n    highest = LOWEST",
        "    highest = LOWEST",
    ),
    "decode: no barrier before the rows are added": (
        cuda_partials,
        "decode",
        check_decode,
        "    cuda.syncthreads()\n    return highest",
        "    return highest",
    ),
    "decode: no barrier before the next turn": (
        cuda_decode,
        "decode",
        check_decode,
        BARRIER,
        "            offset",
    ),
    "decode: holes are attended to": (
        cuda_decode,
        "decode",
        check_decode,
        "token < end and found >= 0",
        "token < end",
    ),
    "decode: values are not scaled": (
        cuda_decode,
        "decode",
        check_decode,
        "float32(new * factor)",
        "new",
    ),
    "combine: splits keep their own maxima": (
        cuda_partials,
        "combine",
        check_decode,
        "factor = exp2_of(float32(load_float(at) - highest))",
        "factor = float32(1)",
    ),
}


@pytest.mark.parametrize(
    "check",
    [check_wide, check_heads, check_block_sizes, check_counts, check_fp8, check_int8, check_decode],
)
def test_the_checks_pass_on_the_kernels_as_they_are(check):
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name, monkeypatch):
    module, kernel, check, old, new = MUTANTS[name]
    home = sys.modules[cuda_jit.KERNELS[kernel].function.__module__]
    users = MODULES[MODULES.index(module) + 1 : MODULES.index(home) + 1]
    # A mutant has no file for numba to keep code beside, and no place among the kernels.
    monkeypatch.setattr(cuda_jit, "CACHE_DIR", None)
    monkeypatch.setattr(cuda_jit, "KERNELS", dict(cuda_jit.KERNELS))
    mutant = getattr(load_mutant(module, (old, new), users=users), kernel)
    monkeypatch.setattr(PTXDevice, "replaced", {kernel: mutant})
    with pytest.raises((PTXError, AssertionError)):
        check()
