"""Integer instructions against Python's integers."""

import numpy as np
import pytest

from ptx.faults import UnsupportedPTXError
from ptx.handwritten import compute, pairs

DTYPES = {
    f"{kind}{bits}": np.dtype(f"{'u' if kind in 'ub' else 'i'}{bits // 8}")
    for kind in "sub"
    for bits in (16, 32, 64)
}


def edges(dtype):
    limits = np.iinfo(dtype)
    values = {0, 1, 2, 3, 7, 100, limits.max, limits.max - 1, limits.max // 3, limits.min}
    values |= {-1, -2, -7, limits.min + 1} if limits.min else {limits.max // 2, limits.max // 2 + 1}
    return np.array(sorted(values), dtype)


def wrap(value, dtype):
    bits = 8 * dtype.itemsize
    value %= 1 << bits
    return value - (1 << bits) if dtype.kind == "i" and value >> (bits - 1) else value


def truncated(a, b):
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


BINARY = {
    "add": (lambda a, b: a + b, "su"),
    "sub": (lambda a, b: a - b, "su"),
    "mul.lo": (lambda a, b: a * b, "su"),
    "min": (min, "su"),
    "max": (max, "su"),
    "div": (lambda a, b: truncated(a, b), "su"),
    "rem": (lambda a, b: a - b * truncated(a, b), "su"),
    "and": (lambda a, b: a & b, "b"),
    "or": (lambda a, b: a | b, "b"),
    "xor": (lambda a, b: a ^ b, "b"),
}


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("opcode", BINARY)
def test_binary_arithmetic_is_that_of_pythons_integers(opcode, bits):
    oracle, kinds = BINARY[opcode]
    for kind in kinds:
        dtype = DTYPES[f"{kind}{bits}"]
        a, b = pairs(edges(dtype))
        if opcode in ("div", "rem"):
            a, b = a[b != 0], b[b != 0]
        actual = compute(f"{opcode}.{kind}{bits} {{d}}, {{a}}, {{b}};", [a, b], dtype)
        expected = [wrap(oracle(int(x), int(y)), dtype) for x, y in zip(a, b, strict=True)]
        assert actual.tolist() == expected


@pytest.mark.parametrize("name", ["s16", "u16", "s32", "u32"])
def test_a_wide_product_keeps_every_bit(name):
    dtype = DTYPES[name]
    wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
    a, b = pairs(edges(dtype))
    c = np.arange(a.size, dtype=wide) - wide.type(a.size // 2)
    products = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    assert compute(f"mul.wide.{name} {{d}}, {{a}}, {{b}};", [a, b], wide).tolist() == products
    sums = compute(f"mad.wide.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], wide)
    assert sums.tolist() == [wrap(p + int(z), wide) for p, z in zip(products, c, strict=True)]


@pytest.mark.parametrize("name", ["s32", "u32", "s64", "u64"])
def test_products_give_their_halves(name):
    dtype = DTYPES[name]
    a, b = pairs(edges(dtype))
    c = a[::-1].copy()
    exact = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    bits = 8 * dtype.itemsize
    high = compute(f"mul.hi.{name} {{d}}, {{a}}, {{b}};", [a, b], dtype)
    assert high.tolist() == [wrap(p >> bits, dtype) for p in exact]
    low = compute(f"mad.lo.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], dtype)
    assert low.tolist() == [wrap(p + int(z), dtype) for p, z in zip(exact, c, strict=True)]


@pytest.mark.parametrize("name", ["s32", "s64", "s16"])
def test_unary_arithmetic(name):
    dtype = DTYPES[name]
    a = edges(dtype)
    for opcode, oracle in (("neg", lambda x: -x), ("abs", abs)):
        actual = compute(f"{opcode}.{name} {{d}}, {{a}};", [a], dtype)
        assert actual.tolist() == [wrap(oracle(int(x)), dtype) for x in a]
    bits = 8 * dtype.itemsize
    inverted = compute(f"not.b{bits} {{d}}, {{a}};", [a], dtype)
    assert inverted.tolist() == [~int(x) for x in a]


@pytest.mark.parametrize("name", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_shifts_clamp_their_amount(name):
    dtype = DTYPES[name]
    bits = 8 * dtype.itemsize
    values = edges(dtype)
    amounts = np.array([0, 1, 5, bits - 1, bits, bits + 1, 200, 2**32 - 1], np.uint32)
    a, b = (grid.ravel().copy() for grid in np.meshgrid(values, amounts))
    right = compute(f"shr.{name} {{d}}, {{a}}, {{b}};", [a, b], dtype)
    assert right.tolist() == [int(x) >> min(int(n), bits) for x, n in zip(a, b, strict=True)]
    left = compute(f"shl.b{bits} {{d}}, {{a}}, {{b}};", [a, b], dtype)
    expected = [wrap(int(x) << min(int(n), bits), dtype) for x, n in zip(a, b, strict=True)]
    assert left.tolist() == expected


@pytest.mark.parametrize(
    ("side", "overflow"), [("l", "clamp"), ("l", "wrap"), ("r", "clamp"), ("r", "wrap")]
)
def test_funnel_shifts(side, overflow):
    low, high = pairs(edges(np.dtype(np.uint32)))
    amount = (np.arange(low.size) * 7 % 70).astype(np.uint32)
    actual = compute(
        f"shf.{side}.{overflow}.b32 {{d}}, {{a}}, {{b}}, {{c}};", [low, high, amount], np.uint32
    )
    expected = []
    for a, b, n in zip(low.tolist(), high.tolist(), amount.tolist(), strict=True):
        by = n % 32 if overflow == "wrap" else min(n, 32)
        both = b << 32 | a
        expected.append((both << by >> 32 if side == "l" else both >> by) & 0xFFFFFFFF)
    assert actual.tolist() == expected


@pytest.mark.parametrize("name", ["u32", "s32", "u64", "s64"])
def test_bit_fields_are_extracted_and_inserted(name):
    dtype = DTYPES[name]
    bits = 8 * dtype.itemsize
    unsigned = np.dtype(f"u{dtype.itemsize}")
    generator = np.random.default_rng(5)
    count = 600
    a = generator.integers(0, 1 << bits, count, np.uint64).astype(unsigned).view(dtype)
    base = generator.integers(0, 1 << bits, count, np.uint64).astype(unsigned).view(dtype)
    position = generator.integers(0, bits + 4, count).astype(np.uint32)
    length = generator.integers(0, bits + 4, count).astype(np.uint32)
    fields = compute(f"bfe.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, position, length], dtype)
    expected = []
    for x, p, n in zip(a.tolist(), position.tolist(), length.tolist(), strict=True):
        # The manual's loop: bits beyond the top repeat the sign, of an unsigned number 0.
        last = min(p + n - 1, bits - 1)
        sign = x >> last & 1 if dtype.kind == "i" and n else 0
        picked = [x >> (p + i) & 1 if i < n and p + i < bits else sign for i in range(bits)]
        expected.append(wrap(sum(bit << i for i, bit in enumerate(picked)), dtype))
    assert fields.tolist() == expected
    joined = compute(
        f"bfi.b{bits} {{d}}, {{a}}, {{b}}, {{c}}, {{e}};", [a, base, position, length], unsigned
    )
    for x, y, p, n, result in zip(
        a.view(unsigned).tolist(),
        base.view(unsigned).tolist(),
        position.tolist(),
        length.tolist(),
        joined.tolist(),
        strict=True,
    ):
        mask = ((1 << n) - 1 << p) & ((1 << bits) - 1)
        assert result == (y & ~mask) | ((x << p) & mask)


def test_bits_are_counted_and_reversed():
    for bits in (32, 64):
        dtype = np.dtype(f"u{bits // 8}")
        a = edges(dtype)
        words = [format(int(x), f"0{bits}b") for x in a]
        ones = compute(f"popc.b{bits} {{d}}, {{a}};", [a], np.uint32)
        assert ones.tolist() == [word.count("1") for word in words]
        zeros = compute(f"clz.b{bits} {{d}}, {{a}};", [a], np.uint32)
        assert zeros.tolist() == [len(word) - len(word.lstrip("0")) for word in words]
        mirrored = compute(f"brev.b{bits} {{d}}, {{a}};", [a], dtype)
        assert mirrored.tolist() == [int(word[::-1], 2) for word in words]
        highest = compute(f"bfind.u{bits} {{d}}, {{a}};", [a], np.int32)
        assert highest.tolist() == [int(x).bit_length() - 1 for x in a]
        shift = compute(f"bfind.shiftamt.u{bits} {{d}}, {{a}};", [a], np.int32)
        assert shift.tolist() == [bits - int(x).bit_length() if x else -1 for x in a]


def test_bytes_are_permuted_with_signs():
    a, b = np.array([[0x83828180], [0x07060504]], np.uint32).repeat(4, axis=1)
    selector = np.array([0x3210, 0x7654, 0x9870, 0xF0B4], np.uint32)
    actual = compute("prmt.b32 {d}, {a}, {b}, {c};", [a, b, selector], np.uint32)
    assert [hex(x) for x in actual.tolist()] == [
        "0x83828180",
        "0x7060504",
        "0xffff0780",
        "0x80ff04",
    ]


@pytest.mark.parametrize("table", [0x00, 0x80, 0x96, 0xCA, 0xE8, 0xFF])
def test_lop3_is_its_table(table):
    a, b, c = np.array([0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA], np.uint32)[:, None].repeat(2, 1)
    actual = compute(f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};", [a, b, c], np.uint32)
    assert actual[0] == table * 0x01010101


@pytest.mark.parametrize("name", ["s32", "u32", "s64", "u64", "s16", "u16"])
def test_comparisons_and_selection(name):
    dtype = DTYPES[name]
    a, b = pairs(edges(dtype))
    oracle = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    for opcode, expected in oracle.items():
        actual = compute(f"setp.{opcode}.{name} {{d}}, {{a}}, {{b}};", [a, b], np.bool_)
        assert (actual == expected).all(), opcode
    chosen = compute(f"selp.{name} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, a < b], dtype)
    assert (chosen == np.minimum(a, b)).all()


def test_setp_combines_with_a_predicate_and_gives_the_opposite():
    a, b = pairs(np.arange(3, dtype=np.int32))
    c = a % 2 == 1
    both = compute("setp.lt.and.s32 {d}|%p9, {a}, {b}, {c};", [a, b, c], np.bool_)
    assert (both == ((a < b) & c)).all()
    opposite = compute("setp.lt.or.s32 %p9|{d}, {a}, {b}, !{c};", [a, b, c], np.bool_)
    assert (opposite == (~(a < b) | ~c)).all()


def test_predicate_logic():
    a, b = pairs(np.array([False, True]))
    for opcode, expected in (("and", a & b), ("or", a | b), ("xor", a ^ b)):
        assert (compute(f"{opcode}.pred {{d}}, {{a}}, {{b}};", [a, b], np.bool_) == expected).all()
    assert (compute("not.pred {d}, {a};", [a], np.bool_) == ~a).all()


def test_integers_are_converted_between_widths():
    a = np.array(
        [0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, -1, -129, -(2**31)], np.int32
    )
    for bits in (8, 16, 64):
        target = np.dtype(f"i{bits // 8}")
        held = max(bits, 16) // 8
        actual = compute(f"cvt.s{bits}.s32 {{d}}, {{a}};", [a], f"i{held}")
        assert (actual == a.astype(target)).all()
        unsigned = compute(
            f"cvt.u{bits}.u32 {{d}}, {{a}};", [a], np.dtype(f"u{max(bits, 16) // 8}")
        )
        assert (unsigned == a.view(np.uint32).astype(f"u{bits // 8}")).all()
    clamped = compute("cvt.sat.s8.s32 {d}, {a};", [a], np.int16)
    assert (clamped == np.clip(a, -128, 127)).all()
    clamped = compute("cvt.sat.u8.s32 {d}, {a};", [a], np.uint16)
    assert (clamped == np.clip(a, 0, 255)).all()


@pytest.mark.parametrize("bits", [32, 64])
def test_the_carry_flag_joins_two_words(bits):
    name, mask = f"u{bits}", (1 << bits) - 1
    a, b = pairs(edges(DTYPES[name]))
    c = a[::-1].copy()
    letter = "r" if bits == 32 else "d"
    joined = [int(x) << bits | int(y) for x, y in zip(a, b, strict=True)]
    for opcode, sign in (("add", 1), ("sub", -1)):
        body = f"{opcode}.cc.{name} %{letter}9, {{b}}, {{c}};\n{opcode}c.{name} {{d}}, {{a}}, 5;"
        high = compute(body, [a, b, c], DTYPES[name])
        exact = [x + sign * ((5 << bits) + int(z)) for x, z in zip(joined, c, strict=True)]
        assert high.tolist() == [x >> bits & mask for x in exact]
    body = f"mad.lo.cc.{name} %{letter}9, {{a}}, {{b}}, {{c}};\n"
    body += f"madc.hi.{name} {{d}}, {{a}}, {{b}}, 3;"
    high = compute(body, [a, b, c], DTYPES[name])
    exact = [int(x) * int(y) + int(z) + (3 << bits) for x, y, z in zip(a, b, c, strict=True)]
    assert high.tolist() == [x >> bits & mask for x in exact]


@pytest.mark.parametrize(
    "instruction",
    [
        "add.cc.u16 {d}, {a}, {a};",
        "mul24.lo.u32 {d}, {a}, {a};",
        "prmt.b32.f4e {d}, {a}, {a}, {a};",
    ],
)
def test_what_is_not_known_is_named(instruction):
    with pytest.raises(UnsupportedPTXError, match=instruction.split()[0]):
        compute(instruction, [np.zeros(1, np.uint32)], np.uint32)
