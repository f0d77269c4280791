"""The model's prefixes under the caller's names and hashes."""

from collections.abc import Sequence

from naive_blocks import Block, Line, Refused
from naive_writing import NaiveWriting


class NaiveNames(NaiveWriting):
    """Named prefixes, and sequences whose blocks the caller has hashed."""

    max_named_prefixes: int

    def _leads(self, line: Line, block_ids: Sequence[int]) -> bool:
        full = line.num_committed // self.block_size
        if len(block_ids) > full:
            return False
        leading = line.table[: len(block_ids)]
        # A block cut from its parent cannot be found from a name's last block.
        return all(
            b is not None and b.block_id == i and not b.detached
            for b, i in zip(leading, block_ids, strict=True)
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
            if not block.findable:
                self._link(block, parent)
            assert block.parent is parent
            block.names.add(name)
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
        if blocks[-1].tokens is not None:
            self.sequences[seq_id].ids = [t for b in blocks for t in b.tokens]

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
            found = [b for b in found if not b.detached]
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
        self._check_available(needed, len([b for b in hits if b.evictable]))
        self._begin()
        for block in hits:
            self._hold(block)
        self._make_free(needed)
        line = Line(list(hits), hit_tokens, hit_tokens)
        self._open(seq_id, line)
        sources: list[Block] = []
        self._write(line, total - hit_tokens, copy, sources)
        line.num_committed = line.num_tokens
        self._index(line, hashes, num_in_last)
        self._settle_sources(sources)
        if hashes:
            self.cache_hits += bool(hits)
            self.cache_misses += not hits

    def _index(self, line: Line, hashes: Sequence[int], num_in_last: int) -> None:
        parent = None
        for j, chain_hash in enumerate(hashes):
            block = line.table[j]
            if not block.findable:
                self._link(block, parent)
            if block.chain_hash is not None:
                assert block.chain_hash == chain_hash
            assert block.parent is parent
            last = j == len(hashes) - 1
            block.chain_hash = chain_hash
            block.num_keyed = num_in_last if last else self.block_size
            parent = block
