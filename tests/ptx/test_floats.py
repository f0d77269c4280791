"""Float arithmetic against exact rationals, NumPy and ml_dtypes."""

from fractions import Fraction

import numpy as np
import pytest

from ptx.formats import FORMATS, decode, encode
from ptx.handwritten import compute, pairs, same_floats
from ptx.launch import launch
from ptx.memory import GlobalMemory

# The oracles cast NaNs, which NumPy remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")


def edges(dtype):
    """Return zeros, subnormals, ones, neighbours of ties, the largest, infinities and NaN."""
    limits = np.finfo(dtype)
    one_up = np.nextafter(dtype(1), dtype(2))
    positive = [0, limits.smallest_subnormal, limits.tiny, 1, one_up, 1.5, 3, 1 / 3, 1e-3, 1234.5]
    positive += [limits.max, np.inf, np.nan, np.nextafter(limits.tiny, dtype(0))]
    values = np.array(positive, dtype)
    return np.concatenate([values, -values])


def exact_round(value, precision, min_exponent, mode):
    """Round a rational to a format, as the definition says (the oracle: no float64 inside)."""
    if value == 0:
        return Fraction(0)
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    quantum = Fraction(2) ** (max(exponent, min_exponent) - precision + 1)
    scaled = value / quantum
    floor = scaled.numerator // scaled.denominator
    rest = scaled - floor
    if mode == "rn":
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and floor % 2 == 1)
    else:
        up = rest > 0 and (mode == "rp" or (mode == "rz" and value < 0))
    return (floor + up) * quantum


def check_rounded(actual, exacts, form, mode):
    for got, exact in zip(actual.astype(np.float64).tolist(), exacts, strict=True):
        expected = exact_round(exact, form.precision, form.min_exponent, mode)
        if abs(expected) > Fraction(form.largest):
            saturates = mode == "rz" or (mode == "rm" and exact > 0) or (mode == "rp" and exact < 0)
            expected = form.largest if saturates else np.inf
            expected = expected if exact > 0 else -expected
        assert got == expected


def random_f32(count, seed, spread):
    generator = np.random.default_rng(seed)
    mantissa = generator.integers(1 << 23, 1 << 24, count).astype(np.float64)
    sign = generator.choice([-1.0, 1.0], count)
    return np.ldexp(sign * mantissa, generator.integers(-spread, spread, count)).astype(np.float32)


ARITHMETIC = {
    "add": (lambda a, b: a + b, np.add),
    "sub": (lambda a, b: a - b, np.subtract),
    "mul": (lambda a, b: a * b, np.multiply),
}


@pytest.mark.parametrize("opcode", ARITHMETIC)
@pytest.mark.parametrize(("name", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_rounded_to_nearest_arithmetic_is_numpys(opcode, name, dtype):
    a, b = pairs(edges(dtype))
    with np.errstate(all="ignore"):
        expected = ARITHMETIC[opcode][1](a, b)
        quotient = a / b
        root = np.sqrt(a)
    for suffix in ("", ".rn"):
        actual = compute(f"{opcode}{suffix}.{name} {{d}}, {{a}}, {{b}};", [a, b], dtype)
        assert same_floats(actual, expected)
    assert same_floats(compute(f"div.rn.{name} {{d}}, {{a}}, {{b}};", [a, b], dtype), quotient)
    assert same_floats(compute(f"sqrt.rn.{name} {{d}}, {{a}};", [a], dtype), root)


@pytest.mark.parametrize("opcode", ARITHMETIC)
@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_f32_arithmetic_rounds_as_its_mode_says(opcode, mode):
    a, b = random_f32(500, 1, 30), random_f32(500, 2, 30)
    actual = compute(f"{opcode}.{mode}.f32 {{d}}, {{a}}, {{b}};", [a, b], np.float32)
    exacts = [
        ARITHMETIC[opcode][0](Fraction(float(x)), Fraction(float(y)))
        for x, y in zip(a, b, strict=True)
    ]
    check_rounded(actual, exacts, FORMATS["f32"], mode)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_fma_rounds_once(mode):
    a, b = random_f32(2000, 3, 12), random_f32(2000, 4, 12)
    # Addends that cancel the product but for its last bits, and ones far below it.
    c = np.where(np.arange(2000) % 2, -(a * b), random_f32(2000, 5, 60)).astype(np.float32)
    actual = compute(f"fma.{mode}.f32 {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], np.float32)
    exacts = [
        Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    check_rounded(actual, exacts, FORMATS["f32"], mode)


def test_fma_of_a_double_rounding_trap():
    # The product is a tie of float32 but for a bit that float64 drops.
    a = np.array([1 + 2.0**-12], np.float32)
    b = np.array([1 + 2.0**-12], np.float32)
    c = np.array([2.0**-80], np.float32)
    product = compute("fma.rn.f32 {d}, {a}, {b}, {c};", [a, b, c], np.float32)
    assert product[0] == np.float32(1 + 2.0**-11 + 2.0**-23)
    down = compute("fma.rn.f32 {d}, {a}, {b}, {c};", [a, b, -c], np.float32)
    assert down[0] == np.float32(1 + 2.0**-11)


def test_fma_f64_rounds_once():
    a = np.array([1 + 2.0**-30, 3.0, np.inf, 1e308], np.float64)
    b = np.array([1 + 2.0**-30, 7.0, 0.0, 10.0], np.float64)
    c = np.array([-1 - 2.0**-29, -21.0, 1.0, 0.0], np.float64)
    actual = compute("fma.rn.f64 {d}, {a}, {b}, {c};", [a, b, c], np.float64)
    assert actual[0] == 2.0**-60
    assert actual[1] == 0
    assert np.isnan(actual[2])
    assert actual[3] == np.inf


def test_ftz_flushes_sources_and_results_and_without_it_nothing_is():
    tiny = np.finfo(np.float32).tiny
    a = np.array([tiny / 2, -tiny / 4, tiny, 1], np.float32)
    b = np.array([1, 1, 0.5, 1], np.float32)
    kept = compute("mul.f32 {d}, {a}, {b};", [a, b], np.float32)
    assert same_floats(kept, a * b)
    flushed = compute("mul.ftz.f32 {d}, {a}, {b};", [a, b], np.float32)
    assert same_floats(flushed, np.array([0, -0.0, 0, 1], np.float32))
    assert compute("fma.rn.ftz.f32 {d}, {a}, {b}, {a};", [a, b], np.float32)[0] == 0


@pytest.mark.parametrize(("name", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_minimum_and_maximum_prefer_numbers_and_order_zeros(name, dtype):
    a, b = pairs(edges(dtype))
    for opcode, oracle in (("min", np.fmin), ("max", np.fmax)):
        expected = oracle(a, b)
        zeros = (a == 0) & (b == 0)
        combine = np.logical_or if opcode == "min" else np.logical_and
        negative = combine(np.signbit(a), np.signbit(b))
        expected = np.where(zeros, np.where(negative, dtype(-0.0), dtype(0)), expected)
        actual = compute(f"{opcode}.{name} {{d}}, {{a}}, {{b}};", [a, b], dtype)
        assert same_floats(actual, expected)
        if name == "f32":
            strict = compute(f"{opcode}.NaN.f32 {{d}}, {{a}}, {{b}};", [a, b], dtype)
            assert (np.isnan(strict) == (np.isnan(a) | np.isnan(b))).all()


def test_signs_change_nothing_else():
    a = edges(np.float32)
    words = a.view(np.uint32)
    negated = compute("neg.f32 {d}, {a};", [a], np.uint32)
    assert (negated == words ^ np.uint32(1 << 31)).all()
    assert (compute("abs.f32 {d}, {a};", [a], np.uint32) == words & np.uint32((1 << 31) - 1)).all()


def test_comparisons_with_nan():
    a, b = pairs(edges(np.float32))
    nan = np.isnan(a) | np.isnan(b)
    oracle = {"eq": a == b, "ne": (a != b) & ~nan, "lt": a < b, "le": a <= b, "gt": a > b}
    for opcode, expected in {**oracle, "ge": a >= b}.items():
        ordered = compute(f"setp.{opcode}.f32 {{d}}, {{a}}, {{b}};", [a, b], np.bool_)
        assert (ordered == expected).all(), opcode
        unordered = compute(f"setp.{opcode}u.f32 {{d}}, {{a}}, {{b}};", [a, b], np.bool_)
        assert (unordered == expected | nan).all(), opcode
    assert (compute("setp.nan.f32 {d}, {a}, {b};", [a, b], np.bool_) == nan).all()
    assert (compute("setp.num.f32 {d}, {a}, {b};", [a, b], np.bool_) == ~nan).all()


def test_saturation_is_to_0_and_1_and_nan_gives_0():
    a = np.array([-1, -0.0, 0.25, 1, 7, np.nan, np.inf], np.float32)
    zero = np.zeros_like(a)
    expected = np.array([0, 0, 0.25, 1, 1, 0, 1], np.float32)
    assert (compute("add.sat.f32 {d}, {a}, {b};", [a, zero], np.float32) == expected).all()
    assert (compute("cvt.sat.f32.f32 {d}, {a};", [a], np.float32) == expected).all()


@pytest.mark.parametrize("opcode", ["ex2", "lg2", "rcp"])
def test_approximations_are_within_the_manuals_bounds(opcode):
    oracle = {"ex2": np.exp2, "lg2": np.log2, "rcp": np.reciprocal}[opcode]
    a = np.linspace(0.01, 20, 500, dtype=np.float32)
    expected = oracle(a.astype(np.float64))
    for modifier in ("approx", "approx.ftz"):
        actual = compute(f"{opcode}.{modifier}.f32 {{d}}, {{a}};", [a], np.float32)
        assert np.allclose(actual, expected, rtol=2.0**-22, atol=2.0**-22)
    whole = np.arange(-10, 11).astype(np.float32)
    assert (compute("ex2.approx.f32 {d}, {a};", [whole], np.float32) == 2.0**whole).all()


@pytest.mark.parametrize("opcode", ["add", "sub", "mul"])
def test_f16_arithmetic_rounds_once(opcode):
    generator = np.random.default_rng(6)
    a, b = generator.integers(0, 1 << 16, (2, 4000)).astype(np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        expected = ARITHMETIC[opcode][1](a.astype(np.float64), b.astype(np.float64))
        expected = expected.astype(np.float16)
    assert same_floats(compute(f"{opcode}.f16 {{d}}, {{a}}, {{b}};", [a, b], np.float16), expected)
    packed = [x.view(np.uint32) for x in (a, b)]
    both = compute(f"{opcode}.f16x2 {{d}}, {{a}}, {{b}};", packed, np.uint32)
    assert same_floats(both.view(np.float16), expected)


def test_16_bit_floats_are_added_to_f32():
    generator = np.random.default_rng(10)
    a, b = generator.integers(0, 1 << 15, (2, 2000)).astype(np.uint16).view(np.float16)
    c = random_f32(2000, 11, 20)
    wide = a.astype(np.float32)
    with np.errstate(all="ignore"):
        assert same_floats(compute("add.f32.f16 {d}, {a}, {b};", [a, c], np.float32), wide + c)
        assert same_floats(compute("sub.f32.f16 {d}, {a}, {b};", [a, c], np.float32), wide - c)
    fused = compute("fma.rn.f32.f16 {d}, {a}, {b}, {c};", [a, b, c], np.float32)
    whole = compute("fma.rn.f32 {d}, {a}, {b}, {c};", [wide, b.astype(np.float32), c], np.float32)
    assert same_floats(fused, whole)


def test_bf16_fma_rounds_once():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install '.[test,test-cuda]'")
    generator = np.random.default_rng(7)
    words = generator.integers(0x3000, 0x4800, (3, 3000)).astype(np.uint16)
    a, b, c = (word.view(ml_dtypes.bfloat16).astype(np.float64) for word in words)
    actual = compute("fma.rn.bf16 {d}, {a}, {b}, {c};", list(words), np.uint16)
    exacts = [Fraction(x) * Fraction(y) + Fraction(z) for x, y, z in zip(a, b, c, strict=True)]
    check_rounded(actual.view(ml_dtypes.bfloat16), exacts, FORMATS["bf16"], "rn")


@pytest.mark.parametrize("name", ["f16", "bf16", "e4m3", "e5m2"])
def test_formats_decode_and_encode_every_word(name):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install '.[test,test-cuda]'")
    form = FORMATS[name]
    oracle = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "e4m3": ml_dtypes.float8_e4m3fn}
    dtype = oracle.get(name, ml_dtypes.float8_e5m2)
    words = np.arange(1 << form.bits).astype(f"u{form.bits // 8}")
    expected = words.view(dtype).astype(np.float64)
    actual = decode(words, form)
    assert same_floats(actual, expected)
    again = encode(actual, form)
    assert (again == np.where(np.isnan(actual), form.nan, words)).all()


def test_an_immediate_float_is_its_bits():
    ptx = """.version 8.3
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 out)
{
    .reg .b32 %r<2>; .reg .f32 %f<2>; .reg .b64 %d<2>; .reg .f64 %g<2>;
    ld.param.u64 %d1, [out];
    mov.b32 %r1, 0f3FC00000;
    add.f32 %f1, 0f3F800000, 0f40000000;
    mov.f64 %g1, 0d3FF8000000000000;
    st.global.b32 [%d1], %r1;
    st.global.f32 [%d1+4], %f1;
    st.global.f64 [%d1+8], %g1;
    ret;
}"""
    out = np.zeros(2, np.float64)
    memory = GlobalMemory()
    launch(ptx, 1, 1, [memory.add(out)], memory=memory)
    assert out.view(np.float32)[:2].tolist() == [1.5, 3.0]
    assert out[1] == 1.5
