"""What a repair has changed, found by comparing records from before and after."""

import numpy as np
import numpy.typing as npt

from nbkv.config import CacheConfig
from nbkv.repairing.report import RepairReport
from nbkv.repairing.views import Records, Views

#: Fields that say where things lie in a list, and are written anew without a reason.
_PLACES = {"link", "writer", "tail_block", "next_name", "next_extra", "next_leased", "next_lease"}
_PLACES |= {"fence_step", "first_name", "ring_head", "ring_tail", "ring_write", "ring_read"}
_INDEXES = ("seq_index", "prefix_index", "name_index")


def note_changes(
    before: npt.NDArray[np.uint8],
    after: npt.NDArray[np.uint8],
    config: CacheConfig,
    report: RepairReport,
) -> None:
    """Report the fields that differ, record by record.

    Parameters
    ----------
    before, after : uint8, C-contiguous
        Arenas.
    config : CacheConfig
    report : RepairReport
    """
    old, new = Views(before, config), Views(after, config)
    _compare(old.header, new.header, "header", report)
    _compare(old.blocks, new.blocks, "block", report)
    _compare(old.keys, new.keys, "block", report)
    _compare(old.sequences, new.sequences, "sequence row", report)
    _compare(old.leases, new.leases, "lease", report)
    for name in _INDEXES:
        _compare_index(getattr(old, name), getattr(new, name), name, report)


def _compare(old: Records, new: Records, noun: str, report: RepairReport) -> None:
    for field in old.dtype.names or ():
        if field in _PLACES:
            continue
        differ = (old[field] != new[field]).reshape(len(old), -1).any(axis=1).nonzero()[0]
        if len(differ):
            row = int(differ[0])
            place = noun if noun == "header" else f"{noun} {row}"
            words = f"{place} from {old[field][row]} to {new[field][row]}"
            report.note(f"{noun} {field}", words, len(differ))


def _compare_index(old: Records, new: Records, name: str, report: RepairReport) -> None:
    """Report what an index has gained and lost; where its entries lie does not matter."""
    said, says = old.view(np.int64), new.view(np.int64)
    lost, gained = np.setdiff1d(said, says), np.setdiff1d(says, said)
    if len(lost) or len(gained):
        words = f"{len(lost)} entries taken out, {len(gained)} put in"
        report.note(name, words, max(len(lost), len(gained)))
