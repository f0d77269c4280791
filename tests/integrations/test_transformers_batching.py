"""``generate_batch`` on nbkv: the tokens of transformers' own allocator and of plain generate."""

import random
import runpy
from pathlib import Path

import needs
import pytest
from invariants import assert_intact

transformers = needs.transformers()
import torch  # noqa: E402
from transformers.generation.continuous_batching import (  # noqa: E402
    cache,
    input_outputs,
    scheduler,
)
from transformers.generation.continuous_batching.cache_allocators import (  # noqa: E402
    FullAttentionCacheAllocator,
)

from nbkv.integrations.transformers import install, installed, uninstall  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "transformers_batching.py"
NUM_REQUESTS, NUM_NEW, PAGE, VOCABULARY = 24, 12, 8, 199
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Far from uniform, so that no two tokens are about equally likely.
    "initializer_range": 0.3,
    "eos_token_id": None,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(kind, **more):
    config = getattr(transformers, f"{kind}Config")(**SHAPE | more)
    torch.manual_seed(11)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def model(request):
    return make_model(request.param, **({"head_dim": 8} if request.param == "Qwen3" else {}))


@pytest.fixture(scope="module")
def prompts():
    rng = random.Random(7)
    heads = [[rng.randrange(VOCABULARY) for _ in range(40)] for _ in range(3)]
    return [
        heads[i % 3][: rng.randrange(16, 41)]
        + [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 30))]
        for i in range(NUM_REQUESTS)
    ]


def generate_plainly(model, prompts):
    """Generate with a DynamicCache, one prompt at a time."""
    outputs = []
    for prompt in prompts:
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NUM_NEW,
            do_sample=False,
        )
        outputs.append(ids[0, len(prompt) :].tolist())
    return outputs


@pytest.fixture(scope="module")
def expected(model, prompts):
    return generate_plainly(model, prompts)


@pytest.fixture
def preempted(monkeypatch):
    """Note which requests transformers' own allocator takes the blocks back from."""
    names = []
    free = FullAttentionCacheAllocator.free_blocks

    def free_blocks(self, request_id, no_cache=False):
        if no_cache and request_id in self.block_table:
            names.append(request_id)
        free(self, request_id, no_cache)

    monkeypatch.setattr(FullAttentionCacheAllocator, "free_blocks", free_blocks)
    return names


def generate_batch(model, prompts, num_blocks, num_outputs=1):
    sampling = {"do_sample": True, "top_k": 1} if num_outputs > 1 else {"do_sample": False}
    outputs = model.generate_batch(
        prompts,
        generation_config=transformers.GenerationConfig(
            max_new_tokens=NUM_NEW, num_return_sequences=num_outputs, pad_token_id=0, **sampling
        ),
        continuous_batching_config=transformers.ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=num_blocks, max_batch_tokens=64
        ),
    )
    return [output.generated_tokens for output in outputs.values()]


@pytest.mark.parametrize("num_blocks", [400, 60, 30])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_tokens_equal_those_of_transformers_own_allocator_and_of_a_dynamic_cache(
    model, prompts, expected, preempted, num_outputs, num_blocks
):
    theirs = generate_batch(model, prompts, num_blocks, num_outputs)
    with installed() as batching:
        ours = generate_batch(model, prompts, num_blocks, num_outputs)
    print(f"transformers' own preemptions: {len(preempted)}; nbkv: {batching.stats}")
    assert ours == theirs
    assert ours == [tokens for tokens in expected for _ in range(num_outputs)]

    assert_intact(batching.cache)
    stats = batching.stats
    assert stats.total_blocks == num_blocks
    assert batching.cache.num_sequences == stats.held_blocks == 0
    assert stats.free_blocks + stats.evictable_blocks == num_blocks
    assert stats.hit_tokens > 300
    assert stats.prompt_tokens >= sum(map(len, prompts))
    assert (stats.evictions > 0) == (num_blocks < 400)
    assert stats.preemptions <= len(preempted)
    if num_blocks == 30:
        assert 0 < stats.preemptions < len(preempted) / 2


def test_sliding_layers_are_left_to_transformers(prompts, caplog):
    model = make_model("Mistral", sliding_window=16)
    with installed() as batching:
        before = batching.cache
        ours = generate_batch(model, prompts[:4], 60)
        assert batching.cache is before
    assert ours == generate_plainly(model, prompts[:4])
    assert "this one has sliding_attention: transformers' own block manager" in caplog.text


def test_models_of_both_kinds_of_layers_are_left_to_transformers(prompts, caplog):
    layers = ["sliding_attention", "full_attention"]
    model = make_model(
        "Qwen3", head_dim=8, layer_types=layers, use_sliding_window=True, sliding_window=16
    )
    with installed():
        ours = generate_batch(model, prompts[:4], 60)
    assert ours == generate_plainly(model, prompts[:4])
    assert "this one has sliding_attention, full_attention:" in caplog.text


def replaced():
    """Return all that an installation replaces, as it stands now."""
    return [
        dict(cache.ATTN_TYPE_TO_ALLOCATOR),
        dict(scheduler.SCHEDULER_MAPPING),
        dict(vars(cache)),
        dict(vars(scheduler)),
        dict(vars(input_outputs)),
        dict(vars(input_outputs.ContinuousBatchingIOs)),
    ]


def test_uninstall_restores_everything():
    before = replaced()
    install()
    during = replaced()
    changed = [
        name
        for old, new in zip(before, during, strict=True)
        for name in new
        if old[name] is not new[name]
    ]
    names = ["full_attention", "fifo", "prefill_first", "CachePool", "prepare_batch_tensors"]
    assert sorted(changed) == sorted(names)
    uninstall()
    assert replaced() == before
    uninstall()
    assert replaced() == before


def test_installing_twice_is_installing_once():
    before = replaced()
    batching = install()
    during = replaced()
    with installed() as again:
        assert again is install() is batching
        assert replaced() == during
    assert replaced() == during  # as it was before the block
    uninstall()
    assert replaced() == before


def test_an_error_in_the_block_uninstalls():
    before = replaced()
    with pytest.raises(ZeroDivisionError), installed():
        raise ZeroDivisionError
    assert replaced() == before


def test_uninstall_refuses_to_undo_what_another_has_replaced_since(monkeypatch):
    before = replaced()
    install()
    during = replaced()
    with monkeypatch.context() as patches:
        patches.setitem(scheduler.SCHEDULER_MAPPING, "fifo", object)
        with pytest.raises(RuntimeError, match=r"fifo of .* was replaced after"):
            uninstall()
        assert cache.CachePool is during[2]["CachePool"]
    uninstall()
    assert replaced() == before


def test_there_are_no_stats_before_the_first_batch():
    from nbkv.integrations.transformers import Batching

    assert Batching().cache is None
    assert Batching().stats is None


def test_the_example_of_the_documentation_runs(capsys):
    runpy.run_path(str(EXAMPLE))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("req_0 [")
    assert lines[2:] == ["2016 of 2448 prompt tokens were cached", "250 blocks free, 6 evictable"]
