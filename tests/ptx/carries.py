"""Arithmetic with the carry flag: ``add.cc`` and ``addc``, and so for ``sub`` and ``mad``."""

from typing import Any

import numpy as np

from ptx.faults import UnsupportedPTXError
from ptx.integers import product
from ptx.kernel import Instruction
from ptx.machine import Execute, Threads
from ptx.values import Array, Lanes, dtype_of, reader, writer

CARRYING = ("addc", "subc", "madc")


def is_carrying(instruction: Instruction) -> bool:
    """Whether an instruction reads or writes the carry flag."""
    return "cc" in instruction.parts or instruction.parts[0] in CARRYING


def _add(one: Array, other: Array, carry: Array) -> tuple[Array, Array]:
    partial = one + other
    total = partial + carry
    return total, (partial < one) | (total < partial)


def _subtract(one: Array, other: Array, borrow: Array) -> tuple[Array, Array]:
    partial = one - other
    return partial - borrow, (one < other) | (partial < borrow)


def carry_arithmetic(instruction: Instruction) -> Execute:
    """Make one of them; the flag is kept for each thread."""
    base = instruction.parts[0].removesuffix("c")
    dtype = dtype_of(instruction.parts[-1], instruction)
    if base not in ("add", "sub", "mad") or dtype.itemsize < 4:
        raise UnsupportedPTXError(str(instruction))
    reads = instruction.parts[0] in CARRYING
    words = np.dtype(f"u{dtype.itemsize}")
    combine = _subtract if base == "sub" else _add
    write = writer(instruction.operands[0])
    readers = [reader(operand, dtype) for operand in instruction.operands[1:]]
    multiply = product(instruction.parts[1], dtype, instruction) if base == "mad" else None

    def execute(threads: Threads, lanes: Lanes) -> None:
        values: list[Any] = [read(threads, lanes) for read in readers]
        if multiply:
            values[:2] = [multiply(*values[:2])]
        carry = threads.carry[lanes] if reads else np.zeros((), np.bool_)
        one, other = (np.asarray(value).view(words) for value in values)
        total, over = combine(one, other, carry.astype(words))
        write(threads, lanes, total)
        if "cc" in instruction.parts:
            threads.carry[lanes] = over

    return execute
