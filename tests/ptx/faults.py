"""What the interpreter reports: one exception a kind of fault, so that a test can name it."""


class PTXError(Exception):
    """Anything that stops the interpreter."""


class UnsupportedPTXError(PTXError):
    """The text holds something that the interpreter does not know; nothing is guessed."""


class LaunchError(PTXError):
    """The arguments do not fit the kernel's parameters."""


class OutOfBoundsError(PTXError):
    """An access touches a byte outside every buffer, or outside shared or local memory."""


class MisalignedError(PTXError):
    """An access whose address is no multiple of its size."""


class ReadOnlyError(PTXError):
    """A store to a buffer that was added as read only, or to constant memory."""


class UninitialisedError(PTXError):
    """A load from shared or local memory that nothing has written."""


class RaceError(PTXError):
    """Two threads touch one address, one of them writes, and no barrier orders them."""


class DivergentBarrierError(PTXError):
    """Not every thread of a block (or of a warp's member mask) reaches the same barrier."""


class EndlessLoopError(PTXError):
    """More steps than the launch allows."""


class TrapError(PTXError):
    """The kernel executed ``trap``."""
