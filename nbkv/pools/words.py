"""Numbers of few bits from float32 and back: float16, bfloat16, fp8 (e4m3fn) and int8.

To the nearest, ties to even; subnormals count. A NaN stays a NaN of its sign, the quiet one
without a payload. All branches are selects, so that loops over rows become vector code.
"""

from typing import Final

import numpy as np

from nbkv._jit import wrapping_kernel

_SIGN: Final = np.uint32(0x80000000)
_MAGNITUDE: Final = np.uint32(0x7FFFFFFF)
_INFINITY: Final = np.uint32(0x7F800000)
_QUIET: Final = np.uint32(0x7FC00000)
_ONE: Final = np.uint32(1)
_23: Final = np.uint32(23)
_24: Final = np.uint32(24)

_10: Final = np.uint32(10)
_13: Final = np.uint32(13)
_16: Final = np.uint32(16)
_20: Final = np.uint32(20)

# float16: exponents are 112 less than float32's; its subnormals count in 2**-24, which is what
# the last bit of a float32 from 1/2 to 1 is worth.
_HALF_SIGN: Final = np.uint32(0x8000)
_HALF_MAGNITUDE: Final = np.uint32(0x7FFF)
_HALF_INFINITY: Final = np.uint32(0x7C00)
_HALF_QUIET: Final = np.uint32(0x7E00)
_HALF_NORMAL: Final = np.uint32(0x400)
_HALF_REBIAS: Final = np.uint32(112 << 23)
_HALF_LEAST: Final = np.uint32(113 << 23)
_HALF_LEAST_FLOAT: Final = np.float32(2.0**-14)
_HALF_OVER: Final = np.uint32(0x477FF000)  # 65,520, which rounds to infinity
_HALF_ROUND: Final = np.uint32(0xFFF)
_HALF_COUNT: Final = np.float32(0.5)
_HALF_COUNT_BITS: Final = np.uint32(0x3F000000)

_BFLOAT_ROUND: Final = np.uint32(0x7FFF)
_BFLOAT_QUIET: Final = np.uint32(0x7FC0)

# e4m3fn: exponents are 120 less; subnormals count in 2**-9, the last bit from 2**14 on.
_E4M3_MAGNITUDE: Final = np.uint32(0x7F)
_E4M3_SIGN: Final = np.uint32(0x80)
_E4M3_NORMAL: Final = np.uint32(8)
_E4M3_REBIAS: Final = np.uint32(120 << 23)
_E4M3_LEAST: Final = np.uint32(121 << 23)
_E4M3_LEAST_FLOAT: Final = np.float32(2.0**-6)
_E4M3_MOST: Final = np.uint32(0x43E00000)  # 448
_E4M3_ROUND: Final = np.uint32(0x7FFFF)
_E4M3_COUNT: Final = np.float32(2.0**14)
_E4M3_COUNT_BITS: Final = np.uint32(0x46800000)

_INT8_MOST: Final = np.float32(127.0)
_ZERO: Final = np.float32(0.0)


@wrapping_kernel
def half_to_float(word: int) -> float:
    """Widen a float16, given as uint16, to float32."""
    bits = np.uint32(word)
    size = np.uint32(bits & _HALF_MAGNITUDE)
    sign = np.uint32(np.uint32(bits & _HALF_SIGN) << _16)
    shifted = np.uint32(size << _13)
    rebias = np.uint32(_HALF_REBIAS + (_HALF_REBIAS if size >= _HALF_INFINITY else np.uint32(0)))
    normal = np.uint32(shifted + rebias)
    counted = np.float32(
        np.uint32(shifted + _HALF_LEAST).view(np.float32) - _HALF_LEAST_FLOAT
    ).view(np.uint32)
    value = counted if size < _HALF_NORMAL else normal
    return np.uint32(value | sign).view(np.float32)


@wrapping_kernel
def float_to_half(value: float) -> int:
    """Round a float32 to float16, given as uint16; what is too large becomes infinite."""
    bits = np.float32(value).view(np.uint32)
    size = np.uint32(bits & _MAGNITUDE)
    odd = np.uint32(np.uint32(size >> _13) & _ONE)
    word = np.uint32(np.uint32(size - _HALF_REBIAS + _HALF_ROUND + odd) >> _13)
    counted = np.float32(size.view(np.float32) + _HALF_COUNT).view(np.uint32)
    word = np.uint32(counted - _HALF_COUNT_BITS) if size < _HALF_LEAST else word
    word = _HALF_INFINITY if size >= _HALF_OVER else word
    word = _HALF_QUIET if size > _INFINITY else word
    return np.uint16(word | np.uint32(np.uint32(bits & _SIGN) >> _16))


@wrapping_kernel
def bfloat_to_float(word: int) -> float:
    """Widen a bfloat16, given as uint16, to float32."""
    return np.uint32(np.uint32(word) << _16).view(np.float32)


@wrapping_kernel
def float_to_bfloat(value: float) -> int:
    """Round a float32 to bfloat16, given as uint16."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> _16) & _ONE)
    word = np.uint32(np.uint32(bits + _BFLOAT_ROUND + odd) >> _16)
    quiet = np.uint32(_BFLOAT_QUIET | np.uint32(np.uint32(bits & _SIGN) >> _16))
    return np.uint16(quiet if np.uint32(bits & _MAGNITUDE) > _INFINITY else word)


@wrapping_kernel
def e4m3_to_float(word: int) -> float:
    """Widen an fp8 number (e4m3fn), given as uint8, to float32."""
    bits = np.uint32(word)
    size = np.uint32(bits & _E4M3_MAGNITUDE)
    sign = np.uint32(np.uint32(bits & _E4M3_SIGN) << _24)
    shifted = np.uint32(size << _20)
    counted = np.float32(
        np.uint32(shifted + _E4M3_LEAST).view(np.float32) - _E4M3_LEAST_FLOAT
    ).view(np.uint32)
    value = counted if size < _E4M3_NORMAL else np.uint32(shifted + _E4M3_REBIAS)
    value = _QUIET if size == _E4M3_MAGNITUDE else value
    return np.uint32(value | sign).view(np.float32)


@wrapping_kernel
def float_to_e4m3(value: float) -> int:
    """Round a float32 to fp8 (e4m3fn), given as uint8; beyond 448 it becomes 448."""
    bits = np.float32(value).view(np.uint32)
    exact = np.uint32(bits & _MAGNITUDE)
    size = _E4M3_MOST if exact > _E4M3_MOST else exact
    odd = np.uint32(np.uint32(size >> _20) & _ONE)
    word = np.uint32(np.uint32(size - _E4M3_REBIAS + _E4M3_ROUND + odd) >> _20)
    counted = np.float32(np.uint32(size).view(np.float32) + _E4M3_COUNT).view(np.uint32)
    word = np.uint32(counted - _E4M3_COUNT_BITS) if size < _E4M3_LEAST else word
    word = _E4M3_MAGNITUDE if exact > _INFINITY else word
    return np.uint8(word | np.uint32(np.uint32(bits & _SIGN) >> _24))


@wrapping_kernel
def float_to_int8(value: float) -> int:
    """Round a float32 to the nearest of -127 to 127; NaN becomes 0."""
    number = np.float32(value)
    number = number if number == number else _ZERO
    number = _INT8_MOST if number > _INT8_MOST else number
    number = -_INT8_MOST if number < -_INT8_MOST else number
    return np.int8(np.rint(number))


@wrapping_kernel
def finite_bits(value: float) -> int:
    """Return the bits of a float32's absolute value, which order as it does; 0 unless finite."""
    size = np.uint32(np.float32(value).view(np.uint32) & _MAGNITUDE)
    return size if size < _INFINITY else np.uint32(0)
