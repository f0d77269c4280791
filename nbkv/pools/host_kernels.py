"""Quantises vectors on their way into a pool, and widens them on their way out.

Places, pieces and shapes are those of `nbkv.pools.copy_kernels`.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv._demand import on_demand_twins
from nbkv._jit import kernel, outlined_kernel, wrapping_kernel
from nbkv._memory import array_at
from nbkv.pools.checks import BFLOAT16, FLOAT32
from nbkv.pools.copy_kernels import BLOCK_SIZE, NUM_HEADS, NUM_PLANES, Words
from nbkv.pools.geometry import (
    BLOCK_STRIDE,
    FIRST_BASE,
    HEAD_STRIDE,
    SCALE_HEAD_STRIDE,
    SCALE_OFFSET,
    SCALE_TOKEN_STRIDE,
    TOKEN_STRIDE,
)
from nbkv.pools.words import (
    bfloat_to_float,
    e4m3_to_float,
    finite_bits,
    float_to_bfloat,
    float_to_e4m3,
    float_to_half,
    float_to_int8,
    half_to_float,
)

Floats = npt.NDArray[np.float32]

FLOAT_DTYPE: Final = np.dtype(np.float32)
_WORD_DTYPE: Final = np.dtype(np.uint16)
_FP8_DTYPE: Final = np.dtype(np.uint8)
_INT8_DTYPE: Final = np.dtype(np.int8)
_INT8_MOST: Final = np.float32(127.0)
_ZERO: Final = np.float32(0.0)
#: Pieces, source, destination, shape, scales, a row of floats, dtype code, start, stop.
_CONVERT: Final = (
    "void(int64[:, ::1], int64[::1], int64[::1], int64[::1], float32[::1], float32[::1],"
    " int64, int64, int64)"
)


@wrapping_kernel
def load_floats(row: Floats, source: int, code: int) -> None:
    """Read a row of float32, float16 or bfloat16 numbers as float32.

    Parameters
    ----------
    row : float32
        Takes them; its length is how many.
    source : int
        Address.
    code : int
        `FLOAT32`, `FLOAT16` or `BFLOAT16`.
    """
    count = row.size
    if code == FLOAT32:
        row[:] = array_at(source, count, FLOAT_DTYPE)
        return
    words = array_at(source, count, _WORD_DTYPE)
    if code == BFLOAT16:
        for i in range(count):
            row[i] = bfloat_to_float(words[i])
    else:
        for i in range(count):
            row[i] = half_to_float(words[i])


@wrapping_kernel
def store_floats(row: Floats, destination: int, code: int) -> None:
    """Write a row of float32 as float32, float16 or bfloat16: see `load_floats`."""
    count = row.size
    if code == FLOAT32:
        array_at(destination, count, FLOAT_DTYPE)[:] = row
        return
    words = array_at(destination, count, _WORD_DTYPE)
    if code == BFLOAT16:
        for i in range(count):
            words[i] = float_to_bfloat(row[i])
    else:
        for i in range(count):
            words[i] = float_to_half(row[i])


@wrapping_kernel
def store_fp8(row: Floats, destination: int, inverse: float) -> None:
    """Write a row as fp8, multiplied by the inverse of its scale."""
    words = array_at(destination, row.size, _FP8_DTYPE)
    for i in range(row.size):
        words[i] = float_to_e4m3(np.float32(row[i] * inverse))


@wrapping_kernel
def load_fp8(row: Floats, source: int, scale: float) -> None:
    """Read a row of fp8, multiplied by its scale."""
    words = array_at(source, row.size, _FP8_DTYPE)
    for i in range(row.size):
        row[i] = np.float32(e4m3_to_float(words[i]) * scale)


@wrapping_kernel
def store_int8(row: Floats, destination: int, scale_address: int) -> None:
    """Write a row as int8 under a scale of its own, and the scale."""
    largest = np.uint32(0)
    for i in range(row.size):
        largest = max(largest, finite_bits(row[i]))
    most = np.uint32(largest).view(np.float32)
    array_at(scale_address, 1, FLOAT_DTYPE)[0] = np.float32(most / _INT8_MOST)
    inverse = _ZERO
    if most > _ZERO:
        inverse = np.float32(_INT8_MOST / most)
    words = array_at(destination, row.size, _INT8_DTYPE)
    for i in range(row.size):
        words[i] = float_to_int8(np.float32(row[i] * inverse))


@wrapping_kernel
def load_int8(row: Floats, source: int, scale_address: int) -> None:
    """Read a row of int8, multiplied by its scale."""
    scale = array_at(scale_address, 1, FLOAT_DTYPE)[0]
    words = array_at(source, row.size, _INT8_DTYPE)
    for i in range(row.size):
        row[i] = np.float32(np.float32(words[i]) * scale)


@kernel
def row_address(place: Words, plane: int, block: int, token: int, head: int) -> int:
    """Compute where a row lies."""
    return (
        place[FIRST_BASE + plane]
        + block * place[BLOCK_STRIDE]
        + token * place[TOKEN_STRIDE]
        + head * place[HEAD_STRIDE]
    )


@kernel
def scale_address(place: Words, plane: int, block: int, token: int, head: int) -> int:
    """Compute where the scale of an int8 pool's row lies."""
    return (
        place[FIRST_BASE + plane]
        + block * place[BLOCK_STRIDE]
        + place[SCALE_OFFSET]
        + token * place[SCALE_TOKEN_STRIDE]
        + head * place[SCALE_HEAD_STRIDE]
    )


@outlined_kernel
def encode_pieces(
    pieces: Words,
    source: Words,
    destination: Words,
    shape: Words,
    scales: Floats,
    row: Floats,
    code: int,
    start: int,
    stop: int,
) -> None:
    """Quantise pieces, each in all planes.

    Parameters
    ----------
    pieces, source, destination, shape, start, stop
        As `nbkv.pools.copy_kernels.copy_pieces` has them; the destination is the pool.
    scales : float32, C-contiguous
        fp8: the inverse of each plane's and head's. Empty: int8.
    row : float32, shape (head_dim,)
        Scratch.
    code : int
        The source's dtype: `FLOAT32`, `FLOAT16` or `BFLOAT16`.
    """
    planes, block_size, heads = shape[NUM_PLANES], shape[BLOCK_SIZE], shape[NUM_HEADS]
    for item in range(start, stop):
        piece, plane = item // planes, item % planes
        for i in range(pieces[piece, 2]):
            fro, to = pieces[piece, 0] + i, pieces[piece, 1] + i
            block, token = to // block_size, to % block_size
            for head in range(heads):
                source_row = row_address(source, plane, fro // block_size, fro % block_size, head)
                load_floats(row, source_row, code)
                target = row_address(destination, plane, block, token, head)
                if scales.size:
                    store_fp8(row, target, scales[plane * heads + head])
                else:
                    scale = scale_address(destination, plane, block, token, head)
                    store_int8(row, target, scale)


@outlined_kernel
def decode_pieces(
    pieces: Words,
    source: Words,
    destination: Words,
    shape: Words,
    scales: Floats,
    row: Floats,
    code: int,
    start: int,
    stop: int,
) -> None:
    """Widen pieces, each in all planes: see `encode_pieces`, the source is the pool.

    Parameters
    ----------
    pieces, source, destination, shape, row, start, stop
    scales : float32, C-contiguous
        fp8: each plane's and head's. Empty: int8.
    code : int
        The destination's dtype.
    """
    planes, block_size, heads = shape[NUM_PLANES], shape[BLOCK_SIZE], shape[NUM_HEADS]
    for item in range(start, stop):
        piece, plane = item // planes, item % planes
        for i in range(pieces[piece, 2]):
            fro, to = pieces[piece, 0] + i, pieces[piece, 1] + i
            block, token = fro // block_size, fro % block_size
            for head in range(heads):
                source_row = row_address(source, plane, block, token, head)
                if scales.size:
                    load_fp8(row, source_row, scales[plane * heads + head])
                else:
                    load_int8(row, source_row, scale_address(source, plane, block, token, head))
                target = row_address(destination, plane, to // block_size, to % block_size, head)
                store_floats(row, target, code)


@on_demand_twins(_CONVERT)
def encode(
    pieces: Words,
    source: Words,
    destination: Words,
    shape: Words,
    scales: Floats,
    row: Floats,
    code: int,
    start: int,
    stop: int,
) -> None:
    """Quantise pieces: see `encode_pieces`."""
    encode_pieces(pieces, source, destination, shape, scales, row, code, start, stop)


@on_demand_twins(_CONVERT)
def decode(
    pieces: Words,
    source: Words,
    destination: Words,
    shape: Words,
    scales: Floats,
    row: Floats,
    code: int,
    start: int,
    stop: int,
) -> None:
    """Widen pieces: see `decode_pieces`."""
    decode_pieces(pieces, source, destination, shape, scales, row, code, start, stop)
