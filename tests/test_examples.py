"""The programs of the documentation, run as they stand."""

import importlib.util
from collections import deque
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import nbkv

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SlotModel:
    """A model whose next token depends on every token before, read back through the slots.

    It keeps token ids where a real one keeps keys and values: a wrong slot, a copy left out or
    a prefix that is not there changes what it says.
    """

    def __init__(self, cache: nbkv.PagedKVCache) -> None:
        self.cache = cache
        self.memory = np.full(cache.total_blocks * cache.config.block_size, -1, np.int64)

    def __call__(self, plan: nbkv.StepPlan, tokens: np.ndarray) -> list[int]:
        size = self.cache.config.block_size
        for _, source, target, kept in plan.copies.tolist():
            start = target * size
            self.memory[start : start + kept] = self.memory[source * size :][:kept]
        self.memory[plan.slot_mapping] = tokens
        return [
            next_token(self.history(row, length))
            for row, length in zip(
                plan.entries["row"].tolist(), plan.seq_lens.tolist(), strict=True
            )
        ]

    def history(self, row: int, length: int) -> list[int]:
        size = self.cache.config.block_size
        table = self.cache.tables[row]
        return [int(self.memory[table[p // size] * size + p % size]) for p in range(length)]


def next_token(history: list[int]) -> int:
    value = 7
    for token in history:
        value = (value * 31 + token + 1) % 1009
    return value


def dense(prompt: list[int], num_outputs: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_outputs):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class LateDevice:
    """Executes plans in order, but only when somebody waits for them."""

    def __init__(self, model: SlotModel, tokens: list[int]) -> None:
        self.model, self.tokens = model, np.array(tokens, np.int32)
        self.queue: deque[nbkv.StepPlan] = deque()

    def submit(self, plan: nbkv.StepPlan) -> None:
        self.queue.append(plan)

    def wait(self, plan: nbkv.StepPlan) -> np.ndarray:
        assert self.queue.popleft() is plan
        written = self.tokens
        self.tokens = np.array(self.model(plan, written), np.int32)
        return written


def test_running_ahead_decodes_what_decoding_in_step_does() -> None:
    module = load("running_ahead")
    cache = nbkv.PagedKVCache(
        nbkv.CacheConfig(4, 64, 1, 1, 8, max_sequences=4, run_ahead=True, max_named_prefixes=4)
    )
    model = SlotModel(cache)
    prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 9, 9], [7]]
    handles = np.array([cache.admit(i, p)[0] for i, p in enumerate(prompts)])
    counts = np.array([len(p) for p in prompts], np.int32)
    plan = cache.plan(handles, counts)
    tokens = np.concatenate([np.array(p, np.int32) for p in prompts])
    first = model(plan, tokens)
    cache.commit(plan, tokens=tokens)
    cache.complete(plan.step_id)
    device = LateDevice(model, first)
    outputs = module.decode_ahead(cache, device, handles, num_steps=9, depth=3)
    assert outputs.tolist() == [dense(p, 9) for p in prompts]
    cache.finish(handles)
    assert cache.num_fenced_blocks == 0
    assert cache.num_held_blocks == 0


@pytest.mark.parametrize("seed", range(3))
def test_schedulers_of_the_documentation_pass_an_executor(seed: int) -> None:
    checks = load("lagging_executor")
    checks.check_scheduler(seed)
    outputs = checks.check_run_ahead(load("running_ahead").decode_ahead, seed)
    assert outputs.shape == (3, 20)
    assert (outputs == outputs[0]).all()  # all three have the same prompt
