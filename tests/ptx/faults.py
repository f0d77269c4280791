"""What the interpreter reports: one exception a kind of fault, so that a test can name it."""


class PTXError(Exception):
    """Anything that stops the interpreter."""


class AccessError(PTXError):
    """A faulty access; `lane` counts among the threads that made it."""

    def __init__(self, message: str, lane: int = 0) -> None:
        super().__init__(message)
        self.lane = lane


class UnsupportedPTXError(PTXError):
    """The text holds something that the interpreter does not know; nothing is guessed."""


class LaunchError(PTXError):
    """The arguments do not fit the kernel's parameters."""


class OutOfBoundsError(AccessError):
    """An access touches a byte outside every buffer, or outside shared or local memory."""


class MisalignedError(AccessError):
    """An access whose address is no multiple of its size."""


class ReadOnlyError(AccessError):
    """A store to a buffer that was added as read only, or to constant memory."""


class UninitialisedError(AccessError):
    """A load from shared or local memory that nothing has written."""


class RaceError(PTXError):
    """Two threads touch one address, one of them writes, and no barrier orders them."""


class DivergentBarrierError(PTXError):
    """Not every thread of a block (or of a warp's member mask) reaches the same barrier."""


class EndlessLoopError(PTXError):
    """More steps than the launch allows."""


class TrapError(PTXError):
    """The kernel executed ``trap``."""
