"""CUDA kernels of fp8 pools, e4m3fn: append and gather (`nbkv.pools.cuda_numbers`)."""

from nbkv.pools.checks import FLOAT16, FLOAT32
from nbkv.pools.cuda_addressing import (
    HEAD_STRIDE,
    INVERSE_SCALES,
    SCALES,
    find_plane,
    find_row,
    find_slot,
    word,
)
from nbkv.pools.cuda_intrinsics import bits_of, float_of, fp8_of_floats, load_float, store16
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
    return codes_of_eight(source, kind, inverse, fp8_of_two, fp8_of_wide_two)


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
    h = int32(cuda.threadIdx.y)
    while h < int32(num_heads):
        inverse = load_float(word(words, INVERSE_SCALES) + 4 * (plane * num_heads + h))
        row = to + h * word(words, HEAD_STRIDE)
        quantise_row(row, source + h * head_stride, num_units, unit, kind, inverse, fp8_of_eight)
        h = int32(h + int32(cuda.blockDim.y))


@device_function
def read_fp8_scale(words, plane, slot, head, num_heads):
    """Read the scale of one head in a plane, the same for every slot."""
    return load_float(word(words, SCALES) + 4 * (plane * num_heads + head))


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
def store_four_of_fp8(to, codes, scale, kind):
    """Dequantise four e4m3fn and write them."""
    upper = codes >> uint32(16)
    if kind == FLOAT32:
        first = join(float_of_fp8(codes, scale), float_of_fp8(codes >> uint32(8), scale))
        second = join(float_of_fp8(upper, scale), float_of_fp8(codes >> uint32(24), scale))
        store16(to, (first, second))
        return uint64(0)
    return join(two_of_fp8(codes, scale, kind), two_of_fp8(upper, scale, kind))


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
        read_fp8_scale,
        store_four_of_fp8,
    )
