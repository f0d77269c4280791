"""Prompts that begin like earlier ones are computed from where they part."""

import random
import re
from pathlib import Path

import numpy as np
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
    logits_of,
    make_kv,
    make_model,
    make_prompts,
)

import nbkv

torch = support.torch


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


def test_two_caches_take_turns_over_one_pool(rng: random.Random) -> None:
    model = make_model("Llama")
    kv = make_kv(model)
    ids, _ = make_prompts(rng, 13, 13)
    with PagedCache(model.config, kv) as first, PagedCache(model.config, kv) as second:
        for past, row in ((first, ids[:1]), (second, ids[1:]), (first, ids[1:])):
            past.admit(row)
            assert generate(model, past, row).equal(generate(model, dense(model), row))
    check_empty(kv)


def test_the_page_prints_what_its_comments_say(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "transformers-cache.md").read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.M)
    exec(compile(program, "transformers-cache", "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected) > 0
    for line, comment in zip(printed, expected, strict=True):
        assert re.fullmatch(re.escape(line) + "(:.*)?", comment)
