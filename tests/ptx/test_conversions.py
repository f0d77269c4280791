"""``cvt`` against NumPy and ml_dtypes, exhaustively where the words are few."""

import numpy as np
import pytest

from ptx.handwritten import compute, same_floats

# The oracles cast NaNs, which NumPy remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")

ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install '.[test,test-cuda]'")

HALVES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
BYTES = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
LARGEST = {"e4m3": 448, "e5m2": 57344}


def neighbourhood(dtype, count=20000):
    """Return float32 values at, between and around a small format's values, and others."""
    words = np.arange(1 << 8 * np.dtype(dtype).itemsize)
    step = max(1, words.size // 4096)
    exact = words[::step].astype(f"u{np.dtype(dtype).itemsize}").view(dtype).astype(np.float32)
    exact = np.sort(exact[np.isfinite(exact)])
    ties = (exact[:-1].astype(np.float64) + exact[1:]) / 2
    centres = np.concatenate([exact, ties.astype(np.float32)])
    around = [np.nextafter(centres, np.float32(side)) for side in (-np.inf, np.inf)]
    other = np.random.default_rng(8).integers(0, 1 << 32, count, np.uint64).astype(np.uint32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e38, -1e38, 1e-45], np.float32)
    return np.concatenate([centres, *around, other.view(np.float32), special])


@pytest.mark.parametrize("name", HALVES)
def test_f32_becomes_a_16_bit_float(name):
    values = neighbourhood(HALVES[name])
    with np.errstate(all="ignore"):
        expected = values.astype(HALVES[name])
    words = compute(f"cvt.rn.{name}.f32 {{d}}, {{a}};", [values], np.uint16)
    assert same_floats(words.view(HALVES[name]), expected)
    assert set(words[np.isnan(values)].tolist()) == {0x7FFF}


@pytest.mark.parametrize("name", HALVES)
def test_16_bit_floats_become_f32(name):
    words = np.arange(1 << 16).astype(np.uint16)
    actual = compute(f"cvt.f32.{name} {{d}}, {{a}};", [words], np.float32)
    assert same_floats(actual, words.view(HALVES[name]).astype(np.float32))


@pytest.mark.parametrize("name", HALVES)
def test_packed_16_bit_floats_put_the_first_source_on_top(name):
    values = neighbourhood(HALVES[name], 1000)
    others = np.roll(values, 17)
    with np.errstate(all="ignore"):
        upper, lower = values.astype(HALVES[name]), others.astype(HALVES[name])
    actual = compute(f"cvt.rn.{name}x2.f32 {{d}}, {{a}}, {{b}};", [values, others], np.uint32)
    halves = actual.view(np.uint16).reshape(-1, 2).view(HALVES[name])
    assert same_floats(halves[:, 0].copy(), lower)
    assert same_floats(halves[:, 1].copy(), upper)


@pytest.mark.parametrize("name", BYTES)
def test_f32_becomes_fp8_rounded_to_even_and_saturated(name):
    values = neighbourhood(BYTES[name])
    others = np.roll(values, 5)
    actual = compute(
        f"cvt.rn.satfinite.{name}x2.f32 {{d}}, {{a}}, {{b}};", [values, others], np.uint16
    )
    low, high = actual.view(np.uint8).reshape(-1, 2).T.copy()
    for words, sources in ((high, values), (low, others)):
        clipped = np.clip(sources, -LARGEST[name], LARGEST[name])
        assert same_floats(words.view(BYTES[name]), clipped.astype(BYTES[name]))
        assert set(words[np.isnan(sources)].tolist()) == {0x7F}


@pytest.mark.parametrize("name", BYTES)
def test_fp8_becomes_f16(name):
    words = np.arange(1 << 16).astype(np.uint16)
    actual = compute(f"cvt.rn.f16x2.{name}x2 {{d}}, {{a}};", [words], np.uint32)
    expected = words.view(np.uint8).view(BYTES[name]).astype(np.float16)
    assert same_floats(actual.view(np.float16), expected)


def test_packed_f16_becomes_fp8():
    values = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    actual = compute("cvt.rn.satfinite.e4m3x2.f16x2 {d}, {a};", [values.view(np.uint32)], np.uint16)
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    assert same_floats(actual.view(np.uint8).view(ml_dtypes.float8_e4m3fn), expected)


FLOATS = np.array(
    [
        *(0, -0.0, 0.4, 0.5, 0.6, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, 128, -128.5, -129),
        *(255.5, 300, 2147483520, 2147483648, -2147483648, 4e9, 5e9, 1e19, -1e19, 3e38),
        *(np.inf, -np.inf),
    ],
    np.float32,
)
ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize("target", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
def test_floats_become_integers_saturated(mode, target):
    dtype = np.dtype(f"{'i' if target[0] == 's' else 'u'}{int(target[1:]) // 8}")
    held = np.dtype(f"{dtype.kind}{max(dtype.itemsize, 2)}")
    limits = np.iinfo(dtype)
    for source in (FLOATS, FLOATS.astype(np.float64)):
        name = f"f{8 * source.itemsize}"
        expected = [
            limits.max if x >= limits.max else limits.min if x <= limits.min else int(x)
            for x in ROUND[mode](source.astype(np.float64)).tolist()
        ]
        for sat in ("", ".sat"):
            actual = compute(f"cvt.{mode}{sat}.{target}.{name} {{d}}, {{a}};", [source], held)
            assert actual.tolist() == expected


def test_nan_becomes_0_or_the_top_bit_of_64():
    nan = np.array([np.nan], np.float32)
    assert compute("cvt.rni.sat.s8.f32 {d}, {a};", [nan], np.int16)[0] == 0
    assert compute("cvt.rzi.s32.f32 {d}, {a};", [nan], np.int32)[0] == 0
    assert compute("cvt.rzi.s64.f32 {d}, {a};", [nan], np.int64)[0] == np.iinfo(np.int64).min


@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64"])
def test_integers_become_floats(source):
    dtype = np.dtype(f"{'i' if source[0] == 's' else 'u'}{int(source[1:]) // 8}")
    limits = np.iinfo(dtype)
    values = [0, 1, 16777217, 16777219, limits.max, limits.max - 64, limits.min, 33554435]
    a = np.array(values, dtype)
    for name, target in (("f32", np.float32), ("f64", np.float64)):
        actual = compute(f"cvt.rn.{name}.{source} {{d}}, {{a}};", [a], target)
        assert [float(x) for x in actual] == [float(target(x)) for x in a.tolist()]
    if dtype.itemsize == 4:
        down = compute(f"cvt.rz.f32.{source} {{d}}, {{a}};", [a], np.float32)
        assert (np.abs(down.astype(np.float64)) <= np.abs(a.astype(np.float64))).all()
        assert down[2] == 16777216


def test_f64_becomes_f32_and_back():
    a = np.array([1 / 3, 1e-42, 1e39, -1e300, 5e-324, np.nan, 1 + 2.0**-24, 1 + 2.0**-23])
    with np.errstate(all="ignore"):
        expected = a.astype(np.float32)
    assert same_floats(compute("cvt.rn.f32.f64 {d}, {a};", [a], np.float32), expected)
    assert same_floats(
        compute("cvt.f64.f32 {d}, {a};", [expected], np.float64), expected.astype(np.float64)
    )
    up = compute("cvt.rp.f32.f64 {d}, {a};", [a[:1]], np.float32)
    assert up[0] == np.nextafter(np.float32(1 / 3), np.float32(1)) or up[0] >= 1 / 3


def test_floats_are_rounded_to_whole_floats():
    for mode, oracle in ROUND.items():
        actual = compute(f"cvt.{mode}.f32.f32 {{d}}, {{a}};", [FLOATS], np.float32)
        assert same_floats(actual, oracle(FLOATS))


def test_words_are_split_and_joined():
    words = np.array([0x11223344, 0xAABBCCDD], np.uint32)
    low = compute("mov.b32 {{{d}, %h9}}, {a};", [words], np.uint16)
    assert low.tolist() == [0x3344, 0xCCDD]
    swapped = compute("mov.b32 {{%h8, %h9}}, {a};\nmov.b32 {d}, {{%h9, %h8}};", [words], np.uint32)
    assert swapped.tolist() == [0x33441122, 0xCCDDAABB]
