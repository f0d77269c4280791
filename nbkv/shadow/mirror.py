"""nbkv's tables beside an engine's, and which block stands for which."""

from typing import Any

from nbkv._keyed_blocks import KeyedBlocks
from nbkv.layout import NO_BLOCK


class Mirror:
    """Tables of nbkv's blocks, paired with an engine's as long as their contents live.

    Parameters
    ----------
    num_blocks : int
        nbkv's.
    block_size : int

    Attributes
    ----------
    blocks : KeyedBlocks
    tables : dict
        Of each of the engine's sequences, in nbkv's block ids.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.blocks = KeyedBlocks(num_blocks, block_size)
        self.tables: dict[Any, list[int]] = {}
        self._num_blocks = num_blocks
        #: The pairs, both ways: blocks in tables, and what is cached.
        self._ours: dict[int, int] = {}
        self._theirs: dict[int, int] = {}

    @property
    def num_held(self) -> int:
        """Blocks in tables."""
        return self._num_blocks - self.blocks.num_free

    def find(self, theirs: int) -> int:
        """Return the block that stands for one of the engine's, or NO_BLOCK."""
        return self._ours.get(theirs, NO_BLOCK)

    def key_of(self, theirs: int) -> bytes | None:
        """Return what one of the engine's blocks is found by."""
        ours = self.find(theirs)
        return None if ours == NO_BLOCK else self.blocks.keys[ours]

    def is_held(self, theirs: int) -> bool:
        """Tell whether one of the engine's blocks is in a table."""
        ours = self.find(theirs)
        return ours != NO_BLOCK and bool(self.blocks.ref_counts[ours] > 0)

    def table(self, sequence: Any) -> list[int]:  # noqa: ANN401
        """Return a sequence's table in the engine's block ids."""
        return [self._theirs[block_id] for block_id in self.tables[sequence]]

    def hold(self, sequence: Any, ours: list[int]) -> None:  # noqa: ANN401
        """Open a table over blocks that are there."""
        self.blocks.hold(ours)
        self.tables[sequence] = list(ours)

    def add(self, sequence: Any, theirs: int) -> None:  # noqa: ANN401
        """Put a new block at the end of a table, for one that the engine has handed out."""
        if self.find(theirs) != NO_BLOCK:
            self.part(theirs)
        (block_id,), lost = self.blocks.take(1)
        for gone, _ in lost:
            del self._ours[self._theirs.pop(gone)]
        self._ours[theirs], self._theirs[block_id] = block_id, theirs
        self.tables[sequence].append(block_id)

    def exchange(self, sequence: Any, i: int, theirs: int) -> None:  # noqa: ANN401
        """Put another block into a table, in the place of one."""
        table = self.tables[sequence]
        before, table[i] = table[i], self.find(theirs)
        self.blocks.hold([table[i]])
        self._let_go([before])

    def close(self, sequence: Any) -> None:  # noqa: ANN401
        """Take a table's blocks back."""
        self._let_go(self.tables.pop(sequence))

    def part(self, theirs: int) -> None:
        """Let a block of the engine's stand for nothing: its content is gone."""
        ours = self._ours.pop(theirs)
        del self._theirs[ours]
        self.blocks.forget(ours)

    def tell_of(self, theirs: int) -> str:
        """Say what is known of one of the engine's blocks."""
        ours = self.find(theirs)
        holders = [name for name, table in self.tables.items() if ours in table]
        if holders:
            return f"block {theirs}, which sequence {holders[0]!r} holds"
        return f"block {theirs}, whose content is " + ("gone" if ours == NO_BLOCK else "another")

    def _let_go(self, ours: list[int]) -> None:
        if ours:
            self.blocks.let_go(ours[::-1])
        for block_id in ours:
            if self.blocks.ref_counts[block_id] == 0 and self.blocks.keys[block_id] is None:
                self.part(self._theirs[block_id])
