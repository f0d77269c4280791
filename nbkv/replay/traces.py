"""Traces of block references, and the reader of the Mooncake format.

A trace is JSON Lines, gzipped or not, one request a line::

    {"timestamp": 0, "input_length": 6758, "output_length": 500,
     "hash_ids": [0, 1, 2], "block_size": 512, "block_tokens": [512, 512, 17]}

``hash_ids`` are prefix-unique: equal ids mean equal tokens from the start of the
prompt through that block. ``block_size`` (default 512) and ``block_tokens`` may be
absent. ``timestamp`` and ``output_length`` are not used, only checked where present.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_BLOCK_SIZE = 512
MAX_BLOCK_SIZE = 32_767  # the engine counts a block's tokens in an int16
MAX_HASH = 2**64 - 1
MAX_LENGTH = 2**53  # what JSON readers agree on; far beyond any prompt
PROGRESS_LINES = 256


class TraceError(ValueError):
    """A trace that cannot be read; the message names file, line and field."""


@dataclass(frozen=True)
class Trace:
    """The requests of a trace, as flat arrays.

    Parameters
    ----------
    name : str
        What the report calls it.
    block_size : int
        Tokens a block.
    hashes : uint64, (total_blocks,)
        The block hashes of all requests, one request after the other.
    weights : int64, (total_blocks,)
        The tokens of each of these blocks, 1 to ``block_size``.
    starts : int64, (num_requests + 1,)
        Request r has the blocks ``starts[r]`` to ``starts[r + 1]``.
    num_skipped : int
        Rows without hash_ids, which are not requests of this trace.
    """

    name: str
    block_size: int
    hashes: NDArray[np.uint64]
    weights: NDArray[np.int64]
    starts: NDArray[np.int64]
    num_skipped: int = 0

    @property
    def num_requests(self) -> int:
        """Requests with at least one block."""
        return len(self.starts) - 1

    @property
    def total_blocks(self) -> int:
        """Block references of all requests."""
        return len(self.hashes)

    @cached_property
    def total_tokens(self) -> int:
        """Tokens of all block references."""
        return int(self.weights.sum())

    @cached_property
    def _first_references(self) -> NDArray[np.intp]:
        """Where each distinct block is referenced for the first time."""
        return np.unique(self.hashes, return_index=True)[1]

    @property
    def num_unique(self) -> int:
        """Distinct blocks."""
        return len(self._first_references)

    @cached_property
    def longest(self) -> int:
        """Blocks of the longest request."""
        return int(np.diff(self.starts).max(initial=0))

    @property
    def ceiling_tokens(self) -> int:
        """Tokens an infinite cache would hit: all but the first reference of each block."""
        return self.total_tokens - int(self.weights[self._first_references].sum())

    def rows(self) -> list[NDArray[np.uint64]]:
        """List each request's hashes, as contiguous views."""
        return [
            self.hashes[a:b]
            for a, b in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        ]

    def head(self, num_requests: int) -> "Trace":
        """Take the first requests only."""
        starts = self.starts[: num_requests + 1]
        end = int(starts[-1])
        return Trace(
            self.name,
            self.block_size,
            self.hashes[:end],
            self.weights[:end],
            starts,
            self.num_skipped,
        )


class TraceBuilder:
    """Collects requests and joins them into one `Trace`."""

    def __init__(self, name: str, block_size: int | None = None) -> None:
        self.name = name
        self.block_size = block_size
        self.num_skipped = 0
        self._hashes: list[NDArray[np.uint64]] = []
        self._weights: list[NDArray[np.int64]] = []

    def add(self, hashes: NDArray[np.uint64], weights: NDArray[np.int64]) -> None:
        """Append one request."""
        self._hashes.append(hashes)
        self._weights.append(weights)

    def build(self) -> Trace:
        """Join what was added; at least one request."""
        starts = np.zeros(len(self._hashes) + 1, np.int64)
        np.cumsum([len(row) for row in self._hashes], out=starts[1:])
        return Trace(
            self.name,
            self.block_size or DEFAULT_BLOCK_SIZE,
            np.concatenate(self._hashes),
            np.concatenate(self._weights),
            starts,
            self.num_skipped,
        )


def full_then_rest(num_tokens: int, block_size: int, num_blocks: int) -> NDArray[np.int64]:
    """Spread ``num_tokens`` over blocks: full ones, then the rest, at least 1 in each."""
    positions = np.arange(num_blocks, dtype=np.int64)
    weights: NDArray[np.int64] = np.clip(num_tokens - positions * block_size, 1, block_size)
    return weights


def read_trace(path: str | Path, progress: Callable[[int, int], None] | None = None) -> Trace:
    """Read a trace file.

    Parameters
    ----------
    path : str or Path
        A ``.jsonl`` file, gzipped or not (told by content, not by name).
    progress : callable, optional
        Called as ``progress(bytes_read, bytes_total)`` now and then.

    Returns
    -------
    Trace

    Raises
    ------
    TraceError
        Where the file cannot be read, a line is malformed, or no row has hash_ids.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    builder = TraceBuilder(name or path.name)
    number = 0
    try:
        for number, line in enumerate(_lines(path, progress), 1):
            if line and not line.isspace():
                _add_line(builder, line, f"{path}, line {number}")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise TraceError(f"{path}: cannot be read after line {number}: {reason}") from error
    if not builder._hashes:
        raise TraceError(
            f"{path}: no row with hash_ids, nothing to replay"
            f" ({builder.num_skipped:,} rows without hash_ids skipped)"
        )
    return builder.build()


def _lines(path: Path, progress: Callable[[int, int], None] | None) -> Iterator[bytes]:
    """Yield the lines of a file, gunzipped if it is gzipped."""
    size = path.stat().st_size
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        text: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
        for number, line in enumerate(text):
            if progress is not None and number % PROGRESS_LINES == 0:
                # A pipe has no size and cannot tell where it is.
                progress(raw.tell() if size else 0, size)
            yield line


def _add_line(builder: TraceBuilder, line: bytes, where: str) -> None:
    """Check one line and add its request, or count it as skipped."""
    row = _parse_object(line, where)
    _check_number(row, "timestamp", where)
    if row.get("output_length") is not None:
        _check_count(row, "output_length", where, 0, MAX_LENGTH)
    block_size = DEFAULT_BLOCK_SIZE
    if row.get("block_size") is not None:
        block_size = _check_count(row, "block_size", where, 1, MAX_BLOCK_SIZE)
    ids = row.get("hash_ids")
    if ids is None or ids == []:
        builder.num_skipped += 1
        return
    if builder.block_size is None:
        builder.block_size = block_size
    elif builder.block_size != block_size:
        raise TraceError(
            f"{where}: block_size: {block_size} differs from"
            f" {builder.block_size} in the lines before"
        )
    hashes = _check_ints(ids, "hash_ids", where, 0, MAX_HASH)
    builder.add(hashes, _weights(row, len(hashes), block_size, where))


def _parse_object(line: bytes, where: str) -> dict[str, Any]:
    """Parse a line that must be one JSON object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise TraceError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise TraceError(f"{where}: expected a JSON object, got {_describe(row)}")
    return row


def _check_number(row: dict[str, Any], field: str, where: str) -> None:
    """Check a field that may be absent and is a number otherwise."""
    value = row.get(field)
    if value is not None and type(value) not in (int, float):
        raise TraceError(f"{where}: {field}: expected a number, got {_describe(value)}")


def _check_count(row: dict[str, Any], field: str, where: str, low: int, high: int) -> int:
    """Check and return an integer field, ``low`` to ``high``."""
    if field not in row:
        raise TraceError(f"{where}: {field}: missing")
    value = row[field]
    if type(value) is not int or not low <= value <= high:
        raise TraceError(
            f"{where}: {field}: expected an integer of {low} to {high}, got {_describe(value)}"
        )
    return value


def _check_ints(values: object, field: str, where: str, low: int, high: int) -> NDArray[np.uint64]:
    """Check and convert a list of integers, each ``low`` to ``high``."""
    if not isinstance(values, list):
        raise TraceError(f"{where}: {field}: expected a list of integers, got {_describe(values)}")
    # Checked whole first: a loop in Python would take most of the reading time.
    if set(map(type, values)) != {int} or min(values) < low or max(values) > high:
        for position, value in enumerate(values):
            if type(value) is not int or not low <= value <= high:
                raise TraceError(
                    f"{where}: {field}[{position}]: expected an integer of {low} to {high},"
                    f" got {_describe(value)}"
                )
    return np.array(values, np.uint64)


def _weights(
    row: dict[str, Any], num_blocks: int, block_size: int, where: str
) -> NDArray[np.int64]:
    """Tell how many tokens each block of a row carries."""
    given = row.get("block_tokens")
    if given is None:
        length = _check_count(row, "input_length", where, 0, MAX_LENGTH)
        return full_then_rest(length, block_size, num_blocks)
    if row.get("input_length") is not None:
        _check_count(row, "input_length", where, 0, MAX_LENGTH)
    if isinstance(given, list) and len(given) != num_blocks:
        raise TraceError(
            f"{where}: block_tokens: has {len(given)} entries for {num_blocks} hash_ids"
        )
    return _check_ints(given, "block_tokens", where, 1, block_size).astype(np.int64)


def _describe(value: object) -> str:
    """Show a value in a message, shortened."""
    text = json.dumps(value) if not isinstance(value, int) else str(value)[:40]
    return text if len(text) <= 40 else text[:37] + "..."
