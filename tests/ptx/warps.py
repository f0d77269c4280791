"""What the threads of a warp do together: shuffles, votes, ``bar.warp.sync``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.accesses import WARP_SIZE
from ptx.faults import DivergentBarrierError, UnsupportedPTXError
from ptx.kernel import Instruction, Operand, Pair
from ptx.machine import DONE, Execute, Threads
from ptx.values import Array, Lanes, reader, writer

U32 = np.dtype(np.uint32)
BOOL = np.dtype(np.bool_)


class _Meeting:
    """The executing threads of each warp, checked against their member masks."""

    def __init__(self, threads: Threads, lanes: Lanes, mask: Any, what: str) -> None:
        self.threads = threads
        self.rows = threads.row[lanes]
        self.lane = threads.lane[self.rows]
        self.warp = threads.warp[self.rows]
        self.members = np.broadcast_to(np.asarray(mask, np.uint32), self.rows.shape)
        self.present = np.zeros((int(threads.warp[-1]) + 1, WARP_SIZE), np.bool_)
        self.present[self.warp, self.lane] = True
        self._check(what)

    def _check(self, what: str) -> None:
        bit = (self.members[:, None] >> np.arange(WARP_SIZE, dtype=np.uint32)) & np.uint32(1)
        member = bit.astype(np.bool_)
        if not member[np.arange(self.rows.size), self.lane].all():
            raise DivergentBarrierError(f"{what}: a thread is not in its own member mask")
        alive = np.zeros_like(self.present)
        going = self.threads.counter < DONE
        alive[self.threads.warp[going], self.threads.lane[going]] = True
        missing = member & alive[self.warp] & ~self.present[self.warp]
        if missing.any():
            i, lane = map(int, np.argwhere(missing)[0])
            raise DivergentBarrierError(
                f"{what}: lane {lane} of warp {int(self.warp[i])} is a member but is not here"
            )

    def table(self, values: Any, dtype: Any) -> Array:
        """Spread the executing threads' values to an array of warps and lanes."""
        result = np.zeros(self.present.shape, dtype)
        result[self.warp, self.lane] = values
        return result


def _source_lane(mode: str, lane: Array, amount: Array, clamp: Array) -> tuple[Array, Array]:
    """Return the lane each reads and whether that is inside its segment (the PTX manual)."""
    segment_mask = (clamp >> 8) & 31
    limit = clamp & 31
    highest = (lane & segment_mask) | (limit & ~segment_mask)
    lowest = lane & segment_mask
    amount = amount & 31
    if mode == "up":
        source = lane - amount
        return source, source >= highest
    if mode == "down":
        source = lane + amount
    elif mode == "bfly":
        source = lane ^ amount
    else:
        source = lowest | (amount & ~segment_mask)
    return source, source <= highest


def shuffle(instruction: Instruction) -> Execute:
    """Make ``shfl.sync``; reading a lane that does not take part is a fault."""
    if instruction.parts[1] != "sync" or instruction.parts[2] not in ("up", "down", "bfly", "idx"):
        raise UnsupportedPTXError(str(instruction))
    mode, what = instruction.parts[2], str(instruction)
    target, source, *rest = instruction.operands
    write, write_inside = _targets(target)
    read = reader(source, U32)
    read_amount, read_clamp, read_mask = (reader(operand, U32) for operand in rest)

    def execute(threads: Threads, lanes: Lanes) -> None:
        meeting = _Meeting(threads, lanes, read_mask(threads, lanes), what)
        amount = np.asarray(read_amount(threads, lanes)).astype(np.int64)
        clamp = np.asarray(read_clamp(threads, lanes)).astype(np.int64)
        place, inside = _source_lane(mode, meeting.lane, amount, clamp)
        place = np.where(inside, place, meeting.lane)
        if not meeting.present[meeting.warp, place].all():
            raise DivergentBarrierError(f"{what}: reads a lane that does not execute it")
        values = meeting.table(read(threads, lanes), np.uint32)
        write(threads, lanes, values[meeting.warp, place])
        if write_inside:
            write_inside(threads, lanes, inside)

    return execute


def _targets(target: Operand) -> tuple[Callable[..., None], Callable[..., None] | None]:
    if isinstance(target, Pair):
        return writer(target.first), writer(target.second)
    return writer(target), None


def _ballot(meeting: _Meeting, holds: Array) -> Array:
    table = meeting.table(holds, np.bool_)
    bits = (table.astype(np.uint64) << np.arange(WARP_SIZE, dtype=np.uint64)).sum(axis=1)
    return bits[meeting.warp].astype(np.uint32) & meeting.members


def vote(instruction: Instruction) -> Execute:
    """Make ``vote.sync``."""
    if instruction.parts[1] != "sync" or len(instruction.operands) != 3:
        raise UnsupportedPTXError(str(instruction))
    mode, what = instruction.parts[2], str(instruction)
    target, source, mask = instruction.operands
    write, read, read_mask = writer(target), reader(source, BOOL), reader(mask, U32)

    def execute(threads: Threads, lanes: Lanes) -> None:
        meeting = _Meeting(threads, lanes, read_mask(threads, lanes), what)
        votes = _ballot(meeting, read(threads, lanes))
        answers = {
            "ballot": votes,
            "any": votes != 0,
            "all": votes == _ballot(meeting, np.True_),
            "uni": (votes == 0) | (votes == _ballot(meeting, np.True_)),
        }
        write(threads, lanes, answers[mode])

    return execute


def reduction(instruction: Instruction) -> Execute:
    """Make ``redux.sync``: one result for all members of a warp."""
    _, sync, name, type_name = instruction.parts
    functions: dict[str, Any] = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    if sync != "sync" or name not in functions:
        raise UnsupportedPTXError(str(instruction))
    dtype = np.dtype(np.int32 if type_name == "s32" else np.uint32)
    target, source, mask = instruction.operands
    write, read, read_mask = writer(target), reader(source, dtype), reader(mask, U32)

    def execute(threads: Threads, lanes: Lanes) -> None:
        meeting = _Meeting(threads, lanes, read_mask(threads, lanes), str(instruction))
        values = np.broadcast_to(read(threads, lanes), meeting.rows.shape)
        order = np.argsort(meeting.warp, kind="stable")
        start = np.flatnonzero(np.diff(meeting.warp[order], prepend=-1))
        results = np.zeros(meeting.present.shape[0], dtype)
        results[meeting.warp[order][start]] = functions[name].reduceat(values[order], start)
        write(threads, lanes, results[meeting.warp])

    return execute


def active_mask(instruction: Instruction) -> Execute:
    """Make ``activemask``."""
    write = writer(instruction.operands[0])

    def execute(threads: Threads, lanes: Lanes) -> None:
        rows = threads.row[lanes]
        present = np.zeros((int(threads.warp[-1]) + 1, WARP_SIZE), np.uint64)
        present[threads.warp[rows], threads.lane[rows]] = 1
        bits = (present << np.arange(WARP_SIZE, dtype=np.uint64)).sum(axis=1)
        write(threads, lanes, bits[threads.warp[rows]].astype(np.uint32))

    return execute


def warp_barrier(instruction: Instruction) -> Execute:
    """Make ``bar.warp.sync``: later accesses of a warp's threads are ordered after earlier."""
    read_mask = reader(instruction.operands[0], U32)

    def execute(threads: Threads, lanes: Lanes) -> None:
        _Meeting(threads, lanes, read_mask(threads, lanes), str(instruction))
        threads.warp_phase[lanes] += 1

    return execute
