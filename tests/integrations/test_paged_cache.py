"""`generate` on nbkv's blocks says what it says with a DynamicCache, and computes less."""

import copy
import gc
import random
from typing import Any

import numpy as np
import paged_cache_support as support
import pytest
from invariants import assert_intact
from paged_cache_support import check_empty, counted, dense, make_kv, make_model, make_prompts

import nbkv

torch, transformers = support.torch, support.transformers
PagedCache = pytest.importorskip("nbkv.integrations.transformers").PagedCache

KINDS = ["Llama", "Qwen3"]
DTYPES = ["float32", "float16", "bfloat16"]


def generate(model: Any, past: Any, ids: Any, mask: Any = None, **options: Any) -> Any:
    """Generate greedily, unless told otherwise."""
    options = {"max_new_tokens": 12, "do_sample": False, **options}
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, past_key_values=past, **options)


def logits_of(model: Any, past: Any, ids: Any, mask: Any = None, **options: Any) -> Any:
    """Generate and keep the logits of every step."""
    options = {"return_dict_in_generate": True, "output_logits": True, **options}
    result = generate(model, past, ids, mask, **options)
    return result.sequences, torch.stack(result.logits)


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


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_prompt_again_computes_one_token(kind: str, rng: random.Random) -> None:
    model = make_model(kind)
    ids, _ = make_prompts(rng, 14)
    wanted = generate(model, dense(model), ids)
    with PagedCache(model.config, make_kv(model)) as past, counted(model) as shapes:
        for admitted in ((14, 0), (14, 13), (14, 13)):
            assert past.admit(ids) == admitted
            assert generate(model, past, ids).equal(wanted)
    assert [shapes[i] for i in (0, 12, 24)] == [(1, 14), (1, 1), (1, 1)]


def test_an_extended_conversation_computes_only_its_new_tokens(rng: random.Random) -> None:
    model = make_model("Qwen3")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 11)
    with PagedCache(model.config, kv) as past:
        for _ in range(3):
            admitted = past.admit(ids)
            with counted(model) as shapes:
                outputs = generate(model, past, ids)
            assert shapes[0] == (1, admitted.num_new_tokens)
            assert outputs.equal(generate(model, dense(model), ids))
            past.publish(outputs)
            assert_intact(kv)
            question, _ = make_prompts(rng, 6)
            ids = torch.cat([outputs, question], dim=1)
        # The last token generated was never an input: it is computed with the question.
        assert past.admit(ids).num_new_tokens == 6 + 1
    check_empty(kv)


def test_another_object_finds_what_was_published_block_by_block(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 10)
    with PagedCache(model.config, kv) as past:
        past.admit(ids)
        outputs = generate(model, past, ids, max_new_tokens=9)
        past.publish(outputs)
    check_empty(kv)
    longer = torch.cat([outputs, ids], dim=1)
    wanted = generate(model, dense(model), longer)
    with PagedCache(model.config, kv) as past:
        assert past.admit(longer) == (29, 16)  # 18 of 19 tokens were inputs: four full blocks
        assert generate(model, past, longer).equal(wanted)


def test_without_publish_only_the_prompt_is_found(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 10)
    with PagedCache(model.config, kv) as past:
        past.admit(ids)
        outputs = generate(model, past, ids, max_new_tokens=20)
    with PagedCache(model.config, kv) as past:
        assert past.admit(outputs) == (30, 8)


def test_rows_of_a_padded_batch_reuse_as_many_columns_as_all_have(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, mask = make_prompts(rng, 22, 15, 9)
    system = ids[:1, :12].clone()
    ids[1, 7:19] = system
    wanted, logits = logits_of(model, dense(model), ids, mask)
    with PagedCache(model.config, kv) as past:
        past.admit(system)
        generate(model, past, system, max_new_tokens=1)
        # Rows have 12, 7 + 12 and 13 + 0 columns; the first has the least.
        admitted = past.admit(ids, mask)
        assert (past.get_seq_length(), admitted) == (12, (46, 12 + 5 + 0))
        with counted(model) as shapes:
            tokens, found = logits_of(model, past, ids, mask)
        assert shapes[0] == (3, 10)
        assert tokens.equal(wanted)
        torch.testing.assert_close(found, logits)
        past.publish(tokens)
        assert_intact(kv)
        assert past.admit(tokens[1:2], torch.cat([mask[1:2], torch.ones(1, 12)], 1).long()) == (
            27,
            26,
        )
    check_empty(kv)


def test_chunked_prefill_reuses_too(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 23)
    wanted = generate(model, dense(model), ids)
    with PagedCache(model.config, kv) as past:
        for expected in ([5, 5, 5, 5, 3], [3]):
            past.admit(ids, max_hit_tokens=20)
            with counted(model) as shapes:
                assert generate(model, past, ids, prefill_chunk_size=5).equal(wanted)
            assert [columns for _, columns in shapes[: len(expected)]] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_admitted", [False, True])
def test_beam_search_gives_the_same_beams(kind: str, is_admitted: bool, rng: random.Random) -> None:
    model = make_model(kind)
    kv = make_kv(model)
    ids, mask = make_prompts(rng, 13, 18)
    options = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 16}
    wanted = generate(model, dense(model), ids, mask, **options)
    for _ in range(2):
        with PagedCache(model.config, kv) as past:
            if is_admitted:
                past.admit(ids, mask)
            assert generate(model, past, ids, mask, **options).equal(wanted)
            assert kv.num_sequences == 8
            assert kv.stats.cow_copies > 0
            assert_intact(kv)
            if is_admitted:
                # Beams share the prompts' blocks, and what they have in common behind.
                assert kv.num_held_blocks < 8 * 8 / 2
                with pytest.raises(nbkv.ArgumentError, match="changed places"):
                    past.publish(wanted)
        check_empty(kv)


def test_samples_share_the_prompt(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 18)
    options = {"do_sample": True, "num_return_sequences": 5, "max_new_tokens": 6}
    torch.manual_seed(3)
    wanted = generate(model, dense(model), ids, **options)
    with PagedCache(model.config, kv) as past:
        past.admit(ids)
        torch.manual_seed(3)
        outputs = generate(model, past, ids, **options)
        assert outputs.equal(wanted)
        # Four full blocks together; two tokens of the fifth and five of each sample's own.
        assert kv.num_held_blocks == 4 + 5 * 2
        past.publish(outputs)
        assert past.admit(outputs[3:4]) == (24, 23)
    check_empty(kv)


def test_one_new_token_of_each_sample_can_be_published(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 8)
    with PagedCache(model.config, kv) as past:
        past.admit(ids)
        options = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 1}
        past.publish(generate(model, past, ids, **options))
        assert kv.num_held_blocks == 2
    check_empty(kv)


def test_prompt_lookup_takes_rejected_drafts_back(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 6)
    ids = ids.repeat(1, 4)
    options = {"prompt_lookup_num_tokens": 3, "max_new_tokens": 20}
    wanted = generate(model, dense(model), ids, **options)
    with PagedCache(model.config, kv) as past:
        past.admit(ids, max_hit_tokens=0)
        with counted(model) as shapes:
            outputs = generate(model, past, ids, **options)
        assert shapes[0][1] > 24  # the prompt and drafts behind it, in one pass
        assert outputs.equal(wanted)
        past.publish(outputs)
        assert_intact(kv)
        assert past.get_seq_length() == 43
        assert past.admit(outputs) == (44, 43)
    check_empty(kv)


def test_assisted_decoding_keeps_both_models_in_blocks(rng: random.Random) -> None:
    model, assistant = make_model("Llama"), make_model("Llama", num_hidden_layers=2)
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 15)
    wanted = generate(model, dense(model), ids, assistant_model=assistant)
    with PagedCache(model.config, kv) as past:
        assert generate(model, past, ids, assistant_model=assistant).equal(wanted)
    check_empty(kv)


def test_assisted_decoding_on_a_prefix_is_refused(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 9)
    with PagedCache(model.config, kv) as past:
        past.admit(ids)
        generate(model, past, ids)
        past.admit(ids)
        with pytest.raises(nbkv.ArgumentError, match="max_hit_tokens=0"):
            generate(model, past, ids, prompt_lookup_num_tokens=3)
    check_empty(kv)


def test_crop_and_going_on_equals_a_dynamic_cache(rng: random.Random) -> None:
    model = make_model("Qwen3")
    kv = make_kv(model)
    ids, mask = make_prompts(rng, 14, 7)
    end, _ = make_prompts(rng, 5, 5)
    pasts = [PagedCache(model.config, kv), dense(model)]
    pasts[0].admit(ids, mask)
    found = []
    with torch.no_grad():
        for past in pasts:
            model(ids, attention_mask=mask, past_key_values=past)
            past.crop(-6)
            past.crop(0)
            both = torch.cat([mask[:, :-6], torch.ones_like(end)], dim=1)
            found.append(model(end, attention_mask=both, past_key_values=past).logits)
            assert past.get_seq_length() == 13
    assert found[0].equal(found[1])
    with pytest.raises(ValueError, match="tokens_to_remove is 3"):
        pasts[0].crop(3)
    pasts[0].crop(-13)
    assert (pasts[0].get_seq_length(), kv.num_held_blocks) == (0, 0)
    pasts[0].reset()
    check_empty(kv)


def test_repeating_and_selecting_rows_equals_a_dynamic_cache(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 10, 10)
    ends, _ = make_prompts(rng, 3, 3, 3)
    pasts = [PagedCache(model.config, kv), dense(model)]
    found = []
    with torch.no_grad():
        for past in pasts:
            model(ids, past_key_values=past)
            past.batch_repeat_interleave(3)
            past.batch_select_indices(torch.tensor([1, 5, 4]))
            first = model(ends, past_key_values=past).logits
            past.reorder_cache(torch.tensor([2, 2, 0]))
            found.append((first, model(ends, past_key_values=past).logits))
    assert found[0][0].equal(found[1][0])
    assert found[0][1].equal(found[1][1])
    assert kv.num_sequences == 3
    pasts[0].release()
    check_empty(kv)


def test_a_deep_copy_goes_on_by_itself_over_the_same_blocks(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 12)
    with PagedCache(model.config, kv) as past:
        with torch.no_grad():
            model(ids, past_key_values=past)
        for _ in range(2):
            end, _ = make_prompts(rng, 5)
            longer = torch.cat([ids, end], dim=1)
            branch = copy.deepcopy(past)
            assert (kv.num_sequences, kv.num_held_blocks) == (2, 3)
            assert generate(model, branch, longer).equal(generate(model, dense(model), longer))
            branch.release()
        assert past.get_seq_length() == 12
    check_empty(kv)


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


def test_prefixes_survive_until_blocks_are_needed(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model, num_blocks=12)
    for _ in range(12):
        ids, _ = make_prompts(rng, rng.randrange(5, 30))
        with PagedCache(model.config, kv) as past:
            past.admit(ids)
            outputs = generate(model, past, ids)
        assert outputs.equal(generate(model, dense(model), ids))
        check_empty(kv)
    assert kv.stats.evictions > 0


@pytest.mark.parametrize("policy", ["lru", "frequency"])
def test_random_batches_over_a_small_pool_say_what_a_dynamic_cache_says(
    policy: str, rng: random.Random
) -> None:
    model = make_model("Qwen3")
    # Two batches of three rows, two beams each, take 60 blocks of these at most; all are cached.
    kv = make_kv(model, num_blocks=64, eviction_policy=policy)
    tokens = np.arange(64 * support.BLOCK, dtype=np.int32)
    handle, _ = kv.admit(1, tokens)
    kv.commit(kv.plan(np.array([handle]), tokens.size), tokens=tokens)
    kv.free_sequence(1)
    heads = [make_prompts(rng, rng.randrange(4, 15))[0][0].tolist() for _ in range(3)]
    pasts = [PagedCache(model.config, kv) for _ in range(2)]
    num_hit = 0
    for _ in range(10):
        past = rng.choice(pasts)
        prompts = [
            rng.choice(heads) + [rng.randrange(2, 96) for _ in range(rng.randrange(1, 7))]
            for _ in range(rng.randrange(1, 4))
        ]
        ids, mask = make_prompts(rng, *map(len, prompts))
        for row, prompt in zip(ids, prompts, strict=True):
            row[-len(prompt) :] = torch.tensor(prompt)
        options = rng.choice([{}, {"num_beams": 2}, {"prefill_chunk_size": 5}])
        num_hit += past.admit(ids, mask).num_hit_tokens
        outputs = generate(model, past, ids, mask, max_new_tokens=5, **options)
        assert outputs.equal(generate(model, dense(model), ids, mask, max_new_tokens=5, **options))
        if "num_beams" not in options:
            past.publish(outputs)
            longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
            heads[rng.randrange(3)] = outputs[longest].tolist()[:18]
        if rng.random() < 0.5:
            past.release()
        assert_intact(kv)
    for past in pasts:
        past.release()
    check_empty(kv)
    assert num_hit > 0
    assert kv.stats.evictions > 0


def test_what_tenants_say_is_not_found_by_others(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 13)
    with PagedCache(model.config, kv) as past:
        past.admit(ids, salt=nbkv.Salt(tenant="acme"))
        outputs = generate(model, past, ids)
        past.publish(outputs)
        assert past.admit(outputs).num_hit_tokens == 0
        assert past.admit(outputs, salt=nbkv.Salt(tenant="acme")).num_hit_tokens == 24


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


def test_two_caches_take_turns_over_one_pool(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 13, 13)
    with PagedCache(model.config, kv) as first, PagedCache(model.config, kv) as second:
        for past, row in ((first, ids[:1]), (second, ids[1:]), (first, ids[1:])):
            past.admit(row)
            assert generate(model, past, row).equal(generate(model, dense(model), row))
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
