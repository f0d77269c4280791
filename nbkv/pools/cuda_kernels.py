"""CUDA kernels that move words: append, gather, copy, swap and zero.

Memory moves in units of 16 bytes, or of 8 where rows and strides allow no more; a *row* here is
as many units as are contiguous, all heads' where a token's heads are.

Written for the code that comes out (docs/cuda.md): ``while`` with int32 counters cast anew at
each step, no division by a number known only at run time, offsets in int64.
"""

from nbkv.pools.cuda_addressing import (
    BASES,
    BLOCK_STRIDE,
    HEAD_STRIDE,
    NARROW,
    SCALE_HEAD_STRIDE,
    SCALE_OFFSET,
    SCALE_TOKEN_STRIDE,
    TOKEN_STRIDE,
    WIDE,
    find_plane,
    find_row,
    find_slot,
    word,
)
from nbkv.pools.cuda_intrinsics import load4, load8, load16, store4, store8, store16
from nbkv.pools.cuda_jit import cuda, cuda_kernel, device_function, int32, int64, uint64


@device_function
def first_of(pair):
    """Return the int32 at the lower address of the eight bytes."""
    return int64(int32(pair))


@device_function
def second_of(pair):
    """Return the int32 at the higher address of the eight bytes."""
    return int64(int32(pair >> uint64(32)))


@device_function
def move(destination, source, unit):
    """Copy one unit."""
    if unit == WIDE:
        store16(destination, load16(source))
    else:
        store8(destination, load8(source))


@device_function
def move_rows(to, to_stride, source, source_stride, num_heads, row_bytes, unit):
    """Copy a token's rows with all threads of the block: units along x, heads along y."""
    h = int32(cuda.threadIdx.y)
    to += h * to_stride
    source += h * source_stride
    size = int32(unit)
    while h < int32(num_heads):
        at = int32(int32(cuda.threadIdx.x) * size)
        while at < int32(row_bytes):
            move(to + at, source + at, size)
            at = int32(at + int32(cuda.blockDim.x) * size)
        to += cuda.blockDim.y * to_stride
        source += cuda.blockDim.y * source_stride
        h = int32(h + int32(cuda.blockDim.y))


@cuda_kernel(9)
def append(words, first_plane, key, value, indices, kind, layer_stride, token_stride, num_units):
    """Write tokens' rows at their slots, a token's heads being contiguous on both sides.

    Grid: tokens, layers, K and V. Units are of 16 bytes.
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, kind, token)
    if slot < 0:
        return
    to = find_row(words, find_plane(words, first_plane), slot)
    source = key if cuda.blockIdx.z == 0 else value
    source += cuda.blockIdx.y * layer_stride + token * token_stride
    n = int32(num_units)
    i = int32(cuda.threadIdx.x)
    while i < n:
        store16(to + 16 * int64(i), load16(source + 16 * int64(i)))
        i = int32(i + int32(cuda.blockDim.x))


@cuda_kernel(12)
def append_heads(
    words,
    first_plane,
    key,
    value,
    indices,
    kind,
    layer_stride,
    token_stride,
    head_stride,
    num_heads,
    row_bytes,
    unit,
):
    """Write tokens' rows at their slots, head by head.

    Grid: tokens, layers, K and V. Thread block: units of a row, heads.
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, kind, token)
    if slot < 0:
        return
    to = find_row(words, find_plane(words, first_plane), slot)
    to_stride = word(words, HEAD_STRIDE)
    source = key if cuda.blockIdx.z == 0 else value
    source += cuda.blockIdx.y * layer_stride + token * token_stride
    move_rows(to, to_stride, source, head_stride, num_heads, row_bytes, unit)


@cuda_kernel(8)
def gather(words, first_plane, out, indices, kind, plane_stride, token_stride, num_units):
    """Read tokens' rows from their slots, a token's heads being contiguous on both sides.

    Grid: tokens, layers, K and V. Units are of 16 bytes.
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, kind, token)
    if slot < 0:
        return
    source = find_row(words, find_plane(words, first_plane), slot)
    plane = int32(cuda.blockIdx.y * cuda.gridDim.z + cuda.blockIdx.z)
    to = out + plane * plane_stride + token * token_stride
    n = int32(num_units)
    i = int32(cuda.threadIdx.x)
    while i < n:
        store16(to + 16 * int64(i), load16(source + 16 * int64(i)))
        i = int32(i + int32(cuda.blockDim.x))


@cuda_kernel(12)
def gather_heads(
    words,
    first_plane,
    out,
    indices,
    kind,
    layer_stride,
    kv_stride,
    token_stride,
    head_stride,
    num_heads,
    row_bytes,
    unit,
):
    """Read tokens' rows from their slots into (layers, K and V, tokens, heads).

    Grid: tokens, layers, K and V. Thread block: units of a row, heads.
    """
    token = int64(cuda.blockIdx.x)
    slot = find_slot(words, indices, kind, token)
    if slot < 0:
        return
    source = find_row(words, find_plane(words, first_plane), slot)
    source_stride = word(words, HEAD_STRIDE)
    to = out + cuda.blockIdx.y * layer_stride + cuda.blockIdx.z * kv_stride + token * token_stride
    move_rows(to, head_stride, source, source_stride, num_heads, row_bytes, unit)


@cuda_kernel(3)
def copy(words, pairs, num_units):
    """Copy whole chunks, or whole blocks where all their chunks are one run, 4 units a turn.

    Grid: parts of a chunk, pairs, planes. Units are of 16 bytes.
    """
    pair = load8(pairs + 8 * int64(cuda.blockIdx.y))
    stride = word(words, BLOCK_STRIDE)
    base = word(words, BASES + cuda.blockIdx.z)
    source = base + first_of(pair) * stride
    to = base + second_of(pair) * stride
    threads = int32(cuda.blockDim.x)
    n = int32(num_units)
    i = int32(int32(cuda.blockIdx.x) * int32(4 * threads) + int32(cuda.threadIdx.x))
    step = int32(int32(cuda.gridDim.x) * int32(4 * threads))
    while i < n:
        i1 = int32(i + threads)
        i2 = int32(i1 + threads)
        i3 = int32(i2 + threads)
        v0 = load16(source + 16 * int64(i))
        v1 = v0
        v2 = v0
        v3 = v0
        if i1 < n:
            v1 = load16(source + 16 * int64(i1))
        if i2 < n:
            v2 = load16(source + 16 * int64(i2))
        if i3 < n:
            v3 = load16(source + 16 * int64(i3))
        store16(to + 16 * int64(i), v0)
        if i1 < n:
            store16(to + 16 * int64(i1), v1)
        if i2 < n:
            store16(to + 16 * int64(i2), v2)
        if i3 < n:
            store16(to + 16 * int64(i3), v3)
        i = int32(i + step)


@cuda_kernel(7)
def copy_rows(words, pairs, counts, num_heads, num_units, unit, num_scale_heads):
    """Copy the first tokens of blocks, row by row, and their scales.

    Grid: parts of the tokens, pairs, planes. Thread block: units of a row, tokens.
    `counts` is the address of one int32 a pair.
    """
    pair = load8(pairs + 8 * int64(cuda.blockIdx.y))
    stride = word(words, BLOCK_STRIDE)
    base = word(words, BASES + cuda.blockIdx.z)
    source = base + first_of(pair) * stride
    to = base + second_of(pair) * stride
    n = load4(counts + 4 * int64(cuda.blockIdx.y))
    first = int32(int32(cuda.blockIdx.x) * int32(cuda.blockDim.y) + int32(cuda.threadIdx.y))
    step = int32(int32(cuda.gridDim.x) * int32(cuda.blockDim.y))
    h = int32(0)
    while h < int32(num_heads):
        t = first
        while t < n:
            row = h * word(words, HEAD_STRIDE) + t * word(words, TOKEN_STRIDE)
            i = int32(cuda.threadIdx.x)
            while i < int32(num_units):
                at = row + unit * int64(i)
                move(to + at, source + at, unit)
                i = int32(i + int32(cuda.blockDim.x))
            t = int32(t + step)
        h = int32(h + 1)
    t = first
    while t < n:
        h = int32(cuda.threadIdx.x)
        while h < int32(num_scale_heads):
            at = word(words, SCALE_OFFSET) + t * word(words, SCALE_TOKEN_STRIDE)
            at += h * word(words, SCALE_HEAD_STRIDE)
            store4(to + at, load4(source + at))
            h = int32(h + int32(cuda.blockDim.x))
        t = int32(t + step)


@device_function
def swap_units(source_words, words, pairs, num_units, unit):
    """Copy whole chunks from one pool to another, in units whose size is a constant."""
    pair = load8(pairs + 8 * int64(cuda.blockIdx.y))
    plane = BASES + int64(cuda.blockIdx.z)
    source = word(source_words, plane) + first_of(pair) * word(source_words, BLOCK_STRIDE)
    to = word(words, plane) + second_of(pair) * word(words, BLOCK_STRIDE)
    i = int32(int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x))
    while i < int32(num_units):
        move(to + unit * int64(i), source + unit * int64(i), unit)
        i = int32(i + int32(cuda.gridDim.x) * int32(cuda.blockDim.x))


@cuda_kernel(4)
def swap(source_words, words, pairs, num_units):
    """Copy whole chunks from one pool to another, either of which may be in host memory.

    Grid: parts of a chunk, pairs, planes. Units are of 16 bytes.
    """
    swap_units(source_words, words, pairs, num_units, WIDE)


@cuda_kernel(4)
def swap_narrow(source_words, words, pairs, num_units):
    """Do what `swap` does in units of 8 bytes."""
    swap_units(source_words, words, pairs, num_units, NARROW)


@cuda_kernel(6)
def zero(words, blocks, num_heads, num_tokens, num_units, unit):
    """Fill blocks with zero bytes.

    Grid: parts of a row, blocks, planes. Where a chunk is one run it is one row of one head.
    """
    block = int64(load4(blocks + 4 * int64(cuda.blockIdx.y)))
    to = word(words, BASES + cuda.blockIdx.z) + block * word(words, BLOCK_STRIDE)
    h = int32(0)
    while h < int32(num_heads):
        t = int32(0)
        while t < int32(num_tokens):
            row = to + h * word(words, HEAD_STRIDE) + t * word(words, TOKEN_STRIDE)
            i = int32(int32(cuda.blockIdx.x) * int32(cuda.blockDim.x) + int32(cuda.threadIdx.x))
            while i < int32(num_units):
                if unit == WIDE:
                    store16(row + 16 * int64(i), (uint64(0), uint64(0)))
                else:
                    store8(row + 8 * int64(i), uint64(0))
                i = int32(i + int32(cuda.gridDim.x) * int32(cuda.blockDim.x))
            t = int32(t + 1)
        h = int32(h + 1)
