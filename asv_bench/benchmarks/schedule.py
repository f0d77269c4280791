"""The scheduler of the documentation: a step of many decoding sequences, without a model."""

import time

import numpy as np

import nbkv
from nbkv.replay.scheduler import Request, Scheduler

PROMPT, STEPS = 500, 300


class Scheduling:
    params = (32, 256, 1_024)
    param_names = ("num_sequences",)

    def setup(self, num_sequences):
        blocks = -(-(PROMPT + 2 * STEPS) // 16)
        config = nbkv.CacheConfig(
            16, num_sequences * blocks, 1, 1, 8,
            max_sequences=num_sequences, max_blocks_per_sequence=blocks,
        )  # fmt: skip
        logits, zeros = np.zeros((num_sequences, 1)), np.zeros(num_sequences, np.int64)
        self.scheduler = Scheduler(
            nbkv.PagedKVCache(config),
            lambda tokens, plan: logits[: plan.num_entries],
            max_tokens=8_192,
            sampler=lambda logits, rows: zeros[: len(rows)],
        )
        for seed in range(num_sequences):
            prompt = np.random.default_rng(seed).integers(0, 1_000, PROMPT).astype(np.int32)
            self.scheduler.add(Request(prompt, 2 * STEPS))
        while self.scheduler.waiting or (self.scheduler.rows["num_computed"] < PROMPT).any():
            self.scheduler.step()

    def track_step(self, num_sequences):
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            self.scheduler.step()
            seconds.append(time.perf_counter() - began)
        return 1e6 * float(np.median(seconds))

    track_step.unit = "us"
