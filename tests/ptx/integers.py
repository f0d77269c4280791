"""Integer arithmetic, logic and bit fields."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.faults import UnsupportedPTXError
from ptx.kernel import Immediate, Instruction
from ptx.pure import Pure, same_type, take_modifiers
from ptx.values import Array, dtype_of

U32 = np.dtype(np.uint32)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")


def _high_product(one: Array, other: Array) -> Array:
    """Return the upper half of a product."""
    dtype = one.dtype
    if dtype.itemsize < 8:
        wide = _wide(dtype)
        return (one.astype(wide) * other.astype(wide) >> 8 * dtype.itemsize).astype(dtype)
    product = np.asarray(one, object) * np.asarray(other, object) >> 64
    return np.asarray(product).astype(dtype)


def product(half: str, dtype: np.dtype[Any], instruction: Instruction) -> Callable[..., Array]:
    """Return the multiplication that gives ``lo`` or ``hi``, or all of a product (``wide``)."""
    if half not in ("lo", "hi", "wide"):
        raise UnsupportedPTXError(str(instruction))
    if half == "hi":
        return _high_product
    result = _wide(dtype) if half == "wide" else dtype
    return lambda one, other: one.astype(result) * other.astype(result)


def _multiply(instruction: Instruction) -> Pure:
    """``mul`` and ``mad``; the addend of ``.wide`` is twice as wide."""
    if len(instruction.parts) != 3:
        raise UnsupportedPTXError(str(instruction))
    opcode, half, type_name = instruction.parts
    dtype = dtype_of(type_name, instruction)
    multiply = product(half, dtype, instruction)
    if opcode == "mul":
        return Pure(multiply, (dtype, dtype))
    addend = _wide(dtype) if half == "wide" else dtype
    return Pure(lambda a, b, c: multiply(a, b) + c, (dtype, dtype, addend))


def _divide(one: Array, other: Array) -> Array:
    """Divide toward zero; what the hardware gives for 0 is not specified, here all ones."""
    safe = np.where(other == 0, other.dtype.type(1), other)
    quotient = one // safe
    if one.dtype.kind == "i":
        # NumPy rounds down: one more where a remainder is left and the signs differ.
        rest = one - quotient * safe
        quotient = quotient + ((rest != 0) & ((one < 0) != (safe < 0)))
    return np.where(other == 0, ~other.dtype.type(0), quotient).astype(one.dtype)


def _remainder(one: Array, other: Array) -> Array:
    return one - _divide(one, other) * other


def _shift_left(value: Array, amount: Array) -> Array:
    bits = 8 * value.dtype.itemsize
    shifted = value << np.minimum(amount, bits - 1).astype(value.dtype)
    return np.where(amount >= bits, value.dtype.type(0), shifted)


def _shift_right(value: Array, amount: Array) -> Array:
    bits = 8 * value.dtype.itemsize
    shifted = value >> np.minimum(amount, bits - 1).astype(value.dtype)
    if value.dtype.kind == "i":
        return shifted
    return np.where(amount >= bits, value.dtype.type(0), shifted)


def _shift(instruction: Instruction) -> Pure:
    function = _shift_left if instruction.parts[0] == "shl" else _shift_right
    return Pure(function, (dtype_of(instruction.parts[-1], instruction), U32))


def _funnel_shift(instruction: Instruction) -> Pure:
    """``shf``: shift the 64 bits of b:a, and give the upper (left) or lower (right) half."""
    side, overflow = instruction.parts[1:3]

    def shift(low: Array, high: Array, amount: Array) -> Array:
        by = amount & 31 if overflow == "wrap" else np.minimum(amount, 32)
        both = (high.astype(np.uint64) << np.uint64(32)) | low
        if side == "l":
            return (_shift_left(both, by) >> np.uint64(32)).astype(np.uint32)
        return _shift_right(both, by).astype(np.uint32)

    return Pure(shift, (U32, U32, U32))


def _field_mask(length: Array, dtype: np.dtype[Any]) -> Array:
    ones = np.full(np.shape(length), ~dtype.type(0), dtype)
    return ~_shift_left(ones, length)


def _extract(instruction: Instruction) -> Pure:
    """``bfe``: a field, sign-extended for signed types."""
    dtype = dtype_of(instruction.parts[-1], instruction)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = 8 * dtype.itemsize

    def extract(value: Array, position: Array, length: Array) -> Array:
        start, count = position & 0xFF, length & 0xFF
        mask = _field_mask(count, unsigned)
        field = _shift_right(value, start).view(unsigned) & mask
        if dtype.kind == "u":
            return field
        last = np.minimum(start + np.maximum(count, 1) - 1, bits - 1)
        negative = (_shift_right(value.view(unsigned), last) & unsigned.type(1)) == 1
        return np.where(negative & (count > 0), field | ~mask, field).view(dtype)

    return Pure(extract, (dtype, U32, U32))


def _insert(instruction: Instruction) -> Pure:
    """``bfi``: a field of the first source put into the second."""
    dtype = dtype_of(instruction.parts[-1], instruction)

    def insert(source: Array, target: Array, position: Array, length: Array) -> Array:
        start, count = position & 0xFF, length & 0xFF
        mask = _shift_left(_field_mask(count, dtype), start)
        return (target & ~mask) | (_shift_left(source, start) & mask)

    return Pure(insert, (dtype, dtype, U32, U32))


def _highest_bit(value: Array) -> Array:
    """Return the number of the highest set bit, -1 for zero."""
    bits = 8 * value.dtype.itemsize
    place = np.full(value.shape, -1, np.int64)
    for i in range(bits):
        place = np.where((value >> value.dtype.type(i)) & value.dtype.type(1), i, place)
    return place


def _count_bits(instruction: Instruction) -> Pure:
    """``popc``, ``clz``, ``brev`` and ``bfind``."""
    opcode = instruction.parts[0]
    dtype = dtype_of(instruction.parts[-1], instruction)
    bits = 8 * dtype.itemsize

    def reverse(value: Array) -> Array:
        result = np.zeros_like(value)
        for i in range(bits):
            bit = (value >> value.dtype.type(i)) & value.dtype.type(1)
            result |= bit << value.dtype.type(bits - 1 - i)
        return result

    def find(value: Array) -> Array:
        if value.dtype.kind == "i":
            value = np.where(value < 0, ~value, value).view(f"u{dtype.itemsize}")
        place = _highest_bit(value)
        if "shiftamt" in instruction.parts:
            place = np.where(place < 0, -1, bits - 1 - place)
        return place.astype(np.int32).view(np.uint32)

    functions = {
        "popc": lambda value: np.bitwise_count(value).astype(np.uint32),
        "clz": lambda value: (bits - 1 - _highest_bit(value)).astype(np.uint32),
        "brev": reverse,
        "bfind": find,
    }
    return Pure(lambda value: functions[opcode](np.asarray(value)), (dtype,))


def _permute(instruction: Instruction) -> Pure:
    """``prmt`` without a mode: four bytes picked of eight, or their sign spread."""
    if instruction.parts != ("prmt", "b32"):
        raise UnsupportedPTXError(str(instruction))

    def permute(low: Array, high: Array, selector: Array) -> Array:
        both = (high.astype(np.uint64) << np.uint64(32)) | low
        result = np.uint32(0)
        for i in range(4):
            pick = (selector >> np.uint32(4 * i)) & np.uint32(15)
            byte = (both >> ((pick & 7) * 8).astype(np.uint64)) & np.uint64(0xFF)
            sign = np.where(byte >> np.uint64(7), np.uint64(0xFF), np.uint64(0))
            chosen = np.where(pick & 8, sign, byte).astype(np.uint32)
            result = result | chosen << np.uint32(8 * i)
        return result

    return Pure(permute, (U32, U32, U32))


def _lookup(instruction: Instruction) -> Pure:
    """``lop3``: any function of three bits, as a table of eight."""
    table_operand = instruction.operands[4]
    if instruction.parts != ("lop3", "b32") or not isinstance(table_operand, Immediate):
        raise UnsupportedPTXError(str(instruction))
    table = table_operand.value

    def look_up(a: Array, b: Array, c: Array, _: Array) -> Array:
        result = np.uint32(0)
        for i in range(8):
            if table >> i & 1:
                first = a if i & 4 else ~a
                second = b if i & 2 else ~b
                result = result | (first & second & (c if i & 1 else ~c))
        return np.broadcast_to(result, np.broadcast_shapes(*map(np.shape, (a, b, c))))

    return Pure(look_up, (U32,) * 4)


def _saturating(instruction: Instruction) -> Pure:
    """``add`` and ``sub``, with ``.sat`` for s32."""
    function = np.add if instruction.parts[0] == "add" else np.subtract
    if take_modifiers(instruction, "sat"):
        limits = np.iinfo(np.int32)

        def saturate(one: Array, other: Array) -> Array:
            exact = function(one.astype(np.int64), other.astype(np.int64))
            return np.clip(exact, limits.min, limits.max).astype(np.int32)

        return same_type(instruction, saturate, 2)
    return same_type(instruction, function, 2)


SIMPLE = {
    "div": (_divide, 2),
    "rem": (_remainder, 2),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "and": (np.bitwise_and, 2),
    "or": (np.bitwise_or, 2),
    "xor": (np.bitwise_xor, 2),
    "not": (np.invert, 1),
    "abs": (np.abs, 1),
    "neg": (np.negative, 1),
    "cnot": (lambda value: (value == 0).astype(value.dtype), 1),
}

FAMILIES = {
    **dict.fromkeys(("add", "sub"), _saturating),
    **dict.fromkeys(("mul", "mad"), _multiply),
    **dict.fromkeys(("shl", "shr"), _shift),
    **dict.fromkeys(("popc", "clz", "brev", "bfind"), _count_bits),
    "shf": _funnel_shift,
    "bfe": _extract,
    "bfi": _insert,
    "prmt": _permute,
    "lop3": _lookup,
}


def select(instruction: Instruction) -> Pure | None:
    """Return what an integer or logic instruction computes, or None for another kind."""
    opcode, type_name = instruction.parts[0], instruction.parts[-1]
    if (type_name != "pred" and type_name[0] not in "bus") or type_name == "bf16":
        return None
    if opcode in FAMILIES:
        return FAMILIES[opcode](instruction)
    if opcode in SIMPLE:
        take_modifiers(instruction)
        function, count = SIMPLE[opcode]
        return same_type(instruction, function, count)
    return None
