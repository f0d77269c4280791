"""Batches on nbkv's blocks, run by a model that notices every wrong slot.

Without torch's arithmetic all ways of batching can be gone through: with an index of each
cached token or a block table, synchronously or a step ahead, with prompts that are forked,
and with so few blocks that requests are preempted again and again.
"""

import random

import needs
import pytest
from invariants import assert_intact

transformers = needs.transformers()

from batching_device import VOCABULARY, Device, complete  # noqa: E402

from nbkv.bench.batching import DecodingBatch, new_processor  # noqa: E402
from nbkv.integrations.transformers import install, installed, uninstall  # noqa: E402
from nbkv.integrations.transformers.batching_allocator import requests_of  # noqa: E402

PAGE = 8


def make_prompts(rng, count=24):
    heads = [[rng.randrange(VOCABULARY) for _ in range(40)] for _ in range(3)]
    return [
        rng.choice(heads)[: rng.randrange(1, 41)]
        + [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 30))]
        for _ in range(count)
    ]


def add_all(device, prompts, rng, num_children=0):
    """Give a device its requests; return what each is to generate, by name."""
    expected = {}
    for i, prompt in enumerate(prompts):
        num_tokens = rng.randrange(1, 20)
        device.add(f"r{i}", prompt, num_tokens, num_children)
        names = [f"r{i}", *(f"r{i}__child#{j}" for j in range(num_children))]
        expected |= dict.fromkeys(names, complete(prompt, num_tokens))
    return expected


def assert_nothing_is_left(batching):
    assert_intact(batching.cache)
    stats = batching.stats
    assert batching.cache.num_sequences == stats.held_blocks == 0
    assert stats.free_blocks + stats.evictable_blocks == stats.total_blocks


@pytest.mark.parametrize("num_blocks", [400, 60, 30])
@pytest.mark.parametrize("num_children", [0, 2])
@pytest.mark.parametrize("has_table", [False, True], ids=["index", "table"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_every_way_of_batching_generates_the_same(
    rng, is_async, has_table, num_children, num_blocks
):
    with installed() as batching:
        processor = new_processor(
            PAGE,
            num_blocks,
            max_requests=24,
            max_pages=num_blocks if has_table else 0,
            max_batch_tokens=64,
        )
        device = Device(processor, is_async)
        expected = add_all(device, make_prompts(rng), rng, num_children)
        device.run()
    assert device.outputs == expected
    assert_nothing_is_left(batching)
    if num_blocks == 400:
        assert batching.stats.preemptions == batching.stats.evictions == 0
    if num_blocks == 30:
        assert batching.stats.evictions > 0


@pytest.mark.parametrize("scheduling", ["fifo", "prefill_first"])
@pytest.mark.parametrize("shares", [False, True])
def test_both_schedulers_generate_the_same_with_and_without_sharing(rng, scheduling, shares):
    with installed() as batching:
        processor = new_processor(
            PAGE, 50, max_requests=24, max_batch_tokens=64, shares=shares, scheduling=scheduling
        )
        device = Device(processor)
        expected = add_all(device, make_prompts(rng), rng, num_children=1)
        device.run()
    assert device.outputs == expected
    assert_nothing_is_left(batching)
    if not shares:
        assert batching.stats.hit_tokens == batching.stats.evictable_blocks == 0


def test_a_prompt_asked_again_computes_one_token_and_what_follows_its_last_full_block():
    with installed() as batching:
        processor = new_processor(PAGE, 50, max_requests=4, max_batch_tokens=64)
        device = Device(processor)
        prompt = list(range(3 * PAGE))
        for name in ("first", "second"):
            device.add(name, prompt, 1)
            device.run()
    assert device.outputs["first"] == device.outputs["second"] == complete(prompt, 1)
    # The last token of a prompt is always computed, and with it the block that it stands in.
    assert batching.stats.hit_tokens == 2 * PAGE
    assert batching.stats.prompt_tokens == 6 * PAGE


def test_generated_tokens_are_hit_by_the_next_turn():
    with installed() as batching:
        device = Device(new_processor(PAGE, 50, max_requests=4, max_batch_tokens=64))
        prompt = list(range(5))
        device.add("first", prompt, 2 * PAGE)
        device.run()
        turn = prompt + device.outputs["first"] + [3, 1, 4]
        device.add("second", turn, 4)
        device.run()
    assert device.outputs["second"] == complete(turn, 4)
    # What was sampled last was never computed, so it is in no block.
    assert batching.stats.hit_tokens == (len(turn) - 4) // PAGE * PAGE


def test_a_request_waits_without_holding_its_prefix_until_the_rest_fits():
    head = list(range(2 * PAGE))
    prompts = {"first": [*head, *[1] * (PAGE + 1)], "second": [*head, *[2] * (3 * PAGE - 1)]}
    with installed() as batching:
        device = Device(new_processor(PAGE, 6, max_requests=4, max_batch_tokens=64))
        device.add("first", prompts["first"], 6)
        device.step()
        device.add("second", prompts["second"], 2)
        device.step()  # four blocks are held, so that there are two; it needs three behind its hit
        assert batching.cache.num_sequences == 1
        assert batching.stats.hit_tokens == 0
        device.run()
    assert device.outputs == {
        "first": complete(prompts["first"], 6),
        "second": complete(prompts["second"], 2),
    }
    assert batching.stats.hit_tokens == len(head)
    assert batching.stats.preemptions == 0


def test_a_parent_whose_last_token_waits_for_the_fork_is_read_by_index():
    # Requests that share their blocks may have more tokens to read than the index has room for,
    # which is no matter while a block table is used.
    head = list(range(10 * PAGE))
    with installed():
        device = Device(new_processor(PAGE, 20, max_requests=8, max_pages=20, max_batch_tokens=64))
        device.add("first", [*head, 1], 1)
        device.run()
        expected = {"first": complete([*head, 1], 1)}
        for i in range(3):
            device.add(f"r{i}", [*head, i], 8)
            expected[f"r{i}"] = complete([*head, i], 8)
        device.step()
        device.add("parent", [*head, 7], 4, num_children=2)
        device.run()
    names = ["parent", "parent__child#0", "parent__child#1"]
    assert device.outputs == expected | dict.fromkeys(names, complete([*head, 7], 4))


def test_a_cancelled_request_leaves_nothing():
    with installed() as batching:
        processor = new_processor(PAGE, 50, max_requests=4, max_batch_tokens=64)
        device = Device(processor)
        for name in ("stays", "goes"):
            device.add(name, [7] * 20, 30)
        for _ in range(3):
            device.step()
        processor.scheduler.set_request_cancellation("goes")
        device.run()
    assert device.outputs == {"stays": complete([7] * 20, 30)}
    assert_nothing_is_left(batching)


def test_a_processor_goes_on_after_uninstall(rng):
    install()
    processor = new_processor(PAGE, 60, max_requests=24, max_batch_tokens=64)
    uninstall()
    device = Device(processor)
    expected = add_all(device, make_prompts(rng), rng, num_children=1)
    for _ in range(5):
        device.step()
    device.run()
    assert device.outputs == expected


def test_a_processor_from_before_install_goes_on_as_it_was(rng):
    device = Device(new_processor(PAGE, 60, max_requests=24, max_batch_tokens=64))
    expected = add_all(device, make_prompts(rng), rng, num_children=1)
    with installed() as batching:
        before = batching.cache
        device.run()
        assert batching.cache is before
    assert device.outputs == expected


@pytest.mark.parametrize("uses_block_table", [False, True])
@pytest.mark.parametrize("uses_nbkv", [False, True])
def test_the_benchmark_decodes(uses_nbkv, uses_block_table):
    batch = DecodingBatch(3, 20, uses_nbkv=uses_nbkv, uses_block_table=uses_block_table)
    before, after = batch.seconds_a_step(2)
    assert 0 < after < before < 1
    assert (requests_of(batch._processor.cache) is not None) == uses_nbkv
    assert batch._processor.inputs_and_outputs.use_block_table == uses_block_table


def tensors_of(io):
    """Return what a batch gives the model, blocks' places aside."""
    kwargs = io.get_model_kwargs(use_padding=True)
    places = {"read_index", "write_index", "block_table", "cache"}
    values = {name: value for name, value in kwargs.items() if name not in places}
    values["sizes"] = [kwargs["write_index"][0].numel(), kwargs["read_index"][0].numel()]
    return {name: plain(value) for name, value in values.items()}


def plain(value):
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize("has_table", [False, True], ids=["index", "table"])
def test_tensors_are_those_of_transformers(has_table):
    def drive():
        rng = random.Random(5)
        pages = 400 if has_table else 0
        processor = new_processor(PAGE, 400, max_requests=30, max_pages=pages, max_batch_tokens=64)
        processor.model_runner.pad_inputs = True
        device = Device(processor)
        add_all(device, [[i] * rng.randrange(1, 50) for i in range(10)], rng)
        seen = []
        while device.step(updates=False):
            seen.append(tensors_of(processor.inputs_and_outputs))
            processor.update_batch()
        return seen

    theirs = drive()
    with installed():
        ours = drive()
    assert len(ours) > 10
    assert ours == theirs
