"""Statuses of kernels made into exceptions."""

from typing import Any, NoReturn

import numpy.typing as npt

from nbkv import statuses
from nbkv.errors import (
    ArgumentError,
    BlockError,
    CapacityError,
    DuplicateSequenceError,
    KVCacheError,
    LeaseError,
    OutOfBlocksError,
    PrefixError,
    StaleHandleError,
    StepError,
    UnknownSequenceError,
)

_REASONS: dict[int, tuple[type[KVCacheError], str]] = {
    statuses.UNKNOWN_SEQUENCE: (
        UnknownSequenceError,
        "{name} is {value}; no such sequence is alive",
    ),
    statuses.STALE_HANDLE: (
        StaleHandleError,
        "{name} is {value}; it must be the handle of a sequence that is alive",
    ),
    statuses.DUPLICATE_SEQUENCE: (
        DuplicateSequenceError,
        "{name} is {value}, which stands in the batch twice; each sequence may stand once",
    ),
    statuses.SEQUENCE_EXISTS: (
        DuplicateSequenceError,
        "{name} is {value}; it must not be alive yet, but a sequence of this name is",
    ),
    statuses.TOO_MANY_SEQUENCES: (
        CapacityError,
        "{name} is {value}: no row is left, max_sequences allows {max_sequences}",
    ),
    statuses.TOO_MANY_BLOCKS: (
        CapacityError,
        "{name} is {value}: its table would be longer than max_blocks_per_sequence,"
        " which allows {max_blocks_per_sequence}",
    ),
    statuses.TOO_MANY_NAMES: (
        CapacityError,
        "{name} is {value}: max_named_prefixes allows {max_named_prefixes}",
    ),
    statuses.NAMED_TOO_OFTEN: (
        CapacityError,
        "{name} is {value}: a block can be covered by at most 32767 named prefixes",
    ),
    statuses.NEGATIVE_COUNT: (ArgumentError, "{name} is {value}; it must be at least 0"),
    statuses.OUT_TOO_SMALL: (
        ArgumentError,
        "{name} has room for {value} slots; it must have at least {detail}, sum(counts)",
    ),
    statuses.OUT_OVERLAPS: (ArgumentError, "{name} is memory of {value}; it must be its own"),
    statuses.NOT_LEADING: (
        PrefixError,
        "{name} is {value}; it must be the leading full blocks of one live sequence,"
        " none of them cut from the one before",
    ),
    statuses.NAME_TAKEN: (
        PrefixError,
        "{name} is {value}; it already names other blocks, unregister it first",
    ),
    statuses.UNKNOWN_NAME: (PrefixError, "{name} is {value}; no prefix is registered under it"),
    statuses.TOO_MANY_TOKENS: (ArgumentError, "{name} is {value}; it must be 0 to {detail}"),
    statuses.SHARE_TOO_LONG: (
        PrefixError,
        "{name} is {value}; it must be 1 to {detail}, the source's blocks up to its next token's",
    ),
    statuses.STEP_OUTSTANDING: (
        StepError,
        "{name} is {value}, but step {num_steps} is planned and not committed;"
        " without run_ahead one plan at a time may be",
    ),
    statuses.STEP_NOT_NEXT: (
        StepError,
        "{name} is {value}; steps are committed once each and in order, and {detail} is next",
    ),
    statuses.FOREIGN_PLAN: (StepError, "{name} is {value}; it must be a plan of this cache"),
    statuses.STEP_UNKNOWN: (
        StepError,
        "{name} is {value}; it must be that of a step planned and not completed, at most {detail}",
    ),
    statuses.STEPS_UNCOMMITTED: (
        StepError,
        "{name} is {value}; steps before a failed one must be committed first, {detail} is next",
    ),
    statuses.TOKENS_PLANNED: (
        StepError,
        "{name} is {value}, which has tokens planned and not committed;"
        " commit or truncate it before this call",
    ),
    statuses.BAD_ACCEPTED: (
        ArgumentError,
        "{name} is {value}; it must have one count an entry, 0 to what was planned (at {detail})",
    ),
    statuses.TOKENS_MISSING: (
        ArgumentError,
        "{name} has {value} ids; it must have {detail}, one for each token accepted",
    ),
    statuses.BUFFERS_TOO_SMALL: (
        ArgumentError,
        "{name} is {value}, which has no room for {detail} rows of this step:"
        " make it with a larger max_tokens",
    ),
    statuses.BUFFERS_IN_USE: (
        StepError,
        "{name} is {value}, a plan that is not committed; use buffers of another step",
    ),
    statuses.DIFFERENT_PROMPTS: (
        ArgumentError,
        "{name} is {value}; it must be of a sequence with the same salt and extra keys",
    ),
    statuses.BELOW_WINDOW: (
        ArgumentError,
        "{name} is {value}; it must be 0 or at least {detail},"
        " since blocks before have left the window",
    ),
    statuses.TOO_MANY_EXTRAS: (CapacityError, "{name} is {value}: max_extra_keys is reached"),
    statuses.TOO_MANY_LEASES: (CapacityError, "{name} is {value}: max_leases is reached"),
    statuses.TOO_MANY_LEASED: (CapacityError, "{name} is {value}: max_leased_blocks is reached"),
    statuses.PINNED_TOO_OFTEN: (
        CapacityError,
        "{name} is {value}: a block can be covered by at most 32767 leases",
    ),
    statuses.UNKNOWN_LEASE: (LeaseError, "{name} is {value}; no such lease lasts"),
    statuses.BAD_PARENT: (
        PrefixError,
        "{name} is {value}; it must be a block under a caller's hash, findable and held by this"
        " interface, or one that stands before it in the call, or NO_BLOCK",
    ),
    statuses.STALE_BLOCK: (
        StaleHandleError,
        "{name} is {value}; it must be the handle of a block that is held or cached"
        " and was not handed out anew",
    ),
    statuses.BLOCK_OUT_OF_RANGE: (
        ArgumentError,
        "{name} is {value}; it must be at least 0 and below num_blocks, which is {num_blocks}",
    ),
    statuses.BLOCK_IS_FREE: (BlockError, "{name} is {value}; it must be held or cached, not free"),
    statuses.BLOCK_IS_EMPTY: (
        BlockError,
        "{name} is {value}; it must have tokens, but a sequence keeps it to write to later",
    ),
    statuses.BLOCK_NOT_HELD: (
        BlockError,
        "{name} is {value}; it must have an external hold, but none is left to release",
    ),
    statuses.HELD_TOO_OFTEN: (
        CapacityError,
        "{name} is {value}: a block can have at most 32767 external holds",
    ),
    statuses.PARENT_NOT_HELD: (
        PrefixError,
        "{name} is {value}; a block that a name covers can have an external hold"
        " only together with the block before it",
    ),
    statuses.KEYS_UNKNOWN: (
        PrefixError,
        "{name} is {value}, whose blocks' keys are not known; it must have its first blocks, all"
        " of its extra keys, and the salt of the prefix that it was attached to",
    ),
    statuses.NOT_INDEXABLE: (
        BlockError,
        "{name} is {value}; it must have external holds and no other holder,"
        " and be neither indexed nor named",
    ),
}


def lack_of_blocks(header: npt.NDArray[Any], needed: int, set_aside: int = 0) -> OutOfBlocksError:
    """Make the error of a call that needs more blocks than it may use.

    Parameters
    ----------
    header : structured, shape (1,)
    needed : int
        Blocks.
    set_aside : int
        Cached blocks that the call would hold itself.

    Returns
    -------
    OutOfBlocksError
    """
    fenced, fenced_free = (
        int(header[counter][0]) for counter in ("num_fenced_blocks", "num_fenced_free")
    )
    free = int(header["num_free_blocks"][0]) - fenced_free
    evictable = int(header["num_cached_blocks"][0]) - (fenced - fenced_free)
    return OutOfBlocksError(needed, free, evictable - set_aside, fenced)


def fail(
    status: int, header: npt.NDArray[Any], runtime: npt.NDArray[Any], name: str, value: object
) -> NoReturn:
    """Raise the exception for a status.

    Parameters
    ----------
    status : int
        Negative, of `nbkv.layout`.
    header, runtime : structured, shape (1,)
    name : str
        The argument to blame.
    value : object
        What it was.

    Raises
    ------
    KVCacheError
        The kind that belongs to the status.
    """
    detail = int(runtime["detail"][0])
    if status == statuses.OUT_OF_BLOCKS:
        raise lack_of_blocks(header, detail, int(runtime["set_aside"][0]))
    kind, text = _REASONS[status]
    limits = (
        "max_sequences",
        "max_blocks_per_sequence",
        "max_named_prefixes",
        "num_steps",
        "num_blocks",
    )
    values = {limit: int(header[limit][0]) for limit in limits}
    raise kind(text.format(name=name, value=value, detail=detail, **values))
