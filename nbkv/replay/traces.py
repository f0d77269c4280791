"""Traces of block references: the Mooncake format.

A trace is JSON Lines, gzipped or not, one request a line::

    {"timestamp": 0, "input_length": 6758, "output_length": 500,
     "hash_ids": [0, 1, 2], "block_size": 512, "block_tokens": [512, 512, 17]}

``hash_ids`` are prefix-unique: equal ids mean equal tokens from the start of the
prompt through that block. ``block_size`` (default 512) and ``block_tokens`` may be
absent, as may ``timestamp``, in milliseconds, and ``output_length``: only scheduling uses them.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nbkv.replay.jsonl import (
    MAX_LENGTH,
    Row,
    TraceError,
    check_count,
    check_ints,
)
from nbkv.replay.timing import NO_TIMING, UNKNOWN, Timing, TimingBuilder, check_timing

DEFAULT_BLOCK_SIZE = 512
MAX_BLOCK_SIZE = 32_767  # the engine counts a block's tokens in an int16
MAX_HASH = 2**64 - 1


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
    timing : Timing
        When each request came and how much it was answered, as far as the rows say so.
    """

    name: str
    block_size: int
    hashes: NDArray[np.uint64]
    weights: NDArray[np.int64]
    starts: NDArray[np.int64]
    num_skipped: int = 0
    timing: Timing = NO_TIMING

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

    def unlimited_blocks(self, running: int) -> int:
        """Count the blocks with which no block is ever evicted."""
        return self.num_unique

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
            self.timing.head(num_requests),
        )


class TraceBuilder:
    """Collects requests and joins them into one `Trace`."""

    def __init__(self, name: str, block_size: int | None = None) -> None:
        self.name = name
        self.block_size = block_size
        self.num_skipped = 0
        self._hashes: list[NDArray[np.uint64]] = []
        self._weights: list[NDArray[np.int64]] = []
        self._timing = TimingBuilder()

    def add(
        self,
        hashes: NDArray[np.uint64],
        weights: NDArray[np.int64],
        timestamp: float = math.nan,
        output_length: int = UNKNOWN,
    ) -> None:
        """Append one request."""
        self._hashes.append(hashes)
        self._weights.append(weights)
        self._timing.add(timestamp, output_length)

    def add_row(self, row: Row, where: str) -> None:
        """Check one line and append its request, or count it as skipped."""
        timestamp, output_length = check_timing(row, where)
        block_size = DEFAULT_BLOCK_SIZE
        if row.get("block_size") is not None:
            block_size = check_count(row, "block_size", where, 1, MAX_BLOCK_SIZE)
        ids = row.get("hash_ids")
        if ids is None or ids == []:
            self.num_skipped += 1
            return
        if self.block_size is None:
            self.block_size = block_size
        elif self.block_size != block_size:
            raise TraceError(
                f"{where}: block_size: {block_size} differs from"
                f" {self.block_size} in the lines before"
            )
        hashes = check_ints(ids, "hash_ids", where, 0, MAX_HASH)
        weights = _weights(row, len(hashes), block_size, where)
        self.add(hashes, weights, timestamp, output_length)

    @property
    def objection(self) -> str:
        """Say why this is no trace, or nothing."""
        if self._hashes:
            return ""
        return (
            "no row with hash_ids, nothing to replay"
            f" ({self.num_skipped:,} rows without hash_ids skipped)"
        )

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
            self._timing.build(),
        )


def full_then_rest(num_tokens: int, block_size: int, num_blocks: int) -> NDArray[np.int64]:
    """Spread ``num_tokens`` over blocks: full ones, then the rest, at least 1 in each."""
    positions = np.arange(num_blocks, dtype=np.int64)
    weights: NDArray[np.int64] = np.clip(num_tokens - positions * block_size, 1, block_size)
    return weights


def _weights(row: Row, num_blocks: int, block_size: int, where: str) -> NDArray[np.int64]:
    """Tell how many tokens each block of a row carries."""
    given = row.get("block_tokens")
    if given is None:
        length = check_count(row, "input_length", where, 0, MAX_LENGTH)
        return full_then_rest(length, block_size, num_blocks)
    if row.get("input_length") is not None:
        check_count(row, "input_length", where, 0, MAX_LENGTH)
    if isinstance(given, list) and len(given) != num_blocks:
        raise TraceError(
            f"{where}: block_tokens: has {len(given)} entries for {num_blocks} hash_ids"
        )
    return check_ints(given, "block_tokens", where, 1, block_size).astype(np.int64)
