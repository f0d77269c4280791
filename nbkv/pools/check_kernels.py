"""Looks through slots and pairs of blocks before anything is written to them."""

from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv._demand import on_demand

#: What `find_bad_slot` and `find_bad_pair` find; NOTHING is 0.
NOTHING: Final = 0
OUT_OF_RANGE: Final = 1
TWICE: Final = 2
CHAIN: Final = 3
#: Bits of a mark. A slot's `WRITTEN` stays, the others last for one call.
WRITTEN: Final = 1
SEEN: Final = 2
SOURCE: Final = 4


@on_demand("UniTuple(int64, 2)(int64[::1], uint8[::1])")
def find_bad_slot(slots: npt.NDArray[np.int64], marks: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Find the first slot that cannot be written to.

    Parameters
    ----------
    slots : int64, C-contiguous
        -1 is none.
    marks : uint8, C-contiguous
        One a slot of the pool; as it was, afterwards.

    Returns
    -------
    problem : int
        `OUT_OF_RANGE`, `TWICE` or `NOTHING`.
    at : int
        Where it stands in `slots`.
    """
    problem, at = NOTHING, np.int64(slots.size)
    for i in range(slots.size):
        slot = slots[i]
        if slot == -1:
            continue
        if slot < 0 or slot >= marks.size:
            problem = OUT_OF_RANGE
        elif marks[slot] & np.uint8(SEEN):
            problem = TWICE
        if problem != NOTHING:
            at = np.int64(i)
            break
        marks[slot] |= np.uint8(SEEN)
    for i in range(at):
        if slots[i] >= 0:
            marks[slots[i]] &= np.uint8(255 - SEEN)
    return np.int64(problem), at


@on_demand("int64(int64[::1], int64)")
def find_bad_block(block_ids: npt.NDArray[np.int64], num_blocks: int) -> int:
    """Find the first id that no block of the pool has; return its position, or -1."""
    for i in range(block_ids.size):
        if block_ids[i] < 0 or block_ids[i] >= num_blocks:
            return np.int64(i)
    return np.int64(-1)


@on_demand("void(int64[::1], uint8[::1])")
def mark_written(slots: npt.NDArray[np.int64], marks: npt.NDArray[np.uint8]) -> None:
    """Note slots as written; all are in range, or -1."""
    for i in range(slots.size):
        if slots[i] >= 0:
            marks[slots[i]] |= np.uint8(WRITTEN)


@on_demand("void(int64[:, ::1], uint8[::1], int64)")
def copy_marks(pieces: npt.NDArray[np.int64], marks: npt.NDArray[np.uint8], scale: int) -> None:
    """Note in destinations what is written in their sources.

    Parameters
    ----------
    pieces : int64, C-contiguous, shape (n, 3)
        Source, destination and length, in units of `scale` slots; no destination is a source.
    marks : uint8, C-contiguous
        One a slot.
    scale : int
    """
    for i in range(pieces.shape[0]):
        source, destination = pieces[i, 0] * scale, pieces[i, 1] * scale
        for slot in range(pieces[i, 2] * scale):
            marks[destination + slot] = marks[source + slot]


@on_demand("UniTuple(int64, 2)(int64[:, ::1], uint8[::1])")
def find_bad_pair(pairs: npt.NDArray[np.int64], marks: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Find the first pair of blocks that cannot be copied in one call with the others.

    Parameters
    ----------
    pairs : int64, C-contiguous, shape (n, 2)
        Source and destination.
    marks : uint8, C-contiguous
        One a block, all 0; and so afterwards.

    Returns
    -------
    problem : int
        `OUT_OF_RANGE`, `TWICE` (a destination), `CHAIN` (a destination that is a source)
        or `NOTHING`.
    at : int
        Its row in `pairs`.
    """
    problem, at = NOTHING, np.int64(pairs.shape[0])
    for i in range(pairs.shape[0]):
        source, destination = pairs[i, 0], pairs[i, 1]
        low, high = min(source, destination), max(source, destination)
        if low < 0 or high >= marks.size:
            problem = OUT_OF_RANGE
        elif marks[destination] & np.uint8(SEEN):
            problem = TWICE
        elif (
            source == destination
            or marks[source] & np.uint8(SEEN)
            or marks[destination] & np.uint8(SOURCE)
        ):
            problem = CHAIN
        if problem != NOTHING:
            at = np.int64(i)
            break
        marks[source] |= np.uint8(SOURCE)
        marks[destination] |= np.uint8(SEEN)
    for i in range(at):
        marks[pairs[i, 0]] = np.uint8(0)
        marks[pairs[i, 1]] = np.uint8(0)
    return np.int64(problem), at
