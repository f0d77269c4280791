"""``setp``, ``set``, ``selp``, ``slct`` and ``testp``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.faults import UnsupportedPTXError
from ptx.formats import FORMATS, decode, flush
from ptx.kernel import Instruction, Pair
from ptx.pure import Pure
from ptx.values import Array, Lanes, dtype_of, reader, writer

COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
COMBINE: dict[str, Callable[..., Any]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def _comparison(name: str, is_float: bool) -> Callable[[Array, Array], Array]:
    """Return a comparison; a float's ends in ``u`` where NaN makes it true."""
    if not is_float:
        return COMPARE[name]
    if name in ("num", "nan"):
        wanted = name == "nan"
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == wanted
    unordered = name not in COMPARE and name.endswith("u")
    function = COMPARE[name.removesuffix("u") if unordered else name]
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), unordered, function(a, b))


def set_predicate(instruction: Instruction) -> Callable[[Any, Lanes], None]:
    """Make ``setp``: one or two predicates from a comparison and perhaps a third predicate."""
    type_name = instruction.parts[-1]
    modifiers = [part for part in instruction.parts[1:-1] if part != "ftz"]
    dtype = dtype_of(type_name, instruction)
    is_float = dtype.kind == "f" or type_name == "bf16"
    try:
        compare = _comparison(modifiers[0], is_float)
        combine = COMBINE[modifiers[1]] if len(modifiers) > 1 else None
    except KeyError:
        raise UnsupportedPTXError(str(instruction)) from None
    target, *sources = instruction.operands
    targets = [target.first, target.second] if isinstance(target, Pair) else [target]
    writers = [writer(one) for one in targets]
    readers = [reader(one, dtype) for one in sources[:2]]
    third = reader(sources[2], np.dtype(np.bool_)) if combine else None
    ftz = "ftz" in instruction.parts

    def execute(threads: Any, lanes: Lanes) -> None:
        values = [read(threads, lanes) for read in readers]
        if type_name == "bf16":
            values = [decode(value, FORMATS["bf16"]) for value in values]
        if ftz:
            values = [flush(value) for value in values]
        answer = compare(*values)
        for write, result in zip(writers, (answer, ~answer), strict=False):
            if combine and third:
                result = combine(result, third(threads, lanes))
            write(threads, lanes, result)

    return execute


def _select_value(instruction: Instruction) -> Pure:
    dtype = dtype_of(instruction.parts[-1], instruction)
    return Pure(lambda a, b, p: np.where(p, a, b), (dtype, dtype, np.dtype(np.bool_)))


def _set(instruction: Instruction) -> Pure:
    """``set``: a comparison as all ones, or as 1.0."""
    name, target, source = (part for part in instruction.parts[1:] if part != "ftz")
    dtype = dtype_of(source, instruction)
    compare = _comparison(name, dtype.kind == "f")
    result = dtype_of(target, instruction)
    yes = result.type(1) if result.kind == "f" else np.array(-1).astype(result)[()]
    return Pure(lambda a, b: np.where(compare(a, b), yes, result.type(0)), (dtype, dtype))


def _test(instruction: Instruction) -> Pure:
    name, type_name = instruction.parts[1:]
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
    }
    if name not in tests:
        raise UnsupportedPTXError(str(instruction))
    return Pure(tests[name], (dtype_of(type_name, instruction),))


def select(instruction: Instruction) -> Pure | None:
    """Return what a selection computes, or None for another kind of instruction."""
    families = {"selp": _select_value, "set": _set, "testp": _test}
    family = families.get(instruction.parts[0])
    return family(instruction) if family else None
