"""Loads, stores and atomics."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ptx.accesses import ATOMIC, READ, WRITE, AccessLog, Traffic
from ptx.faults import AccessError, LaunchError, UnsupportedPTXError
from ptx.kernel import Address, Immediate, Instruction, Operand, Symbol, Vector
from ptx.machine import LOCAL_WINDOW, SHARED_WINDOW, Execute, Threads
from ptx.scratch import ScratchMemory
from ptx.values import Array, Lanes, dtype_of, reader, writer

U64 = np.dtype(np.uint64)
SPACES = ("global", "shared", "local", "const", "param")
GENERIC_SPACES = (("global", 0), ("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW))
DIRECTIONS = {READ: "load", WRITE: "store", ATOMIC: "atomic"}
# What changes neither the value nor who may touch it: caches, scopes, volatility.
HINTS = {"nc", "ca", "cg", "cs", "cv", "lu", "wb", "wt", "weak", "volatile", "gpu", "cta", "sys"}
HINT_PREFIXES = ("L1::", "L2::")
ORDERED = {"relaxed", "acquire", "release", "acq_rel"}


def _space(instruction: Instruction) -> str:
    """Return the space an instruction names; generic when it names none."""
    if instruction.parts[0] in ("ld", "ldu", "st") and len(instruction.operands) != 2:
        raise UnsupportedPTXError(str(instruction))
    for part in instruction.parts[1:-1]:
        known = part in SPACES or part in HINTS or part in ORDERED or part in ("v2", "v4", "v8")
        if not known and not part.startswith((*HINT_PREFIXES, "shared::cta")):
            raise UnsupportedPTXError(f"modifier .{part}: {instruction}")
    named = [part.removesuffix("::cta") for part in instruction.parts]
    return next((part for part in named if part in SPACES), "generic")


def address_reader(operand: Operand) -> Callable[[Threads, Lanes], Array]:
    """Make the function that gives each executing thread's address as uint64."""
    if not isinstance(operand, Address):
        raise UnsupportedPTXError(f"{operand} is no address")
    if operand.offset == 0 and not isinstance(operand.base, Symbol | Immediate):
        return reader(operand.base, U64)
    read = reader(operand.base, U64)
    offset = np.array(operand.offset).astype(np.uint64)[()]

    def address(threads: Threads, lanes: Lanes) -> Array:
        base = read(threads, lanes) + offset
        return np.broadcast_to(base, threads.row[lanes].shape)

    return address


class _Place:
    """One space as loads and stores see it, with what is logged of an access."""

    def __init__(self, space: str, threads: Threads, lanes: Lanes, address: Array) -> None:
        self.space = space
        self.threads = threads
        self.rows = threads.row[lanes]
        self.address = np.ascontiguousarray(address)

    def load(self, size: int, count: int, instruction: Instruction) -> list[Array]:
        """Read words of the executing threads."""
        with self._naming_the_thread(instruction):
            if self.space in ("global", "const"):
                return self.threads.device.memory.load(self.address, size, count)
            owner, memory = self._scratch()
            return memory.load(owner, self.address, size, count)

    def store(self, size: int, words: list[Array], instruction: Instruction) -> None:
        """Write words of the executing threads."""
        with self._naming_the_thread(instruction):
            if self.space == "global":
                self.threads.device.memory.store(self.address, size, words)
            else:
                owner, memory = self._scratch()
                memory.store(owner, self.address, size, words)

    def _scratch(self) -> tuple[Array, ScratchMemory]:
        if self.space == "shared":
            return self.threads.row_block[self.rows], self.threads.shared
        return self.rows, self.threads.local

    @contextlib.contextmanager
    def _naming_the_thread(self, instruction: Instruction) -> Iterator[None]:
        try:
            yield
        except AccessError as fault:
            row = self.rows[fault.lane]
            who = f"thread {self.threads.rank[row]} of block {self.threads.block[row]}"
            raise type(fault)(f"{who} at {instruction}: {fault}", fault.lane) from None

    def note(self, kind: int, size: int, instruction: Instruction) -> None:
        """Count the traffic and keep the access for the search for races."""
        threads, rows, device = self.threads, self.rows, self.threads.device
        if self.space in ("local", "const"):
            return
        if self.space == "global":
            traffic = device.traffic.setdefault((DIRECTIONS[kind], size), Traffic())
            traffic.count(threads.warp[rows], self.address, size)
        log = device.logs.setdefault(self.space, AccessLog(self.space, device.threads_per_block))
        # Areas of different blocks never meet: put each behind the one before.
        shift = threads.block[rows] * threads.shared.stride if self.space == "shared" else 0
        log.add(
            kind,
            size,
            (self.address.view(np.int64) + shift).view(np.uint64),
            threads.thread[rows],
            (threads.phase[rows], threads.warp_phase[rows]),
            instruction,
        )


def _places(space: str, threads: Threads, lanes: Lanes, address: Array) -> list[tuple[Any, _Place]]:
    """Split generic addresses by their windows; the other spaces are one place."""
    if space != "generic":
        return [(slice(None), _Place(space, threads, lanes, address))]
    rows = threads.row[lanes]
    window = np.select(
        [address >= np.uint64(LOCAL_WINDOW), address >= np.uint64(SHARED_WINDOW)], [2, 1], 0
    )
    # Windows end where the next starts; an address beyond them is a wild global one.
    window[address >= np.uint64(LOCAL_WINDOW + (1 << 32))] = 0
    places = []
    for number, name, start in (
        (0, "global", 0),
        (1, "shared", SHARED_WINDOW),
        (2, "local", LOCAL_WINDOW),
    ):
        chosen = np.flatnonzero(window == number)
        if chosen.size:
            inside = address[chosen] - np.uint64(start)
            places.append((chosen, _Place(name, threads, rows[chosen], inside)))
    return places


def _items(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


def load(instruction: Instruction) -> Execute:
    """Make ``ld``."""
    space = _space(instruction)
    dtype = dtype_of(instruction.parts[-1], instruction)
    targets = _items(instruction.operands[0])
    if space == "param":
        return _load_parameter(instruction, dtype)
    writers = [writer(target) for target in targets]
    read_address = address_reader(instruction.operands[1])
    size, count = dtype.itemsize, len(targets)
    kind = ATOMIC if ORDERED & set(instruction.parts) else READ

    def execute(threads: Threads, lanes: Lanes) -> None:
        for chosen, place in _places(space, threads, lanes, read_address(threads, lanes)):
            words = place.load(size, count, instruction)
            place.note(kind, size * count, instruction)
            rows = place.rows if not isinstance(chosen, slice) else lanes
            for write, word in zip(writers, words, strict=True):
                write(threads, rows, word.view(dtype))

    return execute


def _load_parameter(instruction: Instruction, dtype: np.dtype[Any]) -> Execute:
    operand = instruction.operands[1]
    if not isinstance(operand, Address) or not isinstance(operand.base, Symbol):
        raise UnsupportedPTXError(str(instruction))
    name, offset = operand.base.name, operand.offset
    writers = [writer(target) for target in _items(instruction.operands[0])]

    def execute(threads: Threads, lanes: Lanes) -> None:
        content = threads.device.parameters[name]
        if offset + dtype.itemsize * len(writers) > len(content):
            raise LaunchError(f"{instruction}: the argument has {len(content)} bytes")
        for write, value in zip(
            writers, np.frombuffer(content, dtype, len(writers), offset), strict=True
        ):
            write(threads, lanes, value)

    return execute


def store(instruction: Instruction) -> Execute:
    """Make ``st``."""
    space = _space(instruction)
    dtype = dtype_of(instruction.parts[-1], instruction)
    words_dtype = np.dtype(f"u{dtype.itemsize}")
    readers = [reader(item, words_dtype) for item in _items(instruction.operands[1])]
    read_address = address_reader(instruction.operands[0])
    size = dtype.itemsize
    kind = ATOMIC if ORDERED & set(instruction.parts) else WRITE

    def execute(threads: Threads, lanes: Lanes) -> None:
        num_lanes = threads.row[lanes].size
        words = [
            np.broadcast_to(np.asarray(read(threads, lanes)).view(words_dtype), num_lanes)
            for read in readers
        ]
        for chosen, place in _places(space, threads, lanes, read_address(threads, lanes)):
            place.store(size, [word[chosen] for word in words], instruction)
            place.note(kind, size * len(words), instruction)

    return execute


REDUCE: dict[str, Callable[..., Any]] = {
    "add": lambda old, value: old + value,
    "min": lambda old, value: np.minimum(old, value),
    "max": lambda old, value: np.maximum(old, value),
    "and": lambda old, value: old & value,
    "or": lambda old, value: old | value,
    "xor": lambda old, value: old ^ value,
    "exch": lambda old, value: value,
    "inc": lambda old, value: np.where(old >= value, old.dtype.type(0), old + old.dtype.type(1)),
    "dec": lambda old, value: np.where((old == 0) | (old > value), value, old - old.dtype.type(1)),
    "cas": lambda old, value, new: np.where(old == value, new, old),
}


def atomic(instruction: Instruction) -> Execute:
    """Make ``atom`` and ``red``: one thread after the other, in the order of their numbers."""
    operation = instruction.parts[-2]
    parts = (*instruction.parts[:-2], instruction.parts[-1])
    space = _space(Instruction(parts, (), None, instruction.line, instruction.text))
    if operation not in REDUCE:
        raise UnsupportedPTXError(str(instruction))
    dtype = dtype_of(instruction.parts[-1], instruction)
    returns = instruction.parts[0] == "atom"
    write = writer(instruction.operands[0]) if returns else None
    place_operand, *values = instruction.operands[1:] if returns else instruction.operands
    readers = [reader(value, dtype) for value in values]
    read_address = address_reader(place_operand)
    size, reduce = dtype.itemsize, REDUCE[operation]

    def execute(threads: Threads, lanes: Lanes) -> None:
        num_lanes = threads.row[lanes].size
        arguments = [np.broadcast_to(read(threads, lanes), num_lanes) for read in readers]
        old = np.empty(num_lanes, dtype)
        address = read_address(threads, lanes)
        for chosen, place in _places(space, threads, lanes, address):
            place.note(ATOMIC, size, instruction)
            for i, lane in enumerate(np.arange(num_lanes)[chosen]):
                one = _Place(place.space, threads, place.rows[i : i + 1], place.address[i : i + 1])
                before = one.load(size, 1, instruction)[0].view(dtype)
                after = np.asarray(reduce(before, *(a[lane : lane + 1] for a in arguments)))
                one.store(size, [after.astype(dtype).view(f"u{size}")], instruction)
                old[lane] = before[0]
        if write:
            write(threads, lanes, old)

    return execute
