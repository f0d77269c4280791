"""JSON Lines read row by row, and fields checked by name: what every trace format needs."""

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

MAX_LENGTH = 2**53  # what JSON readers agree on; far beyond any prompt
PROGRESS_LINES = 256

Progress = Callable[[int, int], None]
Row = dict[str, Any]


class TraceError(ValueError):
    """A trace that cannot be read; the message names file, line and field."""


def rows_of(path: Path, progress: Progress | None = None) -> Iterator[tuple[Row, str]]:
    """Read the rows of a JSON Lines file, gzipped or not (told by content, not by name).

    Parameters
    ----------
    path : Path
    progress : callable, optional
        Called as ``progress(bytes_read, bytes_total)`` now and then.

    Yields
    ------
    dict, str
        A row, and where it stands, for messages.

    Raises
    ------
    TraceError
        Where the file cannot be read or a line is not a JSON object.
    """
    number = 0
    try:
        for number, line in enumerate(_lines(path, progress), 1):
            if line and not line.isspace():
                where = f"{path}, line {number}"
                yield _parse_object(line, where), where
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise TraceError(f"{path}: cannot be read after line {number}: {reason}") from error


def _lines(path: Path, progress: Progress | None) -> Iterator[bytes]:
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


def _parse_object(line: bytes, where: str) -> Row:
    """Parse a line that must be one JSON object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise TraceError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise TraceError(f"{where}: expected a JSON object, got {describe(row)}")
    return row


def check_number(row: Row, field: str, where: str) -> float:
    """Check a field that may be absent and is a number otherwise; return NaN where absent."""
    value = row.get(field)
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise TraceError(f"{where}: {field}: expected a number, got {describe(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_count(row: Row, field: str, where: str, low: int, high: int) -> int:
    """Check and return an integer field, ``low`` to ``high``."""
    if field not in row:
        raise TraceError(f"{where}: {field}: missing")
    value = row[field]
    if type(value) is not int or not low <= value <= high:
        raise TraceError(
            f"{where}: {field}: expected an integer of {low} to {high}, got {describe(value)}"
        )
    return value


def check_ints(values: object, field: str, where: str, low: int, high: int) -> NDArray[np.uint64]:
    """Check and convert a list of integers, each ``low`` to ``high``."""
    if not isinstance(values, list):
        raise TraceError(f"{where}: {field}: expected a list of integers, got {describe(values)}")
    # Checked whole first: a loop in Python would take most of the reading time.
    if set(map(type, values)) != {int} or min(values) < low or max(values) > high:
        for position, value in enumerate(values):
            if type(value) is not int or not low <= value <= high:
                raise TraceError(
                    f"{where}: {field}[{position}]: expected an integer of {low} to {high},"
                    f" got {describe(value)}"
                )
    return np.array(values, np.uint64)


def describe(value: object) -> str:
    """Show a value in a message, shortened."""
    text = json.dumps(value) if not isinstance(value, int) else str(value)[:40]
    return text if len(text) <= 40 else text[:37] + "..."
