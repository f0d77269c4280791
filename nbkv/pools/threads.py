"""Runs a kernel over a range: at once, without the GIL, or in several threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, Final

from nbkv._demand import ready

#: Bytes from which a call takes about a millisecond: it then lets other Python threads run.
APART_FROM: Final = 8 * 2**20
#: Threads of one call unless its pool says otherwise: more do not copy faster on most machines.
USUAL_THREADS: Final = 4

Kernel = Callable[..., Any]


def count_threads() -> int:
    """Return how many threads a large call is spread over unless a pool says otherwise."""
    if hasattr(os, "sched_getaffinity"):
        return min(USUAL_THREADS, len(os.sched_getaffinity(0)))
    return min(USUAL_THREADS, os.cpu_count() or 1)


@cache
def _executor(process: int, num_threads: int) -> ThreadPoolExecutor:
    # By process: a fork has the executor, but not its threads.
    return ThreadPoolExecutor(num_threads, thread_name_prefix="nbkv")


def run_over(
    kernels: tuple[Kernel, Kernel],
    args: Callable[[], tuple[Any, ...]],
    num_items: int,
    num_bytes: int,
    num_threads: int,
    spread_from: int,
) -> None:
    """Call a kernel for all items of a range.

    Parameters
    ----------
    kernels : pair of callable
        Of `nbkv._demand.on_demand_twins`: one that keeps the GIL, for short calls, and its
        twin that releases it. Both take `args` and then start and stop.
    args : callable
        Makes the arguments of one thread.
    num_items : int
    num_bytes : int
        About how many the call moves.
    num_threads : int
        At most.
    spread_from : int
        Bytes from which more than one thread is worth it.
    """
    if num_bytes < APART_FROM and (num_threads == 1 or num_bytes < spread_from):
        ready(kernels[0])(*args(), 0, num_items)
        return
    kernel = ready(kernels[1])
    parts = min(num_threads, num_items) if num_bytes >= spread_from else 1
    if parts <= 1:
        kernel(*args(), 0, num_items)
        return
    edges = [num_items * i // parts for i in range(parts + 1)]
    executor = _executor(os.getpid(), parts - 1)
    spans = list(pairwise(edges))
    others = [executor.submit(kernel, *(*args(), *span)) for span in spans[1:]]
    kernel(*args(), *spans[0])
    for other in others:
        other.result()
