"""How CUDA kernels quantise and dequantise rows, whatever the pool's dtype.

The arithmetic is `nbkv.pools.words`'s to the bit, NaN included: a GPU's own conversions lose a
NaN's sign, so it is taken from the number that came in. No multiplication is fused with an
addition and no subnormal is flushed.

A thread takes 16 numbers at a time, 16 bytes of the pool, or 8 where rows allow no more. The
other side's numbers are float32, float16 or bfloat16 and aligned to 16 bytes. What a dtype does
itself comes as device functions, which are inlined: `cuda_fp8` and `cuda_int8` have them.
"""

from nbkv.pools.checks import FLOAT16, FLOAT32
from nbkv.pools.cuda_addressing import HEAD_STRIDE, WIDE, find_plane, find_row, find_slot, word
from nbkv.pools.cuda_intrinsics import (
    bfloats_of_floats,
    float_of,
    floats_of_halves,
    halves_of_floats,
    load8,
    load16,
    store8,
    store16,
)
from nbkv.pools.cuda_jit import cuda, device_function, int32, int64, uint32, uint64


@device_function
def low(pair):
    """Return the lower 32 bits."""
    return uint32(pair)


@device_function
def high(pair):
    """Return the upper 32 bits."""
    return uint32(pair >> uint64(32))


@device_function
def join(lower, upper):
    """Put two uint32 into a uint64."""
    return uint64(lower) | (uint64(upper) << uint64(32))


@device_function
def two_floats(bits, kind):
    """Return the float32 of two float16 or bfloat16."""
    if kind == FLOAT16:
        return floats_of_halves(bits)
    return float_of(bits << uint32(16)), float_of(bits & uint32(0xFFFF0000))


@device_function
def pack(a, b, kind):
    """Round two float32 to float16 or bfloat16."""
    return halves_of_floats(a, b) if kind == FLOAT16 else bfloats_of_floats(a, b)


@device_function
def bytes_of_eight(kind):
    """Return how many bytes eight numbers of the other side take."""
    return int32(32) if kind == FLOAT32 else int32(16)


@device_function
def codes_of_eight(source, kind, inverse, codes_of_two, codes_of_wide_two):
    """Quantise the eight numbers at an address.

    `codes_of_two` makes 16 bits of two float16 or bfloat16, `codes_of_wide_two` of two float32.
    """
    first, second = load16(source)
    if kind == FLOAT32:
        third, fourth = load16(source + 16)
        return (
            codes_of_wide_two(first, inverse)
            | (codes_of_wide_two(second, inverse) << uint64(16))
            | (codes_of_wide_two(third, inverse) << uint64(32))
            | (codes_of_wide_two(fourth, inverse) << uint64(48))
        )
    return (
        codes_of_two(low(first), kind, inverse)
        | (codes_of_two(high(first), kind, inverse) << uint64(16))
        | (codes_of_two(low(second), kind, inverse) << uint64(32))
        | (codes_of_two(high(second), kind, inverse) << uint64(48))
    )


@device_function
def quantise_row(row, source, num_units, unit, kind, inverse, codes_of):
    """Quantise one head of a token with the threads along x; `codes_of` takes eight numbers."""
    eight = bytes_of_eight(kind)
    i = int32(cuda.threadIdx.x)
    while i < int32(num_units):
        if unit == WIDE:
            numbers = source + 2 * eight * int64(i)
            first = codes_of(numbers, kind, inverse)
            store16(row + 16 * int64(i), (first, codes_of(numbers + eight, kind, inverse)))
        else:
            store8(row + 8 * int64(i), codes_of(source + eight * int64(i), kind, inverse))
        i = int32(i + int32(cuda.blockDim.x))


@device_function
def store_eight(to, codes, scale, kind, store_four):
    """Dequantise eight numbers and write them.

    `store_four` writes four float32, or returns four float16 or bfloat16.
    """
    first = store_four(to, low(codes), scale, kind)
    second = store_four(to + 16, high(codes), scale, kind)
    if kind != FLOAT32:
        store16(to, (first, second))


@device_function
def dequantise_row(to, row, num_units, unit, kind, scale, store_four):
    """Dequantise one head of a token with the threads along x."""
    eight = bytes_of_eight(kind)
    i = int32(cuda.threadIdx.x)
    while i < int32(num_units):
        if unit == WIDE:
            numbers = to + 2 * eight * int64(i)
            first, second = load16(row + 16 * int64(i))
            store_eight(numbers, first, scale, kind, store_four)
            store_eight(numbers + eight, second, scale, kind, store_four)
        else:
            codes = load8(row + 8 * int64(i))
            store_eight(to + eight * int64(i), codes, scale, kind, store_four)
        i = int32(i + int32(cuda.blockDim.x))


@device_function
def dequantise_token(
    words,
    first_plane,
    out,
    indices,
    index_kind,
    layer_stride,
    kv_stride,
    token_stride,
    head_stride,
    num_heads,
    num_units,
    unit,
    kind,
    read_scale,
    store_four,
):
    """Read a token's rows from its slot and dequantise them: all that gathering kernels do.

    `read_scale` reads the scale of a head: (words, plane, slot, head, num_heads).
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, index_kind, token)
    if slot < 0:
        return
    plane = find_plane(words, first_plane)
    source = find_row(words, plane, slot)
    to = out + cuda.blockIdx.y * layer_stride + cuda.blockIdx.z * kv_stride + token * token_stride
    h = int32(cuda.threadIdx.y)
    while h < int32(num_heads):
        scale = read_scale(words, plane, slot, h, num_heads)
        row = source + h * word(words, HEAD_STRIDE)
        dequantise_row(to + h * head_stride, row, num_units, unit, kind, scale, store_four)
        h = int32(h + int32(cuda.blockDim.y))
