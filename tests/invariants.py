"""The equations of `nbkv.layout` and DESIGN section 3, checked from the arena alone."""

from collections import Counter
from typing import Any

import numpy as np

from nbkv import PagedKVCache, layout

_BATCH_MARKS = layout.IN_BATCH | layout.COPY_TAIL | layout.DEFERRED | layout.PREEMPTED
# What a FREE block's flags may still say.
_AFTERLIFE = layout.FENCED | layout.DETACHED


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
    check_leases(cache)
    check_fence(cache)
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
        committed, holes = int(rows["num_committed"][r]), int(rows["first_block"][r])
        assert 0 <= committed <= tokens <= blocks * size <= cache.tables.shape[1] * size
        assert 0 <= rows["num_known"][r] <= committed
        assert 0 <= rows["num_hit_tokens"][r] <= committed
        assert holes <= blocks
        assert holes * size <= committed
        assert rows["generation"][r] >= 1
        assert not rows["flags"][r] & _BATCH_MARKS
        table = cache.tables[r, :blocks].tolist()
        assert table[:holes] == [layout.NO_BLOCK] * holes
        assert layout.NO_BLOCK not in table[holes:]
        assert len(set(table[holes:])) == blocks - holes
        check_open_tail(cache, r, table)
        tables.append(table)
    return tables


def check_open_tail(cache: PagedKVCache, row: int, table: list[int]) -> None:
    """An open tail is the private block of the next token, and knows its writer."""
    rows, blocks = cache.sequences, cache.blocks
    mine = [b for b in table if b != layout.NO_BLOCK and blocks["writer"][b] == row]
    if not rows["flags"][row] & layout.TAIL_OPEN:
        assert mine == []
        return
    column, offset = divmod(int(rows["num_tokens"][row]), cache.config.block_size)
    tail = int(rows["tail_block"][row])
    assert mine == [tail] == table[column : column + 1]
    assert rows["tail_fill"][row] == offset
    assert not rows["flags"][row] & layout.PARTIAL_HIT
    assert blocks["ref_count"][tail] == 1
    assert not blocks["flags"][tail] & layout.NAMED
    assert cache.block_keys["num_keyed_tokens"][tail] <= offset or not (
        blocks["flags"][tail] & layout.INDEXED
    )


def check_references(cache: PagedKVCache, tables: list[list[int]]) -> None:
    """Every reference is an entry of a table, and whoever holds a block holds its parent."""
    used = int(cache.header["num_fresh_blocks"][0])
    refs, parents, flags = row_lists(cache.blocks[:used], "ref_count", "parent", "flags")
    entries = Counter(b for table in tables for b in table if b != layout.NO_BLOCK)
    assert set(entries) <= set(range(used))
    external = section(cache, "external_holds", layout.INT16)[:used].tolist()
    assert min(external, default=0) >= 0
    assert sum(external) == cache.header["num_external_holds"][0] == cache.num_external_holds
    assert refs == [entries[b] + external[b] for b in range(used)]
    for b in range(used):
        linked = flags[b] & (layout.INDEXED | layout.NAMED)
        if external[b] and linked and parents[b] != layout.NO_BLOCK:
            assert external[parents[b]]
    for table in tables:
        for before, block in zip([layout.NO_BLOCK, *table], table, strict=False):
            if block != layout.NO_BLOCK and flags[block] & (layout.INDEXED | layout.NAMED):
                wanted = layout.NO_BLOCK if flags[block] & layout.DETACHED else before
                assert parents[block] == wanted


def check_leases(cache: PagedKVCache) -> None:
    """Every pin is a block of a lease that lasts."""
    header = cache.header
    leases = section(cache, "leases", layout.LEASE_DTYPE)[: int(header["num_fresh_leases"][0])]
    leased = section(cache, "leased", layout.LEASED_DTYPE)
    pins: Counter[int] = Counter()
    lasting = [x for x in leases if x["state"]]
    for lease in lasting:
        record = int(lease["first_leased"]) - 1
        for _ in range(int(lease["num_blocks"])):
            pins[int(leased["block"][record])] += 1
            record = int(leased["next_leased"][record]) - 1
        assert record == -1
    used = int(header["num_fresh_blocks"][0])
    assert cache.blocks["pin_count"][:used].tolist() == [pins[b] for b in range(used)]
    assert len(lasting) == header["num_leases"][0]
    assert sum(pins.values()) == header["num_leased_blocks"][0]


def check_states(cache: PagedKVCache) -> None:
    """FREE, HELD and CACHED partition the blocks, by the rules that define them."""
    header = cache.header
    used = int(header["num_fresh_blocks"][0])
    state, flags, refs, pins, tokens = row_lists(
        cache.blocks[:used], "state", "flags", "ref_count", "pin_count", "num_tokens"
    )
    for b in range(used):
        linked = flags[b] & (layout.INDEXED | layout.NAMED)
        held = refs[b] + pins[b] > 0
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
    """The free list holds exactly the FREE blocks past the fence, each once."""
    found = free_list(cache)
    used = int(cache.header["num_fresh_blocks"][0])
    state, flags = row_lists(cache.blocks[:used], "state", "flags")
    past = [b for b in range(used) if not flags[b] & layout.FENCED]
    assert sorted(found) == [b for b in past if state[b] == layout.FREE]
    assert int(cache.header["free_tail"][0]) == (found[-1] if found else layout.NO_BLOCK)


def check_fence(cache: PagedKVCache) -> None:
    """The fence holds exactly the FENCED blocks, none of them held, in order of their steps."""
    header = cache.header
    used = int(header["num_fresh_blocks"][0])
    state, flags, steps, after, before = row_lists(
        cache.blocks[:used], "state", "flags", "fence_step", "link", "writer"
    )
    found, block, last = [], int(header["fence_head"][0]), layout.NO_BLOCK
    while block != layout.NO_BLOCK:
        assert before[block] == last
        found.append(block)
        assert len(found) <= used
        last, block = block, after[block]
    assert int(header["fence_tail"][0]) == last
    assert sorted(found) == [b for b in range(used) if flags[b] & layout.FENCED]
    assert all(state[b] in (layout.FREE, layout.CACHED) for b in found)
    assert cache.num_fenced_blocks == header["num_fenced_blocks"][0] == len(found)
    assert header["num_fenced_free"][0] == sum(state[b] == layout.FREE for b in found)
    waits = [steps[b] for b in found]
    assert waits == sorted(waits)
    assert all(header["completed_step"][0] < x <= header["num_steps"][0] for x in waits)
    assert not waits or header["run_ahead"][0]
    assert header["completed_step"][0] <= header["num_steps"][0]
    assert header["committed_step"][0] <= header["num_steps"][0]


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
            assert not flags[b] & ~_AFTERLIFE
            continue
        if flags[b] & layout.DETACHED:
            assert parent[b] == layout.NO_BLOCK
            assert not flags[b] & layout.NAMED
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
    hashes, covered, extras = row_lists(
        cache.block_keys[:used], "hash_low", "num_keyed_tokens", "extra_key"
    )
    size = cache.config.block_size
    ids = section(cache, "tokens", layout.INT32)[: used * size].reshape(used, size).tolist()
    assert all(1 <= covered[b] <= size for b in indexed)
    keys: Counter[object] = Counter()
    for b in indexed:
        by_caller = bool(flags[b] & layout.CALLER_KEYED)
        assert by_caller or covered[b] == size
        assert bool(flags[b] & layout.HAS_EXTRA) == (extras[b] != 0)
        if parents[b] != layout.NO_BLOCK:
            assert bool(flags[parents[b]] & layout.CALLER_KEYED) == by_caller
        # What was cut from its parent may be there again.
        if not flags[b] & layout.DETACHED:
            content = hashes[b] if by_caller else (tuple(ids[b]), extras[b])
            keys[parents[b], covered[b], by_caller, content] += 1
    assert set(keys.values()) <= {1}


def check_ranks(cache: PagedKVCache) -> None:
    """The policy's order holds exactly the cached blocks that may be victims."""
    blocks, header = cache.blocks, cache.header
    used = int(header["num_fresh_blocks"][0])
    state, link, children, flags = row_lists(
        blocks[:used], "state", "link", "num_children", "flags"
    )
    past = [b for b in range(used) if not flags[b] & layout.FENCED]
    cached = [b for b in past if state[b] == layout.CACHED]
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
