"""CUDA kernels of int8 pools, each row with its own scale: append and gather.

What they share with fp8's is in `nbkv.pools.cuda_numbers`.
"""

from nbkv.pools.checks import FLOAT32
from nbkv.pools.cuda_addressing import (
    HEAD_STRIDE,
    find_plane,
    find_row,
    find_scale,
    find_slot,
    word,
)
from nbkv.pools.cuda_intrinsics import (
    bits_of,
    exchange,
    float_of,
    load16,
    load_float,
    rint_to_int8,
    store16,
    store_float,
)
from nbkv.pools.cuda_jit import (
    cuda,
    cuda_kernel,
    device_function,
    float32,
    int32,
    int64,
    uint32,
    uint64,
)
from nbkv.pools.cuda_numbers import (
    bytes_of_eight,
    codes_of_eight,
    dequantise_token,
    high,
    join,
    low,
    pack,
    quantise_row,
    two_floats,
)


@device_function
def finite_part(number):
    """Return the bits of a number's magnitude, or 0 where it is infinite or NaN."""
    bits = bits_of(number) & uint32(0x7FFFFFFF)
    return bits if bits < uint32(0x7F800000) else uint32(0)


@device_function
def larger_of_two(bits, kind):
    """Return the bits of the larger finite magnitude of two float16 or bfloat16."""
    a, b = two_floats(bits, kind)
    return max(finite_part(a), finite_part(b))


@device_function
def larger_of_wide_two(pair):
    """Return the bits of the larger finite magnitude of two float32."""
    return max(finite_part(float_of(low(pair))), finite_part(float_of(high(pair))))


@device_function
def largest_of_eight(source, kind):
    """Return the bits of the largest finite magnitude of eight numbers."""
    first, second = load16(source)
    if kind == FLOAT32:
        third, fourth = load16(source + 16)
        return max(
            max(larger_of_wide_two(first), larger_of_wide_two(second)),
            max(larger_of_wide_two(third), larger_of_wide_two(fourth)),
        )
    return max(
        max(larger_of_two(low(first), kind), larger_of_two(high(first), kind)),
        max(larger_of_two(low(second), kind), larger_of_two(high(second), kind)),
    )


@device_function
def largest_of_row(row, num_eights, kind):
    """Return the largest finite magnitude in a row that blockDim.x lanes share."""
    largest = uint32(0)
    i = int32(cuda.threadIdx.x)
    while i < int32(num_eights):
        found = largest_of_eight(row + bytes_of_eight(kind) * int64(i), kind)
        largest = max(largest, found)
        i = int32(i + int32(cuda.blockDim.x))
    return largest


@device_function
def largest_of_lanes(largest):
    """Return the largest number of the lanes that share a row; the whole warp comes by."""
    mask = int32(int32(cuda.blockDim.x) >> 1)
    while mask > 0:
        largest = max(largest, exchange(largest, mask))
        mask = int32(mask >> 1)
    return largest


@device_function
def int8_of_two_floats(a, b, inverse):
    """Quantise two numbers into 16 bits."""
    first = max(rint_to_int8(float32(a * inverse)), int32(-127))
    second = max(rint_to_int8(float32(b * inverse)), int32(-127))
    return uint64((uint32(first) & uint32(0xFF)) | ((uint32(second) & uint32(0xFF)) << uint32(8)))


@device_function
def int8_of_two(bits, kind, inverse):
    """Quantise two float16 or bfloat16."""
    a, b = two_floats(bits, kind)
    return int8_of_two_floats(a, b, inverse)


@device_function
def int8_of_wide_two(pair, inverse):
    """Quantise two float32."""
    return int8_of_two_floats(float_of(low(pair)), float_of(high(pair)), inverse)


@device_function
def int8_of_eight(source, kind, inverse):
    """Quantise the eight numbers at an address."""
    return codes_of_eight(source, kind, inverse, int8_of_two, int8_of_wide_two)


@cuda_kernel(13)
def append_int8(
    words,
    first_plane,
    key,
    value,
    indices,
    index_kind,
    layer_stride,
    token_stride,
    head_stride,
    num_heads,
    num_units,
    unit,
    kind,
):
    """Quantise tokens' rows to int8, each by its own scale, and write both.

    Grid: tokens, layers, K and V. Thread block: units of a row, a power of two up to 32 of
    them, and heads; whole warps. A row is read twice, the second time from the cache.
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, index_kind, token)
    if slot < 0:
        return
    plane = find_plane(words, first_plane)
    source = key if cuda.blockIdx.z == 0 else value
    source += cuda.blockIdx.y * layer_stride + token * token_stride
    first = int32(0)
    while first < int32(num_heads):
        # Lanes of heads beyond the last take part in the exchange too.
        h = int32(first + int32(cuda.threadIdx.y))
        row = source + h * head_stride
        largest = float32(0)
        if h < int32(num_heads):
            largest = float_of(largest_of_row(row, int32(num_units) * int32(unit >> 3), kind))
        largest = largest_of_lanes(largest)
        inverse = float32(float32(127) / largest) if largest > 0 else float32(0)
        if h < int32(num_heads):
            to = find_row(words, plane, slot) + h * word(words, HEAD_STRIDE)
            quantise_row(to, row, num_units, unit, kind, inverse, int8_of_eight)
            if cuda.threadIdx.x == 0:
                store_float(find_scale(words, plane, slot, h), float32(largest / float32(127)))
        first = int32(first + int32(cuda.blockDim.y))


@device_function
def read_int8_scale(words, plane, slot, head, num_heads):
    """Read the scale of one head of a slot in a plane."""
    return load_float(find_scale(words, plane, slot, head))


@device_function
def float_of_int8(code, scale):
    """Dequantise the int8 in the lowest byte."""
    number = int32(code << uint32(24)) >> int32(24)
    return float32(float32(number) * scale)


@device_function
def store_four_of_int8(to, codes, scale, kind):
    """Dequantise four int8 and write them."""
    a = float_of_int8(codes, scale)
    b = float_of_int8(codes >> uint32(8), scale)
    c = float_of_int8(codes >> uint32(16), scale)
    d = float_of_int8(codes >> uint32(24), scale)
    if kind == FLOAT32:
        store16(to, (join(bits_of(a), bits_of(b)), join(bits_of(c), bits_of(d))))
        return uint64(0)
    return join(pack(a, b, kind), pack(c, d, kind))


@cuda_kernel(13)
def gather_int8(
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
):
    """Read tokens' rows and their scales from their slots and dequantise them.

    Grid: tokens, layers, K and V. Thread block: units of a row, heads.
    """
    dequantise_token(
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
        read_int8_scale,
        store_four_of_int8,
    )
