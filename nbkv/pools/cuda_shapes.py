"""What launches are told of a pool, of others' arrays and of indices: addresses and strides.

And the few rules of alignment that decide how wide memory moves.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv.pools import cuda_addressing as addressing
from nbkv.pools.cuda_device import Device
from nbkv.pools.foreign import Foreign
from nbkv.pools.geometry import PoolGeometry

#: Largest extent of a grid in y and z.
MAX_GRID: Final = 65_535
#: Reciprocals are exact for slots below this.
MAX_SLOTS: Final = 2**31


@dataclass(frozen=True, eq=False)
class Place:
    """A pool as its kernels see it.

    Attributes
    ----------
    geometry : PoolGeometry
    device : Device
    words : int
        Address of `make_words` in device memory.
    """

    geometry: PoolGeometry
    device: Device
    words: int


@dataclass(frozen=True)
class Rows:
    """Tokens' keys, or values, outside of the pool; strides in bytes."""

    address: int
    layer_stride: int
    token_stride: int
    head_stride: int
    dtype_name: str

    @classmethod
    def of(cls, array: Foreign) -> "Rows":
        """Take the strides of an array whose axes end with (tokens, heads, head_dim)."""
        steps = used_strides(array)
        layer = steps[0] if len(steps) > 3 else 0
        return cls(array.address, layer, steps[-3], steps[-2], array.dtype_name)


@dataclass(frozen=True)
class Indices:
    """Where tokens lie in the pool: slots, or the block_ids of consecutive tokens."""

    address: int
    kind: int
    num_tokens: int


def used_strides(array: Foreign) -> list[int]:
    """Return strides, with 0 for axes of one: theirs are never added, and may be anything."""
    pairs = zip(array.shape, array.strides, strict=True)
    return [stride if extent > 1 else 0 for extent, stride in pairs]


def planes_of(array: Foreign) -> tuple[Rows, int]:
    """Return the keys' rows of an array (..., kv, tokens, heads, head_dim), and V's distance."""
    steps = used_strides(array)
    layer = steps[0] if len(steps) > 4 else 0
    return Rows(array.address, layer, steps[-3], steps[-2], array.dtype_name), steps[-4]


def make_words(
    geometry: PoolGeometry, scales: int = 0, inverse_scales: int = 0
) -> npt.NDArray[np.int64]:
    """Make what kernels take of a pool: see `cuda_addressing.FACTS`.

    Parameters
    ----------
    geometry : PoolGeometry
    scales, inverse_scales : int
        Addresses of float32 arrays (planes, heads); fp8 only.

    Returns
    -------
    int64 array
    """
    facts = np.zeros(addressing.FACTS, np.int64)
    facts[addressing.KV_FACTOR] = geometry.kv_factor
    facts[addressing.DIVISION] = pack_division(geometry.block_size)
    facts[addressing.SCALES] = scales
    facts[addressing.INVERSE_SCALES] = inverse_scales
    return np.concatenate((facts, geometry.as_words()))


def pack_division(block_size: int) -> int:
    """Pack what `cuda_addressing.divide` multiplies by and shifts by, and the block size.

    Parameters
    ----------
    block_size : int
        1 to 2**15 - 1.

    Returns
    -------
    int
        Bits 0 to 31: 2**(31 + shift) // block_size + 1, whose error, at most block_size and so
        at most 2**shift, times a number below 2**31 stays below 2**(31 + shift): the quotient
        is exact. Bits 32 to 39: the shift. Bits 40 on: the block size.
    """
    shift = (block_size - 1).bit_length()
    reciprocal: int = 2 ** (31 + shift) // block_size + 1
    return reciprocal | shift << 32 | block_size << 40


def unit_of(*numbers: int) -> int:
    """Return the bytes of the widest unit that divides all addresses, strides and sizes.

    16 or 8; less only where a pool's memory is not what `CudaMemory` accepts.
    """
    together = 0
    for number in numbers:
        together |= number
    return min(together & -together, addressing.WIDE) if together else addressing.WIDE


def power_up_to(number: int, most: int) -> int:
    """Return the smallest power of two that is not below a number, or `most`."""
    return min(most, 1 << (number - 1).bit_length())


def runs_of(g: PoolGeometry) -> tuple[int, int]:
    """Return how many runs of bytes a block is, and their length; 0 where rows lie apart."""
    if g.is_block_contiguous:
        return 1, g.num_layers * g.kv_factor * g.chunk_bytes
    if g.is_chunk_contiguous:
        return g.num_layers * g.kv_factor, g.chunk_bytes
    return 0, 0


def common_run(g: PoolGeometry, other: PoolGeometry) -> tuple[int, int, int]:
    """Return planes, bytes of a run of one, and unit, of an exchange between two pools."""
    planes, num_bytes = max(runs_of(g), runs_of(other))
    return planes, num_bytes, unit_of(num_bytes, *alignments_of(g), *alignments_of(other))


def alignment_of(g: PoolGeometry) -> int:
    """Return the bytes of the widest unit that a pool's rows can be moved in."""
    return unit_of(g.row_bytes, *alignments_of(g))


def alignments_of(g: PoolGeometry) -> tuple[int, ...]:
    """Return what a unit must divide wherever it moves rows of the pool."""
    extents = (g.num_blocks, g.block_size, g.num_kv_heads)
    strides = (g.block_stride, g.token_stride, g.head_stride)
    # The stride of an axis of one is never added, and may be anything.
    used = (stride for extent, stride in zip(extents, strides, strict=True) if extent > 1)
    return (*used, *map(int, g.bases.flat))


def pool_units(g: PoolGeometry) -> tuple[int, int]:
    """Return how many units a row of a quantising pool is, and their bytes."""
    unit = alignment_of(g)
    return g.row_bytes // unit, unit


def heads_and_row(g: PoolGeometry, other_head_stride: int) -> tuple[int, int]:
    """Return heads and bytes of a row: one row where heads are contiguous on both sides."""
    if g.num_kv_heads == 1 or g.head_stride == other_head_stride == g.row_bytes:
        return 1, g.num_kv_heads * g.row_bytes
    return g.num_kv_heads, g.row_bytes
