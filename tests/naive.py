"""A plain-Python model of the whole cache: the oracle of the tests.

Lists, dicts and deques, no numpy, nothing incremental that could be derived: what is
cached, who the children of a block are and which block goes first is looked up each
time. It is slow and meant to be checked by reading.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class Refused(Exception):
    """An operation that the cache must refuse.

    ``kind`` is the error's class name; ``detail`` for a lack of blocks (needed, evictable).
    """

    def __init__(self, kind: str, detail: tuple[int, int] | None = None) -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, detail


@dataclass(eq=False)
class Block:
    """What is known of one block."""

    block_id: int
    ref_count: int = 0
    num_tokens: int = 0
    chain_hash: int | None = None
    num_keyed: int = 0
    names: set[int] = field(default_factory=set)
    parent: "Block | None" = None
    access_count: int = 0
    alloc_order: int = 0
    released: int = 0

    @property
    def findable(self) -> bool:
        return self.chain_hash is not None or bool(self.names)


@dataclass(eq=False)
class Line:
    """One sequence: its table, how many tokens it has, how many of them were hits."""

    table: list[Block] = field(default_factory=list)
    num_tokens: int = 0
    num_hit_tokens: int = 0


class NaiveCache:
    """The semantics of `nbkv.PagedKVCache`, one rule a method."""

    def __init__(
        self,
        block_size: int,
        num_blocks: int,
        policy: str = "lru",
        max_sequences: int = 1024,
        max_blocks_per_sequence: int | None = None,
        max_named_prefixes: int | None = None,
        bytes_per_block: int = 1,
    ) -> None:
        self.block_size, self.num_blocks, self.policy = block_size, num_blocks, policy
        self.max_sequences = max_sequences
        self.max_blocks_per_sequence = max_blocks_per_sequence or num_blocks
        self.max_named_prefixes = max_named_prefixes or max(1024, num_blocks // 8)
        self.bytes_per_block = bytes_per_block
        self.blocks = [Block(i) for i in range(num_blocks)]
        self.free = deque(self.blocks)
        self.sequences: dict[int, Line] = {}
        self.names: dict[int, list[Block]] = {}
        self.num_allocated = self.num_releases = 0
        self.total_allocations = self.total_deallocations = 0
        self.cache_hits = self.cache_misses = self.evictions = self.cow_copies = 0
        self.last_evicted: list[int] = []
        self.last_copies: list[tuple[int, int]] = []

    # --- what is derived -------------------------------------------------------------
    @property
    def cached(self) -> list[Block]:
        return [b for b in self.blocks if b.ref_count == 0 and b.findable]

    @property
    def held(self) -> list[Block]:
        return [b for b in self.blocks if b.ref_count > 0]

    @property
    def stats(self) -> list[int]:
        return [
            self.total_allocations,
            self.total_deallocations,
            self.cache_hits,
            self.cache_misses,
            self.evictions,
            self.cow_copies,
        ]

    @property
    def hit_rate(self) -> float:
        asked = self.cache_hits + self.cache_misses
        return self.cache_hits / asked if asked else 0.0

    @property
    def utilization(self) -> float:
        return (self.num_blocks - len(self.free)) / self.num_blocks

    @property
    def memory_usage_bytes(self) -> int:
        return (self.num_blocks - len(self.free)) * self.bytes_per_block

    def fragmentation(self) -> float:
        held = self.held
        partly = [b for b in held if b.num_tokens < self.block_size]
        return len(partly) / len(held) if held else 0.0

    def block_table(self, seq_id: int) -> list[int] | None:
        line = self.sequences.get(seq_id)
        return None if line is None else [b.block_id for b in line.table]

    def num_cached_tokens(self, seq_id: int) -> int:
        line = self.sequences.get(seq_id)
        return 0 if line is None else line.num_tokens

    def num_hit_tokens(self, seq_id: int) -> int:
        line = self.sequences.get(seq_id)
        return 0 if line is None else line.num_hit_tokens

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _children(self, block: Block) -> list[Block]:
        return [b for b in self.blocks if b.parent is block]

    # --- blocks come and go ----------------------------------------------------------
    def _begin(self) -> None:
        self.last_evicted, self.last_copies = [], []

    def _check_available(self, needed: int, about_to_hold: Iterable[Block] = ()) -> None:
        usable = set(self.cached) - set(about_to_hold)
        if needed > len(self.free) + len(usable):
            raise Refused("OutOfBlocksError", (needed, len(usable)))

    def _check_table(self, num_blocks: int) -> None:
        # Longer than the whole pool is a lack of blocks, not of table entries.
        if self.max_blocks_per_sequence < num_blocks <= self.num_blocks:
            raise Refused("CapacityError")

    def _make_free(self, needed: int) -> None:
        while len(self.free) < needed:
            self._evict()

    def _evict(self) -> None:
        leaves = [b for b in self.cached if not self._children(b)]
        keys = {
            "lru": lambda b: b.released,
            "fifo": lambda b: b.alloc_order,
            "frequency": lambda b: (b.access_count, b.released),
        }
        # The oldest release is a leaf by itself; asking all cached blocks proves it.
        among = self.cached if self.policy == "lru" else leaves
        victim = min(among, key=keys[self.policy])
        assert victim in leaves
        # Its children are gone, so it is the last block of every name that it is under.
        dying = {name: self.names.pop(name)[:-1] for name in sorted(victim.names)}
        victim.names.clear()
        self._forget_key(victim)
        self.free.append(victim)
        for name, others in dying.items():
            self._drop_name(name, others)
        self.evictions += 1
        self.last_evicted.append(victim.block_id)

    def _drop_name(self, name: int, blocks: list[Block]) -> None:
        for block in blocks:
            block.names.discard(name)
            if not block.findable:
                block.parent = None
                if block.ref_count == 0:
                    self.free.append(block)

    def _forget_key(self, block: Block) -> None:
        block.chain_hash, block.num_keyed = None, 0
        self._unlink_if_lost(block)

    def _unlink_if_lost(self, block: Block) -> None:
        if not block.findable:
            block.parent = None

    def _take_new(self) -> Block:
        block = self.free.popleft()
        assert block.ref_count == 0
        assert not block.findable
        assert block.parent is None
        self.num_allocated += 1
        block.ref_count, block.num_tokens = 1, 0
        block.access_count, block.alloc_order = 1, self.num_allocated
        return block

    def _hold(self, block: Block) -> None:
        block.ref_count += 1
        block.access_count += 1

    def _release(self, blocks: list[Block]) -> None:
        """Let go of these, in table order: free ones head first, cached ones tail first."""
        for block in blocks:
            block.ref_count -= 1
        self._settle(blocks)

    def _settle(self, blocks: list[Block]) -> None:
        gone = [b for b in blocks if b.ref_count == 0]
        self.free.extend(b for b in gone if not b.findable)
        for block in reversed([b for b in gone if b.findable]):
            self.num_releases += 1
            block.released = self.num_releases

    def _settle_sources(self, sources: list[Block]) -> None:
        for source in dict.fromkeys(sources):
            self._settle([source])

    # --- writing ---------------------------------------------------------------------
    def _must_copy(self, block: Block, offset: int, ref_count: int) -> bool:
        covered = block.chain_hash is not None and block.num_keyed > offset
        return ref_count > 1 or bool(block.names) or (covered and bool(self._children(block)))

    def _plan(self, work: list[tuple[Line, int]]) -> tuple[int, list[bool]]:
        """Count the blocks that writing will take, and say who must copy first."""
        needed, copies, given_up = 0, [], Counter()
        for line, count in work:
            at, offset = divmod(line.num_tokens, self.block_size)
            copy = False
            if count and at < len(line.table):
                block = line.table[at]
                copy = self._must_copy(block, offset, block.ref_count - given_up[block])
                given_up[block] += copy
            copies.append(copy)
            target = self._blocks_for(line.num_tokens + count)
            self._check_table(target if count else 0)
            needed += max(0, target - len(line.table)) + copy
        return needed, copies

    def _write(self, line: Line, count: int, copy: bool, sources: list[Block]) -> list[int]:
        """Write ``count`` tokens after the sequence's last; return their slots."""
        fresh: list[Block] = []
        slots = []
        if copy:
            at = line.num_tokens // self.block_size
            source = line.table[at]
            line.table[at] = target = self._take_new()
            source.ref_count -= 1
            sources.append(source)
            target.access_count = 2
            fresh.append(target)
            self.cow_copies += 1
            self.last_copies.append((source.block_id, target.block_id))
        touched: list[Block] = []
        for _ in range(count):
            at, offset = divmod(line.num_tokens, self.block_size)
            if at == len(line.table):
                line.table.append(self._take_new())
                fresh.append(line.table[-1])
                self.total_allocations += 1
            block = line.table[at]
            if block.chain_hash is not None and block.num_keyed > offset:
                self._forget_key(block)
            if block not in fresh and block not in touched:
                touched.append(block)
                block.access_count += 1
            block.num_tokens = offset + 1
            line.num_tokens += 1
            slots.append(block.block_id * self.block_size + offset)
        return slots

    def _grow(self, work: list[tuple[Line, int]]) -> list[int]:
        needed, copies = self._plan(work)
        self._check_available(needed)
        self._begin()
        self._make_free(needed)
        slots, sources = [], []
        for (line, count), copy in zip(work, copies, strict=True):
            slots += self._write(line, count, copy, sources)
        self._settle_sources(sources)
        return slots

    # --- sequences -------------------------------------------------------------------
    def _line(self, seq_id: int) -> Line:
        if seq_id not in self.sequences:
            raise Refused("UnknownSequenceError")
        return self.sequences[seq_id]

    def _check_new(self, seq_id: int) -> None:
        if seq_id in self.sequences:
            raise Refused("DuplicateSequenceError")
        if len(self.sequences) == self.max_sequences:
            raise Refused("CapacityError")

    def _line_or_new(self, seq_id: int) -> Line:
        if seq_id not in self.sequences:
            self._check_new(seq_id)
        return self.sequences.get(seq_id) or Line()

    def allocate_block(self, seq_id: int) -> int:
        self._check_available(1)
        line = self._line_or_new(seq_id)
        self._check_table(len(line.table) + 1)
        self._begin()
        self._make_free(1)
        line.table.append(self._take_new())
        self.total_allocations += 1
        self.sequences[seq_id] = line
        return line.table[-1].block_id

    def allocate_blocks_for_tokens(self, seq_id: int, num_tokens: int) -> list[int]:
        if num_tokens < 0:
            raise Refused("ArgumentError")
        if num_tokens == 0:
            return []
        if self._blocks_for(num_tokens) > self.num_blocks:
            raise Refused("OutOfBlocksError")
        line = self._line_or_new(seq_id)
        before = len(line.table)
        self._grow([(line, num_tokens)])
        self.sequences[seq_id] = line
        return [b.block_id for b in line.table[before:]]

    def append_token(self, seq_id: int) -> int:
        line = self._line_or_new(seq_id)
        (slot,) = self._grow([(line, 1)])
        self.sequences[seq_id] = line
        return slot // self.block_size

    def append_tokens(self, seq_ids: Sequence[int], counts: Sequence[int]) -> list[int]:
        lines: list[Line] = []
        for seq_id, count in zip(seq_ids, counts, strict=True):
            line = self._line(seq_id)
            if line in lines:
                raise Refused("DuplicateSequenceError")
            if count < 0:
                raise Refused("ArgumentError")
            self._check_table(self._blocks_for(line.num_tokens + count) if count else 0)
            lines.append(line)
        return self._grow(list(zip(lines, counts, strict=True)))

    def free_sequence(self, seq_id: int) -> None:
        line = self._line(seq_id)
        self._begin()
        del self.sequences[seq_id]
        self._release(line.table)
        self.total_deallocations += len(line.table)

    def truncate(self, seq_id: int, num_tokens: int) -> None:
        line = self._line(seq_id)
        if not 0 <= num_tokens <= line.num_tokens:
            raise Refused("ArgumentError")
        self._begin()
        kept = self._blocks_for(num_tokens)
        dropped = line.table[kept:]
        del line.table[kept:]
        line.num_tokens = num_tokens
        line.num_hit_tokens = min(line.num_hit_tokens, num_tokens)
        self._release(dropped)
        self.total_deallocations += len(dropped)

    # --- sharing ---------------------------------------------------------------------
    def _enter(self, seq_id: int, blocks: list[Block], num_tokens: int) -> None:
        self._begin()
        for block in blocks:
            self._hold(block)
        self.sequences[seq_id] = Line(list(blocks), num_tokens)
        self.cache_hits += 1

    def share_prefix(self, source: int, target: int, num_blocks: int) -> None:
        line = self._line(source)
        # The one empty block that takes the next token may be shared, as in the seed.
        most = min(len(line.table), line.num_tokens // self.block_size + 1)
        if not 1 <= num_blocks <= most:
            raise Refused("PrefixError")
        self._check_new(target)
        tokens = min(line.num_tokens, num_blocks * self.block_size)
        self._enter(target, line.table[:num_blocks], tokens)

    def fork(self, source: int, target: int) -> None:
        line = self._line(source)
        self._check_new(target)
        self._enter(target, line.table[: self._blocks_for(line.num_tokens)], line.num_tokens)

    def _leads(self, line: Line, block_ids: Sequence[int]) -> bool:
        full = line.num_tokens // self.block_size
        return len(block_ids) <= full and all(
            b.block_id == i for b, i in zip(line.table, block_ids, strict=False)
        )

    def register_prefix(self, name: int, block_ids: Sequence[int]) -> None:
        if name in self.names and [b.block_id for b in self.names[name]] == list(block_ids):
            self._begin()
            return
        if name in self.names or not block_ids:
            raise Refused("PrefixError")
        owners = [x for x in self.sequences.values() if self._leads(x, block_ids)]
        if not owners:
            raise Refused("PrefixError")
        if len(self.names) == self.max_named_prefixes:
            raise Refused("CapacityError")
        self._begin()
        self.names[name] = owners[0].table[: len(block_ids)]
        parent = None
        for block in self.names[name]:
            block.names.add(name)
            block.parent = parent
            parent = block

    def lookup_prefix(self, name: int) -> list[int] | None:
        self._begin()
        if name not in self.names:
            self.cache_misses += 1
            return None
        self.cache_hits += 1
        return [b.block_id for b in self.names[name]]

    def attach_prefix(self, name: int, seq_id: int) -> None:
        if name not in self.names:
            raise Refused("PrefixError")
        self._check_new(seq_id)
        blocks = self.names[name]
        if len(blocks) > self.max_blocks_per_sequence:
            raise Refused("CapacityError")
        self._enter(seq_id, blocks, len(blocks) * self.block_size)

    def unregister_prefix(self, name: int) -> None:
        if name not in self.names:
            raise Refused("PrefixError")
        self._begin()
        self._drop_name(name, self.names.pop(name))

    # --- the caller's hashes ---------------------------------------------------------
    def _find_hits(self, hashes: Sequence[int], num_in_last: int) -> tuple[list[Block], int]:
        """Walk the longest cached prefix; also say how much of its last block is hit."""
        hits: list[Block] = []
        fill = self.block_size
        for j, chain_hash in enumerate(hashes):
            parent = hits[-1] if hits else None
            found = [b for b in self.blocks if b.chain_hash == chain_hash and b.parent is parent]
            if j < len(hashes) - 1:
                found = [b for b in found if b.num_keyed == self.block_size]
            else:
                found = [b for b in found if b.num_keyed <= num_in_last]
            if not found:
                break
            hits.append(max(found, key=lambda b: b.num_keyed))
            fill = hits[-1].num_keyed
        return hits, fill

    def add_sequence(
        self, seq_id: int, hashes: Sequence[int] = (), num_tokens: int | None = None
    ) -> None:
        size = self.block_size
        total = len(hashes) * size if num_tokens is None else num_tokens
        if total < 0 or (hashes and total <= (len(hashes) - 1) * size):
            raise Refused("ArgumentError")
        self._check_new(seq_id)
        num_in_last = min(size, total - (len(hashes) - 1) * size)
        hits, fill = self._find_hits(hashes, num_in_last)
        hit_tokens = (len(hits) - 1) * size + fill if hits else 0
        extends = len(hits) == len(hashes) and fill < num_in_last and bool(hits)
        copy = extends and self._must_copy(hits[-1], fill, hits[-1].ref_count + 1)
        needed = self._blocks_for(total) - len(hits) + copy
        self._check_table(self._blocks_for(total))
        self._check_available(needed, hits)
        self._begin()
        for block in hits:
            self._hold(block)
        self._make_free(needed)
        line = self.sequences[seq_id] = Line(list(hits), hit_tokens, hit_tokens)
        sources: list[Block] = []
        self._write(line, total - hit_tokens, copy, sources)
        self._index(line, hashes, num_in_last)
        self._settle_sources(sources)
        if hashes:
            self.cache_hits += bool(hits)
            self.cache_misses += not hits

    def _index(self, line: Line, hashes: Sequence[int], num_in_last: int) -> None:
        parent = None
        for j, chain_hash in enumerate(hashes):
            block = line.table[j]
            if block.chain_hash is not None:
                assert block.chain_hash == chain_hash
                assert block.parent is parent
            last = j == len(hashes) - 1
            block.chain_hash, block.parent = chain_hash, parent
            block.num_keyed = num_in_last if last else self.block_size
            parent = block
