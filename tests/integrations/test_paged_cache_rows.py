"""Beams, samples and drafts: rows that share blocks, change places and are cut."""

import copy
import random

import paged_cache_support as support
import pytest
from invariants import assert_intact
from paged_cache_support import (
    KINDS,
    PagedCache,
    check_empty,
    counted,
    dense,
    generate,
    make_kv,
    make_model,
    make_prompts,
)

import nbkv

torch = support.torch


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
