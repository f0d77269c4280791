"""Execute a kernel's blocks: all threads that stand at the lowest instruction go together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptx.accesses import WARP_SIZE, AccessLog, Traffic
from ptx.faults import DivergentBarrierError, EndlessLoopError, UnsupportedPTXError
from ptx.kernel import Immediate, Instruction, Kernel, Register, Symbol, Vector
from ptx.memory import GlobalMemory
from ptx.scratch import ScratchMemory
from ptx.values import Array, Lanes, register_storage

DONE = 1 << 30

Execute = Callable[["Threads", Lanes], None]

# Windows of the generic address space, far from every buffer.
SHARED_WINDOW = 1 << 56
LOCAL_WINDOW = 1 << 57


@dataclass
class Layout:
    """Where a kernel's variables lie in each space, and how large the spaces are."""

    offsets: dict[str, int]
    shared_bytes: int
    local_bytes: int


@dataclass
class Device:
    """What the blocks of one launch share."""

    memory: GlobalMemory
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    parameters: dict[str, bytes]
    layout: Layout
    traffic: dict[tuple[str, int], Traffic] = field(default_factory=dict)
    logs: dict[str, AccessLog] = field(default_factory=dict)
    num_steps: int = 0
    max_steps: int = 1_000_000

    @property
    def threads_per_block(self) -> int:
        """The threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]


class Threads:
    """The threads of some blocks, in lock step: registers, memories, and where each stands.

    ``block`` and ``thread`` number the launch's blocks and threads; ``row`` those held here.
    """

    def __init__(self, device: Device, kernel: Kernel, first_block: int, num_blocks: int) -> None:
        self.device = device
        per_block = device.threads_per_block
        self.num_threads = num_blocks * per_block
        row = np.arange(self.num_threads)
        self.row = row
        self.row_block = row // per_block
        self.block = first_block + self.row_block
        self.thread = first_block * per_block + row
        self.rank = row % per_block
        self.lane = self.rank % WARP_SIZE
        warps_per_block = -(-per_block // WARP_SIZE)
        self.warp = self.row_block * warps_per_block + self.rank // WARP_SIZE
        self.phase = np.zeros(self.num_threads, np.int64)
        self.warp_phase = np.zeros(self.num_threads, np.int64)
        self.registers = _RegisterFile(kernel, self.num_threads)
        self.shared = ScratchMemory("shared", num_blocks, device.layout.shared_bytes)
        self.local = ScratchMemory("local", self.num_threads, device.layout.local_bytes)
        self.counter = np.zeros(self.num_threads, np.int64)
        self.carry = np.zeros(self.num_threads, np.bool_)
        self.waiting = np.zeros(self.num_threads, np.bool_)
        self.parked = np.zeros(self.num_threads, np.bool_)
        self._specials: dict[str, Array] = {}

    def special(self, name: str) -> Array:
        """Return a special register of every thread."""
        if name not in self._specials:
            self._specials[name] = self._compute_special(name).astype(np.uint32)
        return self._specials[name]

    def _compute_special(self, name: str) -> Array:
        base, _, axis = name.lstrip("%").partition(".")
        if axis:
            i = "xyz".index(axis)
            shape = self.device.block if base in ("tid", "ntid") else self.device.grid
            if base in ("ntid", "nctaid"):
                return np.full(self.num_threads, shape[i])
            flat = self.rank if base == "tid" else self.block
            return flat // int(np.prod(shape[:i])) % shape[i]
        one = np.uint64(1)
        lane = self.lane.astype(np.uint64)
        known = {
            "laneid": lane,
            "warpid": self.rank // WARP_SIZE,
            "lanemask_eq": one << lane,
            "lanemask_lt": (one << lane) - one,
            "lanemask_le": (one << lane + one) - one,
            "lanemask_gt": ~((one << lane + one) - one),
            "lanemask_ge": ~((one << lane) - one),
        }
        if base not in known:
            raise UnsupportedPTXError(f"special register {name}")
        return known[base]

    def address_of(self, symbol: str) -> int:
        """Return a variable's address in its own space."""
        if symbol not in self.device.layout.offsets:
            raise UnsupportedPTXError(f"symbol {symbol}")
        return self.device.layout.offsets[symbol]

    def rows(self, lanes: Lanes) -> Array:
        """Return the executing threads' row numbers."""
        return self.row[lanes]


class _RegisterFile(dict[str, Array]):
    """Registers by name, made when first used."""

    def __init__(self, kernel: Kernel, num_threads: int) -> None:
        super().__init__()
        self.num_threads = num_threads
        self.types: dict[str, str] = {}
        for instruction in kernel.instructions:
            for operand in instruction.operands:
                self._note(operand)
            if instruction.guard:
                self._note(instruction.guard[0])

    def _note(self, operand: Any) -> None:
        if isinstance(operand, Register):
            self.types[operand.name] = operand.type
        for inner in ("base", "first", "second", "register"):
            if hasattr(operand, inner):
                self._note(getattr(operand, inner))
        if isinstance(operand, Vector):
            for item in operand.items:
                self._note(item)

    def __missing__(self, name: str) -> Array:
        self[name] = register_storage(self.types[name], self.num_threads)
        return self[name]


class Program:
    """A kernel's instructions as functions, cut into runs without a branch or a label."""

    def __init__(self, kernel: Kernel, decode: Callable[[Instruction], Execute]) -> None:
        self.kernel = kernel
        self.decode = decode
        self.functions: list[Execute | None] = [None] * len(kernel.instructions)
        self.ends = set(kernel.labels.values())

    def function(self, index: int) -> Execute:
        """Return an instruction's function, decoded when first executed."""
        made = self.functions[index]
        if made is None:
            made = self.functions[index] = self.decode(self.kernel.instructions[index])
        return made

    def run(self, threads: Threads) -> None:
        """Execute until every thread has exited."""
        with np.errstate(all="ignore"):
            while True:
                blocked = threads.waiting | (threads.counter >= DONE)
                if blocked.all():
                    if not threads.waiting.any():
                        return
                    self._release(threads)
                    continue
                # Threads that wait for the rest of their warp let everybody else go first.
                held_back = blocked | threads.parked
                forced = bool(held_back.all())
                position = np.where(blocked, DONE, threads.counter)
                start = int(np.where(blocked if forced else held_back, DONE, position).min())
                rows = np.flatnonzero(position == start)
                threads.parked[rows] = False
                self._run_from(threads, start, rows, forced)

    def _run_from(self, threads: Threads, start: int, rows: Array, forced: bool) -> None:
        """Execute from an instruction to the next branch, label or meeting of warps.

        `forced` executes a meeting though lanes are missing: nobody else can come.
        """
        lanes: Lanes = slice(None) if rows.size == threads.num_threads else rows
        index = start
        device = threads.device
        while True:
            if index >= len(self.kernel.instructions):
                threads.counter[lanes] = DONE
                return
            device.num_steps += 1
            if device.num_steps > device.max_steps:
                raise EndlessLoopError(f"more than {device.max_steps} steps")
            instruction = self.kernel.instructions[index]
            if _is_meeting(instruction) and not (forced and index == start):
                here = _park_incomplete(threads, lanes, index)
                if here is None:
                    return
                lanes = here
            index += 1
            chosen = _guarded(threads, lanes, instruction)
            if _is_control(instruction):
                threads.counter[lanes] = index
                self._control(threads, chosen, instruction)
                return
            if chosen is not None:
                self.function(index - 1)(threads, chosen)
            if index in self.ends:
                threads.counter[lanes] = index
                return

    def _control(self, threads: Threads, chosen: Lanes | None, instruction: Instruction) -> None:
        if chosen is None:
            return
        opcode = instruction.parts[0]
        if opcode == "bra":
            target = instruction.operands[0]
            if not isinstance(target, Symbol) or target.name not in self.kernel.labels:
                raise UnsupportedPTXError(str(instruction))
            threads.counter[chosen] = self.kernel.labels[target.name]
        elif opcode in ("ret", "exit"):
            threads.counter[chosen] = DONE
        else:
            if "sync" not in instruction.parts or instruction.operands != (Immediate(0),):
                raise UnsupportedPTXError(str(instruction))
            threads.waiting[chosen] = True

    def _release(self, threads: Threads) -> None:
        """Let the threads behind a barrier go on, when whole blocks stand at the same one."""
        position = np.where(threads.waiting, threads.counter, DONE)
        per_block = position.reshape(-1, threads.device.threads_per_block)
        first = per_block.min(axis=1)
        apart = (per_block != first[:, None]) & (first[:, None] != DONE)
        if apart.any():
            row, other = map(int, np.argwhere(apart)[0])
            stands = per_block[row, other]
            barrier = self.kernel.instructions[int(first[row]) - 1]
            what = (
                "has exited"
                if stands == DONE
                else f"waits at {self.kernel.instructions[int(stands) - 1]}"
            )
            block = int(threads.block[row * per_block.shape[1]])
            raise DivergentBarrierError(f"block {block} at {barrier}: thread {other} {what}")
        threads.phase += threads.waiting
        threads.warp_phase += threads.waiting
        threads.waiting[:] = False


def _is_meeting(instruction: Instruction) -> bool:
    """Tell whether an instruction waits until the lanes of its warp have come to it."""
    opcode = instruction.parts[0]
    if opcode in ("bar", "barrier"):
        return "warp" in instruction.parts
    return opcode in ("shfl", "vote", "match", "redux") and "sync" in instruction.parts


def _park_incomplete(threads: Threads, lanes: Lanes, index: int) -> Lanes | None:
    """Let warps of which some lanes are elsewhere wait; return the others' lanes, if any."""
    rows = threads.row[lanes]
    if rows.size == threads.num_threads:
        return lanes
    missing = threads.counter < DONE
    missing[rows] = False
    incomplete = np.zeros(int(threads.warp[-1]) + 1, np.bool_)
    incomplete[threads.warp[missing]] = True
    waits = incomplete[threads.warp[rows]]
    if not waits.any():
        return lanes
    threads.counter[rows[waits]] = index
    threads.parked[rows[waits]] = True
    return rows[~waits] if not waits.all() else None


def _is_control(instruction: Instruction) -> bool:
    opcode = instruction.parts[0]
    if opcode in ("bar", "barrier"):
        return "warp" not in instruction.parts
    return opcode in ("bra", "ret", "exit")


def _guarded(threads: Threads, lanes: Lanes, instruction: Instruction) -> Lanes | None:
    """Return the threads whose predicate lets them execute, None when there are none."""
    if instruction.guard is None:
        return lanes
    register, inverted = instruction.guard
    holds = threads.registers[register.name][lanes] != inverted
    if holds.all():
        return lanes
    rows = threads.row[lanes][holds]
    return rows if rows.size else None
