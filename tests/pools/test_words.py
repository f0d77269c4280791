"""Conversions of words, bit for bit those of ml_dtypes and numpy."""

import ml_dtypes
import numba as nb
import numpy as np
import pytest
from support import INTERPRETED

from nbkv.pools import words

HALVES = np.arange(2**16, dtype=np.uint16)
FP8 = np.arange(2**8, dtype=np.uint8)
QUIET = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(np.float32)


def apply(function, values: np.ndarray, dtype: type) -> np.ndarray:
    """Convert one by one; compiled where there is a compiler, as kernels are."""
    if INTERPRETED:
        return np.array([function(value) for value in values], dtype)

    @nb.njit
    def convert(values, out):
        for i in range(values.size):
            out[i] = function(values[i])

    out = np.empty(values.size, dtype)
    convert(values, out)
    return out


def floats(rng) -> np.ndarray:
    """Make float32 words of all kinds: any bits, and all near ties of float16 and bfloat16."""
    generator = np.random.default_rng(rng.randrange(2**31))
    count = 1_500 if INTERPRETED else 2_000_000
    any_bits = generator.integers(0, 2**32, count, np.uint32)
    usual = generator.standard_normal(count) * 2.0 ** generator.integers(-30, 20, count)
    bases = np.concatenate(
        [HALVES.astype(np.uint32) << 16, HALVES.view(np.float16).astype(np.float32).view(np.uint32)]
    )
    bases = bases[:: 97 if INTERPRETED else 1]
    near = [bases + np.uint32(k) for k in (0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001)]
    fp8 = FP8.view(ml_dtypes.float8_e4m3fn).astype(np.float32).view(np.uint32)
    ties = [fp8 + np.uint32(k) for k in (0x7FFFF, 0x80000, 0x80001)]
    bits = np.concatenate([any_bits, usual.astype(np.float32).view(np.uint32), *near, *ties])
    bits = bits.astype(np.uint32)
    # A NaN's payload is not kept, its sign is.
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return (
        np.where(is_nan, 0x7FC00000 | (bits & 0x80000000), bits).astype(np.uint32).view(np.float32)
    )


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    kind = f"u{got.itemsize}"
    assert got.view(kind).tolist() == want.view(kind).tolist()


def test_every_float16_widens_exactly() -> None:
    want = HALVES.view(np.float16).astype(np.float32)
    assert_same_bits(apply(words.half_to_float, HALVES, np.float32), want)


def test_every_bfloat16_widens_exactly() -> None:
    want = HALVES.view(ml_dtypes.bfloat16).astype(np.float32)
    assert_same_bits(apply(words.bfloat_to_float, HALVES, np.float32), want)


def test_every_fp8_widens_exactly() -> None:
    want = FP8.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert_same_bits(apply(words.e4m3_to_float, FP8, np.float32), want)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_float32_rounds_to_float16_as_numpy_does(rng) -> None:
    values = floats(rng)
    assert_same_bits(apply(words.float_to_half, values, np.uint16), values.astype(np.float16))


def test_float32_rounds_to_bfloat16_as_ml_dtypes_does(rng) -> None:
    values = floats(rng)
    want = values.astype(ml_dtypes.bfloat16)
    assert_same_bits(apply(words.float_to_bfloat, values, np.uint16), want)


def test_float32_rounds_to_fp8_as_ml_dtypes_does(rng) -> None:
    values = floats(rng)
    want = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    assert_same_bits(apply(words.float_to_e4m3, values, np.uint8), want)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_every_float16_and_bfloat16_rounds_to_fp8_as_ml_dtypes_does() -> None:
    for kind, widen in (
        (np.float16, words.half_to_float),
        (ml_dtypes.bfloat16, words.bfloat_to_float),
    ):
        values = apply(widen, HALVES, np.float32)
        exact = HALVES.view(kind).astype(np.float32)
        want = np.clip(exact, -448, 448).astype(ml_dtypes.float8_e4m3fn)
        assert_same_bits(apply(words.float_to_e4m3, values, np.uint8), want)


def test_int8_rounds_half_to_even_saturates_and_makes_nan_0() -> None:
    values = np.array(
        [0.5, 1.5, -2.5, 126.5, 127.4, 500, -127.6, -1e30, np.inf, -np.inf, *QUIET, -0.0],
        np.float32,
    )
    want = [0, 2, -2, 126, 127, 127, -127, -127, 127, -127, 0, 0, 0]
    assert apply(words.float_to_int8, values, np.int8).tolist() == want


def test_only_finite_numbers_have_a_size() -> None:
    values = np.array([-3, np.inf, *QUIET, 1e-45], np.float32)
    got = apply(words.finite_bits, values, np.uint32).view(np.float32)
    assert got.tolist() == np.array([3, 0, 0, 0, 1e-45], np.float32).tolist()
