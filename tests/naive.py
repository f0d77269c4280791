"""A plain-Python model of the cache without steps: the oracle of the tests.

`naive_steps.NaiveSteps` adds planning and committing.
"""

from collections.abc import Sequence

from naive_blocks import Block, Line, Refused
from naive_names import NaiveNames

__all__ = ["Block", "Line", "NaiveCache", "Refused"]


class NaiveCache(NaiveNames):
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
        super().__init__(block_size, num_blocks, policy)
        self.max_sequences = max_sequences
        self.max_blocks_per_sequence = max_blocks_per_sequence or num_blocks
        self.max_named_prefixes = max_named_prefixes or max(1024, num_blocks // 8)
        self.max_extra_keys = max(1024, 4 * max_sequences)
        self.bytes_per_block = bytes_per_block
        self.sequences: dict[int, Line] = {}
        self.free_rows: list[int] = []
        self.num_rows = self.arrivals = 0

    # --- what can be asked -----------------------------------------------------------
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
        return (self.num_blocks - self.num_free) / self.num_blocks

    @property
    def memory_usage_bytes(self) -> int:
        return (self.num_blocks - self.num_free) * self.bytes_per_block

    def fragmentation(self) -> float:
        held = self.held
        partly = [b for b in held if b.num_tokens < self.block_size]
        return len(partly) / len(held) if held else 0.0

    def block_table(self, seq_id: int) -> list[int] | None:
        line = self.sequences.get(seq_id)
        return None if line is None else [-1 if b is None else b.block_id for b in line.table]

    def num_cached_tokens(self, seq_id: int) -> int:
        line = self.sequences.get(seq_id)
        return 0 if line is None else line.num_tokens

    def num_hit_tokens(self, seq_id: int) -> int:
        line = self.sequences.get(seq_id)
        return 0 if line is None else line.num_hit_tokens

    # --- single calls ----------------------------------------------------------------
    def allocate_block(self, seq_id: int) -> int:
        self._check_available(1)
        line = self._line_or_new(seq_id)
        self._check_settled(line)
        self._check_table(len(line.table) + 1, line.first_block)
        self._begin()
        self._make_free(1)
        block = self._append_block(line)
        if seq_id not in self.sequences:
            self._open(seq_id, line)
        return block.block_id

    def allocate_blocks_for_tokens(self, seq_id: int, num_tokens: int) -> list[int]:
        if num_tokens < 0:
            raise Refused("ArgumentError")
        if num_tokens == 0:
            return []
        if self._blocks_for(num_tokens) > self.num_blocks:
            raise Refused("OutOfBlocksError")
        line = self._line_or_new(seq_id)
        before = len(line.table)
        self._append(seq_id, line, num_tokens)
        return [b.block_id for b in line.table[before:]]

    def append_token(self, seq_id: int) -> int:
        return self._append(seq_id, self._line_or_new(seq_id), 1)[0] // self.block_size

    def _append(self, seq_id: int, line: Line, num_tokens: int) -> list[int]:
        self._check_settled(line)
        slots = self._grow([(line, num_tokens)])
        if seq_id not in self.sequences:
            self._open(seq_id, line)
        return slots

    def append_tokens(self, seq_ids: Sequence[int], counts: Sequence[int]) -> list[int]:
        lines: list[Line] = []
        for seq_id, count in zip(seq_ids, counts, strict=True):
            line = self._line(seq_id)
            if line in lines:
                raise Refused("DuplicateSequenceError")
            if count < 0:
                raise Refused("ArgumentError")
            self._check_settled(line)
            self._check_table(self._columns_for(line, count), line.first_block)
            lines.append(line)
        return self._grow(list(zip(lines, counts, strict=True)))

    def free_sequence(self, seq_id: int) -> None:
        line = self._line(seq_id)
        self._begin()
        self._close(line)

    # --- cutting and sharing ---------------------------------------------------------
    def _least_tokens(self, line: Line) -> int:
        """What the window has let go cannot come back: cut to this or more, or to 0."""
        return 0

    def _cut(self, line: Line, num_tokens: int) -> None:
        kept = self._blocks_for(num_tokens)
        dropped = [b for b in line.table[kept:] if b is not None]
        if kept <= line.num_tokens // self.block_size:
            line.partial = False  # the block that it used in part is gone
        del line.table[kept:]
        line.num_tokens = line.num_committed = num_tokens
        line.num_hit_tokens = min(line.num_hit_tokens, num_tokens)
        del line.ids[num_tokens:]
        line.void_step = self.num_steps
        self._release(dropped)
        self.total_deallocations += len(dropped)

    def truncate(self, seq_id: int, num_tokens: int) -> None:
        line = self._line(seq_id)
        if not 0 <= num_tokens <= line.num_committed:
            raise Refused("ArgumentError")
        if 0 < num_tokens < self._least_tokens(line):
            raise Refused("ArgumentError")
        self._begin()
        if any(end > num_tokens for _, end, _ in line.extras):
            line.no_index = True
        self._cut(line, num_tokens)

    def share_prefix(self, source: int, target: int, num_blocks: int) -> None:
        line = self._line(source)
        # The one empty block that takes the next token may be shared, as in the seed.
        most = min(len(line.table), line.num_committed // self.block_size + 1)
        if not 1 <= num_blocks <= most:
            raise Refused("PrefixError")
        tokens = min(line.num_committed, num_blocks * self.block_size)
        if tokens < self._least_tokens(line):
            raise Refused("ArgumentError")
        self._check_new(target, len(line.extras))
        self._enter(target, line.table[:num_blocks], tokens, line)

    def fork(self, source: int, target: int) -> None:
        line = self._line(source)
        self._check_new(target, len(line.extras))
        shared = line.table[: self._blocks_for(line.num_committed)]
        self._enter(target, shared, line.num_committed, line)
