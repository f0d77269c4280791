"""Turn an instruction into a function of threads and lanes."""

from typing import Any

import numpy as np

from ptx import carries, comparisons, conversions, floating, integers, transfers, warps
from ptx.faults import TrapError, UnsupportedPTXError
from ptx.kernel import Address, Instruction, Symbol, Vector
from ptx.machine import LOCAL_WINDOW, SHARED_WINDOW, Execute, Threads
from ptx.pure import Pure
from ptx.values import Lanes, dtype_of, reader, writer

WINDOWS = {"global": 0, "const": 0, "param": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}


def _execute_pure(instruction: Instruction, pure: Pure) -> Execute:
    write = writer(instruction.operands[0])
    sources = instruction.operands[1:]
    if len(sources) != len(pure.sources):
        raise UnsupportedPTXError(f"{len(sources)} sources: {instruction}")
    readers = [reader(one, dtype) for one, dtype in zip(sources, pure.sources, strict=True)]
    function = pure.function

    def execute(threads: Threads, lanes: Lanes) -> None:
        write(threads, lanes, function(*(read(threads, lanes) for read in readers)))

    return execute


def _move(instruction: Instruction) -> Execute:
    """``mov``: a copy, or a word split into parts or put together from them, low first."""
    target, source = instruction.operands
    dtype = dtype_of(instruction.parts[-1], instruction)
    if isinstance(target, Vector) or isinstance(source, Vector):
        return (
            _split(target, source, dtype)
            if isinstance(target, Vector)
            else _join(target, source, dtype)
        )
    if isinstance(source, Symbol | Address):
        dtype = np.dtype(np.uint64)
    read, write = reader(source, dtype), writer(target)
    return lambda threads, lanes: write(threads, lanes, read(threads, lanes))


def _split(target: Vector, source: Any, dtype: np.dtype[Any]) -> Execute:
    read = reader(source, dtype)
    writers = [writer(item) for item in target.items]
    part = np.dtype(f"u{dtype.itemsize // len(writers)}")

    def execute(threads: Threads, lanes: Lanes) -> None:
        whole = read(threads, lanes).view(f"u{dtype.itemsize}")
        for i, write in enumerate(writers):
            shift = whole.dtype.type(8 * part.itemsize * i)
            write(threads, lanes, (whole >> shift).astype(part))

    return execute


def _join(target: Any, source: Any, dtype: np.dtype[Any]) -> Execute:
    part = np.dtype(f"u{dtype.itemsize // len(source.items)}")
    readers = [reader(item, part) for item in source.items]
    write = writer(target)
    word = np.dtype(f"u{dtype.itemsize}")

    def execute(threads: Threads, lanes: Lanes) -> None:
        whole = word.type(0)
        for i, read in enumerate(readers):
            shift = word.type(8 * part.itemsize * i)
            whole = whole | read(threads, lanes).astype(word) << shift
        write(threads, lanes, whole)

    return execute


def _convert_address(instruction: Instruction) -> Execute:
    """``cvta``: add a space's window, or with ``.to`` take it off."""
    space = next(part for part in instruction.parts if part in WINDOWS)
    shift = np.uint64(WINDOWS[space])
    read = reader(instruction.operands[1], np.dtype(np.uint64))
    write = writer(instruction.operands[0])
    if instruction.parts[1] == "to":
        return lambda threads, lanes: write(threads, lanes, read(threads, lanes) - shift)
    return lambda threads, lanes: write(threads, lanes, read(threads, lanes) + shift)


def _trap(instruction: Instruction) -> Execute:
    def execute(threads: Threads, lanes: Lanes) -> None:
        first = int(threads.row[lanes][0])
        raise TrapError(f"thread {threads.rank[first]} of block {threads.block[first]}")

    return execute


def _nothing(instruction: Instruction) -> Execute:
    return lambda threads, lanes: None


FAMILIES = {
    "ld": transfers.load,
    "ldu": transfers.load,
    "st": transfers.store,
    "atom": transfers.atomic,
    "red": transfers.atomic,
    "setp": comparisons.set_predicate,
    "mov": _move,
    "cvta": _convert_address,
    "shfl": warps.shuffle,
    "vote": warps.vote,
    "redux": warps.reduction,
    "activemask": warps.active_mask,
    "bar": warps.warp_barrier,
    "trap": _trap,
    # Fences order what one thread does; the interpreter executes it in order anyway.
    **dict.fromkeys(("membar", "fence", "prefetch", "prefetchu", "nanosleep"), _nothing),
}
SELECTIONS = (conversions.select, comparisons.select, floating.select, integers.select)


def decode(instruction: Instruction) -> Execute:
    """Return the function that executes an instruction.

    Raises
    ------
    UnsupportedPTXError
        For anything the interpreter does not know.
    """
    if carries.is_carrying(instruction):
        return carries.carry_arithmetic(instruction)
    family = FAMILIES.get(instruction.parts[0])
    if family is not None:
        return family(instruction)
    for select in SELECTIONS:
        pure = select(instruction)
        if pure is not None:
            return _execute_pure(instruction, pure)
    raise UnsupportedPTXError(str(instruction))
