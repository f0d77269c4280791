"""What a repair has changed, in numbers and by example."""

from dataclasses import dataclass, field

_SHOWN = 5


@dataclass(frozen=True)
class DroppedSequence:
    """A sequence that a repair ended, because its row or its table could not be trusted.

    Parameters
    ----------
    seq_id : int
        What its row said.
    row : int
    reason : str
    """

    seq_id: int
    row: int
    reason: str


@dataclass
class RepairReport:
    """What `PagedKVCache.repair` has done.

    Parameters
    ----------
    violation : str, optional
        What the audit said before; None for an arena in order, which is left alone.
    dropped : list of DroppedSequence
        Sequences ended. Their blocks are free, or cached where a prefix finds them.
    changes : dict
        What was changed, to how many records were.
    examples : dict
        The same, to what happened to the first few of them.
    """

    violation: str | None = None
    dropped: list[DroppedSequence] = field(default_factory=list)
    changes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, example: str, count: int = 1) -> None:
        """Add changes of one kind."""
        self.changes[what] = self.changes.get(what, 0) + count
        shown = self.examples.setdefault(what, [])
        if len(shown) < _SHOWN:
            shown.append(example)

    def __str__(self) -> str:
        """Say it in lines."""
        if self.violation is None:
            return "nothing to repair"
        lines = [f"found: {self.violation}"]
        lines += [f"sequence {x.seq_id} (row {x.row}) dropped: {x.reason}" for x in self.dropped]
        lines += [
            f"{what}: {count} changed, {'; '.join(self.examples[what])}"
            for what, count in self.changes.items()
        ]
        return "\n".join(lines)
