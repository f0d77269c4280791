"""CUDA kernels' partial results of attention: how thread blocks leave them, and `combine`.

A thread block's groups of lanes meet in shared memory and leave a maximum, a sum and a weighted
row for each query head and split of the keys; `combine` puts the splits together.
"""

from typing import Final

import numpy as np

from nbkv.pools.checks import FLOAT32
from nbkv.pools.cuda_intrinsics import bits_of, exp2_of, load_float, store16, store_float
from nbkv.pools.cuda_jit import cuda, cuda_kernel, device_function, float32, int32, int64
from nbkv.pools.cuda_numbers import join, pack

#: Floats of a partial result before its row: the maximum and the sum.
PARTIAL_HEAD: Final = 2
#: Stands for minus infinity, whose difference from itself is no number.
LOWEST: Final = np.float32(-1e30)


@device_function
def meet(maxima, sums, places, largest, total, weighted, lanes_log2):
    """Bring the groups of a thread block to one maximum; their rows lie in `places` then."""
    thread = int32(cuda.threadIdx.x)
    group = int32(thread >> int32(lanes_log2))
    num_groups = int32(int32(cuda.blockDim.x) >> int32(lanes_log2))
    if thread & int32((int32(1) << int32(lanes_log2)) - 1) == 0:
        maxima[group] = largest
        sums[group] = total
    cuda.syncthreads()
    highest = LOWEST
    i = int32(0)
    while i < num_groups:
        highest = max(highest, maxima[i])
        i = int32(i + 1)
    factor = exp2_of(float32(largest - highest))
    for j in range(8):
        places[8 * thread + j] = float32(weighted[j] * factor)
    cuda.syncthreads()
    return highest


@device_function
def write_partial(partial, maxima, sums, places, highest, first_column, head_dim, lanes_log2):
    """Add the groups' rows up and write this thread block's partial result."""
    thread = int32(cuda.threadIdx.x)
    width = int32(int32(8) << int32(lanes_log2))
    num_groups = int32(int32(cuda.blockDim.x) >> int32(lanes_log2))
    column = thread
    while column < width and int32(first_column + column) < int32(head_dim):
        total = float32(0)
        i = int32(0)
        while i < num_groups:
            total = float32(total + places[width * i + column])
            i = int32(i + 1)
        store_float(partial + 4 * (PARTIAL_HEAD + int64(first_column + column)), total)
        column = int32(column + int32(cuda.blockDim.x))
    if thread == 0 and first_column == 0:
        total = float32(0)
        i = int32(0)
        while i < num_groups:
            total = float32(total + sums[i] * exp2_of(float32(maxima[i] - highest)))
            i = int32(i + 1)
        store_float(partial, highest)
        store_float(partial + 4, total)


@device_function
def write_eight(out, eight, numbers, factor, kind):
    """Write eight numbers, each times a factor."""
    a, b = float32(numbers[0] * factor), float32(numbers[1] * factor)
    c, d = float32(numbers[2] * factor), float32(numbers[3] * factor)
    e, f = float32(numbers[4] * factor), float32(numbers[5] * factor)
    g, h = float32(numbers[6] * factor), float32(numbers[7] * factor)
    if kind == FLOAT32:
        store16(out + 32 * eight, (join(bits_of(a), bits_of(b)), join(bits_of(c), bits_of(d))))
        store16(out + 32 * eight + 16, (join(bits_of(e), bits_of(f)), join(bits_of(g), bits_of(h))))
    else:
        first = join(pack(a, b, kind), pack(c, d, kind))
        store16(out + 16 * eight, (first, join(pack(e, f, kind), pack(g, h, kind))))


@cuda_kernel(5)
def combine(partials, out, num_splits, head_dim, kind):
    """Put the splits of each sequence's heads together.

    Grid: sequences, heads. Thread block: eight numbers a thread. `out` is (sequences, heads,
    head_dim).
    """
    row = int64(cuda.blockIdx.x) * int64(cuda.gridDim.y) + int64(cuda.blockIdx.y)
    floats = PARTIAL_HEAD + head_dim
    partial = partials + 4 * row * num_splits * floats
    highest = LOWEST
    i = int32(0)
    while i < int32(num_splits):
        highest = max(highest, load_float(partial + 4 * int64(i) * floats))
        i = int32(i + 1)
    weighted = cuda.local.array(8, np.float32)
    eight = int32(cuda.threadIdx.x)
    while eight < int32(head_dim >> 3):
        for j in range(8):
            weighted[j] = float32(0)
        total = float32(0)
        i = int32(0)
        while i < int32(num_splits):
            at = partial + 4 * int64(i) * floats
            factor = exp2_of(float32(load_float(at) - highest))
            total = float32(total + load_float(at + 4) * factor)
            for j in range(8):
                number = load_float(at + 4 * (PARTIAL_HEAD + 8 * int64(eight) + j))
                weighted[j] = float32(weighted[j] + number * factor)
            i = int32(i + 1)
        # A sequence without tokens attends to nothing: 0.
        inverse = float32(float32(1) / total) if total > 0 else float32(0)
        write_eight(out, row * (head_dim >> 3) + eight, weighted, inverse, kind)
        eight = int32(eight + int32(cuda.blockDim.x))
