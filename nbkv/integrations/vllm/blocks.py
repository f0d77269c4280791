"""What vLLM holds in its hands: a block, and the line of those that are free."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nbkv._keyed_blocks import KeyedBlocks
from nbkv.layout import CACHED


class Block:
    """One block of a pool: always the same object, whose state lies in nbkv's arena.

    Attributes
    ----------
    block_id : int
    pool : BlockPool
    is_null : bool
        The placeholder, never handed out.
    """

    __slots__ = ("_blocks", "block_id", "is_null", "pool")

    def __init__(self, block_id: int, pool: Any, blocks: KeyedBlocks) -> None:
        self.block_id = block_id
        self.pool = pool
        self.is_null = block_id == 0
        self._blocks = blocks

    @property
    def ref_cnt(self) -> int:
        """How many hold it."""
        return int(self._blocks.ref_counts[self.block_id])

    @ref_cnt.setter
    def ref_cnt(self, count: int) -> None:
        """Hold it more often, or less: vLLM counts at some places itself."""
        change = count - self.ref_cnt
        if change > 0:
            self._blocks.hold([self.block_id] * change)
        elif change < 0:
            self._blocks.let_go([self.block_id] * -change)

    @property
    def block_hash(self) -> bytes | None:
        """What it is found by, the group behind it in 4 bytes; None where it is not."""
        return self._blocks.keys[self.block_id]

    @property
    def block_hash_num_tokens(self) -> int | None:
        """How many tokens its hash stands for."""
        if self.block_hash is None:
            return None
        return int(self.pool.num_hashed_tokens[self.block_id])

    def __repr__(self) -> str:
        return (
            f"Block(block_id={self.block_id}, ref_cnt={self.ref_cnt},"
            f" block_hash={self.block_hash!r})"
        )


class FreeBlockQueue:
    """The blocks that nobody holds, in the order in which they are handed out.

    Parameters
    ----------
    objects : list of Block
    blocks : KeyedBlocks
    """

    def __init__(self, objects: list[Block], blocks: KeyedBlocks) -> None:
        self._objects = objects
        self._blocks = blocks

    @property
    def num_free_blocks(self) -> int:
        """How many there are."""
        return self._blocks.num_free

    def get_all_free_blocks(self) -> list[Block]:
        """Return them all, those that can be found last, the oldest of them first.

        Returns
        -------
        list of Block
        """
        records = self._blocks.cache.blocks
        cached = np.flatnonzero(records["state"] == CACHED)
        cached = cached[np.argsort(records["last_access"][cached])]
        held = self._blocks.ref_counts > 0
        free = np.flatnonzero(~held & (records["state"] != CACHED))
        return [self._objects[i] for i in (*free.tolist(), *cached.tolist())]

    def iter_blocks_after(self, cursor: Block | None) -> Iterator[Block]:
        """Walk along them, behind a block or from the first one on.

        Parameters
        ----------
        cursor : Block or None
            Nothing follows one that is not among them.

        Yields
        ------
        Block
        """
        line = self.get_all_free_blocks()
        if cursor is None:
            yield from line
        elif cursor in line:
            yield from line[line.index(cursor) + 1 :]
