"""What a cache refuses, and what is left after an error: nothing."""

import copy
import gc
import random
from typing import Any

import paged_cache_support as support
import pytest
from invariants import assert_intact
from paged_cache_support import (
    PagedCache,
    check_empty,
    dense,
    generate,
    make_kv,
    make_model,
    make_prompts,
)

import nbkv

torch, transformers = support.torch, support.transformers


class StopError(Exception):
    """Raised in the middle of a forward pass."""


def test_a_pass_that_stops_half_way_leaves_nothing_behind(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 13)

    def stop(*args: Any) -> None:
        raise StopError

    past = PagedCache(model.config, kv)
    past.admit(ids)
    hook = model.model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(StopError):
        generate(model, past, ids)
    hook.remove()
    for call in (
        lambda: generate(model, past, ids),
        lambda: past.crop(-1),
        lambda: past.publish(ids),
        lambda: past.reorder_cache(torch.tensor([0])),
        lambda: copy.deepcopy(past),
    ):
        with pytest.raises(nbkv.StepError, match="stopped after 1 of 3 layers"):
            call()
    assert past.admit(ids) == (13, 0)
    assert generate(model, past, ids).equal(generate(model, dense(model), ids))
    past.release()
    check_empty(kv)


def test_running_out_of_blocks_leaves_the_cache_usable(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model, num_blocks=6)
    ids, _ = make_prompts(rng, 13, 13)
    past = PagedCache(model.config, kv)
    with pytest.raises(nbkv.OutOfBlocksError):
        generate(model, past, ids)
    check_empty(kv)
    past.admit(ids[:1])
    with pytest.raises(nbkv.OutOfBlocksError):
        generate(model, past, ids[:1], max_new_tokens=20)
    assert past.get_seq_length() == 24
    past.admit(ids[:1])
    assert generate(model, past, ids[:1]).equal(generate(model, dense(model), ids[:1]))
    # Telling takes three blocks beside the six that are held.
    with pytest.raises(nbkv.OutOfBlocksError):
        past.publish(generate(model, dense(model), ids[:1]))
    assert_intact(kv)
    past.release()
    check_empty(kv)


def test_too_many_sequences_leave_nothing_held(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model, max_sequences=2)
    ids, _ = make_prompts(rng, 5, 5, 5)
    past = PagedCache(model.config, kv)
    with pytest.raises(nbkv.CapacityError):
        generate(model, past, ids)
    check_empty(kv)
    with pytest.raises(nbkv.CapacityError):
        past.admit(ids)
    check_empty(kv)
    past.admit(ids[:1])
    with pytest.raises(nbkv.CapacityError):
        generate(model, past, ids[:1], num_beams=3)
    past.release()
    check_empty(kv)


def test_a_cache_that_is_gone_holds_nothing(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 13)
    past = PagedCache(model.config, kv)
    generate(model, past, ids)
    assert kv.num_sequences == 1
    del past
    gc.collect()
    check_empty(kv)


def test_a_batch_of_another_size_is_refused(rng: random.Random) -> None:
    model = make_model("Llama")
    ids, _ = make_prompts(rng, 6, 6)
    with PagedCache(model.config, make_kv(model)) as past, torch.no_grad():
        model(ids[:1], past_key_values=past)
        with pytest.raises(nbkv.ArgumentError, match="of 2 rows"):
            model(ids, past_key_values=past)
        with pytest.raises(nbkv.StepError, match="layer 1 was updated; layer 0"):
            past.layers[1].update(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 4}, "cache's num_layers is 4"),
        ({"num_kv_heads": 4}, "cache's num_kv_heads is 4"),
        ({"head_dim": 16}, "cache's head_dim is 16"),
        ({"window": 64}, "cache's window is 64"),
    ],
)
def test_a_cache_of_another_shape_is_refused(change: dict[str, int], message: str) -> None:
    model = make_model("Llama")
    fields = {**support.model_shape(model.config), "dtype": "float32", **change}
    config = nbkv.CacheConfig(4, 8, **fields)
    with pytest.raises(nbkv.ArgumentError, match=message):
        PagedCache(model.config, nbkv.PagedKVCache(config, pool=nbkv.HostPool(config)))


def test_what_is_no_cache_with_a_pool_is_refused() -> None:
    model = make_model("Llama")
    with pytest.raises(TypeError, match=r"must be a nbkv\.PagedKVCache"):
        PagedCache(model.config, model)
    with pytest.raises(nbkv.ArgumentError, match="cache's pool is None"):
        PagedCache(model.config, nbkv.PagedKVCache(make_kv(model).config))


def test_models_with_other_layers_are_refused() -> None:
    config = transformers.MistralConfig(sliding_window=8, num_hidden_layers=2)
    with pytest.raises(nbkv.ArgumentError, match="sliding_attention"):
        support.model_shape(config)


def test_keys_of_another_dtype_are_refused(rng: random.Random) -> None:
    model = make_model("Llama", "bfloat16")
    kv = make_kv(model, dtype="float16")
    ids, _ = make_prompts(rng, 4)
    with pytest.raises(nbkv.ArgumentError, match="dtype is 'bfloat16'; it must be float16"):
        generate(model, PagedCache(model.config, kv), ids)
    check_empty(kv)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[5, 6, 7]], [[0, 1, 0]], r"attention_mask\[0\] is '0 behind a token'"),
        ([[5, 6], [7, 8]], [[1, 1], [0, 0]], r"attention_mask\[1\] is '0 everywhere'"),
        ([[5, 6]], [[1, 1, 1]], "attention_mask's shape"),
        ([5, 6], None, "input_ids's shape"),
        ([[]], None, "it must be of integers"),
        ([[2.5]], None, "it must be of integers"),
        ([[2**40]], None, "within int32"),
    ],
)
def test_prompts_that_cannot_be_are_refused(ids: Any, mask: Any, message: str) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    with PagedCache(model.config, kv) as past:
        past.admit([[3, 4, 5]])
        with pytest.raises((nbkv.ArgumentError, TypeError), match=message):
            past.admit(ids, mask)
        assert kv.num_sequences == 1


def test_sequences_that_are_not_of_these_prompts_are_refused(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 7)
    with PagedCache(model.config, kv) as past:
        outputs = generate(model, past, ids)
        with pytest.raises(nbkv.ArgumentError, match="nothing to publish"):
            past.publish(outputs)
        past.admit(ids)
        with pytest.raises(nbkv.ArgumentError, match="nothing to publish"):
            past.publish(outputs)
        generate(model, past, ids)
        wrong = outputs.clone()
        wrong[0, 2] += 1
        for sequences, message in (
            (wrong, "do not begin with"),
            (outputs.repeat(2, 1), "sequences' shape"),
            (outputs[:, :12], "sequences' shape"),
        ):
            with pytest.raises(nbkv.ArgumentError, match=message):
                past.publish(sequences)
        past.publish(outputs)
        past.publish(outputs)
        assert_intact(kv)
    check_empty(kv)
