"""The exceptions of nbkv: every one names the argument, its value and what is allowed."""


class KVCacheError(Exception):
    """Base of every error that nbkv raises on purpose.

    After any of them the arena, its runtime section aside, is byte for byte what it was.
    """


class ConfigError(KVCacheError, ValueError):
    """A `CacheConfig` field is out of its range."""


class ArgumentError(KVCacheError, ValueError):
    """An argument has a value, dtype or shape that the call does not take."""


class OutOfBlocksError(KVCacheError):
    """A call needs more blocks than are free, evictable and past the fence.

    Attributes
    ----------
    needed, free, evictable, fenced : int
        Blocks the call needs, and what there was when it was refused.
    """

    def __init__(self, needed: int, free: int, evictable: int, fenced: int) -> None:
        self.needed = needed
        self.free = free
        self.evictable = evictable
        self.fenced = fenced
        super().__init__(
            f"needed {needed} blocks, but only {free} free + {evictable} evictable"
            f" can be used ({fenced} more are fenced)"
        )

    def __reduce__(self) -> tuple[type["OutOfBlocksError"], tuple[int, int, int, int]]:
        """Pickle by the numbers: errors travel between processes."""
        return type(self), (self.needed, self.free, self.evictable, self.fenced)


class StepError(KVCacheError):
    """Plans are made, committed and completed in an order that they do not allow."""


class LeaseError(KVCacheError):
    """A lease is unknown or over."""


class UnknownSequenceError(KVCacheError):
    """No live sequence has this seq_id."""


class StaleHandleError(UnknownSequenceError):
    """A handle's sequence is gone, its row perhaps another's; or a block was handed out anew."""


class DuplicateSequenceError(KVCacheError):
    """A sequence stands twice in a batch, or is to be made although it exists."""


class PrefixError(KVCacheError):
    """A named prefix is unknown, taken, or its blocks cannot form one."""


class BlockError(KVCacheError):
    """A block is not held the way a call needs it: free, released twice, or a sequence's."""


class CapacityError(KVCacheError):
    """A fixed capacity of the configuration is used up, other than the blocks."""
