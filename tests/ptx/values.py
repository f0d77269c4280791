"""Registers of many threads at once: how operands are read and results written."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.faults import UnsupportedPTXError
from ptx.kernel import Immediate, Instruction, Negated, Operand, Register, Sink, Special, Symbol

if TYPE_CHECKING:
    from ptx.machine import Threads

Array = np.ndarray[Any, Any]
Lanes = slice | Array
"""Which threads execute: all of them as a slice, or their indices."""

Reader = Callable[["Threads", Lanes], Any]
Writer = Callable[["Threads", Lanes, Any], None]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "pred": np.bool_,
        **{f"{kind}{bits}": f"u{bits // 8}" for kind in "bu" for bits in (8, 16, 32, 64)},
        **{f"s{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
        "f16": np.float16,
        "f32": np.float32,
        "f64": np.float64,
        # Words of formats that NumPy lacks; ptx.formats knows their values.
        "bf16": np.uint16,
        "f16x2": np.uint32,
        "bf16x2": np.uint32,
        "e4m3x2": np.uint16,
        "e5m2x2": np.uint16,
    }.items()
}

# A register that was never written reads as this, so that a result made of it is noticed.
POISON_BYTE = 0xA5


def dtype_of(type_name: str, instruction: Instruction) -> np.dtype[Any]:
    """Return the NumPy dtype of a PTX type."""
    if type_name not in DTYPES:
        raise UnsupportedPTXError(f"type .{type_name}: {instruction}")
    return DTYPES[type_name]


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def narrow(raw: Any, dtype: np.dtype[Any]) -> Any:
    """Reinterpret a register's bits as `dtype`: its low bytes, or zero-extended."""
    if dtype == np.bool_:
        return raw != 0
    if raw.dtype.itemsize != dtype.itemsize or raw.dtype == np.bool_:
        raw = raw.astype(_unsigned(dtype))
    return raw.view(dtype)


def _immediate(operand: Immediate, dtype: np.dtype[Any]) -> Any:
    size = dtype.itemsize
    if operand.float_type and dtype.kind == "f":
        bits = np.dtype("u4" if operand.float_type == "f32" else "u8").type(operand.value)
        return bits.view(np.dtype(operand.float_type.replace("f32", "f4").replace("f64", "f8")))[
            ()
        ].astype(dtype)
    if dtype == np.bool_:
        return np.bool_(operand.value != 0)
    return np.array(operand.value % (1 << 8 * size), _unsigned(dtype)).view(dtype)[()]


def reader(operand: Operand, dtype: np.dtype[Any]) -> Reader:
    """Make the function that reads an operand as `dtype` for the executing threads."""
    if isinstance(operand, Immediate):
        constant = _immediate(operand, dtype)
        return lambda threads, lanes: constant
    if isinstance(operand, Register):
        name = operand.name
        return lambda threads, lanes: narrow(threads.registers[name][lanes], dtype)
    if isinstance(operand, Special):
        special = operand.name
        return lambda threads, lanes: narrow(threads.special(special)[lanes], dtype)
    if isinstance(operand, Negated):
        inner = reader(operand.register, dtype)
        return lambda threads, lanes: ~inner(threads, lanes)
    if isinstance(operand, Symbol):
        symbol = operand.name
        return lambda threads, lanes: dtype.type(threads.address_of(symbol))
    raise UnsupportedPTXError(f"{operand} is no source")


def _widen(value: Any, dtype: np.dtype[Any]) -> Any:
    """Make `value` the bits of a register of `dtype`: sign- or zero-extended, or cut."""
    value = np.asarray(value)
    if value.dtype == np.bool_ or dtype == np.bool_:
        return value.astype(dtype)
    if value.dtype.itemsize == dtype.itemsize:
        return value.view(dtype)
    if value.dtype.kind == "f":
        value = value.view(_unsigned(value.dtype))
    return value.astype(dtype)


def writer(operand: Operand) -> Writer:
    """Make the function that writes a result to an operand for the executing threads."""
    if isinstance(operand, Sink):
        return lambda threads, lanes, value: None
    if not isinstance(operand, Register):
        raise UnsupportedPTXError(f"{operand} is no destination")
    name = operand.name
    dtype = DTYPES[operand.type]
    stored = dtype if dtype == np.bool_ else _unsigned(dtype)

    def write(threads: "Threads", lanes: Lanes, value: Any) -> None:
        threads.registers[name][lanes] = _widen(value, stored)

    return write


def register_storage(type_name: str, num_threads: int) -> Array:
    """Return one register of every thread, poisoned."""
    dtype = DTYPES[type_name]
    if dtype == np.bool_:
        return np.zeros(num_threads, np.bool_)
    return np.full(num_threads * dtype.itemsize, POISON_BYTE, np.uint8).view(_unsigned(dtype))
