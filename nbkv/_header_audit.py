"""Audit of the header: what a kernel may take on trust before it looks at anything else."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv.arena import fixed_fields, runtime_edges
from nbkv.config import CacheConfig

_INT64_MAX = 2**63 - 1
_IN_FLIGHT_MAX = 2**31 - 1
#: Counters and clocks that only grow.
_GROWING = (
    "recency",
    "alloc_counter",
    "arrivals",
    "num_steps",
    "committed_step",
    "completed_step",
    "total_allocations",
    "total_deallocations",
    "cache_hits",
    "cache_misses",
    "evictions",
    "cow_copies",
    "preemptions",
    "num_external_holds",
    "ring_head",
    "ring_tail",
)
_COUNTED_BLOCKS = (
    "num_free_blocks",
    "num_cached_blocks",
    "num_held_blocks",
    "num_fenced_blocks",
    "num_fenced_free",
)
#: Kinds of records: those in use, those ever used, how many there are, the list of free ones.
_POOLS = (
    ("num_sequences", "num_fresh_rows", "max_sequences"),
    ("num_names", "num_fresh_names", "max_named_prefixes"),
    ("num_leases", "num_fresh_leases", "max_leases"),
    ("num_leased_blocks", "num_fresh_leased", "max_leased_blocks"),
    ("num_extra_keys", "num_fresh_extras", "max_extra_keys"),
)


def find_bad_header(arena: npt.NDArray[np.uint8], config: CacheConfig) -> str | None:
    """Find the first thing in an arena's header that cannot be.

    Parameters
    ----------
    arena : uint8, C-contiguous
        The header at least.
    config : CacheConfig

    Returns
    -------
    str or None
        The violation in words.
    """
    header = arena[: layout.HEADER_DTYPE.itemsize].view(layout.HEADER_DTYPE)
    values = dict(zip(layout.HEADER_FIELDS, header[0].tolist(), strict=True))
    for name, wanted in fixed_fields(config).items():
        if values[name] != wanted:
            return f"header: {name} is {values[name]}; its configuration makes it {wanted}"
    if arena[layout.HEADER_DTYPE.itemsize : layout.HEADER_BYTES].any():
        return "header: the bytes behind its fields are not zero"
    for name, low, high in _ranges(values):
        if not low <= values[name] <= high:
            return f"header: {name} is {values[name]}; it must be {low} to {high}"
    return _find_unequal(values)


def find_bad_runtime(arena: npt.NDArray[np.uint8], config: CacheConfig) -> str | None:
    """Find the first array of the runtime section that is not where it belongs.

    Parameters
    ----------
    arena : uint8, C-contiguous
    config : CacheConfig

    Returns
    -------
    str or None
        The violation in words.
    """
    start = layout.HEADER_BYTES
    runtime = arena[start : start + layout.RUNTIME_DTYPE.itemsize].view(layout.RUNTIME_DTYPE)
    for name, wanted in runtime_edges(config).items():
        if runtime[name][0] != wanted:
            return f"runtime: {name} is {runtime[name][0]}; its configuration makes it {wanted}"
    return None


#: Sections whose rows above a watermark of the header are zero until they come into use.
_UNUSED: tuple[tuple[str, str, "np.dtype[Any]"], ...] = (
    ("blocks", "num_fresh_blocks", layout.BLOCK_DTYPE),
    ("block_keys", "num_fresh_blocks", layout.BLOCK_KEY_DTYPE),
    ("external_holds", "num_fresh_blocks", layout.INT16),
    ("sequences", "num_fresh_rows", layout.SEQUENCE_DTYPE),
    ("sequence_keys", "num_fresh_rows", layout.SEQUENCE_KEY_DTYPE),
    ("names", "num_fresh_names", layout.NAME_DTYPE),
    ("extras", "num_fresh_extras", layout.EXTRA_DTYPE),
    ("leases", "num_fresh_leases", layout.LEASE_DTYPE),
    ("leased", "num_fresh_leased", layout.LEASED_DTYPE),
)


def find_bad_unused(arena: npt.NDArray[np.uint8]) -> str | None:
    """Find the first row that has never been in use and is not zero.

    Parameters
    ----------
    arena : uint8, C-contiguous
        Its header is audited.

    Returns
    -------
    str or None
        The violation in words.
    """
    header = arena[: layout.HEADER_DTYPE.itemsize].view(layout.HEADER_DTYPE)
    for name, watermark, dtype in _UNUSED:
        start, end = (int(header[f"{name}_{edge}"][0]) for edge in ("start", "end"))
        used = int(header[watermark][0]) * dtype.itemsize
        words = arena[start + used : end].view(np.int64 if dtype.itemsize % 8 == 0 else np.int16)
        if words.any():
            row = (used + int(words.nonzero()[0][0]) * words.itemsize) // dtype.itemsize
            return f"{name}: row {row} has never been in use but is not zero"
    return None


def _ranges(values: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """List the fields that have a range: each with its lowest and highest value."""
    num_blocks, fresh = values["num_blocks"], values["num_fresh_blocks"]
    for name in _GROWING:
        yield name, 0, _INT64_MAX
    yield "num_fresh_blocks", 0, num_blocks
    for name in _COUNTED_BLOCKS:
        yield name, 0, num_blocks
    yield "num_free_blocks", num_blocks - fresh + values["num_fenced_free"], num_blocks
    yield "num_fenced_free", 0, values["num_fenced_blocks"]
    for name in ("free_head", "free_tail", "fence_head", "fence_tail"):
        yield name, layout.NO_BLOCK, fresh - 1
    for used, ever, most in _POOLS:
        yield ever, 0, values[most]
        yield used, 0, values[ever]
    for name in ("committed_step", "completed_step"):
        # Records keep 32 bits of a step: what lies further apart cannot be told apart.
        yield name, max(0, values["num_steps"] - _IN_FLIGHT_MAX), values["num_steps"]
    if not values["run_ahead"]:
        yield "committed_step", values["num_steps"] - 1, values["num_steps"]
        yield "num_fenced_blocks", 0, 0
    yield "arrivals", values["num_sequences"], _INT64_MAX
    if values["policy"] != layout.LRU:
        yield "heap_size", 0, values["num_cached_blocks"]
        for name in ("ring_head", "ring_tail", "ring_write", "ring_read", "ring_sweeping"):
            yield name, 0, 0
        return
    yield "heap_size", 0, 0
    yield "ring_tail", values["ring_head"], values["ring_head"] + values["ring_mask"] + 1
    yield "ring_sweeping", 0, 1
    if values["ring_sweeping"]:
        yield "ring_write", values["ring_head"], values["ring_tail"]
        yield "ring_read", values["ring_write"], values["ring_tail"]


def _find_unequal(values: dict[str, int]) -> str | None:
    """Find an equation between counters that does not hold."""
    total = values["num_free_blocks"] + values["num_cached_blocks"] + values["num_held_blocks"]
    if total != values["num_blocks"]:
        return (
            f"header: num_free_blocks + num_cached_blocks + num_held_blocks is {total}"
            f" but num_blocks is {values['num_blocks']}"
        )
    handed_out = values["total_allocations"] + values["cow_copies"]
    if values["alloc_counter"] != handed_out:
        return (
            f"header: alloc_counter is {values['alloc_counter']}"
            f" but total_allocations + cow_copies is {handed_out}"
        )
    return None
