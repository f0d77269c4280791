"""When the requests of a trace came, and how much they were answered."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbkv.replay.jsonl import MAX_LENGTH, Row, check_count, check_number

UNKNOWN = -1  # an output's length that the row does not tell


@dataclass(frozen=True)
class Timing:
    """Two numbers of each request.

    Parameters
    ----------
    timestamps : float64, (num_requests,)
        Milliseconds; NaN where the row has none.
    output_lengths : int64, (num_requests,)
        Tokens; ``UNKNOWN`` where the row tells neither them nor how many.
    """

    timestamps: NDArray[np.float64]
    output_lengths: NDArray[np.int64]

    def head(self, num_requests: int) -> "Timing":
        """Take the first requests only."""
        return Timing(self.timestamps[:num_requests], self.output_lengths[:num_requests])


#: Of traces that were made without: no request has either.
NO_TIMING = Timing(np.empty(0, np.float64), np.empty(0, np.int64))


class TimingBuilder:
    """Collects the numbers of requests and joins them into one `Timing`."""

    def __init__(self) -> None:
        self._timestamps: list[float] = []
        self._output_lengths: list[int] = []

    def add(self, timestamp: float, output_length: int) -> None:
        """Append one request's."""
        self._timestamps.append(timestamp)
        self._output_lengths.append(output_length)

    def build(self) -> Timing:
        """Join what was added."""
        lengths = np.array(self._output_lengths, np.int64)
        return Timing(np.array(self._timestamps, np.float64), lengths)


def check_timing(row: Row, where: str) -> tuple[float, int]:
    """Check a row's timestamp and output_length, which may be absent."""
    timestamp = check_number(row, "timestamp", where)
    if row.get("output_length") is None:
        return timestamp, UNKNOWN
    return timestamp, check_count(row, "output_length", where, 0, MAX_LENGTH)
