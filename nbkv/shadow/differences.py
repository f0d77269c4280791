"""What a shadow has found."""

from dataclasses import dataclass
from typing import Any

from nbkv.errors import KVCacheError


@dataclass(frozen=True)
class Difference:
    """Where an engine's manager and nbkv part.

    Attributes
    ----------
    step : int
        How often `Shadow.next_step` was called before.
    call : str
        The engine's call.
    sequence : object
        Its name for the sequence, or None.
    what : str
        What was compared.
    expected, got : object
        nbkv's answer and the engine's.
    """

    step: int
    call: str
    sequence: Any
    what: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        of = "" if self.sequence is None else f" of sequence {self.sequence!r}"
        return (
            f"step {self.step}, {self.call}{of}: {self.what}:"
            f" expected {self.expected}, got {self.got}"
        )


class ShadowError(KVCacheError):
    """An engine's manager and nbkv part.

    Attributes
    ----------
    difference : Difference
    """

    def __init__(self, difference: Difference) -> None:
        self.difference = difference
        super().__init__(str(difference))
