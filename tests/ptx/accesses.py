"""What the threads touched: races between them, and the traffic of their warps."""

from dataclasses import dataclass, field

import numpy as np

from ptx.faults import RaceError
from ptx.kernel import Instruction
from ptx.values import Array

SECTOR_BYTES = 32
WARP_SIZE = 32
READ, WRITE, ATOMIC = 1, 2, 4


@dataclass
class Traffic:
    """Global accesses of one direction and width (bytes a lane).

    A request is one instruction of one warp. `ideal_sectors` is what its bytes would fill if
    they lay side by side; a request of 32 lanes of 16 bytes moves 16 sectors of 32 bytes.
    `excess_sectors` adds up what single requests moved beyond that: lanes that share an address
    move less, and would hide others that scatter in the difference of the two sums.
    """

    requests: int = 0
    num_bytes: int = 0
    sectors: int = 0
    ideal_sectors: int = 0
    excess_sectors: int = 0

    def count(self, warp: Array, address: Array, width: int) -> None:
        """Add one instruction's accesses; `warp` ascends."""
        first = np.flatnonzero(np.diff(warp, prepend=-1))
        num_lanes = np.diff(first, append=warp.size)
        sector = address.view(np.int64) // SECTOR_BYTES
        order = np.lexsort((sector, warp))
        new = np.diff(sector[order], prepend=-1) != 0
        new[first] = True
        moved = np.add.reduceat(new, first, dtype=np.int64)
        ideal = -(-num_lanes * width // SECTOR_BYTES)
        self.requests += first.size
        self.num_bytes += width * address.size
        self.sectors += int(moved.sum())
        self.ideal_sectors += int(ideal.sum())
        self.excess_sectors += int(np.maximum(moved - ideal, 0).sum())


@dataclass
class _Access:
    """One instruction's accesses; the arrays have an entry a lane."""

    kind: int
    size: int
    address: Array
    thread: Array
    phase: Array
    warp_phase: Array
    instruction: Instruction

    def words(self, size: int) -> Array:
        """Return the numbers of the words of `size` bytes that were touched, lanes first."""
        step = np.arange(self.size // size)
        return (self.address[:, None] // size + step).reshape(-1)


@dataclass
class AccessLog:
    """Every access of a launch to one space, kept to look for races when it has ended.

    Two accesses to one byte by different threads conflict when one of them writes, unless a
    barrier orders them: ``bar.sync`` orders a block's threads (`phase` counts them),
    ``bar.warp.sync`` a warp's (`warp_phase`). Blocks are never ordered. Atomics do not
    conflict with each other, but with plain accesses.
    """

    space: str
    threads_per_block: int
    accesses: list[_Access] = field(default_factory=list)

    def add(
        self,
        kind: int,
        size: int,
        address: Array,
        thread: Array,
        phases: tuple[Array, Array],
        instruction: Instruction,
    ) -> None:
        """Note `thread`'s accesses of `size` bytes at `address`, in their barrier phases."""
        signed = address.view(np.int64)
        self.accesses.append(_Access(kind, size, signed, thread, *phases, instruction))

    def check(self) -> None:
        """Raise RaceError for the first conflict, naming both instructions and threads."""
        changes = [access for access in self.accesses if access.kind != READ]
        if not changes:
            return
        # Every access is aligned to its size, so the smallest divides them all.
        size = min(access.size for access in changes)
        changed = _changed_words(changes, size)
        narrow = [
            access.size
            for access in self.accesses
            if access.size < size and _contains(changed, access.address // size).any()
        ]
        if narrow:
            size = min(narrow)
            changed = _changed_words(changes, size)
        events = _Events.of(self.accesses, size, changed, self.threads_per_block)
        for group, actor in events.levels():
            conflict = events.find_conflict(group, actor)
            if conflict is not None:
                raise RaceError(self._describe(events, *conflict))

    def _describe(self, events: "_Events", one: int, other: int) -> str:
        sides = []
        for event in sorted((one, other), key=lambda event: int(events.number[event])):
            thread = int(events.thread[event])
            block, lane = divmod(thread, self.threads_per_block)
            instruction = self.accesses[events.number[event]].instruction
            sides.append(f"thread {lane} of block {block} at {instruction}")
        return f"{self.space} memory, no barrier between: " + "; and ".join(sides)


def _changed_words(changes: list[_Access], size: int) -> Array:
    """Return the numbers of the words that were written, each once, ascending."""
    # Sorting beats np.unique, which hashes.
    words = np.sort(np.concatenate([access.words(size) for access in changes]))
    return words[np.diff(words, prepend=words[0] - 1) != 0]


def _contains(ascending: Array, values: Array) -> Array:
    """Whether each value is among ascending ones, of which there is at least one."""
    place = np.searchsorted(ascending, values)
    return ascending[np.minimum(place, ascending.size - 1)] == values


@dataclass
class _Events:
    """Accesses split into words and sorted by word, block, phase, warp and warp phase."""

    word: Array
    block: Array
    phase: Array
    warp: Array
    warp_phase: Array
    thread: Array
    kind: Array
    number: Array

    @classmethod
    def of(
        cls, accesses: list[_Access], size: int, changed: Array, threads_per_block: int
    ) -> "_Events":
        columns: list[list[Array]] = [[] for _ in range(6)]
        for number, access in enumerate(accesses):
            if access.size < size:
                continue  # a narrow read that touches nothing written
            word = access.words(size)
            kept = np.flatnonzero(_contains(changed, word))
            lane = kept // (access.size // size)
            for column, values in zip(
                columns,
                (
                    word[kept],
                    access.thread[lane],
                    access.phase[lane],
                    access.warp_phase[lane],
                    np.full(kept.size, access.kind),
                    np.full(kept.size, number),
                ),
                strict=True,
            ):
                column.append(values)
        word, thread, phase, warp_phase, kind, number = map(np.concatenate, columns)
        block = thread // threads_per_block
        warp = thread % threads_per_block // WARP_SIZE
        order = np.lexsort((warp_phase, warp, phase, block, word))
        sorted_columns = [
            column[order] for column in (word, block, phase, warp, warp_phase, thread, kind, number)
        ]
        return cls(*sorted_columns)

    def levels(self) -> list[tuple[list[Array], Array]]:
        """Return what must be equal for accesses to be unordered, and whose must differ."""
        return [
            ([self.word], self.block),
            ([self.word, self.block, self.phase], self.warp),
            ([self.word, self.block, self.phase, self.warp, self.warp_phase], self.thread),
        ]

    def find_conflict(self, group: list[Array], actor: Array) -> tuple[int, int] | None:
        """Return two conflicting events of one group with different actors, or None."""
        new = np.ones(self.word.size, np.bool_)
        new[1:] = np.any([column[1:] != column[:-1] for column in group], axis=0)
        start = np.flatnonzero(new)
        kinds = np.bitwise_or.reduceat(self.kind, start)
        several = np.minimum.reduceat(actor, start) != np.maximum.reduceat(actor, start)
        clash = ((kinds & WRITE) != 0) | (kinds == (READ | ATOMIC))
        bad = np.flatnonzero(several & clash)
        if bad.size == 0:
            return None
        first = start[bad[0]]
        last = start[bad[0] + 1] if bad[0] + 1 < start.size else self.word.size
        members = np.arange(first, last)
        strongest = WRITE if kinds[bad[0]] & WRITE else ATOMIC
        one = members[self.kind[first:last] == strongest][0]
        other = members[actor[first:last] != actor[one]][0]
        return int(one), int(other)
