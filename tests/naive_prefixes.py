"""The model's prefix tree over tokens: no hashes, a block's key is all that it depends on.

The key of a block is (parent block, its tokens, what else they depend on); a walk finds the
child that has it by looking at every block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from naive import NaiveCache
from naive_blocks import Block, Line, Refused

Extras = tuple[tuple[int, int, object], ...]


@dataclass
class Match:
    """What of a prompt is cached."""

    num_tokens: int
    hits: list[Block]
    source: Block | None  # a block of which the first tokens are hit as well
    num_partial_tokens: int
    block_size: int
    num_revived: int = 0  # blocks hit that are room for others until somebody holds them

    @property
    def num_hit_blocks(self) -> int:
        return len(self.hits)

    @property
    def num_hit_tokens(self) -> int:
        return len(self.hits) * self.block_size + self.num_partial_tokens

    @property
    def blocks(self) -> list[Block]:
        return self.hits + ([] if self.source is None else [self.source])


class NaivePrefixes(NaiveCache):
    """Matching, admission, and entering full blocks into the tree."""

    hit_visibility: str
    partial_reuse: bool
    dedup: bool
    watermark: int

    def _extra_of(self, column: int, salt: object, extras: Extras) -> tuple:
        """What a block depends on beside tokens: media over it; the salt at the root."""
        start, size = column * self.block_size, self.block_size
        over = [x for x in extras if x[0] < start + size and x[1] > start]
        # Where the block lies in a longer image, but not how far that reaches beyond it.
        key = tuple((first - start, min(end - start, size), digest) for first, end, digest in over)
        return ("salt", salt, *key) if column == 0 and salt is not None else key

    def _find(self, parent: Block | None, tokens: tuple[int, ...], extra: tuple) -> Block | None:
        found = [
            b
            for b in self.blocks
            if b.tokens == tokens and b.parent is parent and b.extra == extra and not b.detached
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def _visible(self, block: Block) -> bool:
        return self.hit_visibility == "planned" or block.ready_step <= self.completed_step

    def match_prefix(
        self,
        token_ids: Sequence[int],
        salt: object = None,
        extra_keys: Extras = (),
        max_hit_tokens: int | None = None,
    ) -> Match:
        size = self.block_size
        most = len(token_ids) if max_hit_tokens is None else min(max_hit_tokens, len(token_ids))
        hits: list[Block] = []
        while len(hits) < min(most // size, self.max_blocks_per_sequence):
            column = len(hits)
            block = self._find(
                hits[-1] if hits else None,
                tuple(token_ids[column * size : (column + 1) * size]),
                self._extra_of(column, salt, extra_keys),
            )
            if block is None or not self._visible(block):
                break
            hits.append(block)
        match = Match(len(token_ids), hits, None, 0, size)
        if self.partial_reuse and hits and len(hits) < self.max_blocks_per_sequence:
            child = hits[-1].child
            rest = token_ids[len(hits) * size : most][: size - 1]
            extra = self._extra_of(len(hits), salt, extra_keys)
            if child is not None and child.tokens is not None and child.extra == extra:
                alike = [a == b for a, b in zip(rest, child.tokens, strict=False)]
                common = [*alike, False].index(False)
                if common and self._visible(child):
                    match.source, match.num_partial_tokens = child, common
        match.num_revived = len([b for b in match.blocks if b in self.evictable])
        return match

    def can_admit(self, match: Match, reserve_tokens: int | None = None) -> bool:
        tokens = match.num_tokens if reserve_tokens is None else reserve_tokens
        # A block used in part will be copied: it does not save one.
        needed = self._blocks_for(tokens) - match.num_hit_blocks
        return needed <= self.num_usable - match.num_revived - self.watermark

    def admit(
        self,
        seq_id: int,
        token_ids: Sequence[int],
        salt: object = None,
        extra_keys: Extras = (),
        max_hit_tokens: int | None = None,
        reserve_tokens: int = 0,
        must_fit: bool = False,
        arrival: int | None = None,
    ) -> int:
        """Return the hit tokens; the handle is the engine's affair."""
        self._check_new(seq_id, len(extra_keys))
        match = self.match_prefix(token_ids, salt, extra_keys, max_hit_tokens)
        self._check_table(self._blocks_for(max(reserve_tokens, must_fit * len(token_ids))))
        if must_fit and not self.can_admit(match):
            raise Refused("OutOfBlocksError")
        needed = max(0, self._blocks_for(reserve_tokens) - len(match.blocks))
        # The hits that nobody holds are about to be: they are no room for the rest.
        self._check_available(needed, match.num_revived)
        self._begin()
        line = Line(list(match.blocks), match.num_hit_tokens, match.num_hit_tokens)
        line.num_committed = match.num_hit_tokens
        line.ids = list(token_ids[: match.num_hit_tokens])
        line.salt, line.extras, line.partial = salt, tuple(extra_keys), match.source is not None
        for block in match.blocks:
            self._hold(block)
        self._make_free(needed)
        self._open(seq_id, line)
        line.arrival = line.arrival if arrival is None else arrival
        for _ in range(needed):
            self._append_block(line)
        self.cache_hits += match.num_hit_tokens > 0
        self.cache_misses += match.num_hit_tokens == 0 and len(token_ids) > 0
        return match.num_hit_tokens

    def truncate(self, seq_id: int, num_tokens: int) -> None:
        super().truncate(seq_id, num_tokens)
        line = self.sequences[seq_id]
        if num_tokens % self.block_size:
            tail = line.table[-1]
            own = self._extra_of(len(line.table) - 1, line.salt, line.extras)
            if tail.tokens is not None and tail.extra != own:
                # An attached prefix of another tenant's, say: what is written after these
                # tokens has no key of this sequence's.
                line.no_index = True

    def _publish(self, line: Line, column: int, step_id: int) -> None:
        """A block has become full: let it be found, or let another take its place."""
        size = self.block_size
        block = line.table[column]
        block.ready_step = step_id
        if line.no_index or len(line.ids) < (column + 1) * size:
            return
        parent = line.table[column - 1] if column else None
        if column and (parent is None or parent.tokens is None or parent.detached):
            return
        tokens = tuple(line.ids[column * size : (column + 1) * size])
        extra = self._extra_of(column, line.salt, line.extras)
        existing = self._find(parent, tokens, extra)
        if existing is None and not block.detached:
            self._enter_tree(block, parent, tokens, extra)
        elif existing not in (None, block) and self._may_replace(block, existing, step_id):
            self._hold(existing)
            line.table[column] = existing
            self.last_changes.append((line.row, column, existing.block_id))
            self._release([block])
            self.total_deallocations += 1

    def _enter_tree(
        self, block: Block, parent: Block | None, tokens: tuple[int, ...], extra: tuple
    ) -> None:
        assert not block.indexed
        if not block.findable:
            self._link(block, parent)
        assert block.parent is parent
        block.tokens, block.extra, block.num_keyed = tokens, extra, self.block_size

    def _may_replace(self, block: Block, existing: Block, step_id: int) -> bool:
        """What this same commit has filled is no target before the next one."""
        private = block.ref_count == 1 and block.pin_count == 0 and not block.names
        usable = self._visible(existing) and existing.ready_step != step_id
        return self.dedup and private and usable
