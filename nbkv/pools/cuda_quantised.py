"""CUDA kernels of the pools that quantise: fp8 e4m3fn and int8, append and gather.

The arithmetic is `nbkv.pools.words`'s to the bit, NaN included: a GPU's own conversions lose a
NaN's sign, so it is taken from the number that came in. No multiplication is fused with an
addition and no subnormal is flushed.

A thread takes 16 numbers at a time, 16 bytes of the pool, or 8 where rows allow no more. The
other side's numbers are float32, float16 or bfloat16 and aligned to 16 bytes.

Longer than most files: append and gather of both dtypes mirror each other piece by piece.
"""

from nbkv.pools.checks import FLOAT16, FLOAT32
from nbkv.pools.cuda_addressing import (
    HEAD_STRIDE,
    INVERSE_SCALES,
    SCALES,
    WIDE,
    find_plane,
    find_row,
    find_scale,
    find_slot,
    word,
)
from nbkv.pools.cuda_intrinsics import (
    bfloats_of_floats,
    bits_of,
    exchange,
    float_of,
    floats_of_halves,
    fp8_of_floats,
    halves_of_floats,
    load8,
    load16,
    load_float,
    rint_to_int8,
    store8,
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


@device_function
def low(pair):
    """Return the lower 32 bits."""
    return uint32(pair)


@device_function
def high(pair):
    """Return the upper 32 bits."""
    return uint32(pair >> uint64(32))


@device_function
def two_floats(bits, kind):
    """Return the float32 of two float16 or bfloat16."""
    if kind == FLOAT16:
        return floats_of_halves(bits)
    return float_of(bits << uint32(16)), float_of(bits & uint32(0xFFFF0000))


@device_function
def fp8_of_floats_signed(a, b, signs, inverse):
    """Quantise two numbers whose signs are bits 7 and 15 of `signs`, into 16 bits."""
    quantised = fp8_of_floats(float32(a * inverse), float32(b * inverse))
    return uint64(uint32(quantised) | (signs & uint32(0x8080)))


@device_function
def fp8_of_two(bits, kind, inverse):
    """Quantise two float16 or bfloat16."""
    a, b = two_floats(bits, kind)
    signs = ((bits >> uint32(8)) & uint32(0x80)) | ((bits >> uint32(16)) & uint32(0x8000))
    return fp8_of_floats_signed(a, b, signs, inverse)


@device_function
def fp8_of_wide_two(pair, inverse):
    """Quantise two float32."""
    a, b = low(pair), high(pair)
    signs = ((a >> uint32(24)) & uint32(0x80)) | ((b >> uint32(16)) & uint32(0x8000))
    return fp8_of_floats_signed(float_of(a), float_of(b), signs, inverse)


@device_function
def fp8_of_eight(source, kind, inverse):
    """Quantise the eight numbers at an address."""
    first, second = load16(source)
    if kind == FLOAT32:
        third, fourth = load16(source + 16)
        return (
            fp8_of_wide_two(first, inverse)
            | (fp8_of_wide_two(second, inverse) << uint64(16))
            | (fp8_of_wide_two(third, inverse) << uint64(32))
            | (fp8_of_wide_two(fourth, inverse) << uint64(48))
        )
    return (
        fp8_of_two(low(first), kind, inverse)
        | (fp8_of_two(high(first), kind, inverse) << uint64(16))
        | (fp8_of_two(low(second), kind, inverse) << uint64(32))
        | (fp8_of_two(high(second), kind, inverse) << uint64(48))
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
    first, second = load16(source)
    if kind == FLOAT32:
        third, fourth = load16(source + 16)
        return (
            int8_of_wide_two(first, inverse)
            | (int8_of_wide_two(second, inverse) << uint64(16))
            | (int8_of_wide_two(third, inverse) << uint64(32))
            | (int8_of_wide_two(fourth, inverse) << uint64(48))
        )
    return (
        int8_of_two(low(first), kind, inverse)
        | (int8_of_two(high(first), kind, inverse) << uint64(16))
        | (int8_of_two(low(second), kind, inverse) << uint64(32))
        | (int8_of_two(high(second), kind, inverse) << uint64(48))
    )


@device_function
def bytes_of_eight(kind):
    """Return how many bytes eight numbers of the other side take."""
    return int32(32) if kind == FLOAT32 else int32(16)


@cuda_kernel(13, needs=(8, 9))
def append_fp8(
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
    """Quantise tokens' rows to e4m3fn and write them at their slots.

    Grid: tokens, layers, K and V. Thread block: units of a row, heads.
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, index_kind, token)
    if slot < 0:
        return
    plane = find_plane(words, first_plane)
    to = find_row(words, plane, slot)
    source = key if cuda.blockIdx.z == 0 else value
    source += cuda.blockIdx.y * layer_stride + token * token_stride
    eight = bytes_of_eight(kind)
    h = int32(cuda.threadIdx.y)
    while h < int32(num_heads):
        inverse = load_float(word(words, INVERSE_SCALES) + 4 * (plane * num_heads + h))
        row = to + h * word(words, HEAD_STRIDE)
        i = int32(cuda.threadIdx.x)
        while i < int32(num_units):
            if unit == WIDE:
                numbers = source + h * head_stride + 2 * eight * int64(i)
                first = fp8_of_eight(numbers, kind, inverse)
                store16(row + 16 * int64(i), (first, fp8_of_eight(numbers + eight, kind, inverse)))
            else:
                numbers = source + h * head_stride + eight * int64(i)
                store8(row + 8 * int64(i), fp8_of_eight(numbers, kind, inverse))
            i = int32(i + int32(cuda.blockDim.x))
        h = int32(h + int32(cuda.blockDim.y))


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
    eights = int32(unit >> 3)
    eight = bytes_of_eight(kind)
    first = int32(0)
    while first < int32(num_heads):
        # Lanes of heads beyond the last take part in the exchange too.
        h = int32(first + int32(cuda.threadIdx.y))
        row = source + h * head_stride
        largest = float32(0)
        if h < int32(num_heads):
            largest = float_of(largest_of_row(row, int32(num_units) * eights, kind))
        mask = int32(int32(cuda.blockDim.x) >> 1)
        while mask > 0:
            largest = max(largest, exchange(largest, mask))
            mask = int32(mask >> 1)
        inverse = float32(float32(127) / largest) if largest > 0 else float32(0)
        if h < int32(num_heads):
            to = find_row(words, plane, slot) + h * word(words, HEAD_STRIDE)
            i = int32(cuda.threadIdx.x)
            while i < int32(num_units):
                numbers = row + eight * eights * int64(i)
                if unit == WIDE:
                    one = int8_of_eight(numbers, kind, inverse)
                    other = int8_of_eight(numbers + eight, kind, inverse)
                    store16(to + 16 * int64(i), (one, other))
                else:
                    store8(to + 8 * int64(i), int8_of_eight(numbers, kind, inverse))
                i = int32(i + int32(cuda.blockDim.x))
            if cuda.threadIdx.x == 0:
                store_float(find_scale(words, plane, slot, h), float32(largest / float32(127)))
        first = int32(first + int32(cuda.blockDim.y))


@device_function
def pack(a, b, kind):
    """Round two float32 to float16 or bfloat16."""
    return halves_of_floats(a, b) if kind == FLOAT16 else bfloats_of_floats(a, b)


@device_function
def magnitude_of_fp8(code, scale):
    """Return the scaled magnitude of an e4m3fn in the lowest byte; 0 where it is NaN.

    Its exponent and fraction, put where a float32 has them, make 2**-120 of the number.
    """
    code &= uint32(0x7F)
    number = float32(float_of(code << uint32(20)) * float32(2.0**120))
    return float32(number * scale) if code != uint32(0x7F) else float32(0)


@device_function
def rest_of_fp8(code, nan):
    """Return an e4m3fn's sign in bit 15, and with it the upper half `nan` where it is NaN."""
    sign = (code & uint32(0x80)) << uint32(8)
    return sign | nan if (code & uint32(0x7F)) == uint32(0x7F) else sign


@device_function
def two_of_fp8(codes, scale, kind):
    """Dequantise two e4m3fn to float16 or bfloat16."""
    upper = codes >> uint32(8)
    nan = uint32(0x7E00) if kind == FLOAT16 else uint32(0x7FC0)
    rest = rest_of_fp8(codes, nan) | (rest_of_fp8(upper, nan) << uint32(16))
    return pack(magnitude_of_fp8(codes, scale), magnitude_of_fp8(upper, scale), kind) | rest


@device_function
def float_of_fp8(code, scale):
    """Dequantise an e4m3fn to the bits of a float32."""
    rest = rest_of_fp8(code, uint32(0x7FC0)) << uint32(16)
    return bits_of(magnitude_of_fp8(code, scale)) | rest


@device_function
def float_of_int8(code, scale):
    """Dequantise the int8 in the lowest byte."""
    number = int32(code << uint32(24)) >> int32(24)
    return float32(float32(number) * scale)


@device_function
def join(lower, upper):
    """Put two uint32 into a uint64."""
    return uint64(lower) | (uint64(upper) << uint64(32))


@device_function
def store_four_of_fp8(to, codes, scale, kind):
    """Dequantise four e4m3fn and write them."""
    upper = codes >> uint32(16)
    if kind == FLOAT32:
        first = join(float_of_fp8(codes, scale), float_of_fp8(codes >> uint32(8), scale))
        second = join(float_of_fp8(upper, scale), float_of_fp8(codes >> uint32(24), scale))
        store16(to, (first, second))
        return uint64(0)
    return join(two_of_fp8(codes, scale, kind), two_of_fp8(upper, scale, kind))


@device_function
def store_eight_of_fp8(to, codes, scale, kind):
    """Dequantise eight e4m3fn and write them."""
    first = store_four_of_fp8(to, low(codes), scale, kind)
    second = store_four_of_fp8(to + 16, high(codes), scale, kind)
    if kind != FLOAT32:
        store16(to, (first, second))


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


@device_function
def store_eight_of_int8(to, codes, scale, kind):
    """Dequantise eight int8 and write them."""
    first = store_four_of_int8(to, low(codes), scale, kind)
    second = store_four_of_int8(to + 16, high(codes), scale, kind)
    if kind != FLOAT32:
        store16(to, (first, second))


@cuda_kernel(13)
def gather_fp8(
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
    """Read tokens' rows from their slots and dequantise them.

    Grid: tokens, layers, K and V. Thread block: units of a row, heads.
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, index_kind, token)
    if slot < 0:
        return
    plane = find_plane(words, first_plane)
    source = find_row(words, plane, slot)
    to = out + cuda.blockIdx.y * layer_stride + cuda.blockIdx.z * kv_stride + token * token_stride
    eight = bytes_of_eight(kind)
    h = int32(cuda.threadIdx.y)
    while h < int32(num_heads):
        scale = load_float(word(words, SCALES) + 4 * (plane * num_heads + h))
        row = source + h * word(words, HEAD_STRIDE)
        i = int32(cuda.threadIdx.x)
        while i < int32(num_units):
            if unit == WIDE:
                numbers = to + h * head_stride + 2 * eight * int64(i)
                codes = load16(row + 16 * int64(i))
                store_eight_of_fp8(numbers, codes[0], scale, kind)
                store_eight_of_fp8(numbers + eight, codes[1], scale, kind)
            else:
                numbers = to + h * head_stride + eight * int64(i)
                store_eight_of_fp8(numbers, load8(row + 8 * int64(i)), scale, kind)
            i = int32(i + int32(cuda.blockDim.x))
        h = int32(h + int32(cuda.blockDim.y))


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
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, index_kind, token)
    if slot < 0:
        return
    plane = find_plane(words, first_plane)
    source = find_row(words, plane, slot)
    to = out + cuda.blockIdx.y * layer_stride + cuda.blockIdx.z * kv_stride + token * token_stride
    eight = bytes_of_eight(kind)
    h = int32(cuda.threadIdx.y)
    while h < int32(num_heads):
        scale = load_float(find_scale(words, plane, slot, h))
        row = source + h * word(words, HEAD_STRIDE)
        i = int32(cuda.threadIdx.x)
        while i < int32(num_units):
            if unit == WIDE:
                numbers = to + h * head_stride + 2 * eight * int64(i)
                codes = load16(row + 16 * int64(i))
                store_eight_of_int8(numbers, codes[0], scale, kind)
                store_eight_of_int8(numbers + eight, codes[1], scale, kind)
            else:
                numbers = to + h * head_stride + eight * int64(i)
                store_eight_of_int8(numbers, load8(row + 8 * int64(i)), scale, kind)
            i = int32(i + int32(cuda.blockDim.x))
        h = int32(h + int32(cuda.blockDim.y))
