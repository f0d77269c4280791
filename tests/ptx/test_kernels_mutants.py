"""Bugs planted in the kernels, each of which a check must notice."""

import sys

import pytest

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
from ptx.kernel_checks import (  # noqa: E402
    check_block_sizes,
    check_counts,
    check_decode,
    check_fp8,
    check_heads,
    check_int8,
    check_wide,
)
from ptx.mutants import load_mutant  # noqa: E402
from ptx.pool_device import PTXDevice  # noqa: E402

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
