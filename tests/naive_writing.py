"""The model's sequences: opened, written to with copy-on-write, and closed."""

from collections import Counter
from collections.abc import Sequence

from naive_blocks import Block, Line, NaiveBlocks, Refused


class NaiveWriting(NaiveBlocks):
    """Slots for new tokens; the blocks are counted before anything changes."""

    max_sequences: int
    max_blocks_per_sequence: int
    max_extra_keys: int
    sequences: dict[int, Line]
    free_rows: list[int]
    num_rows: int
    arrivals: int

    # --- rows ------------------------------------------------------------------------
    def _line(self, seq_id: int) -> Line:
        if seq_id not in self.sequences:
            raise Refused("UnknownSequenceError")
        return self.sequences[seq_id]

    def _check_new(self, seq_id: int, num_extras: int = 0) -> None:
        if seq_id in self.sequences:
            raise Refused("DuplicateSequenceError")
        if len(self.sequences) == self.max_sequences:
            raise Refused("CapacityError")
        if num_extras + sum(len(x.extras) for x in self.sequences.values()) > self.max_extra_keys:
            raise Refused("CapacityError")

    def _line_or_new(self, seq_id: int) -> Line:
        if seq_id not in self.sequences:
            self._check_new(seq_id)
        return self.sequences.get(seq_id) or Line()

    def _open(self, seq_id: int, line: Line) -> None:
        """Give a new sequence a row: the one freed last, else one never used."""
        self.arrivals += 1
        line.seq_id, line.arrival = seq_id, self.arrivals
        line.row = self.free_rows.pop() if self.free_rows else self.num_rows
        self.num_rows = max(self.num_rows, line.row + 1)
        self.sequences[seq_id] = line

    def _close(self, line: Line) -> None:
        del self.sequences[line.seq_id]
        self.free_rows.append(line.row)
        self._release(line.blocks)
        self.total_deallocations += len(line.blocks)

    def _enter(
        self, seq_id: int, blocks: Sequence[Block | None], num_tokens: int, like: Line | None = None
    ) -> None:
        """Open a sequence over blocks that are there, with another one's identity."""
        self._begin()
        line = Line(list(blocks), num_tokens, num_committed=num_tokens)
        for block in line.blocks:
            self._hold(block)
        if like is not None:
            self._take_after(line, like, num_tokens)
        self._open(seq_id, line)
        self.cache_hits += 1

    def _take_after(self, line: Line, other: Line, num_tokens: int) -> None:
        """Take over what belongs to another sequence's first tokens."""
        line.ids = other.ids[:num_tokens]
        line.salt, line.extras, line.no_index = other.salt, other.extras, other.no_index
        # Only in a block that is filled in part can some tokens be another's.
        line.partial = other.partial and num_tokens % self.block_size != 0
        # A step that fails takes the tokens it computed from everybody who has them.
        line.last_step = other.last_step

    # --- counting --------------------------------------------------------------------
    def _check_settled(self, line: Line) -> None:
        """Single calls add committed tokens: none may be planned before them."""
        if line.num_tokens != line.num_committed:
            raise Refused("StepError")

    def _check_table(self, num_columns: int, num_holes: int = 0) -> None:
        # More blocks than the whole pool has are a lack of blocks, not of table entries.
        if (
            num_columns > self.max_blocks_per_sequence
            and num_columns - num_holes <= self.num_blocks
        ):
            raise Refused("CapacityError")

    def _must_copy(self, block: Block, offset: int, ref_count: int) -> bool:
        covered = block.indexed and block.num_keyed > offset
        pinned = block.pin_count > 0 and block.num_tokens > offset
        lost = covered and bool(self._children(block))
        return ref_count > 1 or pinned or bool(block.names) or lost

    def _columns_for(self, line: Line, count: int, lookahead: int = 0) -> int:
        return self._blocks_for(line.num_tokens + count + lookahead)

    def _needs(
        self, work: Sequence[tuple[Line, int]], lookahead: int = 0
    ) -> list[tuple[int, bool]]:
        """Of each in a batch: the blocks that writing will take, and if one is a copy."""
        needs, given_up = [], Counter()
        for line, count in work:
            at, offset = divmod(line.num_tokens, self.block_size)
            copy = False
            if count and at < len(line.table):
                block = line.table[at]
                left = block.ref_count - given_up[block]
                copy = line.partial or self._must_copy(block, offset, left)
                given_up[block] += copy
            target = self._columns_for(line, count, lookahead)
            self._check_table(target, line.first_block)
            needs.append((max(0, target - len(line.table)) + copy, copy))
        return needs

    # --- writing ---------------------------------------------------------------------
    def _append_block(self, line: Line) -> Block:
        block = self._take_new()
        line.table.append(block)
        self.last_changes.append((line.row, len(line.table) - 1, block.block_id))
        self.total_allocations += 1
        return block

    def _copy_tail(self, line: Line, sources: list[Block]) -> Block:
        at, offset = divmod(line.num_tokens, self.block_size)
        source = line.table[at]
        line.table[at] = target = self._take_new()
        line.partial = False
        source.ref_count -= 1
        sources.append(source)
        target.access_count = 2
        # If the step that copies fails, what it was to copy is not there either.
        target.ready_step = self.num_steps
        self.cow_copies += 1
        self.last_copies.append((source.block_id, target.block_id))
        self.last_kept.append(offset)
        self.last_changes.append((line.row, at, target.block_id))
        return target

    def _write(
        self, line: Line, count: int, copy: bool, sources: list[Block], lookahead: int = 0
    ) -> list[int]:
        """Write ``count`` tokens after the sequence's last; return their slots."""
        target = self._columns_for(line, count, lookahead)
        touched = [self._copy_tail(line, sources)] if copy else []
        slots = []
        for _ in range(count):
            at, offset = divmod(line.num_tokens, self.block_size)
            if at == len(line.table):
                touched.append(self._append_block(line))
            block = line.table[at]
            if block.indexed and block.num_keyed > offset:
                self._forget_key(block)
            if block not in touched:
                touched.append(block)
                block.access_count += 1
            block.num_tokens = offset + 1
            line.num_tokens += 1
            slots.append(block.block_id * self.block_size + offset)
        while len(line.table) < target:
            self._append_block(line)
        return slots

    def _write_all(
        self,
        work: Sequence[tuple[Line, int]],
        needs: Sequence[tuple[int, bool]],
        lookahead: int = 0,
    ) -> list[int]:
        """Write a batch whose blocks have been counted."""
        self._make_free(sum(need for need, _ in needs))
        slots, sources = [], []
        for (line, count), (_, copy) in zip(work, needs, strict=True):
            slots += self._write(line, count, copy, sources, lookahead)
        self._settle_sources(sources)
        return slots

    def _settle_sources(self, sources: list[Block]) -> None:
        """Let go of copies' sources last: none of them is handed out by the same call."""
        for source in dict.fromkeys(sources):
            self._settle([source])

    def _grow(self, work: Sequence[tuple[Line, int]]) -> list[int]:
        """Add tokens that are there at once."""
        needs = self._needs(work)
        self._check_available(sum(need for need, _ in needs))
        self._begin()
        slots = self._write_all(work, needs)
        for line, _ in work:
            line.num_committed = line.num_tokens
        return slots
