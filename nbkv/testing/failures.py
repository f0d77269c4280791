"""What a `LaggingExecutor` reports: slots that hold the wrong thing, schedules that cannot be."""


class SlotError(AssertionError):
    """A step read, copied or wrote a slot that did not hold what it must.

    Attributes
    ----------
    step_id : int
        The step that touched it; 0 for an audit between steps.
    seq_id, position : int
        Whose token it was to be, -1 where no sequence is concerned.
    block_id, slot : int
        Where.
    found, expected : str
        What the slot held and what it had to hold, in words.
    """

    def __init__(
        self,
        action: str,
        found: str,
        expected: str,
        *,
        block_id: int,
        slot: int,
        step_id: int = 0,
        seq_id: int = -1,
        position: int = -1,
    ) -> None:
        self.step_id, self.seq_id, self.position = step_id, seq_id, position
        self.block_id, self.slot = block_id, slot
        self.found, self.expected = found, expected
        whose = "" if seq_id < 0 else f", sequence {seq_id}, position {position}"
        when = "between steps" if step_id == 0 else f"step {step_id}"
        super().__init__(
            f"{when}{whose}: {action} block {block_id}, slot {slot}: found {found};"
            f" expected {expected}"
        )


class ScheduleError(AssertionError):
    """A scheduler told the cache something that is not so: nothing is wrong with the slots yet.

    A step was completed that has not run, committed that was not submitted, or committed
    with other tokens than it wrote.
    """
