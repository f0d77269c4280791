"""`Shadow`: what an engine's calls are compared by."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nbkv.hashing import hash_tokens
from nbkv.layout import NO_BLOCK
from nbkv.shadow.differences import Difference, ShadowError
from nbkv.shadow.mirror import Mirror

_KEY_BYTES = 16


class Shadow:
    """Follows an engine's block manager and stops at the first difference.

    Parameters
    ----------
    num_blocks : int
        The engine's.
    block_size : int
        Tokens a block.
    raise_missed_hits : bool
        Whether it is a difference that the engine computes what it has cached; it is counted
        in `num_missed_hits` otherwise.
    room : int
        How many times the engine's blocks nbkv has, to keep what the engine may keep.

    Attributes
    ----------
    step : int
    difference : Difference or None
        The first; nothing is compared after it.
    num_calls, num_hit_blocks, num_missed_hits : int
        Calls compared; blocks hit; sequences that hit less than was cached.
    """

    def __init__(
        self, num_blocks: int, block_size: int, *, raise_missed_hits: bool = True, room: int = 4
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.raise_missed_hits = raise_missed_hits
        self.step = 0
        self.difference: Difference | None = None
        self.num_calls = self.num_hit_blocks = self.num_missed_hits = 0
        self._mirror = Mirror(num_blocks * room, block_size)

    def next_step(self) -> None:
        """Begin a step, for what differences say."""
        self.step += 1

    def opened(
        self,
        call: str,
        sequence: Any,  # noqa: ANN401
        table: Sequence[int],
        token_ids: Sequence[int],
        num_hit_blocks: int = 0,
    ) -> None:
        """Compare a new sequence: its first blocks are hits, the others new.

        Parameters
        ----------
        call : str
        sequence : hashable
        table : sequence of int
            The engine's block ids.
        token_ids : sequence of int
            Of its prompt.
        num_hit_blocks : int

        Raises
        ------
        ShadowError
        """
        if not self._begin(call, sequence, alive=False):
            return
        keys, mirror = self._keys(token_ids), self._mirror
        for i, theirs in enumerate(table[:num_hit_blocks]):
            if i >= len(keys) or mirror.key_of(theirs) != keys[i]:
                what = f"the content of hit {i}"
                expected = f"tokens {i * self.block_size} to {(i + 1) * self.block_size - 1}"
                self._differ(call, sequence, what, expected, mirror.tell_of(theirs))
        mirror.hold(sequence, [mirror.find(theirs) for theirs in table[:num_hit_blocks]])
        self.num_hit_blocks += num_hit_blocks
        self._check_missed(call, sequence, keys[: (len(token_ids) - 1) // self.block_size])
        self._add_new(call, sequence, table)

    def grown(self, call: str, sequence: Any, table: Sequence[int]) -> None:  # noqa: ANN401
        """Compare a table that has new blocks at its end, or none.

        Parameters
        ----------
        call : str
        sequence : hashable
        table : sequence of int
            All of it.

        Raises
        ------
        ShadowError
        """
        if self._begin(call, sequence):
            self._add_new(call, sequence, table)

    def forked(
        self,
        call: str,
        sequence: Any,  # noqa: ANN401
        table: Sequence[int],
        source: Any,  # noqa: ANN401
        num_shared: int,
    ) -> None:
        """Compare a sequence that begins with another one's blocks; what follows is new.

        Parameters
        ----------
        call : str
        sequence, source : hashable
        table : sequence of int
        num_shared : int

        Raises
        ------
        ShadowError
        """
        if not self._begin(call, sequence, alive=False):
            return
        if source not in self._mirror.tables:
            self._differ(call, source, "the sequence has", "blocks", "none")
        self._mirror.hold(sequence, self._mirror.tables[source][:num_shared])
        self._add_new(call, sequence, table)

    def filled(
        self,
        call: str,
        sequence: Any,  # noqa: ANN401
        table: Sequence[int],
        token_ids: Sequence[int],
        num_full_blocks: int,
    ) -> None:
        """Compare a table whose first blocks are findable now.

        Parameters
        ----------
        call : str
        sequence : hashable
        table : sequence of int
            Where an entry has changed, it must be for a block of the same content.
        token_ids : sequence of int
            Of the first blocks at least.
        num_full_blocks : int

        Raises
        ------
        ShadowError
        """
        if not self._begin(call, sequence):
            return
        mirror, ours = self._mirror, self._mirror.tables[sequence]
        keys = self._keys(token_ids[: num_full_blocks * self.block_size])
        for i, (key, theirs) in enumerate(zip(keys, table[: len(ours)], strict=False)):
            if mirror.find(theirs) != ours[i]:
                self._check_exchange(call, sequence, i, theirs, key)
                mirror.exchange(sequence, i, theirs)
            elif mirror.key_of(theirs) is None:
                mirror.blocks.publish([ours[i]], [key])
            elif mirror.key_of(theirs) != key:
                what, got = f"the content of block {i}", mirror.tell_of(theirs)
                self._differ(call, sequence, what, "what was written to it before", got)
        self._compare(call, sequence, table)

    def closed(self, call: str, sequence: Any, table: Sequence[int] | None = None) -> None:  # noqa: ANN401
        """Compare a table for the last time: its sequence ends or is preempted.

        Parameters
        ----------
        call : str
        sequence : hashable
        table : sequence of int, optional
            As it was; not compared when omitted.

        Raises
        ------
        ShadowError
        """
        if not self._begin(call, sequence):
            return
        if table is not None:
            self._compare(call, sequence, table)
        self._mirror.close(sequence)

    def evicted(self, block_ids: Iterable[int]) -> None:
        """Take in that the engine finds blocks no more; those in tables are left alone.

        Parameters
        ----------
        block_ids : iterable of int
            The engine's.
        """
        for theirs in block_ids:
            if self._mirror.find(theirs) != NO_BLOCK and not self._mirror.is_held(theirs):
                self._mirror.part(theirs)

    def check_free(self, call: str, num_free: int) -> None:
        """Compare how many blocks are in no table, cached ones among them.

        Parameters
        ----------
        call : str
        num_free : int
            The engine's count.

        Raises
        ------
        ShadowError
        """
        if self.difference is None:
            expected = self.num_blocks - self._mirror.num_held
            if num_free != expected:
                self._differ(call, None, "free blocks", expected, num_free)

    def _begin(self, call: str, sequence: Any, *, alive: bool = True) -> bool:  # noqa: ANN401
        if self.difference is not None:
            return False
        self.num_calls += 1
        if (sequence in self._mirror.tables) != alive:
            states = "none", "blocks"
            self._differ(call, sequence, "the sequence has", states[alive], states[not alive])
        return True

    def _keys(self, token_ids: Sequence[int]) -> list[bytes]:
        data = hash_tokens(np.array(token_ids, np.int32), self.block_size).tobytes()
        return [data[at : at + _KEY_BYTES] for at in range(0, len(data), _KEY_BYTES)]

    def _check_missed(self, call: str, sequence: Any, keys: list[bytes]) -> None:  # noqa: ANN401
        """Look whether the engine has cached more than was hit."""
        num_hit = len(self._mirror.tables[sequence])
        if num_hit < len(keys) and self._mirror.blocks.find_one(keys[num_hit]) != NO_BLOCK:
            self.num_missed_hits += 1
            if self.raise_missed_hits:
                self._differ(call, sequence, "hit blocks", f"{num_hit + 1} or more", num_hit)

    def _check_exchange(
        self,
        call: str,
        sequence: Any,  # noqa: ANN401
        i: int,
        theirs: int,
        key: bytes,
    ) -> None:
        """Refuse a block in the place of another one whose content it has not."""
        if self._mirror.key_of(theirs) != key:
            expected = f"block {self._mirror.table(sequence)[i]}, or one of its content"
            self._differ(call, sequence, f"entry {i}", expected, self._mirror.tell_of(theirs))

    def _add_new(self, call: str, sequence: Any, table: Sequence[int]) -> None:  # noqa: ANN401
        """Take a block for each that the engine has handed out, and compare the table."""
        for theirs in table[len(self._mirror.tables[sequence]) :]:
            if self._mirror.is_held(theirs):
                got = self._mirror.tell_of(theirs)
                self._differ(call, sequence, "a new block", "one in no table", got)
            self._mirror.add(sequence, theirs)
        self._compare(call, sequence, table)

    def _compare(self, call: str, sequence: Any, table: Sequence[int]) -> None:  # noqa: ANN401
        expected = self._mirror.table(sequence)
        if expected != list(table):
            self._differ(call, sequence, "the block table", expected, list(table))

    def _differ(self, call: str, sequence: Any, what: str, expected: Any, got: Any) -> None:  # noqa: ANN401
        self.difference = Difference(self.step, call, sequence, what, expected, got)
        raise ShadowError(self.difference)
