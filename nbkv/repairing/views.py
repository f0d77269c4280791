"""An arena's sections as its configuration places them, whatever its header says."""

from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv.arena import section_places, table_stride
from nbkv.config import CacheConfig

Records = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

_DTYPES: dict[str, "np.dtype[Any]"] = {
    "blocks": layout.BLOCK_DTYPE,
    "block_keys": layout.BLOCK_KEY_DTYPE,
    "sequences": layout.SEQUENCE_DTYPE,
    "sequence_keys": layout.SEQUENCE_KEY_DTYPE,
    "seq_index": layout.INDEX_DTYPE,
    "prefix_index": layout.INDEX_DTYPE,
    "names": layout.NAME_DTYPE,
    "name_index": layout.INDEX_DTYPE,
    "extras": layout.EXTRA_DTYPE,
    "leases": layout.LEASE_DTYPE,
    "leased": layout.LEASED_DTYPE,
    "external_holds": layout.INT16,
}


class Views:
    """Writable views of an arena.

    Parameters
    ----------
    arena : uint8, C-contiguous
    config : CacheConfig
    """

    def __init__(self, arena: npt.NDArray[np.uint8], config: CacheConfig) -> None:
        self.arena = arena
        self.config = config
        self.header: Records = arena[: layout.HEADER_DTYPE.itemsize].view(layout.HEADER_DTYPE)
        self.blocks = self._view("blocks", config.num_blocks)
        self.keys = self._view("block_keys", config.num_blocks)
        self.holds = self._view("external_holds", config.num_blocks)
        self.sequences = self._view("sequences", config.max_sequences)
        self.sequence_keys = self._view("sequence_keys", config.max_sequences)
        self.names = self._view("names", config.name_capacity)
        self.extras = self._view("extras", config.extra_capacity)
        self.leases = self._view("leases", config.max_leases)
        self.leased = self._view("leased", config.leased_capacity)
        self.seq_index = self._view("seq_index")
        self.prefix_index = self._view("prefix_index")
        self.name_index = self._view("name_index")
        start, end = section_places(config)["ranks"]
        lru = config.policy_code == layout.LRU
        self.ranks: Records = arena[start:end].view(layout.INT32 if lru else layout.RANK_DTYPE)
        start, _ = section_places(config)["tables"]
        size = config.max_sequences * table_stride(config)
        flat = arena[start : start + 4 * size].view(layout.INT32)
        self.tables: npt.NDArray[np.int32] = flat.reshape(config.max_sequences, -1)

    def _view(self, name: str, rows: int | None = None) -> Records:
        start, end = section_places(self.config)[name]
        if rows is not None:
            end = start + rows * _DTYPES[name].itemsize
        return self.arena[start:end].view(_DTYPES[name])

    def clear_padding(self) -> None:
        """Make zero what fills a section up to a multiple of 64 bytes."""
        for name, records in (
            ("blocks", self.blocks),
            ("block_keys", self.keys),
            ("external_holds", self.holds),
            ("sequences", self.sequences),
            ("sequence_keys", self.sequence_keys),
            ("names", self.names),
            ("extras", self.extras),
            ("leases", self.leases),
            ("leased", self.leased),
        ):
            start, end = section_places(self.config)[name]
            self.arena[start + records.nbytes : end] = 0

    def count(self, field: str) -> int:
        """Return a field of the header."""
        return int(self.header[field][0])


def count_used(*sections: Records) -> int:
    """Return the rows up to the last one that is not zero in any of the sections."""
    used = 0
    for records in sections:
        nonzero = np.flatnonzero(records.view(np.uint8).reshape(len(records), -1).any(axis=1))
        used = max(used, int(nonzero[-1]) + 1 if len(nonzero) else 0)
    return used


def follow(first: int, links: Records, allowed: npt.NDArray[np.bool_], offset: int = 0) -> Ids:
    """Follow a list for as long as it leads to records that may be in it, each once.

    Parameters
    ----------
    first : int
        Its first record, `offset` added.
    links : integer array
        What follows each record, `offset` added.
    allowed : bool array
    offset : int
        1 for lists that end in 0.

    Returns
    -------
    int64 array
    """
    found: list[int] = []
    seen: set[int] = set()
    at = first - offset
    while 0 <= at < len(allowed) and allowed[at] and at not in seen:
        seen.add(at)
        found.append(at)
        at = int(links[at]) - offset
    return np.array(found, np.int64)


def relink(
    first: int, links: Records, allowed: npt.NDArray[np.bool_], offset: int = 0
) -> tuple[Ids, int]:
    """Order a list's records: as far as the old list leads, then the others by number.

    Returns
    -------
    int64 array, int
        The records, and the first of them as `first` was given.
    """
    known = follow(first, links, allowed, offset)
    rest = allowed.copy()
    rest[known] = False
    order = np.concatenate((known, rest.nonzero()[0]))
    if len(order):
        links[order[:-1]] = order[1:] + offset
        links[order[-1]] = offset - 1
        return order, int(order[0]) + offset
    return order, offset - 1
