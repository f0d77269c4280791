"""The loop of a replay of tokens: admit, plan, commit, finish, without a way through Python."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nbkv._user_kernels import kernel
from nbkv.embed import (
    RAISE,
    admit_plain,
    commit_step,
    finish_rows,
    num_usable,
    open_state,
    plan_step,
)
from nbkv.statuses import OUT_OF_BLOCKS

# What is counted, by position.
HIT_TOKENS = 0
OVERFLOW_REQUESTS = 1
OVERFLOW_BLOCKS = 2
TOKENS = 3  # hit or computed: all but what was cut
NUM_TOTALS = 4

_ROW_MASK = 2**32 - 1
_NO_LIMIT = 2**62

Ids = NDArray[np.int32]
Offsets = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class Requests(NamedTuple):
    """The requests of a trace: see `TokenTrace`."""

    tokens: Ids
    starts: Offsets
    ends: Offsets
    limits: Offsets


class Work(NamedTuple):
    """What the loop writes, and empty arrays for what it has not: kernels allocate nothing."""

    alive: Offsets  # handles of the running requests; request r is at r % running
    counts: Ids  # (1,): the count of the batch, which is one sequence
    totals: Offsets  # (NUM_TOTALS,)
    no_ids: Ids
    no_handles: Offsets


@kernel
def replay_requests(
    arena: Bytes, buffers: Bytes, requests: Requests, work: Work, first: int, last: int
) -> int:
    """Replay some requests.

    Parameters
    ----------
    arena, buffers : uint8, C-contiguous
        A cache's, and step buffers with room for the longest request.
    requests : Requests
    work : Work
        As the requests before have left it.
    first, last : int
        Which, `last` excluded.

    Returns
    -------
    int
        0, or the status of a kernel that refused.
    """
    tokens, starts, ends, limits = requests
    for request in range(first, last):
        slot = request % work.alive.size
        handle = work.alive[slot : slot + 1]
        if request >= work.alive.size:
            status = np.int64(finish_rows(arena, handle))
            if status < 0:
                return status
        start, end, limit = starts[request], ends[request], limits[request]
        opened, num_hit_tokens = admit_plain(arena, request, tokens[start:end], _NO_LIMIT)
        if opened < 0:
            return opened
        handle[0] = opened
        work.totals[HIT_TOKENS] += num_hit_tokens
        start += num_hit_tokens
        done = np.int64(_compute(arena, buffers, handle, work, tokens[start:end]))
        if done == end - start and limit > end:
            done = np.int64(_compute(arena, buffers, handle, work, tokens[end:limit]))
        if done < 0:
            return done
        _count_tokens(arena, handle[0], work.totals, limit - starts[request])
    return np.int64(0)


@kernel
def _compute(arena: Bytes, buffers: Bytes, handle: Offsets, work: Work, tokens: Ids) -> int:
    """Plan and commit a sequence's next tokens, or as many as fit; how many, or a status."""
    counts = work.counts
    counts[0] = tokens.size
    others = work.no_handles
    planned = np.int64(plan_step(arena, buffers, handle, counts, 0, RAISE, others, others))
    if planned == OUT_OF_BLOCKS:
        state = open_state(arena)
        row = handle[0] & _ROW_MASK
        reach = np.int64(state.sequences["num_blocks"][row]) + num_usable(state)
        room = reach * state.header["block_size"][0] - state.sequences["num_tokens"][row]
        tokens = tokens[:room]
        counts[0] = room
        planned = np.int64(plan_step(arena, buffers, handle, counts, 0, RAISE, others, others))
    if planned < 0:
        return planned
    status = np.int64(commit_step(arena, buffers, buffers, work.no_ids, tokens, True))
    return status if status < 0 else np.int64(tokens.size)


@kernel
def _count_tokens(arena: Bytes, handle: int, totals: Offsets, num_tokens: int) -> None:
    """Count what a request that was to have this many tokens has, and what it lacks."""
    state = open_state(arena)
    row = handle & _ROW_MASK
    totals[TOKENS] += np.int64(state.sequences["num_tokens"][row])
    if state.sequences["num_tokens"][row] < num_tokens:
        block_size = state.header["block_size"][0]
        wanted = (num_tokens + block_size - 1) // block_size
        totals[OVERFLOW_REQUESTS] += 1
        totals[OVERFLOW_BLOCKS] += wanted - np.int64(state.sequences["num_blocks"][row])
