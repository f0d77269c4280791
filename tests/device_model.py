"""A device that does what plans say, late and in order: what lies in a slot is compared.

The content of a slot is what its keys and values depend on: all tokens up to its own, with
salt and extra keys. If a sequence's slots hold what the sequence has said, then sharing,
copying, deduplication, eviction, windows and the fence have all been right.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from naive_blocks import Line
from naive_plans import Step
from naive_steps import NaiveSteps

#: Of one position: what was before it, its token, what its block depends on besides.
Said = tuple["Said | None", int, tuple]
_RUINED = (None, -1, ())


@dataclass
class Device:
    """A pool of slots, and the plans that have not been executed yet."""

    model: NaiveSteps
    pool: dict[int, Said | None] = field(default_factory=dict)
    waiting: deque[tuple[int, list[tuple[int, int, int]], list[tuple[int, Said]]]] = field(
        default_factory=deque
    )
    said: dict[Line, list[Said]] = field(default_factory=dict)

    def say(self, line: Line, start: int, tokens: Sequence[int]) -> list[Said]:
        """Let a sequence go on with these tokens from a position on."""
        said = self.said.setdefault(line, [])
        del said[start:]
        for token in tokens:
            column = len(said) // self.model.block_size
            key = self.model._extra_of(column, line.salt, line.extras)
            said.append((said[-1] if said else None, token, key))
        return said[start:]

    def plan(self, step: Step, tokens: Sequence[Sequence[int]]) -> None:
        """Take a plan whose entries have these tokens."""
        new = [
            said
            for entry, ids in zip(step.entries, tokens, strict=True)
            for said in self.say(entry.line, entry.start, ids)
        ]
        writes = list(zip(step.slot_mapping, new, strict=True))
        self.waiting.append((step.step_id, step.copies, writes))

    def run_until(self, step_id: int) -> None:
        """Execute plans: copies first, then the new tokens."""
        size = self.model.block_size
        while self.waiting and self.waiting[0][0] <= step_id:
            _, copies, writes = self.waiting.popleft()
            for source, target, kept in copies:
                for offset in range(kept):
                    self.pool[target * size + offset] = self.pool.get(source * size + offset)
            self.pool.update(writes)

    def fail(self, step_id: int) -> None:
        """Execute what came before; what did not succeed leaves anything in its slots."""
        self.run_until(step_id - 1)
        size = self.model.block_size
        for _, copies, writes in self.waiting:
            for _, target, kept in copies:
                self.pool.update((target * size + offset, _RUINED) for offset in range(kept))
            self.pool.update((slot, _RUINED) for slot, _ in writes)
        self.waiting.clear()

    def check(self, line: Line) -> None:
        """All of a sequence's committed tokens are where its table says."""
        size = self.model.block_size
        for position in range(line.first_block * size, line.num_committed):
            slot = line.table[position // size].block_id * size + position % size
            assert self.pool[slot] == self.said[line][position], (line.seq_id, position)
