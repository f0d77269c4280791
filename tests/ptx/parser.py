"""Read PTX text as NVVM and inline assembly write it."""

import functools
import re
import struct

from ptx.faults import UnsupportedPTXError
from ptx.kernel import (
    Address,
    Immediate,
    Instruction,
    Kernel,
    Negated,
    Operand,
    Pair,
    Parameter,
    Register,
    Sink,
    Special,
    Symbol,
    Variable,
    Vector,
)

NAME = r"[A-Za-z_$%][\w$]*"
SPECIALS = re.compile(
    r"%(tid|ntid|ctaid|nctaid)\.[xyz]|%(laneid|warpid|nwarpid|smid|nsmid|gridid|clock|clock64"
    r"|lanemask_(eq|le|lt|ge|gt)|globaltimer)"
)
ENTRY = re.compile(r"\.entry\s+([\w$.]+)\s*\((.*?)\)[^{;]*\{", re.S)
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.(?:global|shared|const|local)\s+)?"
    r"(?:\.align\s+\d+\s+)?)?([\w$.]+)(?:\[(\d+)\])?"
)
VARIABLE = re.compile(
    r"\.(shared|local|global|const)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$.]+)(\[\d*\])?"
    r"(?:\s*=\s*(\{[^}]*\}|[^;{]+))?\s*;"
)
LABEL = re.compile(rf"({NAME})\s*:(?!:)")
STATEMENT = re.compile(r"(?:@(!?)\s*(%?\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?")
TYPE_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


def type_bytes(type_name: str) -> int:
    """Return the size of a scalar type such as ``b32`` in bytes."""
    return TYPE_BYTES[type_name.lstrip("bsuf")]


def _without_comments(text: str) -> str:
    """Blank comments and debug directives, keeping every line's number."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    return re.sub(
        r"//[^\n]*|/\*.*?\*/|^[ \t]*\.(?:loc|file)\b[^\n]*", blank, text, flags=re.S | re.M
    )


def _matching_brace(text: str, start: int) -> int:
    """Return the index of the brace that closes the one before `start`."""
    depth = 1
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    raise UnsupportedPTXError("a brace is never closed")


def _variables(text: str) -> dict[str, Variable]:
    found = {}
    for space, alignment, type_name, name, count, content in VARIABLE.findall(text):
        size = type_bytes(type_name)
        count_text = count[1:-1] if count else "1"
        num_bytes = size * int(count_text or 0)
        values = [item for item in content.strip("{} \n").split(",") if item.strip()]
        if any(not INTEGER.fullmatch(value.strip()) for value in values):
            raise UnsupportedPTXError(f"variable {name} is initialised by {content[:60]!r}")
        initial = b"".join(
            (int(value.strip().rstrip("U"), 0) % (1 << 8 * size)).to_bytes(size, "little")
            for value in values
        )
        content_bytes = initial.ljust(num_bytes, b"\0") if values else b""
        found[name] = Variable(name, space, int(alignment or size), num_bytes, content_bytes)
    return found


class _BodyParser:
    """Turn one kernel's body into instructions; a brace at a statement's start opens a scope."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes: list[dict[str, Register]] = [{}]
        self.num_scopes = 0

    def parse(self, body: str, first_line: int) -> None:
        position = 0
        line = first_line
        while True:
            blank = re.compile(r"[\s;]*").match(body, position)
            assert blank is not None
            line += blank[0].count("\n")
            position = blank.end()
            if position == len(body):
                return
            if body[position] in "{}":
                self._change_scope(body[position])
                position += 1
                continue
            label = LABEL.match(body, position)
            if label:
                self.kernel.labels[label[1]] = len(self.kernel.instructions)
                end = label.end()
            else:
                end = body.find(";", position)
                if end < 0:
                    raise UnsupportedPTXError(f"line {line}: a statement without an end")
                self._statement(body[position:end].strip(), line)
            line += body.count("\n", position, end)
            position = end

    def _change_scope(self, brace: str) -> None:
        if brace == "{":
            self.scopes.append({})
            self.num_scopes += 1
        else:
            self.scopes.pop()

    def _statement(self, text: str, line: int) -> None:
        if text.startswith(".reg"):
            self._declare(text)
            return
        if text.startswith((".shared", ".local", ".const", ".global", ".pragma")):
            return  # a hint, or a variable, which _variables has found
        match = STATEMENT.fullmatch(text)
        if text.startswith(".param"):
            raise UnsupportedPTXError(f"line {line}: a function call ({text})")
        if match is None:
            raise UnsupportedPTXError(f"line {line}: {text}")
        inverted, guard_name, opcode, rest = match.groups()
        guard = None
        if guard_name:
            guard = (self._register(guard_name, line), inverted == "!")
        operands = tuple(self._operand(item, line) for item in _split(rest))
        parts = tuple(opcode.split("."))
        shown = re.sub(r"\s+", " ", text)
        self.kernel.instructions.append(Instruction(parts, operands, guard, line, shown))

    def _declare(self, text: str) -> None:
        match = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S)
        if match is None:
            raise UnsupportedPTXError(text)
        for name in match[2].split(","):
            counted = re.fullmatch(r"(\S+)<(\d+)>", name.strip())
            names = (
                [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name.strip()]
            )
            depth = f"@{self.num_scopes}" if len(self.scopes) > 1 else ""
            self.scopes[-1].update({one: Register(one + depth, match[1]) for one in names})

    def _register(self, name: str, line: int) -> Register:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise UnsupportedPTXError(f"line {line}: register {name} is not declared")

    def _operand(self, text: str, line: int) -> Operand:
        if text == "_":
            return Sink()
        if text[0] == "{":
            return Vector(tuple(self._operand(item, line) for item in _split(text[1:-1])))
        if text[0] == "[":
            return self._address(text[1:-1], line)
        if text[0] == "!":
            return Negated(self._register(text[1:], line))
        if "|" in text:
            first, second = text.split("|")
            return Pair(self._operand(first.strip(), line), self._operand(second.strip(), line))
        return self._plain(text, line)

    def _address(self, text: str, line: int) -> Address:
        base_text, _, offset_text = text.partition("+")
        base = self._plain(base_text.strip(), line)
        if not isinstance(base, Register | Symbol | Immediate):
            raise UnsupportedPTXError(f"line {line}: address [{text}]")
        if offset_text and not INTEGER.fullmatch(offset_text.strip()):
            raise UnsupportedPTXError(f"line {line}: address [{text}]")
        return Address(base, int(offset_text.strip().rstrip("U"), 0) if offset_text else 0)

    def _plain(self, text: str, line: int) -> Operand:
        if any(text in scope for scope in self.scopes):
            return self._register(text, line)
        if SPECIALS.fullmatch(text):
            return Special(text)
        if text == "WARP_SZ":
            return Immediate(32)
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
            return Immediate(int(text[2:], 16), "f32")
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
            return Immediate(int(text[2:], 16), "f64")
        if re.fullmatch(r"-?\d+\.\d*(?:[eE][-+]?\d+)?", text):
            return Immediate(int.from_bytes(struct.pack("<d", float(text)), "little"), "f64")
        if INTEGER.fullmatch(text):
            return Immediate(int(text.rstrip("U"), 0))
        if re.fullmatch(r"[A-Za-z_$][\w$.]*", text):
            return Symbol(text)
        raise UnsupportedPTXError(f"line {line}: operand {text!r}")


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets."""
    items: list[str] = []
    depth = 0
    current = ""
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            items.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip():
        items.append(current.strip())
    return items


@functools.lru_cache(maxsize=256)
def parse(ptx: str) -> dict[str, Kernel]:
    """Parse every kernel of a PTX module.

    Parameters
    ----------
    ptx : str
        The module's text.

    Returns
    -------
    dict
        The kernels by their (mangled) names.

    Raises
    ------
    UnsupportedPTXError
        Where the text is not understood, naming the line.
    """
    text = _without_comments(ptx)
    target = re.search(r"\.target\s+(\w+)", text)
    variables = _variables(text)
    kernels = {}
    for match in ENTRY.finditer(text):
        parameters = tuple(
            Parameter(name, type_name, int(count or 0))
            for type_name, name, count in PARAMETER.findall(match[2])
        )
        if len(parameters) != match[2].count(".param"):
            raise UnsupportedPTXError(f"parameters of {match[1]}: {match[2]}")
        kernel = Kernel(match[1], target[1] if target else "", parameters, variables)
        end = _matching_brace(text, match.end())
        first_line = text.count("\n", 0, match.end()) + 1
        _BodyParser(kernel).parse(text[match.end() : end], first_line)
        kernels[kernel.name] = kernel
    return kernels
