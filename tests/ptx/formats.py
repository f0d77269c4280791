"""Float formats and exact rounding between them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx.values import Array


@dataclass(frozen=True)
class Format:
    """A binary float format.

    `precision` counts significant bits with the hidden one; `min_exponent` is the exponent of
    the smallest normal number; `nan` the word of the NaN that conversions give.
    """

    bits: int
    precision: int
    min_exponent: int
    largest: float
    nan: int


F32 = Format(32, 24, -126, float(np.finfo(np.float32).max), 0x7FFFFFFF)
F16 = Format(16, 11, -14, 65504.0, 0x7FFF)
BF16 = Format(16, 8, -126, float.fromhex("0x1.fep127"), 0x7FFF)
E4M3 = Format(8, 4, -6, 448.0, 0x7F)
E5M2 = Format(8, 3, -14, 57344.0, 0x7F)
FORMATS = {"f32": F32, "f16": F16, "bf16": BF16, "e4m3": E4M3, "e5m2": E5M2}

ROUNDINGS = {"rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil}


def round_to(value: Array, form: Format, mode: str = "rn", *, finite: bool = False) -> Array:
    """Round float64 values to a format's values, still as float64.

    Parameters
    ----------
    value : float64
        Exact, or rounded to odd (`add_exactly`), which no further rounding notices.
    form : Format
    mode : str
        ``rn`` (half to even), ``rz``, ``rm`` (down) or ``rp`` (up).
    finite : bool
        Saturate at the largest finite value, instead of going to infinity as `mode` says.
    """
    _, exponent = np.frexp(value)
    quantum = np.maximum(exponent - form.precision, form.min_exponent - form.precision + 1)
    rounded = np.ldexp(ROUNDINGS[mode](np.ldexp(value, -quantum)), quantum)
    result = np.where(np.isfinite(value), np.copysign(rounded, value), value)
    too_large = np.isfinite(value) & (np.abs(result) > form.largest)
    if finite:
        too_large |= np.isinf(value)
    stays = np.full(value.shape, finite or mode == "rz")
    stays |= (value > 0) if mode == "rm" else (value < 0) if mode == "rp" else False
    limit = np.where(stays, form.largest, np.inf)
    return np.where(too_large, np.copysign(limit, value), result)


def encode(value: Array, form: Format) -> Array:
    """Return the words of float64 values that a format holds exactly."""
    magnitude = np.abs(value)
    _, exponent = np.frexp(magnitude)
    exponent = np.where(magnitude == 0, form.min_exponent, exponent - 1)
    exponent = np.maximum(exponent, form.min_exponent)
    fraction = np.ldexp(magnitude, form.precision - 1 - exponent)
    normal = np.isfinite(value)
    with np.errstate(invalid="ignore"):
        number = np.where(normal, fraction, 0).astype(np.int64)
    # The hidden bit of a normal number carries into the exponent's lowest.
    word = number + ((exponent - form.min_exponent).astype(np.int64) << (form.precision - 1))
    infinity = ((1 << (form.bits - form.precision)) - 1) << (form.precision - 1)
    word = np.where(np.isinf(value), infinity, word)
    word |= np.signbit(value).astype(np.int64) << (form.bits - 1)
    word = np.where(np.isnan(value), form.nan, word)
    return word.astype(f"u{form.bits // 8}")


def decode(word: Array, form: Format) -> Array:
    """Return a format's words as float64 values."""
    word = np.asarray(word).astype(np.int64)
    fraction_bits = form.precision - 1
    exponent_mask = (1 << (form.bits - form.precision)) - 1
    exponent = (word >> fraction_bits) & exponent_mask
    fraction = word & ((1 << fraction_bits) - 1)
    number = fraction + ((exponent > 0).astype(np.int64) << fraction_bits)
    scale = np.maximum(exponent, 1) - 1 + form.min_exponent - fraction_bits
    value = np.ldexp(number.astype(np.float64), scale)
    if form is E4M3:  # its top exponent holds numbers; one word in it is NaN
        value = np.where((word & 0x7F) == 0x7F, np.nan, value)
    else:
        special = np.where(fraction == 0, np.inf, np.nan)
        value = np.where(exponent == exponent_mask, special, value)
    negative = (word >> (form.bits - 1)) & 1
    return np.where(negative == 1, -value, value)


def to_odd(total: Array, error: Array) -> Array:
    """Round the exact sum of `total` and its rounding error to odd in float64.

    The result's last bit is set when anything was lost, so that rounding it to a format with
    two bits less or more gives what rounding the exact sum gives.
    """
    inexact = np.isfinite(total) & (error != 0) & ~np.isnan(error)
    bits = np.asarray(total).view(np.int64)
    toward_zero = np.signbit(total) != np.signbit(error)
    odd = (bits - (inexact & toward_zero)) | inexact
    return odd.view(np.float64)


def add_exactly(one: Array, other: Array) -> Array:
    """Return the sum of float64 values, rounded to odd (Knuth's two-sum)."""
    total = one + other
    part = total - one
    error = (one - (total - part)) + (other - part)
    return to_odd(total, error)


def flush(value: Any) -> Any:
    """Replace float32 subnormals by zeros of their sign, as ``.ftz`` does."""
    tiny = np.abs(value) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0), value), value)
