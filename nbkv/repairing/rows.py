"""Repair of sequences: which rows and tables can be trusted, and what they hold."""

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv.repairing.report import DroppedSequence, RepairReport
from nbkv.repairing.views import Ids, Views

_ROW_FLAGS = layout.UNINDEXABLE | layout.PARTIAL_HIT


class Tables:
    """Every entry of every table that is trusted, holes aside.

    Parameters
    ----------
    rows, columns, block_ids, before, fills : int64 array
        Of each entry: whose it is, where, which block, the one before it in the table
        (NO_BLOCK for none), and how many of the sequence's tokens lie in it.
    """

    def __init__(self, rows: Ids, columns: Ids, block_ids: Ids, before: Ids, fills: Ids) -> None:
        self.rows = rows
        self.columns = columns
        self.block_ids = block_ids
        self.before = before
        self.fills = fills

    def without(self, rows: list[int]) -> "Tables":
        """Return the entries of other sequences."""
        kept = ~np.isin(self.rows, rows)
        fields = (self.rows, self.columns, self.block_ids, self.before, self.fills)
        return Tables(*(field[kept] for field in fields))


def mend_rows(views: Views, num_fresh: int, report: RepairReport) -> Tables:
    """Keep the sequences that can be trusted and end the others.

    Parameters
    ----------
    views : Views
        The header's clocks are mended.
    num_fresh : int
        Blocks that have ever been in use.
    report : RepairReport

    Returns
    -------
    Tables
    """
    sequences = views.sequences
    lost: dict[int, str] = {}
    ids: dict[int, int] = {}
    occupants = set(views.seq_index["occupant"].tolist())
    for row in range(views.count("num_fresh_rows")):
        reason = _distrust(views, row, num_fresh, row + 1 in occupants)
        if reason is None:
            seq_id = int(sequences["seq_id"][row])
            if seq_id in ids:
                reason = f"row {ids[seq_id]} has the same seq_id"
            else:
                ids[seq_id] = row
        if reason:
            lost[row] = reason
    kept = sorted(ids.values())
    tables = _list_entries(views, kept)
    lost |= _find_conflicts(tables)
    for row in range(views.count("num_fresh_rows")):
        if row in ids.values() and row not in lost:
            _mend_row(views, row)
        else:
            _close(views, row)
    report.dropped += [
        DroppedSequence(int(sequences["seq_id"][row]), row, reason)
        for row, reason in sorted(lost.items())
        if reason
    ]
    return tables.without(list(lost))


def _distrust(views: Views, row: int, num_fresh: int, is_indexed: bool) -> str | None:
    """Say why a row cannot be a sequence; an empty reason where nothing says that it was one."""
    record = {name: int(views.sequences[name][row]) for name in layout.SEQUENCE_DTYPE.names or ()}
    num_blocks, size = record["num_blocks"], views.config.block_size
    active = record["state"] == layout.ROW_ACTIVE
    if num_blocks == 0 and not (active and is_indexed):
        return ""
    if not active and not is_indexed:
        return "its row is neither free nor alive"
    if not 0 <= num_blocks <= views.config.table_width:
        return f"num_blocks is {num_blocks}"
    if not 0 <= record["num_committed"] <= record["num_tokens"] <= num_blocks * size:
        return (
            f"{record['num_committed']} tokens committed, {record['num_tokens']} planned,"
            f" in {num_blocks} blocks"
        )
    table, first = views.tables[row, :num_blocks], record["first_block"]
    has_window = views.config.window is not None
    if not 0 <= first <= (min(num_blocks, record["num_committed"] // size) if has_window else 0):
        return f"first_block is {first}"
    if (table[:first] != layout.NO_BLOCK).any():
        return f"its first {first} columns have blocks that the window has left"
    held = table[first:]
    wrong = ((held < 0) | (held >= num_fresh)).nonzero()[0]
    if len(wrong):
        column = int(wrong[0])
        return f"column {first + column} of its table has block {int(held[column])}"
    if len(np.unique(held)) != len(held):
        return "its table has a block twice"
    return None


def _list_entries(views: Views, rows: list[int]) -> Tables:
    """List the entries of these sequences' tables."""
    size = views.config.block_size
    owners, columns, ids, before, fills = [], [], [], [], []
    for row in rows:
        first, end = (int(views.sequences[x][row]) for x in ("first_block", "num_blocks"))
        places = np.arange(first, end, dtype=np.int64)
        table = views.tables[row, first:end].astype(np.int64)
        owners.append(np.full(len(table), row, np.int64))
        columns.append(places)
        ids.append(table)
        before.append(np.concatenate(([layout.NO_BLOCK], table))[: len(table)])
        tokens = int(views.sequences["num_tokens"][row])
        fills.append(np.clip(tokens - places * size, 0, size))
    none = [np.empty(0, np.int64)]
    return Tables(*(np.concatenate(x or none) for x in (owners, columns, ids, before, fills)))


def _find_conflicts(tables: Tables) -> dict[int, str]:
    """Find the sequences that have one block in different columns: none of them is trusted."""
    order = np.argsort(tables.block_ids, kind="stable")
    ids, columns, rows = tables.block_ids[order], tables.columns[order], tables.rows[order]
    differ = (ids[1:] == ids[:-1]) & (columns[1:] != columns[:-1])
    torn = np.unique(ids[1:][differ])
    lost: dict[int, str] = {}
    for block_id in torn.tolist():
        for row in rows[ids == block_id].tolist():
            lost.setdefault(row, f"another one has block {block_id} in another column")
    return lost


def _mend_row(views: Views, row: int) -> None:
    """Put a trusted row's own fields in order; its tail is closed."""
    sequences = views.sequences
    committed = int(sequences["num_committed"][row])
    _mend_steps(views, row, committed)
    for name in ("num_known", "num_hit_tokens"):
        sequences[name][row] = np.clip(sequences[name][row], 0, committed)
    # What an open tail is owed beside its tokens is a part of a rank: it may be lost.
    flags = int(sequences["flags"][row]) & _ROW_FLAGS
    if sequences["first_block"][row] > 0:
        flags |= layout.UNINDEXABLE
    if int(sequences["num_tokens"][row]) % views.config.block_size == 0:
        flags &= ~layout.PARTIAL_HIT
    sequences["flags"][row] = flags
    sequences["state"][row] = layout.ROW_ACTIVE
    sequences["generation"][row] = max(1, int(sequences["generation"][row]))
    sequences["arrival"][row] = max(0, int(sequences["arrival"][row]))


def _mend_steps(views: Views, row: int, committed: int) -> None:
    """Put a row's clocks in range; tokens are planned only where a step in flight may be why."""
    sequences, header = views.sequences, views.header
    num_steps, last_committed = (int(header[x][0]) for x in ("num_steps", "committed_step"))
    if num_steps < 2**31:
        for name in ("last_step", "void_step"):
            sequences[name][row] = np.clip(sequences[name][row], 0, num_steps)
    since = (last_committed - int(sequences["last_step"][row])) & 0xFFFFFFFF
    if since < 2**31:
        sequences["num_tokens"][row] = committed


def _close(views: Views, row: int) -> None:
    """Make a row free; its handles become stale."""
    sequences = views.sequences
    if sequences["state"][row] != layout.ROW_FREE or sequences["num_blocks"][row] != 0:
        generation = int(sequences["generation"][row])
        sequences["generation"][row] = generation + 1 if 0 < generation < 2**31 - 1 else 1
    sequences["generation"][row] = max(1, int(sequences["generation"][row]))
    sequences["state"][row] = layout.ROW_FREE
    sequences["num_blocks"][row] = 0
    views.sequence_keys["first_extra"][row] = 0


def count_entries(tables: Tables, num_blocks: int) -> npt.NDArray[np.int64]:
    """Count the table entries of each block."""
    return np.bincount(tables.block_ids, minlength=num_blocks)
