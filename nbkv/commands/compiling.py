"""Compiles kernels in several processes: in one of them numba compiles one at a time."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final

from nbkv import _demand, _jit

#: Processes unless told otherwise: each compiles parts anew that another has compiled too.
MOST_JOBS: Final = 4


def usual_jobs() -> int:
    """Return how many processes compile unless told otherwise."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST_JOBS, len(os.sched_getaffinity(0)))
    return min(MOST_JOBS, os.cpu_count() or 1)


def name_kernels() -> dict[str, Any]:
    """Return what there is to compile, by name."""
    # Kernels register themselves where they are defined.
    import nbkv.attention
    import nbkv.cache  # noqa: F401

    return _demand.name_kernels()


def compile_everything(jobs: int) -> Iterator[str]:
    """Compile every kernel that is not on disk yet.

    Parameters
    ----------
    jobs : int
        Processes to compile in, 1 or more. Without a folder to leave machine code in, one
        process cannot compile for another.

    Yields
    ------
    str
        The name of each kernel once it is ready or on disk, in any order.
    """
    kernels = name_kernels()
    elsewhere = set()
    if jobs > 1 and _jit.CACHE_DIR is not None:
        for name in _compile_elsewhere(list(kernels), jobs):
            elsewhere.add(name)
            yield name
    for name, function in kernels.items():
        if name not in elsewhere:
            _demand.compile_kernel(function)
            yield name


def _compile_elsewhere(names: list[str], jobs: int) -> Iterator[str]:
    # New interpreters: a fork would take over locks and threads of this one.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, mp_context=context) as executor:
            waiting = {executor.submit(_compile, name): name for name in names}
            for future in as_completed(waiting):
                future.result()
                yield waiting[future]
    except (BrokenProcessPool, OSError):
        # Killed for its memory, say, or there is nothing to make semaphores of: what is missing
        # is compiled one by one.
        return


def _compile(name: str) -> None:
    """Compile one kernel, in a process of its own."""
    _demand.compile_kernel(name_kernels()[name])
