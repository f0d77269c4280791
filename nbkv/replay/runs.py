"""One replay of a trace of either kind."""

from collections.abc import Callable

import numpy as np

from nbkv.replay.reading import AnyTrace
from nbkv.replay.replay import Replay, ReplayRun
from nbkv.replay.token_replay import TokenReplay
from nbkv.replay.token_traces import TokenTrace
from nbkv.replay.traces import Trace


def begin_replay(
    trace: AnyTrace, policy: str, capacity: int, running: int = 1
) -> Replay | TokenReplay:
    """Prepare a replay through a new cache: see `replay_trace`."""
    if isinstance(trace, TokenTrace):
        return TokenReplay(trace, policy, capacity, running)
    return Replay(trace, policy, capacity, running)


def replay_trace(
    trace: AnyTrace,
    policy: str,
    capacity: int,
    running: int = 1,
    progress: Callable[[int], None] | None = None,
) -> ReplayRun:
    """Replay a trace through a new cache.

    Parameters
    ----------
    trace : Trace or TokenTrace
        At least one request, and one token.
    policy : str
        ``"lru"``, ``"fifo"`` or ``"frequency"``.
    capacity : int
        Blocks of the cache, at least 1.
    running : int
        Requests that hold their blocks at the same time, at least 1.
    progress : callable, optional
        Called as ``progress(num_requests)`` after each chunk of requests.

    Returns
    -------
    ReplayRun
        A `TokenReplayRun` for tokens.
    """
    replay = begin_replay(trace, policy, capacity, running)
    replay.drive(progress)
    return replay.result()


def warm_up(trace: AnyTrace, policy: str) -> None:
    """Load or compile what a replay calls, so that no run pays for it."""
    few: AnyTrace
    if isinstance(trace, TokenTrace):
        ends = np.array([2, 4], np.int64)
        few = TokenTrace("warm-up", np.zeros(4, np.int32), np.array([0, 2, 4]), ends, block_size=2)
    else:
        hashes, weights = np.arange(4, dtype=np.uint64), np.full(4, 2, np.int64)
        few = Trace("warm-up", 2, hashes, weights, np.array([0, 2, 4], np.int64))
    replay_trace(few, policy, capacity=3)
