"""What the parser makes of PTX text: kernels, instructions and their operands."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Register:
    """A declared register; `name` is unique in its kernel, whatever scope declared it."""

    name: str
    type: str


@dataclass(frozen=True)
class Special:
    """A register that the hardware fills: ``%tid.x``, ``%laneid``."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A constant: `value` as an int, or the bits of a float whose type is `float_type`."""

    value: int
    float_type: str | None = None


@dataclass(frozen=True)
class Symbol:
    """A label, a parameter or a variable, by name."""

    name: str


@dataclass(frozen=True)
class Address:
    """``[base + offset]``; offset in bytes."""

    base: Register | Symbol | Immediate
    offset: int


@dataclass(frozen=True)
class Vector:
    """``{a, b, ...}``."""

    items: tuple["Operand", ...]


@dataclass(frozen=True)
class Pair:
    """``a|b``: a result and the predicate written with it."""

    first: "Operand"
    second: "Operand"


@dataclass(frozen=True)
class Negated:
    """``!p``: a source predicate, inverted."""

    register: Register


@dataclass(frozen=True)
class Sink:
    """``_``: a result nobody wants."""


Operand = Register | Special | Immediate | Symbol | Address | Vector | Pair | Negated | Sink


@dataclass(frozen=True)
class Instruction:
    """One instruction; `parts` is its opcode split at the dots.

    `guard` is the predicate's register and whether it is inverted, or None.
    """

    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: tuple[Register, bool] | None
    line: int
    text: str

    @property
    def opcode(self) -> str:
        """The opcode as it is written."""
        return ".".join(self.parts)

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter: its type and, for a byte array, its size (else 0)."""

    name: str
    type: str
    array_size: int


@dataclass(frozen=True)
class Variable:
    """A variable in shared, local, global or constant memory; sizes in bytes.

    `num_bytes` is 0 for dynamic shared memory; `content` is empty where nothing initialises it.
    """

    name: str
    space: str
    alignment: int
    num_bytes: int
    content: bytes


@dataclass
class Kernel:
    """A kernel's instructions; a label is the index of the instruction behind it."""

    name: str
    target: str
    parameters: tuple[Parameter, ...]
    variables: dict[str, Variable]
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
