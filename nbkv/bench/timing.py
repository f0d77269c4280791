"""Clocks and cache flushing."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

FLUSH_BYTES = 256 * 2**20  # several times a core's share of any last-level cache
_flush_area = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Measurement:
    """One number with its target.

    ``limit`` is the most that is allowed, or the least where ``at_least`` is set;
    None where there is no target.
    """

    subject: str
    name: str
    unit: str
    value: float
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def flush_caches() -> None:
    """Write an area larger than the processor's caches."""
    global _flush_area
    if not len(_flush_area):
        _flush_area = np.zeros(FLUSH_BYTES, np.uint8)
    _flush_area += np.uint8(1)


def seconds_of(call: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def best_of(rounds: int, round_seconds: Callable[[], float]) -> float:
    """Return the shortest of several rounds that time themselves."""
    return min(round_seconds() for _ in range(rounds))


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """Keep one more Python thread busy meanwhile."""
    done = threading.Event()
    thread = threading.Thread(target=_keep_busy, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _keep_busy(done: threading.Event) -> None:
    total = 0
    while not done.is_set():
        for i in range(1_000):
            total += i
