"""`generate` on nbkv's blocks says what it says with a DynamicCache, to the bit."""

import random
from typing import Any

import paged_cache_support as support
import pytest
from invariants import assert_intact
from paged_cache_support import (
    KINDS,
    PagedCache,
    check_empty,
    dense,
    generate,
    logits_of,
    make_kv,
    make_model,
    make_prompts,
)

import nbkv

torch = support.torch

DTYPES = ["float32", "float16", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_all_logits_are_bitwise_those_of_a_dynamic_cache(
    kind: str, dtype: str, attention: str, rng: random.Random
) -> None:
    model = make_model(kind, dtype, attn_implementation=attention)
    kv = make_kv(model)
    ids, mask = make_prompts(rng, 13, 5, 9)
    for is_admitted in (False, True):
        with PagedCache(model.config, kv) as past:
            if is_admitted:
                past.admit(ids, mask)
            tokens, logits = logits_of(model, past, ids, mask)
            assert past.get_seq_length() == tokens.shape[1] - 1
        wanted, wanted_logits = logits_of(model, dense(model), ids, mask)
        assert tokens.equal(wanted)
        assert logits.equal(wanted_logits)
        check_empty(kv)


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_logits_of_all_positions_are_bitwise_equal(kind: str, rng: random.Random) -> None:
    model = make_model(kind)
    ids, _ = make_prompts(rng, 21, 21)
    with PagedCache(model.config, make_kv(model)) as past, torch.no_grad():
        past.admit(ids)
        assert model(ids, past_key_values=past).logits.equal(
            model(ids, past_key_values=dense(model)).logits
        )


def test_padding_takes_no_slot_once_prompts_are_admitted(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, mask = make_prompts(rng, 20, 3)
    with PagedCache(model.config, kv) as past:
        past.admit(ids, mask)
        generate(model, past, ids, mask, max_new_tokens=1)
        assert kv.num_held_blocks == 5 + 1
    with PagedCache(model.config, kv) as past:
        generate(model, past, ids, mask, max_new_tokens=1)
        assert kv.num_held_blocks == 5 + 5


def test_going_on_without_admit_is_as_with_a_dynamic_cache(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, mask = make_prompts(rng, 9, 4)
    pasts = [PagedCache(model.config, kv), dense(model)]
    for past in pasts:
        outputs = generate(model, past, ids, mask)
        longer = torch.cat([outputs, ids[:, -3:]], dim=1)
        whole = torch.cat([mask, torch.ones(2, longer.shape[1] - 9, dtype=mask.dtype)], dim=1)
        past.result = generate(model, past, longer, whole)
    assert pasts[0].result.equal(pasts[1].result)
    pasts[0].release()
    check_empty(kv)


def test_rows_that_have_finished_go_on_with_padding() -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, mask = make_prompts(random.Random(1), 9, 9, 5)
    last = int(generate(model, dense(model), ids, mask)[0, 11])
    options = {"eos_token_id": last, "max_new_tokens": 12}
    wanted = generate(model, dense(model), ids, mask, **options)
    assert (wanted[:, -1] == support.PAD).tolist() == [True, False, False]
    with PagedCache(model.config, kv) as past:
        past.admit(ids, mask)
        outputs = generate(model, past, ids, mask, **options)
        assert outputs.equal(wanted)
        past.publish(outputs)
        assert_intact(kv)
    check_empty(kv)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_and_values_that_somebody_keeps_stay_as_they_were(dtype: str) -> None:
    model = make_model("Llama", dtype)
    pasts = [PagedCache(model.config, make_kv(model)), dense(model)]
    kept: list[list[Any]] = [[], []]
    generator = torch.Generator().manual_seed(2)
    for size in (7, 1, 2, 1):
        new = torch.randn((6, 2, 2, size, 8), generator=generator).to(model.dtype)
        for past, tensors in zip(pasts, kept, strict=True):
            for layer in range(3):
                tensors += past.update(new[2 * layer], new[2 * layer + 1], layer)
    assert all(ours.equal(theirs) for ours, theirs in zip(*kept, strict=True))
    assert all(tensor.is_contiguous() for tensor in kept[0])


@pytest.mark.parametrize("layout", ["block_major", "layer_major"])
@pytest.mark.parametrize("order", ["NHD", "HND"])
def test_pools_of_any_layout_serve(layout: str, order: str, rng: random.Random) -> None:
    model = make_model("Llama")
    config = make_kv(model).config
    pool = nbkv.HostPool(config, layout=layout, token_order=order)
    kv = nbkv.PagedKVCache(config, pool=pool)
    ids, mask = make_prompts(rng, 11, 6)
    with PagedCache(model.config, kv) as past:
        past.admit(ids, mask)
        outputs = generate(model, past, ids, mask)
    assert outputs.equal(generate(model, dense(model), ids, mask))


@pytest.mark.parametrize(("dtype", "tolerance"), [("int8", 0.02), ("fp8", 0.08)])
def test_quantising_pools_come_close(dtype: str, tolerance: float, rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model, dtype=dtype)
    ids, _ = make_prompts(rng, 20)
    with PagedCache(model.config, kv) as past, torch.no_grad():
        past.admit(ids[:, :16])
        model(ids[:, :16], past_key_values=past)
        found = model(ids[:, 16:], past_key_values=past).logits
        wanted = model(ids).logits[:, 16:]
        spread = wanted.std()
        assert 0 < (found - wanted).abs().max() / spread < tolerance * 3
        assert (found - wanted).abs().mean() / spread < tolerance


@pytest.mark.parametrize(
    "options", [{"run_ahead": True}, {"partial_reuse": True}, {"dedup": False}]
)
def test_caches_of_other_configurations_serve(options: dict[str, bool], rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model, **options)
    ids, mask = make_prompts(rng, 11, 6)
    wanted = generate(model, dense(model), ids, mask)
    for _ in range(2):
        with PagedCache(model.config, kv) as past:
            past.admit(ids, mask)
            assert generate(model, past, ids, mask).equal(wanted)
        check_empty(kv)
        assert kv.num_fenced_blocks == 0
