"""Each thing that an audit finds, by name."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lives import crowded

import nbkv
from nbkv import layout, violations
from nbkv.repairing.views import Views

Write = Callable[[Views, nbkv.PagedKVCache], None]


def set_to(records: str, row: Any, field: str | None, value: Any) -> Write:
    """Return what sets a field of one record; the row may be found from the cache."""

    def write(views: Views, cache: nbkv.PagedKVCache) -> None:
        array = getattr(views, records)
        at = row(views, cache) if callable(row) else row
        if field is None:
            array[at] = value(views, cache) if callable(value) else value
        else:
            array[field][at] = value(views, cache) if callable(value) else value

    return write


def row_of(seq_id: int) -> Callable[[Views, nbkv.PagedKVCache], int]:
    return lambda _, cache: cache.handle(seq_id) & 0xFFFFFFFF


def entry(seq_id: int, column: int) -> Callable[[Views, nbkv.PagedKVCache], tuple[int, int]]:
    return lambda _, cache: (cache.handle(seq_id) & 0xFFFFFFFF, column)


def block(seq_id: int, column: int) -> Callable[[Views, nbkv.PagedKVCache], int]:
    def find(_: Views, cache: nbkv.PagedKVCache) -> int:
        table = cache.block_table(seq_id)
        assert table is not None
        return int(table[column])

    return find


def one_where(records: str, test: Callable[[Any], Any]) -> Callable[..., int]:
    return lambda views, _: int(np.flatnonzero(test(getattr(views, records)))[0])


CACHED = one_where("blocks", lambda b: (b["state"] == layout.CACHED) & (b["flags"] & 32 == 0))
FREE = one_where("blocks", lambda b: (b["state"] == layout.FREE) & (b["alloc_order"] > 0))
FENCED = one_where("blocks", lambda b: b["flags"] & layout.FENCED != 0)
ADAPTERS = one_where("holds", lambda h: h > 0)
CALLERS = one_where("blocks", lambda b: b["flags"] & 17 == 17)
CHILD = one_where("blocks", lambda b: (b["parent"] >= 0) & (b["state"] == layout.HELD))
LEASE = one_where("leases", lambda x: x["state"] == 1)
NAME = one_where("names", lambda n: n["hash"] == 12)
SEQ_SLOT = one_where("seq_index", lambda i: i["tag"] != 0)
ACTIVE = row_of(0)
IDLE = one_where("sequences", lambda r: (r["state"] == 0) & (r["generation"] > 1))
EMPTY_SLOT = one_where("prefix_index", lambda i: i["occupant"] == 0)
FULL_SLOT = one_where("prefix_index", lambda i: i["occupant"] != 0)


def FIRST_LEASED(views: Views, _: nbkv.PagedKVCache) -> int:  # noqa: N802
    return int(views.leases["first_leased"][0])


def EXTRA(views: Views, cache: nbkv.PagedKVCache) -> int:  # noqa: N802
    """Return the last extra key of a sequence that has two."""
    first = int(views.sequence_keys["first_extra"][cache.handle(3) & 0xFFFFFFFF]) - 1
    return int(views.extras["next_extra"][first]) - 1


HEADER = [
    ("magic", 5, "header: magic is 5; its configuration makes it"),
    ("num_fresh_blocks", 65, "num_fresh_blocks is 65; it must be 0 to 64"),
    ("num_free_blocks", -1, "num_free_blocks is -1; it must be 0 to 64"),
    ("num_held_blocks", 3, r"num_blocks is 64"),
    ("alloc_counter", 3, "alloc_counter is 3 but total_allocations"),
    ("num_sequences", 2, "num_sequences is 2 but 3 are there"),
    ("num_external_holds", 9, "num_external_holds is 9 but 3 are there"),
    ("num_fenced_blocks", 0, "num_fenced_free is"),
    ("num_fenced_free", 0, "num_fenced_free is 0 but"),
    ("num_leases", 1, "num_leases is 1 but 2 are there"),
    ("num_leased_blocks", 2, "num_leased_blocks is 2 but"),
    ("num_extra_keys", 1, "num_extra_keys is 1 but 2 are there"),
    ("num_names", 2, "free names: it"),
    ("free_row", 77, "free rows: it has number 77; it may have"),
    ("free_row", 0, "free rows: it has number 0, which does not belong there"),
    ("free_head", 0, "free list: it has number 0, which does not belong there"),
    ("free_tail", 0, "free list: its last is number"),
    ("fence_tail", 0, "fence: its last is number"),
    ("free_lease", 0, "free leases: it has number -1"),
    ("free_leased", 0, "free leased records: it has number -1"),
    ("free_extra", 0, "free extra keys: it has number -1"),
    ("free_name", 0, "free names: it has number -1"),
    ("completed_step", 7, "waits for step 7, out of order or not in flight"),
]

CASES: list[tuple[Write, str]] = [
    (set_to("header", 0, field, value), words) for field, value, words in HEADER
] + [
    (set_to("blocks", block(0, 0), "ref_count", 9), "ref_count is 9 but 1 table entries hold it"),
    (set_to("blocks", ADAPTERS, "ref_count", 9), "0 table entries and 1 external holds do so"),
    (set_to("blocks", block(0, 0), "pin_count", 9), "pin_count is 9 but 2 leases cover it"),
    (set_to("blocks", block(0, 0), "state", 2), "state is 2; by its holders and flags it must"),
    (set_to("blocks", FREE, "state", 7), "state is 7; by its holders and flags it must be 0"),
    (set_to("blocks", block(0, 0), "flags", 165), "flags is 165; it must be 1"),
    (set_to("blocks", FREE, "flags", 128), "flags is 128; it must be 0"),
    (set_to("blocks", CACHED, "group", 1), "group is 1; it must be 0"),
    (set_to("blocks", CACHED, "priority", 1), "priority is 1; it must be 0"),
    (set_to("blocks", CACHED, "num_tokens", 3), "num_tokens is 3; it must be 0 to 2"),
    (set_to("blocks", CACHED, "alloc_order", 0), "alloc_order is 0; it must be 1 to"),
    (set_to("blocks", CACHED, "ready_step", 999), "ready_step is 999; it must be 0 to 7"),
    (set_to("blocks", CACHED, "last_access", 0), "last_access is 0; it must be 1 to"),
    (set_to("blocks", CACHED, "parent", 64), "parent is 64; it must be -1 to"),
    (set_to("blocks", CACHED, "child", 64), "child is 64; it must be -1 to"),
    (set_to("blocks", CACHED, "num_children", 5), "num_children is 5 but it is the parent of"),
    (set_to("blocks", ADAPTERS, "writer", 0), "writer is 0, a sequence row whose open tail it is"),
    (set_to("blocks", ADAPTERS, "child", FREE), "child is block"),
    (set_to("blocks", FENCED, "writer", 63), "says that block 63 is before it"),
    (set_to("blocks", FENCED, "fence_step", 1), "waits for step 1, out of order"),
    (set_to("holds", ADAPTERS, None, -1), "external_holds is -1; it must be 0 to 32767"),
    (set_to("keys", CACHED, "num_keyed_tokens", 1), "num_keyed_tokens is 1; it must be 2 to 2"),
    (set_to("keys", FREE, "num_keyed_tokens", 1), "num_keyed_tokens is 1; it must be 0"),
    (set_to("keys", CALLERS, "hash_high", 1), "hash_high is 1; it must be 0"),
    (set_to("keys", CALLERS, "extra_key", 1), "flags is"),
    (set_to("keys", CALLERS, "hash_low", 1), "it cannot be found in the index under its key"),
    (set_to("keys", block(0, 0), "hash_high", 1), "do not hash to its chain hash"),
    (set_to("keys", block(0, 0), "named_count", 1), "named_count is 1 but 3 names cover it"),
    (set_to("keys", FREE, "first_name", 1), "first_name is 1; it must be 0"),
    (set_to("keys", block(0, 0), "first_name", 77), "names of a leaf: it has number 76; it may"),
    (set_to("sequences", ACTIVE, "state", 2), "state is 2; it must be 0 to 1"),
    (set_to("sequences", ACTIVE, "generation", 0), "generation is 0; it must be 1 to"),
    (set_to("sequences", IDLE, "num_blocks", 1), "num_blocks is 1; it must be 0"),
    (set_to("sequences", ACTIVE, "num_blocks", 999), "num_blocks is 999; it must be 0 to 64"),
    (set_to("sequences", ACTIVE, "num_tokens", 999), "num_tokens is 999; it must be 0 to 8"),
    (set_to("sequences", ACTIVE, "num_committed", 9), "num_committed is 9; it must be 0 to 8"),
    (set_to("sequences", ACTIVE, "num_known", 8), "num_known is 8; it must be 0 to 7"),
    (set_to("sequences", ACTIVE, "num_hit_tokens", 9), "num_hit_tokens is 9; it must be 0 to 7"),
    (set_to("sequences", ACTIVE, "first_block", 1), "first_block is 1; it must be 0 to 0"),
    (set_to("sequences", ACTIVE, "flags", 2), "flags is 2; it must be 0"),
    (set_to("sequences", ACTIVE, "flags", 16), "flags is 16; it must be 0"),
    (set_to("sequences", ACTIVE, "arrival", -1), "arrival is -1; it must be 0 to"),
    (set_to("sequences", ACTIVE, "last_step", 99), "last_step is 99; it must be 0 to 7"),
    (set_to("sequences", ACTIVE, "void_step", -1), "void_step is -1; it must be 0 to 7"),
    (set_to("sequences", row_of(3), "tail_block", 63), "its open tail is offset 1 of block 63"),
    (set_to("sequences", row_of(3), "tail_writes", -1), "tail_writes is -1; it must be 0 to"),
    (set_to("sequences", ACTIVE, "seq_id", 9), "it cannot be found in the index under its key"),
    (set_to("sequence_keys", ACTIVE, "reserved", 1), "reserved is 1; it must be 0"),
    (set_to("tables", entry(0, 2), None, 77), "column 2 of its table has block 77; used"),
    (set_to("tables", entry(0, 1), None, block(0, 0)), "which a table has in column 0 too"),
    (set_to("tables", entry(1, 0), None, block(3, 1)), "in column 1 too|whose parent is not"),
    (set_to("extras", EXTRA, "end", 3), "it covers tokens 3 to 3, out of order"),
    (set_to("extras", EXTRA, "reserved", 3), "reserved is 3; it must be 0"),
    (set_to("extras", EXTRA, "next_extra", 99), "extra keys: it has number 98"),
    (set_to("extras", EXTRA, "next_extra", lambda v, c: EXTRA(v, c) + 1), "it stands in two lists"),
    (set_to("leases", LEASE, "state", 2), "lease 0: state is 2; it must be 0 to 1"),
    (set_to("leases", LEASE, "generation", 0), "lease 0: generation is 0"),
    (set_to("leases", LEASE, "reserved", 1), "lease 0: reserved is 1"),
    (set_to("leases", LEASE, "num_blocks", 99), "lease 0: num_blocks is 99"),
    (set_to("leases", LEASE, "num_blocks", 1), "does not end after its 1 records"),
    (set_to("leases", LEASE, "num_blocks", 9), "leased blocks: it has number -1"),
    (set_to("leased", 0, "block", 63), "leased record 0: block is 63; it must be 0 to"),
    (set_to("leases", 2, "first_leased", FIRST_LEASED), "it stands in two lists"),
    (set_to("names", NAME, "leaf", 1), "its leaf is block 1, which does not know it"),
    (set_to("names", NAME, "num_blocks", 1), "num_blocks is 1 but its leaf is 3 blocks from"),
    (set_to("names", NAME, "reserved", 1), "reserved is 1; it must be 0"),
    (set_to("names", NAME, "next_name", lambda v, c: NAME(v, c) + 1), "does not belong there"),
    (set_to("names", NAME, "hash", 1), "it cannot be found in the index under its key"),
    (set_to("prefix_index", EMPTY_SLOT, "tag", 5), "it is empty but its tag is 5"),
    (set_to("prefix_index", EMPTY_SLOT, "occupant", -5), "occupant is -5; it must be 0 to"),
    (set_to("prefix_index", EMPTY_SLOT, "occupant", 1), r"index has \d+ occupants but \d+ belong"),
    (set_to("prefix_index", FULL_SLOT, "tag", 5), "it cannot be found in the index"),
    (set_to("seq_index", SEQ_SLOT, "occupant", 0), "it is empty but its tag is"),
    (set_to("seq_index", SEQ_SLOT, None, 0), "the index has 2 occupants but 3 belong there"),
]  # fmt: skip


@pytest.mark.parametrize("policy", ["lru", "fifo", "frequency"])
def test_each_violation_is_named(policy: str) -> None:
    cache = crowded(policy)
    views = Views(cache.writable_arena(), cache.config)
    before = cache.arena.copy()
    others = []
    for write, words in CASES:
        write(views, cache)
        said = str(cache.find_violation())
        if not re.search(words, said):
            others.append((words, said))
        views.arena[:] = before
    assert others == []
    cache.check_integrity()


def test_padding_and_what_was_never_in_use_must_be_zero() -> None:
    cache = crowded("lru")
    arena = cache.writable_arena()
    arena[layout.HEADER_BYTES - 1] = 1
    with pytest.raises(nbkv.IntegrityError, match="bytes behind its fields are not zero"):
        cache.check_integrity()
    arena[layout.HEADER_BYTES - 1] = 0
    arena[int(cache.header["blocks_end"][0]) - 1] = 1
    with pytest.raises(nbkv.IntegrityError, match="blocks: row 63 has never been in use"):
        cache.check_integrity()


def test_the_runtime_sections_arrays_must_lie_where_they_belong() -> None:
    cache = crowded("lru")
    arena = cache.writable_arena()[layout.HEADER_BYTES :]
    runtime = arena[: layout.RUNTIME_DTYPE.itemsize].view(layout.RUNTIME_DTYPE)
    runtime["scratch_end"] += 4
    with pytest.raises(nbkv.IntegrityError, match="runtime: scratch_end is"):
        cache.check_integrity()


def test_every_code_has_words() -> None:
    found = np.zeros(6, np.int64)
    codes = [v for n, v in vars(violations).items() if n.isupper() and isinstance(v, np.int64)]
    assert len(codes) > 50
    for code in range(1, 45):
        assert violations.describe(code, found)
