"""A trace's requests as a scheduler meets them: when they arrive, what they ask, what they get."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nbkv.replay.jsonl import TraceError
from nbkv.replay.reading import AnyTrace
from nbkv.replay.timing import UNKNOWN
from nbkv.replay.token_traces import TokenTrace
from nbkv.replay.traces import Trace
from nbkv.replay.workload import name_tokens, name_tokens_at

Tokens = NDArray[np.int32]
Numbers = NDArray[np.int64]


class Arrivals:
    """The requests of a trace in order of arrival, numbered from 0.

    Tokens that the trace does not tell are made up: those of block hashes follow from the hash,
    those of answers from the request, so that nobody else has them.

    Parameters
    ----------
    trace : Trace or TokenTrace
        With a timestamp and an output's length for every request.
    load : float
        How many times as fast as in the trace they arrive.

    Attributes
    ----------
    seconds : float64, (num_requests,)
        Arrivals, ascending from 0.
    prompt_lengths, output_lengths : int64, (num_requests,)
        Tokens. Whoever asks gets at least one.
    num_empty : int
        Requests without a prompt, which are left out.

    Raises
    ------
    TraceError
        A request has no timestamp, or nothing tells how long its output is.
    """

    def __init__(self, trace: AnyTrace, load: float = 1.0) -> None:
        timing, num_requests = trace.timing, trace.num_requests
        times, outputs = timing.timestamps, timing.output_lengths
        _check_known(trace.name, "timestamp", np.isfinite(times), num_requests)
        _check_known(trace.name, "output_length", outputs != UNKNOWN, num_requests)
        if isinstance(trace, TokenTrace):
            lengths, self._prompt = trace.ends - trace.starts[:-1], _told_prompt(trace)
            self._told, self._told_starts = trace.tokens, trace.starts[:-1]
            self._told_lengths = np.diff(trace.starts)
        else:
            before = np.concatenate((np.zeros(1, np.int64), np.cumsum(trace.weights)))
            lengths, self._prompt = np.diff(before[trace.starts]), _named_prompt(trace)
            self._told, self._told_starts = np.empty(1, np.int32), np.zeros_like(lengths)
            self._told_lengths = np.zeros_like(lengths)
        order = np.argsort(times, kind="stable")
        self._order = order[lengths[order] > 0]
        self.num_empty = num_requests - len(self._order)
        times = times[self._order]
        self.seconds = (times - times[0]) / 1000 / load
        self.prompt_lengths: Numbers = lengths[self._order]
        self.output_lengths: Numbers = np.maximum(1, outputs[self._order])

    def __len__(self) -> int:
        return len(self._order)

    def prompt(self, number: int) -> Tokens:
        """Return the tokens that a request begins with."""
        return self._prompt(int(self._order[number]))

    def answer(self, numbers: Numbers, positions: Numbers) -> Tokens:
        """Return what stands at these positions, behind the prompts of these requests."""
        rows = self._order[numbers]
        made_up = name_tokens_at(~rows.astype(np.uint64), positions.astype(np.uint64))
        told = positions < self._told_lengths[rows]
        places = np.where(told, self._told_starts[rows] + positions, 0)
        return np.where(told, self._told[places], made_up)


def _check_known(name: str, field: str, known: NDArray[np.bool_], num_requests: int) -> None:
    if len(known) != num_requests:
        raise TraceError(f"{name}: made without timing; a schedule needs {field} of every request")
    unknown = np.flatnonzero(~known)
    if unknown.size:
        raise TraceError(
            f"{name}: request {unknown[0] + 1} of {num_requests} has no {field};"
            " a schedule needs that of every request"
        )


def _told_prompt(trace: TokenTrace) -> Callable[[int], Tokens]:
    return lambda row: trace.tokens[trace.starts[row] : trace.ends[row]]


def _named_prompt(trace: Trace) -> Callable[[int], Tokens]:
    def prompt(row: int) -> Tokens:
        own = slice(trace.starts[row], trace.starts[row + 1])
        return name_tokens(trace.hashes[own], trace.weights[own])

    return prompt
