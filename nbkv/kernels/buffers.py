"""Step buffers as views, and what is written into them while a step is made."""

from typing import NamedTuple

import numpy as np

from nbkv._addresses import StepType, offer_address, offer_section, offer_start
from nbkv._jit import INTERPRETED, kernel
from nbkv.kernels.state import Arena, Records, State
from nbkv.layout import COPY_FIELDS, INT32, INT64, NO_BLOCK
from nbkv.step_layout import (
    CHANGE_FIELDS,
    EMPTY,
    ENTRY_DTYPE,
    EVICTED_DTYPE,
    PREEMPTED_DTYPE,
    REPORTED,
    STEP_COPY_FIELDS,
    STEP_HEADER_DTYPE,
)

_ROW, _COLUMN, _BLOCK = np.uint64(1), np.uint64(2), np.uint64(3)
_FIELDS = np.uint64(CHANGE_FIELDS)


class Step(NamedTuple):
    """Views over one set of step buffers; compiled, they must not outlive the call."""

    header: Records
    entries: Records
    seq_lens: Records
    slots: Records
    changes: Records
    copies: Records
    evicted: Records
    survivors: Records
    preempted: Records
    deferred: Records
    skipped: Records


SECTION_DTYPES = {
    "entries": ENTRY_DTYPE,
    "seq_lens": INT32,
    "slots": INT64,
    "changes": INT32,
    "copies": INT32,
    "evicted": EVICTED_DTYPE,
    "survivors": INT32,
    "preempted": PREEMPTED_DTYPE,
    "deferred": INT32,
    "skipped": INT32,
}


def open_step(array: Arena) -> Step:
    """View every section of step buffers.

    Parameters
    ----------
    array : uint8, C-contiguous
        The buffers' bytes.

    Returns
    -------
    Step
    """
    header = array[: STEP_HEADER_DTYPE.itemsize].view(STEP_HEADER_DTYPE)
    views = [header]
    for name, dtype in SECTION_DTYPES.items():
        start, end = int(header[f"{name}_start"][0]), int(header[f"{name}_end"][0])
        # A section's padding need not be whole records.
        end -= (end - start) % dtype.itemsize
        views.append(array[start:end].view(dtype))
    return Step(*views)


if not INTERPRETED:
    offer_address(StepType, open_step)
    offer_start(StepType, "header", STEP_HEADER_DTYPE)
    for _name, _dtype in SECTION_DTYPES.items():
        offer_section(StepType, _name, _name, _dtype)


@kernel
def forget_plan(step: Step) -> None:
    """Empty what a plan wrote, leaving the changes that commits reported.

    Parameters
    ----------
    step : Step
    """
    header = step.header
    header["status"][0] = 0
    header["num_entries"][0] = 0
    header["num_slots"][0] = 0
    header["num_copies"][0] = 0
    header["num_evicted"][0] = 0
    header["num_survivors"][0] = 0
    header["num_preempted"][0] = 0
    header["num_deferred"][0] = 0
    if header["phase"][0] != REPORTED:
        header["num_changes"][0] = 0
        header["num_skipped"][0] = 0
        header["phase"][0] = EMPTY


@kernel
def add_change(step: Step, row: int, column: int, block_id: int) -> None:
    """Report an entry of a block table that is new.

    Parameters
    ----------
    step : Step
        Has room for it: the caller has counted.
    row, column : int
    block_id : int
        NO_BLOCK for a hole.
    """
    at = step.header["num_changes"][0]
    changes = step.changes
    changes[CHANGE_FIELDS * at] = 0
    changes[CHANGE_FIELDS * at + 1] = row
    changes[CHANGE_FIELDS * at + 2] = column
    changes[CHANGE_FIELDS * at + 3] = block_id
    step.header["num_changes"][0] = at + 1


@kernel
def add_columns(state: State, step: Step, row: int, first: int, end: int) -> None:
    """Report the entries ``first:end`` of a block table, all of them new.

    Parameters
    ----------
    state : State
    step : Step
        Has room for them.
    row : int
    first, end : int
        Columns.
    """
    at = step.header["num_changes"][0]
    changes, tables = step.changes, state.tables
    # Unsigned, a subscript is known not to count from the end.
    place = np.uint64(CHANGE_FIELDS * at)
    entry = np.uint64(row * state.header["table_stride"][0] + first)
    for i in range(np.uint64(max(end - first, 0))):
        changes[place] = 0
        changes[place + _ROW] = row
        changes[place + _COLUMN] = first + np.int64(i)
        changes[place + _BLOCK] = tables[entry + i]
        place += _FIELDS
    step.header["num_changes"][0] = at + max(end - first, 0)


@kernel
def num_change_room(step: Step) -> int:
    """Count the changes that still fit."""
    return step.changes.size // CHANGE_FIELDS - step.header["num_changes"][0]


@kernel
def report_copies(state: State, step: Step) -> None:
    """Put the running call's copies into a plan."""
    count = state.runtime["num_copies"][0]
    copies = step.copies
    for i in range(count):
        copies[STEP_COPY_FIELDS * i] = 0
        for field in range(COPY_FIELDS):
            copies[STEP_COPY_FIELDS * i + 1 + field] = state.copies[COPY_FIELDS * i + field]
    step.header["num_copies"][0] = count


@kernel
def report_evicted(state: State, step: Step) -> None:
    """Put the blocks that the running call evicted, and has not handed out yet, into a plan."""
    count = state.runtime["num_evicted"][0]
    evicted = step.evicted
    keys = state.keys
    for i in range(count):
        block_id = np.int64(state.evicted[i])
        parent = np.int64(state.blocks["parent"][block_id])
        evicted["group"][i] = 0
        evicted["block"][i] = block_id
        evicted["hash_low"][i] = keys["hash_low"][block_id]
        evicted["hash_high"][i] = keys["hash_high"][block_id]
        evicted["parent_low"][i] = 0
        evicted["parent_high"][i] = 0
        if parent != NO_BLOCK:
            evicted["parent_low"][i] = keys["hash_low"][parent]
            evicted["parent_high"][i] = keys["hash_high"][parent]
    step.header["num_evicted"][0] = count
