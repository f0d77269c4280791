"""Continuous batching: chunked prefill and decode mixed, prefix caching, preemption."""

from collections import deque

import numpy as np

import nbkv


class Scheduler:
    """Runs requests through ``model(plan, tokens) -> one next token an entry``."""

    def __init__(self, cache, model, max_tokens=64, max_running=8):
        self.cache, self.model = cache, model
        self.max_tokens, self.max_running = max_tokens, max_running
        self.buffers = nbkv.StepBuffers.for_cache(cache, max_tokens)
        self.waiting = deque()
        self.running = {}  # handle -> request
        self.finished = {}  # seq_id -> output tokens

    def add(self, seq_id, prompt, num_outputs):
        request = {"seq_id": seq_id, "tokens": list(prompt), "arrival": None}
        self.waiting.append(request | {"prompt": len(prompt), "stop": len(prompt) + num_outputs})

    def admit(self):
        while self.waiting and len(self.running) < self.max_running:
            request = self.waiting[0]
            tokens = np.array(request["tokens"], np.int32)
            # At least the last token is computed: its logits give the next one.
            match = self.cache.match_prefix(tokens, max_hit_tokens=len(tokens) - 1)
            if self.running and not self.cache.can_admit(match):
                break
            handle, request["done"] = self.cache.admit(
                request["seq_id"], tokens, max_hit_tokens=len(tokens) - 1,
                arrival=request["arrival"],
            )  # fmt: skip
            self.running[handle] = self.waiting.popleft()

    def step(self):
        self.admit()
        handles, counts, room = [], [], self.max_tokens
        for handle, request in self.running.items():
            count = min(room, len(request["tokens"]) - request["done"])
            if count > 0:
                handles.append(handle)
                counts.append(count)
                room -= count
        plan = self.cache.plan(
            np.array(handles, np.int64), np.array(counts, np.int32),
            on_exhaustion="preempt", out=self.buffers,
        )  # fmt: skip
        for _, handle, arrival, _ in plan.preempted.tolist():
            request = self.running.pop(handle)
            request["arrival"] = arrival
            self.waiting.appendleft(request)
        batch = [(handles[i], counts[i]) for i in plan.survivors.tolist()]
        chunks = [self.running[h]["tokens"][self.running[h]["done"] :][:n] for h, n in batch]
        tokens = np.array([token for chunk in chunks for token in chunk], np.int32)
        # Copy plan.copies, write K and V of these tokens to plan.slot_mapping, attend, sample.
        sampled = self.model(plan, tokens)
        self.cache.commit(plan, tokens=tokens)
        for (handle, count), token in zip(batch, sampled, strict=True):
            self.take(handle, count, token)

    def take(self, handle, count, token):
        request = self.running[handle]
        request["done"] += count
        if request["done"] == len(request["tokens"]):  # prompt computed: it is an output
            request["tokens"].append(token)
        if len(request["tokens"]) == request["stop"]:
            self.cache.finish(np.array([handle]))
            del self.running[handle]
            self.finished[request["seq_id"]] = request["tokens"][request["prompt"] :]

    def run(self):
        while self.waiting or self.running:
            self.step()
        return self.finished
