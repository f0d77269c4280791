"""The model's plans: slots for a batch, and who must give way when blocks run out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from naive_blocks import Line, Refused
from naive_prefixes import NaivePrefixes

Work = list[tuple[Line, int]]


@dataclass(eq=False)
class Entry:
    """A sequence's share of a plan."""

    line: Line
    start: int
    count: int


@dataclass(eq=False)
class Step:
    """What a plan or a commit reports."""

    step_id: int = 0
    entries: list[Entry] = field(default_factory=list)
    slot_mapping: list[int] = field(default_factory=list)
    seq_lens: list[int] = field(default_factory=list)
    table_changes: list[tuple[int, int, int]] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    evicted: list[int] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)
    preempted: list[tuple[int, int, int]] = field(default_factory=list)  # id, arrival, committed
    deferred: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    exhausted: bool = False  # there is no such step: its blocks did not suffice


@dataclass
class Rivals:
    """Who of a call's sequences goes before whom, and what has been decided so far."""

    lines: list[Line]  # the batch, then the listed victims
    ranks: list[int]
    granted: dict[Line, int] = field(default_factory=dict)
    preempted: list[Line] = field(default_factory=list)
    deferred: list[Line] = field(default_factory=list)

    def before(self, needer: Line) -> list[Line]:
        """Who is given up before the needer would be, in that order."""
        at = range(len(self.lines))
        order = [self.lines[i] for i in sorted(at, key=lambda i: (-self.ranks[i], -i))]
        return [x for x in order[: order.index(needer)] if x not in self.preempted]


class NaivePlans(NaivePrefixes):
    """Planning a batch of sequences."""

    preemptions: int

    def _handles(self, seq_ids: Sequence[int]) -> list[Line]:
        """Find sequences by handle; none may stand twice."""
        lines: list[Line] = []
        for seq_id in seq_ids:
            if seq_id not in self.sequences:
                raise Refused("StaleHandleError")
            if self.sequences[seq_id] in lines:
                raise Refused("DuplicateSequenceError")
            lines.append(self.sequences[seq_id])
        return lines

    def _batch(self, seq_ids: Sequence[int], counts: Sequence[int], lookahead: int) -> Work:
        for i in range(len(seq_ids)):
            self._handles(seq_ids[: i + 1])
            if counts[i] < 0:
                raise Refused("ArgumentError")
            line = self.sequences[seq_ids[i]]
            self._check_table(self._columns_for(line, counts[i], lookahead), line.first_block)
        return list(zip(self._handles(seq_ids), counts, strict=True))

    def plan(
        self,
        seq_ids: Sequence[int],
        counts: Sequence[int],
        lookahead: int = 0,
        on_exhaustion: str = "raise",
        rank: Sequence[int] | None = None,
        victims: Sequence[int] = (),
    ) -> Step:
        if not self.run_ahead and self.committed_step < self.num_steps:
            raise Refused("StepError")
        work = self._batch(seq_ids, counts, lookahead)
        lines = self._handles([*seq_ids, *victims])
        deferred: list[Line] = []
        preempted: list[Line] = []
        if on_exhaustion == "preempt":
            ranks = [x.arrival for x in lines] if rank is None else list(rank)
            rivals = self._give_way(work, lookahead, Rivals(lines, ranks))
            deferred, preempted = rivals.deferred, rivals.preempted
        kept = [i for i in range(len(work)) if work[i][0] not in [*deferred, *preempted]]
        if on_exhaustion == "stop":
            needs = [need for need, _ in self._needs(work, lookahead)]
            kept = [i for i in kept if sum(needs[: i + 1]) <= self.num_usable]
        if on_exhaustion == "raise":
            self._check_available(sum(need for need, _ in self._needs(work, lookahead)))
        self._begin()
        step = Step(survivors=kept, deferred=[i for i, x in enumerate(lines) if x in deferred])
        for line in preempted:
            step.preempted.append((line.seq_id, line.arrival, line.num_committed))
            self._close(line)
        self.preemptions += len(preempted)
        self._carry_out(step, [work[i] for i in kept], lookahead)
        return step

    def _carry_out(self, step: Step, work: Work, lookahead: int) -> None:
        self.num_steps += 1
        step.step_id = self.num_steps
        step.entries = [Entry(line, line.num_tokens, count) for line, count in work]
        needs = self._needs(work, lookahead)
        assert sum(need for need, _ in needs) <= self.num_usable
        step.slot_mapping = self._write_all(work, needs, lookahead)
        for line, _ in work:
            line.last_step = step.step_id
        step.seq_lens = [line.num_tokens for line, _ in work]
        step.table_changes = self.last_changes
        step.copies = [
            (source, target, kept)
            for (source, target), kept in zip(self.last_copies, self.last_kept, strict=True)
        ]
        step.evicted = self.last_evicted

    # --- when blocks run out ---------------------------------------------------------
    def _gain(self, line: Line, gone: Sequence[Line]) -> int:
        """Count the blocks whose last references go with a sequence, once others are gone."""
        if self.run_ahead and self.num_steps > self.completed_step:
            return 0
        left = [x for x in self.sequences.values() if x is not line and x not in gone]
        elsewhere = {b for x in left for b in x.blocks}
        return len([b for b in line.blocks if b.pin_count == 0 and b not in elsewhere])

    def _give_way(self, work: Work, lookahead: int, rivals: Rivals) -> Rivals:
        """Decide who is preempted or deferred; nothing changes yet."""
        for line, count in work:
            columns = self._columns_for(line, count, lookahead)
            if columns - line.first_block > self.num_blocks:
                raise Refused("OutOfBlocksError")
        available = self.num_usable
        for i, (line, _) in enumerate(work):
            if line in rivals.preempted:
                continue
            # Who is deferred keeps its references: it takes no part in the batch.
            so_far = [pair for pair in work[: i + 1] if pair[0] not in rivals.deferred]
            need = self._needs(so_far, lookahead)[-1][0]
            if need > available:
                chosen, gain = self._choose(line, need - available, rivals)
                if gain < need - available and self.run_ahead and self._in_flight():
                    rivals.deferred.append(line)
                    continue
                if gain < need - available:
                    chosen, gain = [line], self._gain(line, rivals.preempted)
                rivals.preempted += chosen
                available += gain
                if line in chosen:
                    continue
            available -= need
            rivals.granted[line] = need
        return rivals

    def _in_flight(self) -> bool:
        return self.num_steps > self.completed_step

    def _choose(self, needer: Line, missing: int, rivals: Rivals) -> tuple[list[Line], int]:
        """Take the first victims whose blocks suffice; those who would give none stay."""
        chosen: list[Line] = []
        total = 0
        for line in rivals.before(needer):
            gain = self._gain(line, rivals.preempted + chosen) + rivals.granted.get(line, 0)
            if gain > 0 and total < missing:
                chosen.append(line)
                total += gain
        return chosen, total
