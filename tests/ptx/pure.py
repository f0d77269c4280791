"""Instructions that only compute: a function of sources, and the types they are read as."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx.faults import UnsupportedPTXError
from ptx.kernel import Instruction
from ptx.values import dtype_of


@dataclass(frozen=True)
class Pure:
    """What an instruction computes; the result's dtype says how a wider register extends it."""

    function: Callable[..., Any]
    sources: tuple[np.dtype[Any], ...]


def same_type(instruction: Instruction, function: Callable[..., Any], count: int) -> Pure:
    """Return a function of `count` sources of the instruction's type."""
    return Pure(function, (dtype_of(instruction.parts[-1], instruction),) * count)


def take_modifiers(instruction: Instruction, *known: str) -> set[str]:
    """Return the parts between opcode and type; anything but `known` is not understood."""
    found = set(instruction.parts[1:-1])
    if found - set(known):
        raise UnsupportedPTXError(f"modifier {sorted(found - set(known))}: {instruction}")
    return found
