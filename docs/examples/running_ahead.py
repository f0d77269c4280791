"""Running ahead of the device: the next step is planned while the one before still runs."""

from collections import deque

import numpy as np

import nbkv


def decode_ahead(cache, device, handles, num_steps, depth=2):
    """Decode every sequence of a batch, with up to `depth` plans in flight.

    ``device.submit(plan)`` starts a step on what the step before samples, and returns at once;
    ``device.wait(plan)`` returns the tokens whose keys and values it wrote, one an entry.
    """
    free = deque(nbkv.StepBuffers.for_cache(cache) for _ in range(depth))
    in_flight = deque()
    outputs = []
    for _ in range(num_steps):
        if not free:
            retire(cache, device, free, in_flight, outputs)
        # The token is not known yet, only that there will be one: a slot is all it needs.
        plan = cache.plan(handles, 1, out=free.popleft())
        device.submit(plan)
        in_flight.append(plan)
    while in_flight:
        retire(cache, device, free, in_flight, outputs)
    return np.array(outputs).T


def retire(cache, device, free, in_flight, outputs):
    """Wait for the oldest step, commit what it computed, and let go what it used."""
    plan = in_flight.popleft()
    tokens = device.wait(plan)
    cache.commit(plan, tokens=tokens)
    cache.complete(plan.step_id)
    outputs.append(tokens)
    free.append(plan.buffers)
