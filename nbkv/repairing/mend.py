"""Repair of a whole arena: tables first, which say who holds what; then all that follows."""

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv._demand import ready
from nbkv.arena import fixed_fields, runtime_edges
from nbkv.config import CacheConfig
from nbkv.kernels import mending
from nbkv.repairing.links import mend_links
from nbkv.repairing.order import mend_order
from nbkv.repairing.records import mend_extras, mend_free_rows, mend_leases
from nbkv.repairing.report import RepairReport
from nbkv.repairing.rows import Tables, count_entries, mend_rows
from nbkv.repairing.views import Views, count_used

_STATISTICS = (
    "total_deallocations",
    "cache_hits",
    "cache_misses",
    "evictions",
    "preemptions",
    "cow_copies",
    "total_allocations",
    "recency",
    "arrivals",
)
_COUNT_MAX = 2**62
_IN_FLIGHT_MAX = 2**31 - 1


def mend_arena(
    arena: npt.NDArray[np.uint8], config: CacheConfig, report: RepairReport, keep_links: bool
) -> None:
    """Rebuild an arena from its tables and the records that can be trusted.

    Parameters
    ----------
    arena : uint8, C-contiguous
    config : CacheConfig
    report : RepairReport
    keep_links : bool
        False gives up everything cached.
    """
    views = Views(arena, config)
    num_fresh = _mend_header(views)
    was_in_use = views.blocks["state"][:num_fresh] == layout.HELD
    tables = mend_rows(views, num_fresh, report)
    mend_extras(views, report)
    pins = mend_leases(views, num_fresh, report)
    held = _mend_holders(views, tables, pins, num_fresh)
    _mend_blocks(views, tables, num_fresh)
    mend_links(views, tables, held, report, keep_links)
    _mend_states(views, held)
    mend_order(views, num_fresh, was_in_use)
    mend_free_rows(views)
    _fill_indexes(views, num_fresh)


def _mend_header(views: Views) -> int:
    """Write what a header always says, and find how much has ever been in use."""
    header, arena = views.header, views.arena
    views.clear_padding()
    for name, value in fixed_fields(views.config).items():
        header[name] = value
    arena[layout.HEADER_DTYPE.itemsize : layout.HEADER_BYTES] = 0
    start = layout.HEADER_BYTES
    runtime = arena[start : start + layout.RUNTIME_DTYPE.itemsize].view(layout.RUNTIME_DTYPE)
    for name, value in runtime_edges(views.config).items():
        runtime[name] = value
    for name in _STATISTICS:
        header[name] = np.clip(header[name], 0, _COUNT_MAX)
    num_fresh = count_used(views.blocks, views.keys, views.holds)
    header["num_fresh_blocks"] = num_fresh
    header["num_fresh_rows"] = count_used(views.sequences, views.sequence_keys)
    header["arrivals"] = np.maximum(header["arrivals"], header["num_fresh_rows"])
    _mend_clocks(views)
    return num_fresh


def _mend_clocks(views: Views) -> None:
    """Put the steps in order, and the allocation clock with what it counts."""
    header = views.header
    planned, committed, completed = (
        int(np.clip(header[name][0], 0, _COUNT_MAX))
        for name in ("num_steps", "committed_step", "completed_step")
    )
    if planned - max(committed, completed) > _IN_FLIGHT_MAX:
        planned = max(committed, completed)
    committed, completed = (
        min(max(step, planned - _IN_FLIGHT_MAX), planned) for step in (committed, completed)
    )
    if not views.config.run_ahead:
        committed = max(committed, planned - 1)
    header["num_steps"], header["committed_step"] = planned, committed
    header["completed_step"] = completed
    # Two of these agree unless both were hit; where they do not, what reaches the latest block.
    copies = views.count("cow_copies")
    counts = sorted((views.count("total_allocations") + copies, views.count("alloc_counter")))
    latest = int(views.blocks["alloc_order"].max())
    fitting = [count for count in counts if latest <= count <= _COUNT_MAX]
    if counts[0] != counts[1] or (not fitting and header["num_fresh_blocks"][0]):
        handed_out = fitting[0] if fitting else min(max(latest, copies), _COUNT_MAX)
        header["total_allocations"] = max(0, handed_out - copies)
    header["alloc_counter"] = views.count("total_allocations") + copies


def _mend_holders(
    views: Views, tables: Tables, pins: npt.NDArray[np.int64], num_fresh: int
) -> npt.NDArray[np.bool_]:
    """Count every block's holders anew; returns which blocks have any."""
    holds, blocks = views.holds, views.blocks[:num_fresh]
    holds[holds < 0] = 0
    views.header["num_external_holds"] = int(holds.sum(dtype=np.int64))
    blocks["ref_count"] = count_entries(tables, num_fresh) + holds[:num_fresh]
    blocks["pin_count"] = pins[:num_fresh]
    held: npt.NDArray[np.bool_] = (blocks["ref_count"] > 0) | (blocks["pin_count"] > 0)
    return held


def _mend_blocks(views: Views, tables: Tables, num_fresh: int) -> None:
    """Put in range what block records say by themselves."""
    blocks = views.blocks[:num_fresh]
    blocks["num_tokens"] = np.clip(blocks["num_tokens"], 0, views.config.block_size)
    valid = blocks["num_tokens"].astype(np.int64)
    np.maximum.at(valid, tables.block_ids, tables.fills)
    blocks["num_tokens"] = valid
    blocks["group"] = 0
    blocks["priority"] = 0
    blocks["writer"] = layout.NO_ROW
    counter = max(1, views.count("alloc_counter"))
    blocks["alloc_order"] = np.clip(blocks["alloc_order"], 1, counter)
    num_steps = views.count("num_steps")
    if num_steps < 2**31:
        blocks["ready_step"] = np.clip(blocks["ready_step"], 0, num_steps)


def _mend_states(views: Views, held: npt.NDArray[np.bool_]) -> None:
    """Derive every block's state from its holders and its links."""
    num_fresh = len(held)
    blocks, keys = views.blocks[:num_fresh], views.keys[:num_fresh]
    linked = blocks["flags"] & (layout.INDEXED | layout.NAMED) != 0
    blocks["state"] = np.where(held, layout.HELD, np.where(linked, layout.CACHED, layout.FREE))
    free = blocks["state"] == layout.FREE
    blocks["flags"][free] &= np.uint8(layout.FENCED)
    keys["named_count"][free] = 0
    keys["first_name"][free] = 0


def _fill_indexes(views: Views, num_fresh: int) -> None:
    rows = (views.sequences["state"] == layout.ROW_ACTIVE).nonzero()[0]
    indexed = (views.blocks["flags"][:num_fresh] & layout.INDEXED != 0).nonzero()[0]
    leaves = views.keys["first_name"][:num_fresh]
    names: list[int] = []
    for first in leaves[leaves > 0].tolist():
        name = first - 1
        while name >= 0:
            names.append(name)
            name = int(views.names["next_name"][name]) - 1
    contents = (
        (views.seq_index, mending.SEQ_INDEX, views.sequences["seq_id"], rows),
        (views.prefix_index, mending.PREFIX_INDEX, views.keys["hash_low"], indexed),
        (views.name_index, mending.NAME_INDEX, views.names["hash"], np.array(sorted(names))),
    )
    for index, kind, keys, occupants in contents:
        index[:] = np.zeros((), layout.INDEX_DTYPE)
        numbers = occupants.astype(np.int64)
        ready(mending.fill_index)(views.arena, kind, np.ascontiguousarray(keys[numbers]), numbers)
