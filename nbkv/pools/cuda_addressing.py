"""How CUDA kernels find what they move: a pool's words, its planes, rows and scales.

A pool comes as the address of its *words* in device memory: `FACTS` numbers of the pool and
then `PoolGeometry.as_words`, with the base of every plane, so that one launch serves all layers
whosever memory it is. Offsets are int64, and nothing is divided by a number known only at run
time.
"""

from typing import Final

from nbkv.pools.cuda_intrinsics import load4, load8, multiply_high
from nbkv.pools.cuda_jit import cuda, device_function, int32, int64, uint32

#: Where in a pool's words each number stands.
KV_FACTOR: Final = 0
DIVISION: Final = 1
SCALES: Final = 2
INVERSE_SCALES: Final = 3
FACTS: Final = 4
BLOCK_STRIDE: Final = FACTS
TOKEN_STRIDE: Final = FACTS + 1
HEAD_STRIDE: Final = FACTS + 2
SCALE_OFFSET: Final = FACTS + 3
SCALE_TOKEN_STRIDE: Final = FACTS + 4
SCALE_HEAD_STRIDE: Final = FACTS + 5
BASES: Final = FACTS + 6

#: What an array of indices holds: slots, or the block_ids of consecutive tokens.
SLOTS_64: Final = 0
SLOTS_32: Final = 1
BLOCKS_32: Final = 2
#: Bytes of a unit.
WIDE: Final = 16
NARROW: Final = 8


@device_function
def word(words, index):
    """Return one of a pool's words."""
    return int64(load8(words + 8 * index))


@device_function
def divide(number, division):
    """Return number // block_size, for 0 <= number < 2**31 (`pack_division`)."""
    whole = multiply_high(uint32(number) << uint32(1), uint32(division))
    return uint32(whole >> uint32((division >> 32) & 31))


@device_function
def find_slot(words, indices, kind, token):
    """Return the slot of one token as an int32, negative where it is to be skipped."""
    if kind == SLOTS_64:
        return int32(load8(indices + 8 * token))
    if kind == SLOTS_32:
        return load4(indices + 4 * token)
    division = word(words, DIVISION)
    place = divide(token, division)
    size = int32(division >> 40)
    block = load4(indices + 4 * int64(place))
    return int32(block * size + int32(int32(token) - int32(place) * size))


@device_function
def find_row(words, plane, slot):
    """Return the address of head 0 of a slot in a plane."""
    division = word(words, DIVISION)
    block = divide(slot, division)
    offset = uint32(uint32(slot) - block * uint32(division >> 40))
    base = word(words, BASES + plane) + int64(block) * word(words, BLOCK_STRIDE)
    return base + int64(offset) * word(words, TOKEN_STRIDE)


@device_function
def find_plane(words, first_plane):
    """Return the plane of this thread block: layers along y, K and V along z."""
    return first_plane + cuda.blockIdx.y * word(words, KV_FACTOR) + cuda.blockIdx.z


@device_function
def find_scale(words, plane, slot, head):
    """Return the address of the float32 scale of one head of a slot in a plane."""
    division = word(words, DIVISION)
    block = divide(slot, division)
    offset = uint32(uint32(slot) - block * uint32(division >> 40))
    chunk = word(words, BASES + plane) + int64(block) * word(words, BLOCK_STRIDE)
    scales = chunk + word(words, SCALE_OFFSET)
    return (
        scales
        + int64(offset) * word(words, SCALE_TOKEN_STRIDE)
        + head * word(words, SCALE_HEAD_STRIDE)
    )
