"""Step buffers: one ``uint8`` array that holds all that one step decides.

A header of int64 at offset 0, then sections of flat records, each with room for the most
that one call may write. One copy of the bytes hands a plan to another process.
"""

from typing import Final

import numpy as np

STEP_MAGIC: Final = 0x0056_4B42_4E00_0053
STEP_VERSION: Final = 1
STEP_HEADER_BYTES: Final = 512

# What buffers hold.
EMPTY: Final = 0  # nothing
REPORTED: Final = 1  # what commits changed since; the next plan's changes go behind
PLANNED: Final = 2  # a plan that is not committed yet

# Numbers of a row of changes: layer group, sequence row, table column, block (NO_BLOCK: a hole).
CHANGE_FIELDS: Final = 4
# Numbers of a row of copies: layer group, source, destination, tokens kept.
STEP_COPY_FIELDS: Final = 4

STEP_SECTIONS: Final = (
    "entries",
    "seq_lens",
    "slots",
    "changes",
    "copies",
    "evicted",
    "survivors",
    "preempted",
    "deferred",
    "skipped",
)

STEP_HEADER_FIELDS: Final = (
    "magic",
    "version",
    "buffer_bytes",
    "phase",
    "identity",  # of the cache that made the plan
    "step_id",
    "status",  # OK, or why `step` planned nothing
    "detail",  # of the status
    "num_entries",
    "num_slots",
    "num_changes",
    "num_copies",
    "num_evicted",
    "num_survivors",
    "num_preempted",
    "num_deferred",
    "num_skipped",
    # Byte offsets of each section, its end excluded.
    *(f"{name}_{edge}" for name in STEP_SECTIONS for edge in ("start", "end")),
)

STEP_HEADER_DTYPE: Final = np.dtype([(name, "i8") for name in STEP_HEADER_FIELDS])

# What was planned for one sequence.
ENTRY_DTYPE: Final = np.dtype(
    [
        ("row", "i4"),
        ("generation", "i4"),  # of the row: another one's now means the sequence has gone
        ("start", "i4"),  # first new token position
        ("count", "i4"),  # new tokens
    ]
)

EVICTED_DTYPE: Final = np.dtype(
    [
        ("group", "i4"),  # layer group, 0
        ("block", "i4"),  # its content may be copied out before this step writes
        ("hash_low", "u8"),  # chain hash, or the caller's; 0 where only a name covered it
        ("hash_high", "u8"),
        ("parent_low", "u8"),  # of the block before, 0 at the root
        ("parent_high", "u8"),
    ]
)

PREEMPTED_DTYPE: Final = np.dtype(
    [
        ("seq_id", "u8"),
        ("handle", "i8"),  # stale from now on
        ("arrival", "i8"),  # to be given to `admit` again
        ("num_committed", "i8"),  # tokens that it had
    ]
)

__all__ = [name for name in dir() if name.isupper() and not name.startswith("_")]
