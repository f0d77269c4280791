"""Snapshots taken apart: no number in them is trusted, and an arena is made of what is sound."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbkv import layout
from nbkv._demand import ready
from nbkv.arena import section_places, section_sizes, table_stride
from nbkv.config import CacheConfig
from nbkv.errors import ConfigError, SnapshotError
from nbkv.kernels import copies
from nbkv.snapshot_format import (
    FORMAT_VERSION,
    KEPT,
    MAGIC,
    PREAMBLE_DTYPE,
    Bytes,
    Extent,
    aligned_bytes,
    checksum,
    config_text,
    measure,
    padded,
    snapshot_bytes,
    tables_of,
)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's parts, each checked to lie within it.

    Parameters
    ----------
    config : CacheConfig
    extent : Extent
    data : uint8 array
        All of it.
    start : int
        Where the header lies in it; the sections follow.
    """

    config: CacheConfig
    extent: Extent
    data: Bytes
    start: int


def read_snapshot(data: Bytes, has_checksum: bool) -> Snapshot:
    """Take a snapshot apart.

    Parameters
    ----------
    data : uint8, C-contiguous
        Whatever is in it.
    has_checksum : bool
        Whether it must have one: it comes from a file.

    Returns
    -------
    Snapshot

    Raises
    ------
    SnapshotError
        It is none, cut off, damaged, or of another version.
    """
    preamble = _read_preamble(data)
    if has_checksum and (preamble["checksum"] != checksum(data)).any():
        raise SnapshotError("its checksum does not agree with its content: it is damaged")
    at = PREAMBLE_DTYPE.itemsize
    text, at = _take(data, at, int(preamble["config_bytes"]))
    config = _read_config(text.tobytes())
    lengths, at = _take(data, at, 8 * len(KEPT))
    num_rows, num_entries = int(preamble["num_rows"]), int(preamble["num_entries"])
    columns, at = _take(data, at, 4 * num_rows)
    extent = Extent(
        dict(zip(KEPT, lengths.view("<i8").tolist(), strict=True)),
        columns.view(np.int32),
        num_entries,
    )
    _check_extent(extent, config)
    if snapshot_bytes(extent, config) != data.size or text.tobytes() != config_text(config):
        raise SnapshotError("its parts do not make up its length")
    return Snapshot(config, extent, data, at)


def _read_preamble(data: Bytes) -> Any:  # noqa: ANN401
    """Read what says whether the rest can be read."""
    if data.size < PREAMBLE_DTYPE.itemsize:
        raise SnapshotError(f"it has {data.size} bytes: it is no snapshot, or cut off")
    preamble = data[: PREAMBLE_DTYPE.itemsize].view(PREAMBLE_DTYPE)[0]
    if preamble["magic"] != MAGIC:
        raise SnapshotError(f"it begins with {data[:8].tobytes()!r}: it is no snapshot of nbkv")
    versions = (int(preamble["format_version"]), int(preamble["layout_version"]))
    if versions != (FORMAT_VERSION, layout.LAYOUT_VERSION):
        raise SnapshotError(
            f"it has format version {versions[0]} and layout version {versions[1]};"
            f" this nbkv reads {FORMAT_VERSION} and {layout.LAYOUT_VERSION}"
        )
    if preamble["num_bytes"] != data.size:
        raise SnapshotError(f"it has {data.size} bytes, not {preamble['num_bytes']}: it is cut off")
    return preamble


def _take(data: Bytes, at: int, size: int) -> tuple[Bytes, int]:
    """Take a part out, and say where the next one is."""
    if size < 0 or at + size > data.size:
        raise SnapshotError("its parts do not make up its length")
    return data[at : at + size], padded(at + size)


def _read_config(text: bytes) -> CacheConfig:
    try:
        fields = json.loads(text)
        return CacheConfig(**fields)
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise SnapshotError(f"its configuration cannot be read: {error}") from error


def _check_extent(extent: Extent, config: CacheConfig) -> None:
    """Check that what was kept has its place in an arena of this configuration."""
    sizes = section_sizes(config)
    fits = all(0 <= kept <= sizes[name] for name, kept in extent.sections.items())
    columns, stride = extent.columns, table_stride(config)
    fits = fits and len(columns) <= config.max_sequences
    if fits and len(columns):
        fits = int(columns.min()) >= 0 and int(columns.max()) <= stride
    if not fits or int(columns.sum(dtype=np.int64)) != extent.num_entries:
        raise SnapshotError("it has more rows than its configuration allows")


def fill_arena(snapshot: Snapshot, arena: Bytes) -> None:
    """Write a snapshot's content into an arena of its configuration that is otherwise zero.

    Parameters
    ----------
    snapshot : Snapshot
    arena : uint8, C-contiguous
        Its runtime section is left alone.
    """
    data, at = snapshot.data, snapshot.start
    arena[: layout.HEADER_BYTES] = data[at : at + layout.HEADER_BYTES]
    at = padded(at + layout.HEADER_BYTES)
    places = section_places(snapshot.config)
    for name in KEPT:
        start, kept = places[name][0], snapshot.extent.sections[name]
        arena[start : start + kept] = data[at : at + kept]
        at = padded(at + kept)
    packed = data[at : at + 4 * snapshot.extent.num_entries].view(np.int32)
    ready(copies.pack_tables)(
        tables_of(arena, snapshot.config), snapshot.extent.columns, packed, True
    )


def clear_arena(arena: Bytes, config: CacheConfig) -> None:
    """Make zero what an arena has in use, its header and its runtime section aside."""
    extent = measure(arena, config)
    places = section_places(config)
    for name, kept in extent.sections.items():
        start, _ = places[name]
        arena[start : start + kept] = 0
    tables = tables_of(arena, config)
    for row, columns in enumerate(extent.columns.tolist()):
        tables[row, :columns] = 0


def read_file(path: str | os.PathLike[str]) -> Snapshot:
    """Read a file that `PagedKVCache.save` wrote; its content is not audited.

    Parameters
    ----------
    path : path

    Returns
    -------
    Snapshot

    Raises
    ------
    SnapshotError, OSError
    """
    data = aligned_bytes(Path(path).stat().st_size)
    with open(path, "rb") as file:
        num_read = file.readinto(data.data)
    try:
        return read_snapshot(data[:num_read], has_checksum=True)
    except SnapshotError as error:
        raise SnapshotError(f"{os.fspath(path)}: {error}") from None
