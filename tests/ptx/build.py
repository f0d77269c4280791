"""Compile kernels with no GPU and no driver: to PTX, and on to SASS that can be counted."""

import collections
import contextlib
import functools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from ptx.wheels import find_tool

ComputeCapability = tuple[int, int]

SASS_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)")


@contextlib.contextmanager
def offline(cc: ComputeCapability) -> Iterator[None]:
    """Let numba-cuda compile device functions for a card that is not there."""
    from numba.cuda import dispatcher

    device = type("Device", (), {"compute_capability": cc})
    with mock.patch.object(dispatcher, "get_current_device", return_value=device):
        yield


@functools.cache
def build(
    function: Any,
    signature: Any,
    cc: ComputeCapability = (9, 0),
    *,
    fastmath: bool | None = None,
    launch_bounds: int | None = None,
) -> str:
    """Compile a kernel to PTX; the same call again in this process costs nothing.

    Parameters
    ----------
    function : callable
        A Python function or what ``cuda.jit`` made of one, whose fastmath and launch_bounds
        then hold unless they are given here.
    signature : tuple or str
        The types of its arguments, a tuple of numba types or ``"void(int64[::1], ...)"``.
    cc : tuple of int
        The compute capability, ``(9, 0)`` for sm_90.

    Returns
    -------
    str
        The module's text.
    """
    from numba import cuda

    options = getattr(function, "targetoptions", {})
    python_function = getattr(function, "py_func", function)
    if fastmath is None:
        fastmath = options.get("fastmath", False)
    if launch_bounds is None:
        launch_bounds = options.get("launch_bounds") or None
    with offline(cc):
        ptx, _ = cuda.compile(
            python_function,
            signature,
            device=False,
            abi="numba",
            cc=cc,
            fastmath=fastmath,
            launch_bounds=launch_bounds,
        )
    return ptx


@dataclass(frozen=True)
class Binary:
    """What ptxas made of a module with one kernel: resources and instructions.

    `opcodes` counts SASS instructions by full name (``LDG.E.128``), padding NOPs left out.
    """

    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int
    opcodes: collections.Counter[str]
    sass: str

    def count(self, *families: str) -> int:
        """Count the instructions whose name is a family's or starts with it and a dot."""
        return sum(
            number
            for opcode, number in self.opcodes.items()
            if any(opcode == family or opcode.startswith(family + ".") for family in families)
        )

    @property
    def num_calls(self) -> int:
        """Calls of functions: 64-bit divisions, mostly."""
        return self.count("CALL")

    @property
    def num_generic(self) -> int:
        """Loads and stores through generic addresses."""
        return self.count("LD", "ST")

    @property
    def num_local(self) -> int:
        """Accesses to local memory: spills and indexed local arrays."""
        return self.count("LDL", "STL")

    def global_accesses(self) -> dict[str, int]:
        """Count global loads and stores by direction and bits, as ``{"load 128": 4}``."""
        counted: collections.Counter[str] = collections.Counter()
        for opcode, number in self.opcodes.items():
            parts = opcode.split(".")
            if parts[0] in ("LDG", "STG"):
                bits = next((p for p in parts if re.fullmatch(r"[US]?(8|16|64|128|256)", p)), "32")
                direction = "load" if parts[0] == "LDG" else "store"
                counted[f"{direction} {bits.lstrip('US')}"] += number
        return dict(counted)


@functools.cache
def assemble(ptx: str, max_registers: int | None = None) -> Binary:
    """Assemble a module of one kernel for its own target and disassemble it.

    Parameters
    ----------
    ptx : str
        The module's text.
    max_registers : int, optional
        The limit that ``cuda.jit(max_registers=...)`` would pass on.
    """
    target = re.search(r"\.target\s+(\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        limit = [f"--maxrregcount={max_registers}"] if max_registers else []
        arguments = ["-v", f"-arch={target[1]}", "-O3", *limit, str(source), "-o", str(cubin)]
        said = _run("ptxas", *arguments)
        sass = _run("nvdisasm", "-c", str(cubin))
    opcodes = collections.Counter(SASS_LINE.findall(sass))
    del opcodes["NOP"]
    return Binary(
        registers=_number(r"Used (\d+) registers", said),
        stack_bytes=_number(r"(\d+) bytes stack frame", said),
        spill_store_bytes=_number(r"(\d+) bytes spill stores", said),
        spill_load_bytes=_number(r"(\d+) bytes spill loads", said),
        shared_bytes=_number(r"(\d+) bytes smem", said),
        opcodes=opcodes,
        sass=sass,
    )


def _run(tool: str, *arguments: str) -> str:
    """Run one of NVIDIA's tools and return all it says; its complaint is the error."""
    done = subprocess.run([find_tool(tool), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
