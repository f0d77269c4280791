"""Kernels written by hand for the interpreter's own tests."""

from typing import Any

import numpy as np

from ptx.launch import Report, launch
from ptx.memory import GlobalMemory

Array = np.ndarray[Any, Any]

HEADER = ".version 8.3\n.target sm_90\n.address_size 64\n"
REGISTERS = """
    .reg .pred %p<16>;
    .reg .b16 %h<32>;
    .reg .b32 %r<32>;
    .reg .f32 %f<32>;
    .reg .b64 %d<32>;
    .reg .f64 %g<32>;
"""


def module(body: str, num_pointers: int = 1, *, variables: str = "") -> str:
    """Return a module whose kernel gets pointers in %d16 and on, and its number in %r31.

    %r30 is the thread's number in its block, %r29 the block's; body ends with ``ret``.
    """
    parameters = ", ".join(f".param .u64 p{i}" for i in range(num_pointers))
    loads = "\n".join(f"    ld.param.u64 %d{16 + i}, [p{i}];" for i in range(num_pointers))
    return f"""{HEADER}{variables}
.visible .entry kernel({parameters})
{{{REGISTERS}{loads}
    mov.u32 %r30, %tid.x;
    mov.u32 %r29, %ctaid.x;
    mov.u32 %r28, %ntid.x;
    mad.lo.s32 %r31, %r29, %r28, %r30;
{body}
    ret;
}}
"""


def run(
    body: str,
    arrays: list[Array],
    *,
    grid: int = 1,
    block: int = 32,
    variables: str = "",
    **options: Any,
) -> Report:
    """Execute a body whose pointers are the arrays'."""
    memory = options.pop("memory", None) or GlobalMemory()
    addresses = [memory.add(array, f"array {i}") for i, array in enumerate(arrays)]
    ptx = module(body, len(arrays), variables=variables)
    return launch(ptx, grid, block, addresses, memory=memory, **options)


REGISTER_LETTERS = {1: "h", 2: "h", 4: "r", 8: "d"}


def compute(instruction: str, sources: list[Array], result: Any) -> Array:
    """Execute one instruction, a thread an element, and return its results.

    In the instruction, ``{d}`` is the result and ``{a}``, ``{b}``, ``{c}``, ``{e}`` the sources,
    as untyped registers of the arrays' widths; bool arrays and results are predicates.
    """
    count = len(sources[0])
    result_dtype = np.dtype(result)
    stored = np.zeros(count, np.uint8 if result_dtype == np.bool_ else result_dtype)
    lines = []
    names = {}
    for i, (key, source) in enumerate(zip("abce", sources, strict=False)):
        size = source.dtype.itemsize
        register = f"%{REGISTER_LETTERS[size]}{i + 1}"
        lines.append(_address(i, size) + f"ld.global.b{8 * size} {register}, [%d15];")
        if source.dtype == np.bool_:
            lines.append(f"setp.ne.u16 %p{i + 1}, {register}, 0;")
            register = f"%p{i + 1}"
        names[key] = register
    size = stored.dtype.itemsize
    target = f"%{REGISTER_LETTERS[size]}0"
    names["d"] = "%p0" if result_dtype == np.bool_ else target
    lines.append(instruction.format(**names))
    if result_dtype == np.bool_:
        lines.append(f"selp.b16 {target}, 1, 0, %p0;")
    lines.append(_address(len(sources), size) + f"st.global.b{8 * size} [%d15], {target};")
    inputs = [source.view(np.uint8) if source.dtype == np.bool_ else source for source in sources]
    block = 256
    padded = -(-count // block) * block
    guard = f"setp.ge.u32 %p15, %r31, {count};\n@%p15 bra $end;\n"
    body = guard + "\n".join(lines) + "\n$end:\n"
    run(body, [*inputs, stored], grid=padded // block, block=block, check_races=False)
    return stored.view(np.bool_) if result_dtype == np.bool_ else stored


def _address(pointer: int, size: int) -> str:
    return f"mad.wide.u32 %d15, %r31, {size}, %d{16 + pointer};\n    "


def pairs(values: Array) -> list[Array]:
    """Return all pairs of values, as two arrays."""
    first, second = np.meshgrid(values, values, indexing="ij")
    return [first.ravel().copy(), second.ravel().copy()]


def same_floats(actual: Array, expected: Array) -> bool:
    """Whether two float arrays have the same bits, but for the bits of NaNs."""
    nan = np.isnan(actual.astype(np.float64))
    if (nan != np.isnan(expected.astype(np.float64))).any():
        return False
    words = f"u{actual.dtype.itemsize}"
    return bool((actual.view(words)[~nan] == expected.view(words)[~nan]).all())
