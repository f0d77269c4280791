"""``cvt``: between integers, floats and the packed 8- and 16-bit formats."""

from typing import Any

import numpy as np

from ptx.faults import UnsupportedPTXError
from ptx.floating import F32_NAN
from ptx.formats import FORMATS, ROUNDINGS, decode, encode, flush, round_to
from ptx.kernel import Instruction
from ptx.pure import Pure
from ptx.values import Array, dtype_of

FLOATS = ("f16", "bf16", "f32", "f64")
PACKED = ("f16x2", "bf16x2", "e4m3x2", "e5m2x2")
MODIFIERS = {"rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "satfinite"}


def _to_value(raw: Array, type_name: str) -> Array:
    """Return a float's bits as float64."""
    return decode(raw, FORMATS["bf16"]) if type_name == "bf16" else raw.astype(np.float64)


def _to_float(value: Array, type_name: str, mode: str, *, finite: bool = False) -> Array:
    """Round float64 values to a type; float64 keeps them."""
    if type_name == "f64":
        return value
    form = FORMATS[type_name]
    if type_name == "f32" and mode == "rn" and not finite:
        rounded = value.astype(np.float32)
        return np.where(np.isnan(rounded), F32_NAN, rounded)
    words = encode(round_to(value, form, mode, finite=finite), form)
    return words.view({"f16": np.float16, "f32": np.float32}.get(type_name, words.dtype))


def _float_to_integer(value: Array, target: np.dtype[Any], mode: str, wide: bool) -> Array:
    """Round to an integer and saturate; NaN gives 0, or the top bit where 64 bits take part."""
    limits = np.iinfo(target)
    rounded = ROUNDINGS[mode](value)
    inside = (rounded >= float(limits.min)) & (rounded < float(limits.max) + 1)
    integer = np.where(inside, rounded, 0).astype(target)
    integer = np.where(rounded < float(limits.min), target.type(limits.min), integer)
    integer = np.where(rounded >= float(limits.max) + 1, target.type(limits.max), integer)
    top = np.array(1 << (8 * target.itemsize - 1), f"u{target.itemsize}").view(target)[()]
    return np.where(np.isnan(value), top if wide else target.type(0), integer)


def _integer_to_integer(value: Array, target: np.dtype[Any], saturate: bool) -> Array:
    if not saturate:
        return value.astype(target)
    limits = np.iinfo(target)
    source = np.iinfo(value.dtype)
    low, high = max(limits.min, source.min), min(limits.max, source.max)
    return np.clip(value, low, high).astype(target)


def _integer_to_float(value: Array, type_name: str, mode: str, instruction: Instruction) -> Array:
    if mode == "rn" and type_name in ("f32", "f64"):
        return value.astype(np.float32 if type_name == "f32" else np.float64)
    if value.dtype.itemsize == 8:
        raise UnsupportedPTXError(str(instruction))
    return _to_float(value.astype(np.float64), type_name, mode)


def _halves(raw: Array, type_name: str) -> tuple[Array, Array]:
    """Return the values of a packed pair, the lower half first."""
    form = FORMATS[type_name.removesuffix("x2")]
    raw = raw.astype(np.uint32)
    mask = np.uint32((1 << form.bits) - 1)
    return decode(raw & mask, form), decode(raw >> np.uint32(form.bits), form)


def _packed(instruction: Instruction, found: set[str], target: str, source: str) -> Pure:
    """Two values side by side; of two sources, the first becomes the upper half."""
    form = FORMATS[target.removesuffix("x2")]
    finite = "satfinite" in found
    mode = next((part for part in ("rn", "rz") if part in found), "rn")
    if target in ("e4m3x2", "e5m2x2") and not finite:
        raise UnsupportedPTXError(f"without .satfinite: {instruction}")

    def join(low: Array, high: Array) -> Array:
        words = [
            encode(round_to(value, form, mode, finite=finite), form).astype(np.uint32)
            for value in (low, high)
        ]
        return (words[0] | words[1] << np.uint32(form.bits)).astype(f"u{form.bits // 4}")

    dtype = dtype_of(source, instruction)
    if source == "f32":
        return Pure(
            lambda upper, lower: join(_to_value(lower, source), _to_value(upper, source)),
            (dtype, dtype),
        )
    if source not in PACKED:
        raise UnsupportedPTXError(str(instruction))
    return Pure(lambda raw: join(*_halves(raw, source)), (dtype,))


def _between_floats(found: set[str], target: str, source: str) -> Any:
    """Return the function for a conversion of one float type to another, or to whole numbers."""
    whole = next((part[:2] for part in ("rni", "rzi", "rmi", "rpi") if part in found), None)
    mode = next((part for part in ("rn", "rz", "rm", "rp") if part in found), "rn")

    def convert(raw: Array) -> Array:
        value = _to_value(raw, source)
        if "ftz" in found and source == "f32":
            value = flush(value)
        if whole:
            value = np.copysign(ROUNDINGS[whole](value), value)
        if "sat" in found:
            value = np.where(np.isnan(value), 0.0, np.clip(value, 0, 1))
        result = _to_float(value, target, mode, finite="satfinite" in found)
        return flush(result).astype(result.dtype) if "ftz" in found and target == "f32" else result

    return convert


def select(instruction: Instruction) -> Pure | None:
    """Return what a conversion computes, or None for another kind of instruction."""
    if instruction.parts[0] != "cvt":
        return None
    *modifiers, target, source = instruction.parts[1:]
    found = set(modifiers)
    if found - MODIFIERS:
        raise UnsupportedPTXError(f"modifier {sorted(found - MODIFIERS)}: {instruction}")
    if target in PACKED:
        return _packed(instruction, found, target, source)
    dtype = dtype_of(source, instruction)
    result = dtype_of(target, instruction)
    if target in FLOATS and source in FLOATS:
        return Pure(_between_floats(found, target, source), (dtype,))
    mode = next((part[:2] for part in modifiers if part[0] == "r"), "rn")
    if target in FLOATS:
        return Pure(lambda raw: _integer_to_float(raw, target, mode, instruction), (dtype,))
    if source in FLOATS:
        wide = result.itemsize == 8 or source == "f64"

        def to_integer(raw: Array) -> Array:
            value = _to_value(raw, source)
            return _float_to_integer(flush(value) if "ftz" in found else value, result, mode, wide)

        return Pure(to_integer, (dtype,))
    return Pure(lambda raw: _integer_to_integer(raw, result, "sat" in found), (dtype,))
