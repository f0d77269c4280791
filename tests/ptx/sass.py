"""SASS: assemble PTX, or link LTO-IR as a launch would, and count the instructions."""

import collections
import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptx.build import ComputeCapability, offline
from ptx.wheels import find_tool

SASS_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)")


@dataclass(frozen=True)
class Sass:
    """A cubin of one kernel: its resources and its instructions.

    `opcodes` counts instructions by full name (``LDG.E.128``), padding NOPs left out.
    """

    registers: int
    stack_bytes: int
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


@dataclass(frozen=True)
class Binary(Sass):
    """What ptxas made of PTX, with the spills that it tells of."""

    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True)
class Linked(Sass):
    """What nvJitLink made of LTO-IR; `ptx` is what it optimised and assembled."""

    ptx: str


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
        content = _read_cubin(cubin)
    return Binary(
        **content,
        spill_store_bytes=_number(r"(\d+) bytes spill stores", said),
        spill_load_bytes=_number(r"(\d+) bytes spill loads", said),
    )


@functools.cache
def link(
    function: Any,
    signature: Any,
    cc: ComputeCapability = (9, 0),
    max_registers: int | None = None,
) -> Linked:
    """Compile and link a kernel as numba-cuda does before a launch: LTO-IR through nvJitLink.

    `build` and `assemble` take the shorter way through PTX, which gives ptxas's remarks; this
    says whether both ways end at the same code.
    """
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda

    with offline(cc):
        code, _ = cuda.compile(
            getattr(function, "py_func", function),
            signature,
            device=False,
            abi="numba",
            cc=cc,
            fastmath=getattr(function, "targetoptions", {}).get("fastmath", False),
            output="ltoir",
        )

    def linked(kind: str) -> bytes:
        options = LinkerOptions(
            arch=f"sm_{cc[0]}{cc[1]}",
            link_time_optimization=True,
            ptx=kind == "ptx",
            max_register_count=max_registers,
        )
        return bytes(Linker(ObjectCode.from_ltoir(code), options=options).link(kind).code)

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(linked("cubin"))
        content = _read_cubin(cubin)
    return Linked(**content, ptx=linked("ptx").decode().rstrip("\0"))


def _read_cubin(cubin: Path) -> dict[str, Any]:
    """Return a cubin's resources and instructions, as `Sass` takes them."""
    usage = _run("cuobjdump", "--dump-resource-usage", str(cubin))
    sass = _run("nvdisasm", "-c", str(cubin))
    opcodes = collections.Counter(SASS_LINE.findall(sass))
    del opcodes["NOP"]
    return {
        "registers": _number(r"REG:(\d+)", usage),
        "stack_bytes": _number(r"STACK:(\d+)", usage),
        "shared_bytes": _number(r"SHARED:(\d+)", usage),
        "opcodes": opcodes,
        "sass": sass,
    }


def _run(tool: str, *arguments: str) -> str:
    """Run one of NVIDIA's tools and return all it says; its complaint is the error."""
    done = subprocess.run([find_tool(tool), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
