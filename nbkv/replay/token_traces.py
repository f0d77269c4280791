"""Traces of token ids: prompts in full, and what was answered.

A trace is JSON Lines, gzipped or not, one request a line::

    {"timestamp": 1374, "session": "a7", "input_length": 1486, "output_length": 2,
     "prefix_of_prev": 595, "suffix_tokens": [68, 274, ...], "output_tokens": [32, 2]}

A prompt is the first ``prefix_of_prev`` tokens of the same session's previous prompt, then
``suffix_tokens``. ``output_tokens`` may be absent, as may the lengths, which are checked where
present, and ``timestamp``, in milliseconds: only scheduling uses it.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nbkv.hashing import hash_tokens
from nbkv.replay.jsonl import (
    MAX_LENGTH,
    Row,
    TraceError,
    check_count,
    check_ints,
    describe,
)
from nbkv.replay.timing import NO_TIMING, UNKNOWN, Timing, TimingBuilder, check_timing

DEFAULT_BLOCK_SIZE = 16
MAX_TOKEN = 2**31 - 1

Tokens = NDArray[np.int32]
Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class TokenTrace:
    """The requests of a trace, as flat arrays, and how to replay them.

    Parameters
    ----------
    name : str
        What the report calls it.
    tokens : int32, (all tokens,)
        Each request's prompt and then its output, one request after the other.
    starts : int64, (num_requests + 1,)
        Request r has the tokens ``starts[r]`` to ``starts[r + 1]``.
    ends : int64, (num_requests,)
        Where its prompt ends and its output begins.
    block_size : int
        Tokens a block.
    outputs : bool
        Replay the outputs too; without, they are as if they were not there.
    timing : Timing
        When each request came and how much it was answered, as far as the rows say so.
    """

    name: str
    tokens: Tokens
    starts: Offsets
    ends: Offsets
    block_size: int = DEFAULT_BLOCK_SIZE
    outputs: bool = False
    timing: Timing = NO_TIMING
    num_skipped = 0

    @property
    def num_requests(self) -> int:
        """Requests, those with an empty prompt included."""
        return len(self.ends)

    @property
    def limits(self) -> Offsets:
        """Where each request's replayed tokens end: int64, (num_requests,)."""
        return self.starts[1:] if self.outputs else self.ends

    @cached_property
    def total_tokens(self) -> int:
        """Tokens of all prompts."""
        return int((self.ends - self.starts[:-1]).sum())

    @cached_property
    def total_blocks(self) -> int:
        """Blocks that all prompts take, partly filled ones included."""
        return int((-(-(self.ends - self.starts[:-1]) // self.block_size)).sum())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest request, its output included where that is replayed."""
        return int((self.limits - self.starts[:-1]).max(initial=0))

    @cached_property
    def _references(self) -> tuple[int, int]:
        """Distinct full blocks, and how many prompts' full blocks an infinite cache hits."""
        starts, ends, limits = (a.tolist() for a in (self.starts, self.ends, self.limits))
        # Half of each hash tells a block: among a million, two are taken for one once in
        # 40 million times.
        chains = [
            hash_tokens(self.tokens[start:limit], self.block_size)[:, 0]
            for start, limit in zip(starts[:-1], limits, strict=True)
        ]
        keys = np.concatenate(chains)
        first = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        num_new_of_prompts = at = 0
        for start, end, chain in zip(starts[:-1], ends, chains, strict=True):
            num_new_of_prompts += int(first[at : at + (end - start) // self.block_size].sum())
            at += len(chain)
        num_full = int(((self.ends - self.starts[:-1]) // self.block_size).sum())
        return int(first.sum()), num_full - num_new_of_prompts

    @property
    def num_unique(self) -> int:
        """Distinct full blocks, each told by its tokens and all tokens before."""
        return self._references[0]

    @property
    def ceiling_tokens(self) -> int:
        """Tokens of the prompts that an infinite cache would hit."""
        return self._references[1] * self.block_size

    def unlimited_blocks(self, running: int) -> int:
        """Count blocks with which no block is ever evicted.

        Each running request may have one that is partly filled, and the latest writes its
        blocks before it finds that they are there.
        """
        return self.num_unique + running + -(-self.longest // self.block_size)

    def replayed(self, block_size: int = DEFAULT_BLOCK_SIZE, outputs: bool = False) -> "TokenTrace":
        """Take the same requests, to be replayed otherwise."""
        return replace(self, block_size=block_size, outputs=outputs)

    def head(self, num_requests: int) -> "TokenTrace":
        """Take the first requests only."""
        starts = self.starts[: num_requests + 1]
        tokens = self.tokens[: int(starts[-1])]
        ends, timing = self.ends[:num_requests], self.timing.head(num_requests)
        return replace(self, tokens=tokens, starts=starts, ends=ends, timing=timing)


def is_token_row(row: Row) -> bool:
    """Tell by a row's fields whether its trace is one of tokens."""
    return "suffix_tokens" in row or "prefix_of_prev" in row


class TokenTraceBuilder:
    """Collects requests and joins them into one `TokenTrace`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._prompts: list[Tokens] = []
        self._outputs: list[Tokens] = []
        self._latest: dict[object, Tokens] = {}
        self._timing = TimingBuilder()

    def add(
        self,
        prompt: Tokens,
        output: Tokens | None = None,
        timestamp: float = math.nan,
        output_length: int = UNKNOWN,
    ) -> None:
        """Append one request."""
        self._prompts.append(prompt)
        self._outputs.append(np.empty(0, np.int32) if output is None else output)
        self._timing.add(timestamp, output_length if output is None else len(output))

    def add_row(self, row: Row, where: str) -> None:
        """Check one line and append its request."""
        timestamp, output_length = check_timing(row, where)
        session = row.get("session")
        if type(session) not in (str, int):
            raise TraceError(
                f"{where}: session: expected a string or an integer, got {describe(session)}"
                if "session" in row
                else f"{where}: session: missing"
            )
        before = self._latest.get(session, np.empty(0, np.int32))
        num_kept = check_count(row, "prefix_of_prev", where, 0, MAX_LENGTH)
        if num_kept > len(before):
            raise TraceError(
                f"{where}: prefix_of_prev: {num_kept} tokens of the session's previous prompt,"
                f" which has {len(before)}"
            )
        prompt = np.concatenate((before[:num_kept], _token_ids(row, "suffix_tokens", where)))
        output = None
        if row.get("output_tokens") is not None:
            output = _token_ids(row, "output_tokens", where)
            _check_length(row, "output_length", where, len(output))
        _check_length(row, "input_length", where, len(prompt))
        self._latest[session] = prompt
        self.add(prompt, output, timestamp, output_length)

    @property
    def objection(self) -> str:
        """Say why this is no trace, or nothing."""
        return "" if any(map(len, self._prompts)) else "no row with tokens, nothing to replay"

    def build(self) -> TokenTrace:
        """Join what was added; at least one token of a prompt."""
        prompts, outputs = self._prompts, self._outputs
        starts = np.zeros(len(prompts) + 1, np.int64)
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        np.cumsum(lengths + [len(output) for output in outputs], out=starts[1:])
        parts = [part for pair in zip(prompts, outputs, strict=True) for part in pair]
        tokens, timing = np.concatenate(parts), self._timing.build()
        return TokenTrace(self.name, tokens, starts, starts[:-1] + lengths, timing=timing)


def _token_ids(row: Row, field: str, where: str) -> Tokens:
    """Check and convert a list of token ids."""
    if field not in row:
        raise TraceError(f"{where}: {field}: missing")
    return check_ints(row[field], field, where, 0, MAX_TOKEN).astype(np.int32)


def _check_length(row: Row, field: str, where: str, length: int) -> None:
    """Check a length that may be absent and is that of the tokens otherwise."""
    if row.get(field) is not None and check_count(row, field, where, 0, MAX_LENGTH) != length:
        raise TraceError(f"{where}: {field}: {row[field]}, but there are {length} tokens")
