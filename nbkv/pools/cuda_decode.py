"""CUDA kernel of decode attention over a pool: one new token a sequence, split along the keys.

A reference for correctness, not a rival of attention libraries: K and V are read once for each
query head of a group. Any head_dim that is a multiple of 8, and every dtype of a pool.

Each group of lanes takes a token at a time, eight numbers of a row a lane, and keeps a maximum,
a sum and a weighted row of its own, which become a partial result of `nbkv.pools.cuda_partials`.
A thread block is about one KV head, blockIdx.y. Exponents are base 2: the scale has log2(e) in it.
"""

from typing import Final

import numpy as np

from nbkv.pools.checks import FLOAT32
from nbkv.pools.cuda_addressing import DIVISION, HEAD_STRIDE, divide, find_row, word
from nbkv.pools.cuda_fp8 import magnitude_of_fp8, read_fp8_scale
from nbkv.pools.cuda_int8 import float_of_int8, read_int8_scale
from nbkv.pools.cuda_intrinsics import bits_of, exchange, exp2_of, float_of, load4, load8, load16
from nbkv.pools.cuda_jit import cuda, cuda_kernel, device_function, float32, int32, int64, uint32
from nbkv.pools.cuda_numbers import high, low, two_floats
from nbkv.pools.cuda_partials import LOWEST, PARTIAL_HEAD, meet, write_partial

#: What a pool's numbers are, after the three that `nbkv.pools.checks` names.
FP8: Final = 3
INT8: Final = 4
#: Threads of a block at most; shared memory is as large as these need.
MAX_THREADS: Final = 128
_PLACES: Final = 8 * MAX_THREADS


@device_function
def float_of_code(code, kind):
    """Return the number of the fp8 or int8 in the lowest byte, unscaled."""
    if kind == INT8:
        return float_of_int8(code, float32(1))
    magnitude = magnitude_of_fp8(code, float32(1))
    return float_of(bits_of(magnitude) | ((code & uint32(0x80)) << uint32(24)))


@device_function
def four_of_codes(codes, kind):
    """Return the numbers of four fp8 or int8, unscaled."""
    return (
        float_of_code(codes, kind),
        float_of_code(codes >> uint32(8), kind),
        float_of_code(codes >> uint32(16), kind),
        float_of_code(codes >> uint32(24), kind),
    )


@device_function
def four_of_words(first, second, kind):
    """Return four float32, or of 16-bit numbers the four in `first`."""
    if kind == FLOAT32:
        a, b = float_of(low(first)), float_of(high(first))
        c, d = float_of(low(second)), float_of(high(second))
        return a, b, c, d
    a, b = two_floats(low(first), kind)
    c, d = two_floats(high(first), kind)
    return a, b, c, d


@device_function
def eight_numbers(row, eight, kind):
    """Read the numbers 8 * eight to 8 * eight + 7 of a row as float32, unscaled."""
    if kind == FP8 or kind == INT8:
        codes = load8(row + 8 * int64(eight))
        first = four_of_codes(low(codes), kind)
        return first + four_of_codes(high(codes), kind)
    if kind == FLOAT32:
        a, b = load16(row + 32 * int64(eight))
        c, d = load16(row + 32 * int64(eight) + 16)
        return four_of_words(a, b, kind) + four_of_words(c, d, kind)
    a, b = load16(row + 16 * int64(eight))
    return four_of_words(a, b, kind) + four_of_words(b, a, kind)


@device_function
def product(one, other, total):
    """Add the products of two times eight numbers to a total."""
    total = float32(total + one[0] * other[0])
    total = float32(total + one[1] * other[1])
    total = float32(total + one[2] * other[2])
    total = float32(total + one[3] * other[3])
    total = float32(total + one[4] * other[4])
    total = float32(total + one[5] * other[5])
    total = float32(total + one[6] * other[6])
    return float32(total + one[7] * other[7])


@device_function
def add_weighted(weighted, numbers, old, new):
    """Scale a weighted row down by `old` and add eight numbers weighted by `new`."""
    weighted[0] = float32(weighted[0] * old + numbers[0] * new)
    weighted[1] = float32(weighted[1] * old + numbers[1] * new)
    weighted[2] = float32(weighted[2] * old + numbers[2] * new)
    weighted[3] = float32(weighted[3] * old + numbers[3] * new)
    weighted[4] = float32(weighted[4] * old + numbers[4] * new)
    weighted[5] = float32(weighted[5] * old + numbers[5] * new)
    weighted[6] = float32(weighted[6] * old + numbers[6] * new)
    weighted[7] = float32(weighted[7] * old + numbers[7] * new)


@device_function
def find_head(words, plane, slot):
    """Return the address of a slot's row of this thread block's head."""
    return find_row(words, plane, slot) + int64(cuda.blockIdx.y) * word(words, HEAD_STRIDE)


@device_function
def row_scale(words, plane, slot, kind):
    """Return what the numbers of a slot's row are to be multiplied by."""
    head, num_heads = int64(cuda.blockIdx.y), int64(cuda.gridDim.y)
    if kind == INT8:
        return read_int8_scale(words, plane, slot, head, num_heads)
    if kind == FP8:
        return read_fp8_scale(words, plane, slot, head, num_heads)
    return float32(1)


@device_function
def score(words, plane, slot, query, num_eights, lanes_log2, kind, query_kind):
    """Return a query's product with a slot's key; all lanes of the warp come by."""
    row = find_head(words, plane, slot)
    lanes = int32(int32(1) << int32(lanes_log2))
    i = int32(int32(cuda.threadIdx.x) & int32(lanes - 1))
    total = float32(0)
    while i < int32(num_eights):
        numbers = eight_numbers(query, i, query_kind)
        total = product(numbers, eight_numbers(row, i, kind), total)
        i = int32(i + lanes)
    mask = int32(lanes >> 1)
    while mask > 0:
        total = float32(total + exchange(total, mask))
        mask = int32(mask >> 1)
    return float32(total * row_scale(words, plane, slot, kind))


@device_function
def find_token(table, token, division):
    """Return the slot of a sequence's token, negative where its block is a hole."""
    column = int32(divide(token, division))
    size = int32(division >> 40)
    block = load4(table + 4 * int64(column))
    return int32(block * size + int32(token - column * size))


@device_function
def attend_tokens(
    words,
    key_plane,
    value_plane,
    table,
    first,
    end,
    query,
    num_eights,
    offset,
    weighted,
    lanes_log2,
    kind,
    query_kind,
    scale,
):
    """Attend from one query to a group's share of the tokens `first` to `end` - 1.

    Leaves in `weighted` a lane's eight numbers from `offset` on, and returns the maximum and
    the sum. A warp's lanes go on together, those without a token on the last one.
    """
    group = int32(int32(cuda.threadIdx.x) >> int32(lanes_log2))
    in_warp = int32(group & int32((int32(32) >> int32(lanes_log2)) - 1))
    lane = int32(int32(cuda.threadIdx.x) & int32((int32(1) << int32(lanes_log2)) - 1))
    eight = int32(offset + lane)
    division = word(words, DIVISION)
    largest = LOWEST
    total = float32(0)
    for j in range(8):
        weighted[j] = float32(0)
    base = int32(first + group - in_warp)
    while base < end:
        token = int32(base + in_warp)
        found = find_token(table, min(token, int32(end - 1)), division)
        slot = max(found, int32(0))
        number = score(words, key_plane, slot, query, num_eights, lanes_log2, kind, query_kind)
        number = float32(number * scale)
        if token < end and found >= 0:
            higher = max(largest, number)
            old = exp2_of(float32(largest - higher))
            new = exp2_of(float32(number - higher))
            largest = higher
            total = float32(total * old + new)
            if eight < num_eights:
                value = eight_numbers(find_head(words, value_plane, slot), eight, kind)
                factor = row_scale(words, value_plane, slot, kind)
                add_weighted(weighted, value, old, float32(new * factor))
        base = int32(base + (int32(cuda.blockDim.x) >> int32(lanes_log2)))
    return largest, total


@cuda_kernel(15, num_floats=1)
def decode(
    words,
    key_plane,
    value_plane,
    query,
    query_kind,
    tables,
    table_stride,
    lengths,
    partials,
    group_size,
    head_dim,
    lanes_log2,
    tokens_per_split,
    kind,
    item_bytes,
    scale,
):
    """Attend from one token a sequence to a part of its tokens, for the heads of one KV head.

    Grid: sequences, KV heads, splits. Thread block: whole warps. `query` is (sequences, heads,
    head_dim) in rows of `item_bytes` numbers; `tables` int32, `table_stride` entries a row;
    NO_BLOCK in them is a hole, whose tokens are left out; `partials` float32, (sequences,
    heads, splits, 2 + head_dim).
    """
    maxima = cuda.shared.array(MAX_THREADS, np.float32)
    sums = cuda.shared.array(MAX_THREADS, np.float32)
    places = cuda.shared.array(_PLACES, np.float32)
    weighted = cuda.local.array(8, np.float32)
    sequence = int64(cuda.blockIdx.x)
    head = int64(cuda.blockIdx.y)
    split = int32(cuda.blockIdx.z)
    table = tables + 4 * sequence * table_stride
    first = int32(split * int32(tokens_per_split))
    end = min(load4(lengths + 4 * sequence), int32(first + int32(tokens_per_split)))
    num_eights = int32(int32(head_dim) >> 3)
    g = int32(0)
    while g < int32(group_size):
        row = sequence * (int64(cuda.gridDim.y) * group_size) + head * group_size + g
        numbers = query + row * (head_dim * item_bytes)
        partial = partials + 4 * (row * int64(cuda.gridDim.z) + split) * (PARTIAL_HEAD + head_dim)
        offset = int32(0)
        while offset < num_eights:
            largest, total = attend_tokens(
                words,
                key_plane,
                value_plane,
                table,
                first,
                end,
                numbers,
                num_eights,
                offset,
                weighted,
                lanes_log2,
                kind,
                query_kind,
                float32(scale),
            )
            highest = meet(maxima, sums, places, largest, total, weighted, lanes_log2)
            write_partial(partial, maxima, sums, places, highest, 8 * offset, head_dim, lanes_log2)
            cuda.syncthreads()
            offset = int32(offset + (int32(1) << int32(lanes_log2)))
        g = int32(g + 1)
