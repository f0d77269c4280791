"""Float arithmetic: IEEE results for every format, canonical NaNs.

The ``.approx`` instructions are computed in float64 and rounded once; hardware may differ from
that in the last bits, within the bounds that the PTX manual gives.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from ptx.faults import UnsupportedPTXError
from ptx.formats import FORMATS, add_exactly, decode, encode, flush, round_to
from ptx.kernel import Instruction
from ptx.pure import Pure, take_modifiers
from ptx.values import Array, dtype_of

ROUNDINGS = ("rn", "rz", "rm", "rp")
F32_NAN = np.uint32(0x7FFFFFFF).view(np.float32)
SCALARS = ("f16", "bf16", "f32", "f64")


def _fma_f64(one: Array, other: Array, addend: Array) -> Array:
    """Round products and sums of float64 once, by exact rationals."""
    plain = one * other + addend
    result = np.atleast_1d(plain).copy()
    columns = np.broadcast_arrays(*map(np.atleast_1d, (one, other, addend)))
    for i, (a, b, c) in enumerate(zip(*columns, strict=True)):
        if np.isfinite(a) and np.isfinite(b) and np.isfinite(c):
            exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
            if exact != 0:
                try:
                    result[i] = float(exact)
                except OverflowError:
                    result[i] = np.inf if exact > 0 else -np.inf
    return result.reshape(np.shape(plain))


# For the formats of at most 24 bits: float64 results, exact or rounded to odd.
EXACT: dict[str, Callable[..., Any]] = {
    "add": add_exactly,
    "sub": lambda a, b: add_exactly(a, -b),
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: add_exactly(a * b, c),
}
NATIVE: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "fma": _fma_f64,
    "div": np.divide,
    "sqrt": np.sqrt,
    "rcp": lambda a: 1 / a,
}
APPROXIMATE: dict[str, Callable[..., Any]] = {
    "div": np.divide,
    "rcp": lambda a: 1 / a,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


def _minimum(one: Array, other: Array) -> Array:
    """Return the smaller, a number before NaN and -0 before +0."""
    zero = np.where(np.signbit(one), one, other)
    return np.where((one == 0) & (other == 0), zero, np.fmin(one, other))


def _maximum(one: Array, other: Array) -> Array:
    """Return the larger, a number before NaN and +0 before -0."""
    zero = np.where(np.signbit(one), other, one)
    return np.where((one == 0) & (other == 0), zero, np.fmax(one, other))


def _widen_operand(raw: Array, type_name: str) -> Array:
    if type_name == "bf16":
        return decode(raw, FORMATS["bf16"])
    return raw.astype(np.float64)


def _finish(exact: Array, type_name: str, mode: str) -> Array:
    """Round float64 values, exact or rounded to odd, to the words of a format."""
    if mode == "rn" and type_name == "f32":
        return exact.astype(np.float32)
    words = encode(round_to(exact, FORMATS[type_name], mode), FORMATS[type_name])
    return words if type_name == "bf16" else words.view(dtype_name(type_name))


def dtype_name(type_name: str) -> str:
    """Return NumPy's name of a float type."""
    return {"f16": "f2", "f32": "f4", "f64": "f8"}[type_name]


def _compute(opcode: str, type_name: str, mode: str, approximate: bool) -> Callable[..., Any]:
    """Return a function of values of a type that gives a correctly rounded result."""
    native = type_name == "f64" or (type_name == "f32" and opcode != "fma")
    if approximate:
        function = APPROXIMATE[opcode]
    elif native and mode == "rn":
        return NATIVE[opcode]
    elif type_name != "f64" and opcode in EXACT:
        function = EXACT[opcode]
    else:
        raise UnsupportedPTXError(f"{opcode}.{mode}.{type_name}")

    def compute(*raw: Array) -> Array:
        exact = function(*(_widen_operand(value, type_name) for value in raw))
        return _finish(np.asarray(exact), type_name, mode)

    return compute


def _wrap(function: Callable[..., Any], found: set[str], type_name: str) -> Callable[..., Any]:
    """Add subnormal flushing, saturation and the canonical NaN."""
    ftz = "ftz" in found and type_name == "f32"

    def wrapped(*values: Array) -> Array:
        result = function(*(map(flush, values) if ftz else values))
        if ftz:
            result = flush(result)
        if "sat" in found:
            result = np.where(np.isnan(result), result.dtype.type(0), np.clip(result, 0, 1))
        if type_name == "f32":
            result = np.where(np.isnan(result), F32_NAN, result)
        return result

    return wrapped


def _mixed(instruction: Instruction, narrow: str) -> Pure:
    """``add``, ``sub`` and ``fma`` of 16-bit floats and an f32 that comes last, as f32."""
    parts = instruction.parts[:-1]
    whole = Instruction(parts, instruction.operands, None, instruction.line, instruction.text)
    chosen = _arithmetic(whole)
    last = len(chosen.sources) - 1

    def widen_all(*values: Array) -> Array:
        widened = [_widen_operand(value, narrow).astype(np.float32) for value in values[:last]]
        return chosen.function(*widened, values[last])

    return Pure(widen_all, (dtype_of(narrow, instruction),) * last + chosen.sources[last:])


def _arithmetic(instruction: Instruction) -> Pure:
    opcode, type_name = instruction.parts[0], instruction.parts[-1]
    if opcode in ("add", "sub", "fma") and instruction.parts[-2] == "f32":
        return _mixed(instruction, type_name)
    found = take_modifiers(instruction, "ftz", "sat", "approx", "full", *ROUNDINGS)
    mode = next((part for part in ROUNDINGS if part in found), "rn")
    approximate = bool(found & {"approx", "full"}) or opcode in ("ex2", "lg2", "tanh")
    name = "fma" if opcode == "mad" else opcode
    function = _wrap(_compute(name, type_name, mode, approximate), found, type_name)
    count = len(instruction.operands) - 1
    return Pure(function, (dtype_of(type_name, instruction),) * count)


def _extreme(instruction: Instruction) -> Pure:
    """``min`` and ``max``."""
    type_name = instruction.parts[-1]
    found = take_modifiers(instruction, "ftz", "NaN")
    function = _minimum if instruction.parts[0] == "min" else _maximum

    def extreme(one: Array, other: Array) -> Array:
        if type_name == "bf16":
            form = FORMATS["bf16"]
            return encode(extreme_values(decode(one, form), decode(other, form)), form)
        return extreme_values(one, other)

    def extreme_values(one: Array, other: Array) -> Array:
        result = function(one, other)
        if "NaN" in found:
            nan = np.isnan(one) | np.isnan(other)
            result = np.where(nan, result.dtype.type(np.nan), result)
        return result

    return Pure(_wrap(extreme, found, type_name), (dtype_of(type_name, instruction),) * 2)


def _sign(instruction: Instruction) -> Pure:
    """``neg``, ``abs`` and ``copysign`` change the sign bit and nothing else."""
    type_name = instruction.parts[-1]
    found = take_modifiers(instruction, "ftz")
    size = dtype_of(type_name, instruction).itemsize
    words = np.dtype(f"u{size}")
    top = words.type(1 << (8 * size - 1))
    function = {
        "neg": lambda a: a ^ top,
        "abs": lambda a: a & ~top,
        "copysign": lambda a, b: (b & ~top) | (a & top),
    }[instruction.parts[0]]
    if "ftz" not in found:
        return Pure(function, (words,) * (len(instruction.operands) - 1))
    return Pure(
        lambda *values: function(*(flush(v.view(np.float32)).view(words) for v in values)),
        (words,) * (len(instruction.operands) - 1),
    )


def _packed(instruction: Instruction) -> Pure:
    """``f16x2`` and ``bf16x2``: the same on both halves."""
    half_parts = (*instruction.parts[:-1], instruction.parts[-1].removesuffix("x2"))
    half = Instruction(half_parts, instruction.operands, None, instruction.line, instruction.text)
    chosen = select(half)
    assert chosen is not None
    count = len(chosen.sources)

    def both(*packed: Array) -> Array:
        result = np.uint32(0)
        for shift in (0, 16):
            halves = [
                (value >> np.uint32(shift)).astype(np.uint16).view(dtype)
                for value, dtype in zip(packed, chosen.sources, strict=True)
            ]
            words = np.asarray(chosen.function(*halves)).view(np.uint16).astype(np.uint32)
            result = result | words << np.uint32(shift)
        return result

    return Pure(both, (np.dtype(np.uint32),) * count)


def select(instruction: Instruction) -> Pure | None:
    """Return what a float instruction computes, or None for another kind."""
    opcode, type_name = instruction.parts[0], instruction.parts[-1]
    if type_name in ("f16x2", "bf16x2") and opcode != "cvt":
        return _packed(instruction)
    if type_name not in SCALARS:
        return None
    if opcode in ("min", "max"):
        return _extreme(instruction)
    if opcode in ("neg", "abs", "copysign"):
        return _sign(instruction)
    if opcode in EXACT or opcode in APPROXIMATE or opcode == "mad":
        return _arithmetic(instruction)
    return None
