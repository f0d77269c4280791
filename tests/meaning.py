"""What each byte of an arena means: for the tests that flip them.

A byte is dead where no call reads it before writing it. A value is free where nothing in the
arena says what it should be: another one is another history, as sound as the first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from invariants import section

import nbkv
from nbkv import layout

DTYPES: dict[str, "np.dtype[Any]"] = {
    "blocks": layout.BLOCK_DTYPE,
    "block_keys": layout.BLOCK_KEY_DTYPE,
    "sequences": layout.SEQUENCE_DTYPE,
    "sequence_keys": layout.SEQUENCE_KEY_DTYPE,
    "seq_index": layout.INDEX_DTYPE,
    "prefix_index": layout.INDEX_DTYPE,
    "name_index": layout.INDEX_DTYPE,
    "names": layout.NAME_DTYPE,
    "extras": layout.EXTRA_DTYPE,
    "leases": layout.LEASE_DTYPE,
    "leased": layout.LEASED_DTYPE,
    "external_holds": layout.INT16,
    "tokens": layout.INT32,
    "tables": layout.INT32,
}

#: Header fields that only history explains: clocks and statistics.
FREE_HEADER = {
    "recency",
    "arrivals",
    "num_steps",
    "committed_step",
    "completed_step",
    "total_deallocations",
    "cache_hits",
    "cache_misses",
    "evictions",
    "preemptions",
}
FREE_FIELDS = {
    "blocks": {
        "num_tokens",
        "generation",
        "ready_step",
        "child",
        "access_count",
        "last_access",
        "alloc_order",
    },
    "sequences": {
        "num_tokens",
        "num_committed",
        "num_known",
        "num_hit_tokens",
        "first_block",
        "tail_writes",
        "generation",
        "last_step",
        "void_step",
        "arrival",
    },
    "sequence_keys": {"salt_low", "salt_high", "owner"},
    "extras": {"digest", "start", "end"},
    "leases": {"seq_id", "generation"},
}
#: Flags that a block or a sequence may have or not, as its history was.
FREE_FLAGS = {
    "blocks": layout.DETACHED,
    "sequences": layout.UNINDEXABLE | layout.PARTIAL_HIT,
}
_DEAD_WHEN_FREE = {
    "num_tokens",
    "group",
    "priority",
    "ready_step",
    "parent",
    "child",
    "num_children",
    "access_count",
    "last_access",
    "alloc_order",
}
_DEAD_IN_IDLE_ROWS = set(layout.SEQUENCE_DTYPE.names or ()) - {
    "state",
    "generation",
    "tail_block",
    "num_blocks",
}


@dataclass(frozen=True)
class Place:
    """A bit of an arena, by what it is part of."""

    section: str
    row: int
    field: str
    bit: int  # of the field, from its lowest


def locate(cache: nbkv.PagedKVCache, offset: int, bit: int) -> Place:
    """Say what a bit of the arena is part of."""
    if offset < layout.HEADER_BYTES:
        return _in_record("header", layout.HEADER_DTYPE, offset, bit)
    for name in layout.SECTIONS:
        start, end = (int(cache.header[f"{name}_{edge}"][0]) for edge in ("start", "end"))
        if start <= offset < end:
            dtype = DTYPES.get(name) or _rank_dtype(cache)
            return _in_record(name, dtype, offset - start, bit)
    raise AssertionError(offset)


def _rank_dtype(cache: nbkv.PagedKVCache) -> "np.dtype[Any]":
    lru = cache.header["policy"][0] == layout.LRU
    return layout.INT32 if lru else layout.RANK_DTYPE


def _in_record(name: str, dtype: "np.dtype[Any]", offset: int, bit: int) -> Place:
    row, inside = divmod(offset, dtype.itemsize)
    if dtype.fields is None:
        return Place(name, row, "", 8 * inside + bit)
    for field, (kind, start, *_) in dtype.fields.items():
        if (row == 0 or name != "header") and start <= inside < start + kind.itemsize:
            return Place(name, row, field, 8 * (inside - start) + bit)
    return Place(name, row, "", bit)


def is_dead(cache: nbkv.PagedKVCache, place: Place) -> bool:
    """Tell whether no call reads this bit before it is written."""
    check = globals().get(f"_dead_in_{place.section}")
    return bool(check(cache, place)) if check else False


def _fresh(cache: nbkv.PagedKVCache, counter: str) -> int:
    return int(cache.header[counter][0])


def _block_state(cache: nbkv.PagedKVCache, block_id: int) -> int:
    if block_id >= _fresh(cache, "num_fresh_blocks"):
        return -1
    return int(cache.blocks["state"][block_id])


def _dead_in_header(cache: nbkv.PagedKVCache, place: Place) -> bool:
    idle = cache.header["policy"][0] == layout.LRU and not cache.header["ring_sweeping"][0]
    return place.field in ("ring_write", "ring_read") and bool(idle)


def _dead_in_blocks(cache: nbkv.PagedKVCache, place: Place) -> bool:
    state = _block_state(cache, place.row)
    if state == -1:
        return False
    flags = int(cache.blocks["flags"][place.row])
    if place.field in ("fence_step", "writer") and state != layout.HELD:
        return not flags & layout.FENCED
    if state == layout.FREE:
        detached = place.field == "flags" and 1 << place.bit == layout.DETACHED
        return detached or place.field in _DEAD_WHEN_FREE
    if state == layout.HELD:
        return place.field in ("link", "fence_step", "last_access")
    return False


def _dead_in_block_keys(cache: nbkv.PagedKVCache, place: Place) -> bool:
    if _block_state(cache, place.row) == -1:
        return False
    indexed = cache.blocks["flags"][place.row] & layout.INDEXED
    return place.field in ("hash_low", "hash_high", "extra_key") and not indexed


def _dead_in_tokens(cache: nbkv.PagedKVCache, place: Place) -> bool:
    block_id = place.row // cache.config.block_size
    return _block_state(cache, block_id) in (-1, layout.FREE)


def _dead_in_sequences(cache: nbkv.PagedKVCache, place: Place) -> bool:
    if place.row >= _fresh(cache, "num_fresh_rows"):
        return False
    if cache.sequences["state"][place.row] == layout.ROW_FREE:
        return place.field in _DEAD_IN_IDLE_ROWS
    is_open = cache.sequences["flags"][place.row] & layout.TAIL_OPEN
    return place.field in ("tail_block", "tail_writes", "tail_fill") and not is_open


def _dead_in_sequence_keys(cache: nbkv.PagedKVCache, place: Place) -> bool:
    if place.row >= _fresh(cache, "num_fresh_rows"):
        return False
    idle = cache.sequences["state"][place.row] == layout.ROW_FREE
    return idle and place.field != "reserved"


def _dead_in_names(cache: nbkv.PagedKVCache, place: Place) -> bool:
    if place.row >= _fresh(cache, "num_fresh_names"):
        return False
    occupants = section(cache, "name_index", layout.INDEX_DTYPE)["occupant"]
    return place.row + 1 not in occupants and place.field not in ("next_name", "reserved")


def _listed(records: Any, first: int, following: str) -> set[int]:
    found, at = set(), first - 1
    while at >= 0:
        found.add(at)
        at = int(records[following][at]) - 1
    return found


def _dead_in_extras(cache: nbkv.PagedKVCache, place: Place) -> bool:
    if place.row >= _fresh(cache, "num_fresh_extras"):
        return False
    extras = section(cache, "extras", layout.EXTRA_DTYPE)
    idle = _listed(extras, _fresh(cache, "free_extra"), "next_extra")
    return place.row in idle and place.field not in ("next_extra", "reserved")


def _dead_in_leases(cache: nbkv.PagedKVCache, place: Place) -> bool:
    if place.row >= _fresh(cache, "num_fresh_leases"):
        return False
    leases = section(cache, "leases", layout.LEASE_DTYPE)
    if leases["state"][place.row]:
        return place.field == "next_lease"
    return place.field in ("seq_id", "num_blocks", "first_leased")


def _dead_in_leased(cache: nbkv.PagedKVCache, place: Place) -> bool:
    if place.row >= _fresh(cache, "num_fresh_leased"):
        return False
    leased = section(cache, "leased", layout.LEASED_DTYPE)
    idle = _listed(leased, _fresh(cache, "free_leased"), "next_leased")
    return place.row in idle and place.field == "block"


def _dead_in_ranks(cache: nbkv.PagedKVCache, place: Place) -> bool:
    header = cache.header
    if header["policy"][0] != layout.LRU:
        return place.row >= int(header["heap_size"][0])
    mask, head, tail = (int(header[f"ring_{x}"][0]) for x in ("mask", "head", "tail"))
    if place.row > mask:
        return True
    at = head + ((place.row - head) & mask)
    in_hole = bool(header["ring_sweeping"][0]) and (
        int(header["ring_write"][0]) <= at < int(header["ring_read"][0])
    )
    return at >= tail or in_hole


def _dead_in_tables(cache: nbkv.PagedKVCache, place: Place) -> bool:
    row, column = divmod(place.row, _fresh(cache, "table_stride"))
    if row >= _fresh(cache, "num_fresh_rows"):
        return True
    return column >= int(cache.sequences["num_blocks"][row])


def is_free_value(cache: nbkv.PagedKVCache, place: Place) -> bool:
    """Tell whether nothing in the arena says what this should be."""
    if place.section == "header":
        return place.field in FREE_HEADER
    if place.section == "tokens":
        return not is_hashed(cache, place.row // cache.config.block_size)
    if place.section == "block_keys":
        return _is_unprovable_key(cache, place)
    if place.field == "flags":
        return bool(FREE_FLAGS.get(place.section, 0) & 1 << place.bit)
    return place.field in FREE_FIELDS.get(place.section, ())


def is_hashed(cache: nbkv.PagedKVCache, block_id: int) -> bool:
    """Tell whether a block's tokens can be hashed again: no salt, nothing gone before it."""
    flags, parent = (int(cache.blocks[x][block_id]) for x in ("flags", "parent"))
    if flags & (layout.INDEXED | layout.CALLER_KEYED) != layout.INDEXED:
        return False
    if parent != nbkv.NO_BLOCK:
        return bool(cache.blocks["flags"][parent] & layout.INDEXED)
    return not flags & (layout.DETACHED | layout.HAS_EXTRA)


def _is_unprovable_key(cache: nbkv.PagedKVCache, place: Place) -> bool:
    """Of a key that cannot be made again, the index holds 32 bits of the lower half."""
    if place.field == "num_keyed_tokens":
        return bool(cache.blocks["flags"][place.row] & layout.CALLER_KEYED)
    caller = cache.blocks["flags"][place.row] & layout.CALLER_KEYED
    if caller or is_hashed(cache, place.row):
        return False
    # A child's hash is made from the whole of its parent's, but not from its extra key.
    in_child = place.field == "hash_high" and cache.blocks["num_children"][place.row]
    return place.field in ("hash_high", "extra_key") and not in_child
