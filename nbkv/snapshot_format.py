"""Snapshots as bytes: what of an arena is in use, behind a preamble and the configuration.

Preamble, configuration as JSON, the bytes kept of each section, the columns kept of each
table, the header, the sections, the tables' columns; each part begins at a multiple of 64.
Numbers are little-endian. What is not kept is zero.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv._demand import ready
from nbkv.arena import section_places, table_stride
from nbkv.config import CacheConfig
from nbkv.kernels import copies

Bytes = npt.NDArray[np.uint8]

MAGIC: Final = b"NBKVSNAP"
FORMAT_VERSION: Final = 1
ALIGNMENT: Final = 64
CHECKSUM_BYTES: Final = 32

PREAMBLE_DTYPE: Final = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<i4"),
        ("layout_version", "<i4"),
        ("num_bytes", "<i8"),  # of the whole snapshot
        ("config_bytes", "<i8"),  # of the configuration's JSON
        ("num_rows", "<i8"),  # tables of which columns are kept
        ("num_entries", "<i8"),  # table entries kept
        ("reserved", "u1", (48,)),
        ("checksum", "u1", (CHECKSUM_BYTES,)),  # of all that follows; 0 in memory
    ]
)

#: Sections that are kept up to a watermark of the header: rows, and the bytes of one.
_WATERMARKS: Final = {
    "blocks": ("num_fresh_blocks", layout.BLOCK_DTYPE.itemsize),
    "block_keys": ("num_fresh_blocks", layout.BLOCK_KEY_DTYPE.itemsize),
    "external_holds": ("num_fresh_blocks", layout.INT16.itemsize),
    "sequences": ("num_fresh_rows", layout.SEQUENCE_DTYPE.itemsize),
    "sequence_keys": ("num_fresh_rows", layout.SEQUENCE_KEY_DTYPE.itemsize),
    "extras": ("num_fresh_extras", layout.EXTRA_DTYPE.itemsize),
    "leases": ("num_fresh_leases", layout.LEASE_DTYPE.itemsize),
    "leased": ("num_fresh_leased", layout.LEASED_DTYPE.itemsize),
}
#: Sections kept up to their last byte that is not zero, and those that are not kept.
_SCANNED: Final = ("seq_index", "prefix_index", "names", "name_index", "ranks")
KEPT: Final = tuple(s for s in layout.SECTIONS if s not in ("runtime", "tables"))


@dataclass(frozen=True)
class Extent:
    """What of an arena is in use.

    Parameters
    ----------
    sections : dict
        Section to bytes, tables aside.
    columns : int32 array, shape (rows,)
        Columns of each table.
    num_entries : int
        The sum of them.
    """

    sections: dict[str, int]
    columns: npt.NDArray[np.int32]
    num_entries: int


def measure(arena: Bytes, config: CacheConfig) -> Extent:
    """Find what of an arena is in use; whatever is in it, nothing outside is read.

    Parameters
    ----------
    arena : uint8, C-contiguous
    config : CacheConfig

    Returns
    -------
    Extent
    """
    header = arena[: layout.HEADER_DTYPE.itemsize].view(layout.HEADER_DTYPE)
    places = section_places(config)
    kept: dict[str, int] = {}
    for name in KEPT:
        start, end = places[name]
        if name in _SCANNED:
            kept[name] = 8 * int(ready(copies.count_used)(arena[start:end].view(np.int64)))
            continue
        if name == "tokens":
            rows, size = int(header["num_fresh_blocks"][0]), 4 * config.block_size
        else:
            watermark, size = _WATERMARKS[name]
            rows = int(header[watermark][0])
        kept[name] = min(max(rows, 0) * size, end - start)
    num_rows = min(max(int(header["num_fresh_rows"][0]), 0), config.max_sequences)
    columns = np.empty(num_rows, np.int32)
    num_entries = int(ready(copies.measure_tables)(tables_of(arena, config), columns))
    return Extent(kept, columns, num_entries)


def tables_of(arena: Bytes, config: CacheConfig) -> npt.NDArray[np.int32]:
    """View the tables, padding included: int32, shape (max_sequences, stride)."""
    start, _ = section_places(config)["tables"]
    stride = table_stride(config)
    end = start + 4 * config.max_sequences * stride
    return arena[start:end].view(np.int32).reshape(config.max_sequences, stride)


def aligned_bytes(size: int) -> Bytes:
    """Allocate memory that begins at a multiple of 64."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    shift = -raw.ctypes.data % ALIGNMENT
    return raw[shift : shift + size]


def padded(size: int) -> int:
    """Return where the next part begins."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def config_text(config: CacheConfig) -> bytes:
    """Write a configuration as JSON."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True).encode()


def snapshot_bytes(extent: Extent, config: CacheConfig) -> int:
    """Return how long a snapshot with this extent is."""
    parts = (
        PREAMBLE_DTYPE.itemsize,
        len(config_text(config)),
        8 * len(KEPT),
        4 * len(extent.columns),
        layout.HEADER_BYTES,
        *extent.sections.values(),
        4 * extent.num_entries,
    )
    return sum(padded(part) for part in parts)


def write_snapshot(arena: Bytes, config: CacheConfig, extent: Extent, out: Bytes) -> None:
    """Write an arena's snapshot.

    Parameters
    ----------
    arena : uint8, C-contiguous
    config : CacheConfig
    extent : Extent
        Of the arena, just measured.
    out : uint8, shape (snapshot_bytes(extent, config),)
    """
    text = config_text(config)
    preamble = np.zeros(1, PREAMBLE_DTYPE)
    preamble["magic"] = MAGIC
    preamble["format_version"] = FORMAT_VERSION
    preamble["layout_version"] = layout.LAYOUT_VERSION
    preamble["num_bytes"] = out.size
    preamble["config_bytes"] = len(text)
    preamble["num_rows"] = len(extent.columns)
    preamble["num_entries"] = extent.num_entries
    lengths = np.array([extent.sections[name] for name in KEPT], "<i8")
    at = 0
    for part in (preamble.view(np.uint8), np.frombuffer(text, np.uint8), lengths, extent.columns):
        at = _put(out, at, part.view(np.uint8))
    at = _put(out, at, arena[: layout.HEADER_BYTES])
    places = section_places(config)
    for name in KEPT:
        start, _ = places[name]
        at = _put(out, at, arena[start : start + extent.sections[name]])
    packed = out[at : at + 4 * extent.num_entries].view(np.int32)
    ready(copies.pack_tables)(tables_of(arena, config), extent.columns, packed, False)
    out[at + 4 * extent.num_entries :] = 0


def _put(out: Bytes, at: int, part: Bytes) -> int:
    """Copy a part to its place; returns the place of the next."""
    end = at + part.size
    out[at:end] = part
    out[end : padded(end)] = 0
    return padded(end)


def checksum(snapshot: Bytes) -> Bytes:
    """Digest all that follows a snapshot's preamble, and what the preamble says of it."""
    head = snapshot[: PREAMBLE_DTYPE.itemsize - CHECKSUM_BYTES]
    digest = hashlib.blake2b(head.data, digest_size=CHECKSUM_BYTES)
    digest.update(snapshot[PREAMBLE_DTYPE.itemsize :].data)
    return np.frombuffer(digest.digest(), np.uint8)
