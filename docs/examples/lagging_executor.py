"""A test of a scheduler: an executor takes the device's place and looks at every slot."""

import random

import numpy as np

import nbkv
from nbkv.replay.scheduler import Request, Scheduler
from nbkv.testing import LaggingExecutor


class Model:
    """What a scheduler takes for its model: the executor carries plans out, logits are chance."""

    def __init__(self, executor, seed):
        self.executor, self.rng = executor, np.random.default_rng(seed)

    def __call__(self, tokens, plan):
        self.executor.submit(plan, tokens)
        return self.rng.random((plan.num_entries, 50))


def check_scheduler(seed, num_requests=30):
    """Run a scheduler on requests that share beginnings, in a small pool."""
    rng = random.Random(seed)
    cache = nbkv.PagedKVCache(nbkv.CacheConfig(4, 20, 1, 1, 64, max_sequences=8))
    with LaggingExecutor(cache, lag=(0, 3), seed=seed) as executor:
        scheduler = Scheduler(cache, Model(executor, seed), max_tokens=24)
        system = [rng.randrange(50) for _ in range(9)]
        for _ in range(num_requests):
            prompt = system[: rng.randint(1, 9)] + [rng.randrange(50) for _ in range(4)]
            scheduler.add(Request(prompt, rng.randint(1, 12), num_samples=rng.randint(1, 3)))
        while not scheduler.is_idle:
            scheduler.step()
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
