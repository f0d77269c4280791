"""Repair: an arena that contradicts itself made sound, and a report of what that took."""

import numpy as np
import numpy.typing as npt

from nbkv.config import CacheConfig
from nbkv.repairing.compare import note_changes
from nbkv.repairing.mend import mend_arena
from nbkv.repairing.report import DroppedSequence, RepairReport

__all__ = ["DroppedSequence", "RepairReport", "repair_arena"]


def repair_arena(
    arena: npt.NDArray[np.uint8], config: CacheConfig, violation: str, keep_links: bool
) -> RepairReport:
    """Rebuild an arena, and report what changed.

    Parameters
    ----------
    arena : uint8, C-contiguous
    config : CacheConfig
    violation : str
        What the audit said.
    keep_links : bool
        False gives up everything cached: for an arena that cannot be repaired otherwise.

    Returns
    -------
    RepairReport
    """
    before = arena.copy()
    report = RepairReport(violation)
    mend_arena(arena, config, report, keep_links)
    note_changes(before, arena, config, report)
    return report
