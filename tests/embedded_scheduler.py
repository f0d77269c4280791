"""A toy scheduler twice: wholly compiled over `nbkv.embed`, and in Python over the facade.

Requests come in order. A step gives each running request a chunk of its prompt, or one token,
within a budget; where blocks run out the engine preempts, and a preempted request comes again.
"""

from typing import NamedTuple

import numpy as np

import nbkv
from nbkv import embed

_ROW_MASK = 2**32 - 1
LIMIT = 2**62
# What a scheduler has counted, by position.
ADMITTED, HIT_TOKENS, FINISHED, PREEMPTED, TOKENS, CHECKSUM = range(6)
NUM_COUNTS = 6


class Work(NamedTuple):
    """Requests, who is running, and scratch: compiled schedulers allocate nothing."""

    texts: np.ndarray  # int32: the tokens of all requests, prompt and answer
    starts: np.ndarray  # int64, (requests + 1,)
    prompts: np.ndarray  # int64, (requests,): tokens of the prompt
    waiting: np.ndarray  # int64, a ring: requests that wait
    ends: np.ndarray  # int64, (2,): the ring's head and tail, ever growing
    running: np.ndarray  # int64, (batch,): requests
    handles: np.ndarray  # int64, (batch,)
    done: np.ndarray  # int64, (batch,): committed tokens of each
    size: np.ndarray  # int64, (1,): how many are running
    counts: np.ndarray  # int32, (batch,)
    tokens: np.ndarray  # int32, (budget,)
    none_ids: np.ndarray  # int32, (0,)
    none_handles: np.ndarray  # int64, (0,)
    totals: np.ndarray  # int64, (NUM_COUNTS,)


def new_work(rng, num_requests: int, batch: int, budget: int) -> Work:
    """Draw requests, whose prompts share beginnings."""
    stems = [[rng.randrange(50) for _ in range(24)] for _ in range(3)]
    texts, starts, prompts = [], [0], []
    for _ in range(num_requests):
        stem = rng.choice(stems)
        prompt = stem[: rng.randint(0, len(stem))] + rng.choices(range(50), k=rng.randint(1, 12))
        texts += prompt + rng.choices(range(50), k=rng.randint(1, 20))
        prompts.append(len(prompt))
        starts.append(len(texts))
    return Work(
        texts=np.array(texts, np.int32),
        starts=np.array(starts, np.int64),
        prompts=np.array(prompts, np.int64),
        waiting=np.arange(num_requests, dtype=np.int64),
        ends=np.array([0, num_requests], np.int64),
        running=np.zeros(batch, np.int64),
        handles=np.zeros(batch, np.int64),
        done=np.zeros(batch, np.int64),
        size=np.zeros(1, np.int64),
        counts=np.zeros(batch, np.int32),
        tokens=np.zeros(budget, np.int32),
        none_ids=np.empty(0, np.int32),
        none_handles=np.empty(0, np.int64),
        totals=np.zeros(NUM_COUNTS, np.int64),
    )


@nbkv.kernel
def run_steps(arena, buffers, work, num_steps):
    """Run steps without returning to Python; 0, or the status of a kernel that refused."""
    for _ in range(num_steps):
        status = np.int64(_admit_waiting(arena, work))
        if status == 0:
            status = np.int64(_run_step(arena, buffers, work))
        if status < 0:
            return status
    return np.int64(0)


@nbkv.kernel
def _admit_waiting(arena, work):
    while work.size[0] < work.running.size:
        request = work.waiting[work.ends[0] % work.waiting.size]
        start = work.starts[request]
        prompt = work.texts[start : start + work.prompts[request]]
        # A model computes at least the last token of a prompt.
        handle, hit = embed.admit_plain(arena, request, prompt, prompt.size - 1)
        if handle < 0:
            return handle
        at = work.size[0]
        work.running[at] = request
        work.handles[at] = handle
        work.done[at] = hit
        work.size[0] = at + 1
        work.ends[0] += 1
        work.totals[ADMITTED] += 1
        work.totals[HIT_TOKENS] += hit
    return np.int64(0)


@nbkv.kernel
def _run_step(arena, buffers, work):
    size = work.size[0]
    budget = work.tokens.size - size
    for i in range(size):
        left = work.prompts[work.running[i]] - work.done[i]
        count = 1
        if left > 1:
            count = min(left, 1 + budget)
            budget -= count - 1
        work.counts[i] = count
    handles, counts = work.handles[:size], work.counts[:size]
    none = work.none_handles
    planned = embed.plan_step(arena, buffers, handles, counts, 0, embed.PREEMPT, none, none)
    if planned < 0:
        return planned
    step = embed.open_step(buffers)
    filled = 0
    for j in range(step.header["num_survivors"][0]):
        i = step.survivors[j]
        start = work.starts[work.running[i]] + work.done[i]
        for k in range(work.counts[i]):
            work.tokens[filled + k] = work.texts[start + k]
            slot = step.slots[filled + k]
            work.totals[CHECKSUM] = (work.totals[CHECKSUM] * 31 + slot) & 0xFFFFFFFFFF
        filled += work.counts[i]
        work.done[i] += work.counts[i]
    work.totals[TOKENS] += filled
    tokens = work.tokens[:filled]
    status = embed.commit_step(arena, buffers, buffers, work.none_ids, tokens, True)
    if status < 0:
        return status
    return _sort_out(arena, work, step)


@nbkv.kernel
def _sort_out(arena, work, step):
    """Take out who was preempted or is at the end, keeping the others in order."""
    kept = 0
    for i in range(work.size[0]):
        request = work.running[i]
        gone = False
        for j in range(step.header["num_preempted"][0]):
            gone = gone or step.preempted["handle"][j] == work.handles[i]
        ended = work.done[i] == work.starts[request + 1] - work.starts[request]
        if ended and not gone:
            status = embed.finish_rows(arena, work.handles[i : i + 1])
            if status < 0:
                return status
            work.totals[FINISHED] += 1
        if gone:
            work.totals[PREEMPTED] += 1
        if gone or ended:
            # Whoever is at the end comes again later, as another of the same prompt.
            work.waiting[work.ends[1] % work.waiting.size] = request
            work.ends[1] += 1
        else:
            work.running[kept] = request
            work.handles[kept] = work.handles[i]
            work.done[kept] = work.done[i]
            kept += 1
    work.size[0] = kept
    return np.int64(0)


def run_steps_by_facade(cache, buffers, work, num_steps):
    """Do what `run_steps` does, by the facade's calls and in lists."""
    texts = [work.texts[a:b] for a, b in zip(work.starts[:-1], work.starts[1:], strict=True)]
    waiting, running = work.waiting.tolist(), []
    totals = [0] * NUM_COUNTS
    for _ in range(num_steps):
        while len(running) < work.running.size:
            request = waiting.pop(0)
            prompt = texts[request][: work.prompts[request]]
            handle, hit = cache.admit(request, prompt, max_hit_tokens=len(prompt) - 1)
            running.append([request, handle, hit])
            totals[ADMITTED] += 1
            totals[HIT_TOKENS] += hit
        budget, counts = work.tokens.size - len(running), []
        for request, _, done in running:
            count = max(1, min(work.prompts[request] - done, 1 + budget))
            budget -= count - 1
            counts.append(count)
        handles = np.array([handle for _, handle, _ in running])
        plan = cache.plan(handles, np.array(counts, np.int32), on_exhaustion="preempt", out=buffers)
        parts = []
        for i in plan.survivors.tolist():
            request, _, done = running[i]
            parts.append(texts[request][done : done + counts[i]])
            running[i][2] += counts[i]
        for slot in plan.slot_mapping.tolist():
            totals[CHECKSUM] = (totals[CHECKSUM] * 31 + slot) & 0xFFFFFFFFFF
        tokens = np.concatenate([work.none_ids, *parts])
        totals[TOKENS] += len(tokens)
        gone = set(plan.preempted["handle"].tolist())
        cache.commit(plan, tokens=tokens)
        still = []
        for request, handle, done in running:
            ended = done == len(texts[request]) and handle not in gone
            if ended:
                cache.finish(np.array([handle]))
            totals[FINISHED] += ended
            totals[PREEMPTED] += handle in gone
            if ended or handle in gone:
                waiting.append(request)
            else:
                still.append([request, handle, done])
        running = still
    return totals
