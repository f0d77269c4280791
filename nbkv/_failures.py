"""Statuses of kernels made into exceptions."""

from typing import Any, NoReturn

import numpy.typing as npt

from nbkv import layout
from nbkv.errors import (
    ArgumentError,
    CapacityError,
    DuplicateSequenceError,
    KVCacheError,
    OutOfBlocksError,
    PrefixError,
    StaleHandleError,
    UnknownSequenceError,
)

_REASONS: dict[int, tuple[type[KVCacheError], str]] = {
    layout.UNKNOWN_SEQUENCE: (UnknownSequenceError, "{name} is {value}; no such sequence is alive"),
    layout.STALE_HANDLE: (
        StaleHandleError,
        "{name} is {value}; it must be the handle of a sequence that is alive",
    ),
    layout.DUPLICATE_SEQUENCE: (
        DuplicateSequenceError,
        "{name} is {value}, which stands in the batch twice; each sequence may stand once",
    ),
    layout.SEQUENCE_EXISTS: (
        DuplicateSequenceError,
        "{name} is {value}; it must not be alive yet, but a sequence of this name is",
    ),
    layout.TOO_MANY_SEQUENCES: (
        CapacityError,
        "{name} is {value}: no row is left, max_sequences allows {max_sequences}",
    ),
    layout.TOO_MANY_BLOCKS: (
        CapacityError,
        "{name} is {value}: its table would be longer than max_blocks_per_sequence,"
        " which allows {max_blocks_per_sequence}",
    ),
    layout.TOO_MANY_NAMES: (
        CapacityError,
        "{name} is {value}: max_named_prefixes allows {max_named_prefixes}",
    ),
    layout.NAMED_TOO_OFTEN: (
        CapacityError,
        "{name} is {value}: a block can be covered by at most 32767 named prefixes",
    ),
    layout.NEGATIVE_COUNT: (ArgumentError, "{name} is {value}; it must be at least 0"),
    layout.OUT_TOO_SMALL: (
        ArgumentError,
        "{name} has room for {value} slots; it must have at least {detail}, sum(counts)",
    ),
    layout.OUT_OVERLAPS: (ArgumentError, "{name} is memory of {value}; it must be its own"),
    layout.NOT_LEADING: (
        PrefixError,
        "{name} is {value}; it must be the leading full blocks of one live sequence",
    ),
    layout.NAME_TAKEN: (
        PrefixError,
        "{name} is {value}; it already names other blocks, unregister it first",
    ),
    layout.UNKNOWN_NAME: (PrefixError, "{name} is {value}; no prefix is registered under it"),
    layout.TOO_MANY_TOKENS: (ArgumentError, "{name} is {value}; it must be 0 to {detail}"),
    layout.SHARE_TOO_LONG: (
        PrefixError,
        "{name} is {value}; it must be 1 to {detail}, the source's blocks up to its next token's",
    ),
}


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
    if status == layout.OUT_OF_BLOCKS:
        counters = ("num_free_blocks", "num_cached_blocks", "num_fenced_blocks")
        free, evictable, fenced = (int(header[counter][0]) for counter in counters)
        raise OutOfBlocksError(detail, free, evictable - int(runtime["set_aside"][0]), fenced)
    kind, text = _REASONS[status]
    limits = ("max_sequences", "max_blocks_per_sequence", "max_named_prefixes")
    values = {limit: int(header[limit][0]) for limit in limits}
    raise kind(text.format(name=name, value=value, detail=detail, **values))
