"""The equations of `nbkv.layout` and DESIGN section 3, checked from the arena alone."""

from collections import Counter
from typing import Any

import numpy as np

from nbkv import PagedKVCache, layout


def section(cache: PagedKVCache, name: str, dtype: "np.dtype[Any]") -> "np.ndarray[Any, Any]":
    """View a whole section of the arena."""
    start, end = (int(cache.header[f"{name}_{edge}"][0]) for edge in ("start", "end"))
    return cache.arena[start : start + (end - start) // dtype.itemsize * dtype.itemsize].view(dtype)


def row_lists(records: "np.ndarray[Any, Any]", *fields: str) -> list[list[int]]:
    """Take fields out as plain lists: every later comparison is between Python ints."""
    return [records[field].tolist() for field in fields]


def assert_intact(cache: PagedKVCache) -> None:
    """Check every equation that ties the arena's records together."""
    tables = check_sequences(cache)
    check_references(cache, tables)
    check_states(cache)
    check_free_list(cache)
    check_links(cache)
    check_names(cache)
    check_prefix_index(cache)
    check_ranks(cache)


def check_sequences(cache: PagedKVCache) -> list[list[int]]:
    """Rows, the seq_id index and the tables agree; return the tables."""
    header, rows = cache.header, cache.sequences
    num_rows = int(header["num_fresh_rows"][0])
    active = [r for r in range(num_rows) if rows["state"][r] == layout.ROW_ACTIVE]
    assert len(active) == header["num_sequences"][0] == cache.num_sequences
    assert num_rows <= header["max_sequences"][0]
    idle, row = set(), int(header["free_row"][0])
    while row != layout.NO_ROW:
        assert row not in idle
        idle.add(row)
        row = int(rows["tail_block"][row])
    assert idle | set(active) == set(range(num_rows))
    assert not idle & set(active)
    indexed = section(cache, "seq_index", layout.INDEX_DTYPE)["occupant"]
    assert sorted(x - 1 for x in indexed.tolist() if x) == active
    ids = [int(rows["seq_id"][r]) for r in active]
    assert len(set(ids)) == len(ids)
    size = cache.config.block_size
    tables = []
    for r in active:
        tokens, blocks = int(rows["num_tokens"][r]), int(rows["num_blocks"][r])
        assert 0 <= tokens <= blocks * size
        assert 0 <= rows["num_known"][r] <= rows["num_committed"][r] <= tokens
        assert 0 <= rows["num_hit_tokens"][r] <= tokens
        assert rows["generation"][r] >= 1
        assert not rows["flags"][r] & (layout.IN_BATCH | layout.COPY_TAIL)
        table = cache.tables[r, :blocks].tolist()
        assert len(set(table)) == blocks
        check_open_tail(cache, r, table)
        tables.append(table)
    return tables


def check_open_tail(cache: PagedKVCache, row: int, table: list[int]) -> None:
    """An open tail is the private block of the next token, and knows its writer."""
    rows, blocks = cache.sequences, cache.blocks
    mine = [b for b in table if blocks["writer"][b] == row]
    if not rows["flags"][row] & layout.TAIL_OPEN:
        assert mine == []
        return
    column, offset = divmod(int(rows["num_tokens"][row]), cache.config.block_size)
    tail = int(rows["tail_block"][row])
    assert mine == [tail] == table[column : column + 1]
    assert rows["tail_fill"][row] == offset
    assert blocks["ref_count"][tail] == 1
    assert not blocks["flags"][tail] & layout.NAMED
    assert cache.block_keys["num_keyed_tokens"][tail] <= offset or not (
        blocks["flags"][tail] & layout.INDEXED
    )


def check_references(cache: PagedKVCache, tables: list[list[int]]) -> None:
    """Every reference is an entry of a table, and whoever holds a block holds its parent."""
    used = int(cache.header["num_fresh_blocks"][0])
    refs, pins, parents = row_lists(cache.blocks[:used], "ref_count", "pin_count", "parent")
    entries = Counter(b for table in tables for b in table)
    assert set(entries) <= set(range(used))
    external = section(cache, "external_holds", layout.INT16)[:used].tolist()
    assert min(external, default=0) >= 0
    assert sum(external) == cache.header["num_external_holds"][0] == cache.num_external_holds
    assert refs == [entries[b] + external[b] for b in range(used)]
    assert not any(pins)
    flags = cache.blocks["flags"][:used].tolist()
    for table in tables:
        for before, block in zip([layout.NO_BLOCK, *table], table, strict=False):
            if flags[block] & (layout.INDEXED | layout.NAMED):
                cut = flags[block] & layout.DETACHED
                assert parents[block] == (layout.NO_BLOCK if cut else before)
    for b in range(used):
        linked = flags[b] & (layout.INDEXED | layout.NAMED)
        if external[b] and linked and parents[b] != layout.NO_BLOCK:
            assert external[parents[b]]


def check_states(cache: PagedKVCache) -> None:
    """FREE, HELD and CACHED partition the blocks, by the rules that define them."""
    header = cache.header
    used = int(header["num_fresh_blocks"][0])
    state, flags, refs, tokens = row_lists(
        cache.blocks[:used], "state", "flags", "ref_count", "num_tokens"
    )
    for b in range(used):
        linked = flags[b] & (layout.INDEXED | layout.NAMED)
        held = refs[b] > 0
        assert state[b] == (layout.HELD if held else layout.CACHED if linked else layout.FREE)
        assert 0 <= tokens[b] <= cache.config.block_size
    count = Counter(state)
    num_free = count[layout.FREE] + cache.config.num_blocks - used
    assert cache.num_free_blocks == header["num_free_blocks"][0] == num_free
    assert cache.num_cached_blocks == header["num_cached_blocks"][0] == count[layout.CACHED]
    assert cache.num_held_blocks == header["num_held_blocks"][0] == count[layout.HELD]


def free_list(cache: PagedKVCache) -> list[int]:
    """Return the released free blocks in the order in which they will be handed out."""
    found, block = [], int(cache.header["free_head"][0])
    while block != layout.NO_BLOCK:
        found.append(block)
        assert len(found) <= cache.config.num_blocks
        block = int(cache.blocks["link"][block])
    return found


def check_free_list(cache: PagedKVCache) -> None:
    """The free list holds exactly the FREE blocks, each once."""
    found = free_list(cache)
    used = int(cache.header["num_fresh_blocks"][0])
    state = cache.blocks["state"][:used].tolist()
    assert sorted(found) == [b for b in range(used) if state[b] == layout.FREE]
    assert int(cache.header["free_tail"][0]) == (found[-1] if found else layout.NO_BLOCK)


def check_links(cache: PagedKVCache) -> None:
    """Parents count their linked children, and a cached block has no held child."""
    used = int(cache.header["num_fresh_blocks"][0])
    state, flags, parent, child, children = row_lists(
        cache.blocks[:used], "state", "flags", "parent", "child", "num_children"
    )
    linked = {b for b in range(used) if flags[b] & (layout.INDEXED | layout.NAMED)}
    count = Counter(parent[b] for b in linked)
    for b in range(used):
        if state[b] == layout.FREE:
            assert not flags[b]
            continue
        assert children[b] == count[b]
        if b not in linked:
            assert children[b] == 0
            assert parent[b] == layout.NO_BLOCK
        if child[b] != layout.NO_BLOCK:
            assert parent[child[b]] == b
    for b in linked:
        if parent[b] != layout.NO_BLOCK:
            assert parent[b] in linked
            assert state[parent[b]] != layout.FREE
            if state[b] == layout.HELD:
                assert state[parent[b]] == layout.HELD


def check_names(cache: PagedKVCache) -> None:
    """A name's blocks are its leaf's ancestors, and blocks count the names over them."""
    names = section(cache, "names", layout.NAME_DTYPE)
    occupants = section(cache, "name_index", layout.INDEX_DTYPE)["occupant"]
    living = [x - 1 for x in occupants.tolist() if x]
    assert len(living) == len(set(living)) == cache.header["num_names"][0]
    covered: Counter[int] = Counter()
    for name in living:
        block = int(names["leaf"][name])
        for _ in range(int(names["num_blocks"][name])):
            covered[block] += 1
            block = int(cache.blocks["parent"][block])
        assert block == layout.NO_BLOCK
    used = int(cache.header["num_fresh_blocks"][0])
    state, flags = row_lists(cache.blocks[:used], "state", "flags")
    assert cache.block_keys["named_count"][:used].tolist() == [covered[b] for b in range(used)]
    for b in range(used):
        if state[b] != layout.FREE:
            assert bool(flags[b] & layout.NAMED) == (covered[b] > 0)


def check_prefix_index(cache: PagedKVCache) -> None:
    """Exactly the INDEXED blocks are in the index, each with a key that can be a hit."""
    used = int(cache.header["num_fresh_blocks"][0])
    flags = cache.blocks["flags"][:used].tolist()
    indexed = [b for b in range(used) if flags[b] & layout.INDEXED]
    occupants = section(cache, "prefix_index", layout.INDEX_DTYPE)["occupant"]
    assert sorted(x - 1 for x in occupants.tolist() if x) == indexed
    (parents,) = row_lists(cache.blocks[:used], "parent")
    low, high, covered = row_lists(
        cache.block_keys[:used], "hash_low", "hash_high", "num_keyed_tokens"
    )
    assert all(1 <= covered[b] <= cache.config.block_size for b in indexed)
    # Those cut from their parents are found by nobody.
    found = [b for b in indexed if not flags[b] & layout.DETACHED]
    keys = {(parents[b], low[b], high[b], covered[b]) for b in found}
    assert len(keys) == len(found)


def check_ranks(cache: PagedKVCache) -> None:
    """The policy's order holds exactly the cached blocks that may be victims."""
    blocks, header = cache.blocks, cache.header
    used = int(header["num_fresh_blocks"][0])
    state, link, children = row_lists(blocks[:used], "state", "link", "num_children")
    cached = [b for b in range(used) if state[b] == layout.CACHED]
    if header["policy"][0] == layout.LRU:
        ring = section(cache, "ranks", layout.INT32).tolist()
        assert all(ring[link[b]] == b for b in cached)
        assert len({link[b] for b in cached}) == len(cached)
        return
    size = int(header["heap_size"][0])
    heap = section(cache, "ranks", layout.RANK_DTYPE)[:size]
    leaves = [b for b in cached if children[b] == 0]
    assert sorted(heap["block"].tolist()) == leaves
    ranks = list(zip(*row_lists(heap, "primary", "secondary"), strict=True))
    for at, block in enumerate(heap["block"].tolist()):
        assert link[block] == at
        if at:
            assert ranks[(at - 1) // 4] <= ranks[at]
