"""A test of a scheduler: an executor takes the device's place and looks at every slot."""

import random

import numpy as np

import nbkv
from nbkv.testing import LaggingExecutor


class Model:
    """What a scheduler takes for its model: the executor carries plans out, sampling is chance."""

    def __init__(self, executor, rng):
        self.executor, self.rng = executor, rng

    def __call__(self, plan, tokens):
        self.executor.submit(plan, tokens)
        return [self.rng.randrange(50) for _ in range(plan.num_entries)]


def check_scheduler(make_scheduler, seed, num_requests=30):
    """Run ``make_scheduler(cache, model)`` on requests that share beginnings, in a small pool."""
    rng = random.Random(seed)
    cache = nbkv.PagedKVCache(nbkv.CacheConfig(4, 20, 1, 1, 64, max_sequences=8))
    with LaggingExecutor(cache, lag=(0, 3), seed=seed) as executor:
        scheduler = make_scheduler(cache, Model(executor, rng))
        system = [rng.randrange(50) for _ in range(9)]
        for seq_id in range(num_requests):
            prompt = system[: rng.randint(1, 9)] + [rng.randrange(50) for _ in range(4)]
            scheduler.add(seq_id, prompt, rng.randint(1, 12))
        scheduler.run()
    # Leaving the block has run what was waiting and looked through all that is left.
    assert cache.num_held_blocks == 0


def check_run_ahead(decode_ahead, seed, depth=3):
    """Run ``decode_ahead(cache, device, handles, num_steps, depth)``, device an executor."""
    config = nbkv.CacheConfig(4, 64, 1, 1, 64, max_sequences=4, run_ahead=True)
    cache = nbkv.PagedKVCache(config)
    with LaggingExecutor(cache, lag=depth, seed=seed) as executor:
        handles = np.array([cache.admit(seq_id, [1, 2, 3])[0] for seq_id in range(3)])
        prefill = cache.plan(handles, 3)
        executor.submit(prefill)
        cache.commit(prefill, tokens=executor.wait(prefill))
        cache.complete(prefill.step_id)
        return decode_ahead(cache, executor, handles, num_steps=20, depth=depth)
