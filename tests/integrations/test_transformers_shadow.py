"""nbkv in the shadow of transformers' own continuous batching; needs transformers 5.23."""

import importlib
import random
import warnings
from types import SimpleNamespace

import needs
import pytest

from nbkv.shadow import ShadowError

SEAM = "transformers.generation.continuous_batching.cache"


@pytest.fixture(scope="module")
def hf():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = needs.transformers()
        module = importlib.import_module("nbkv.integrations.transformers.shadow")
        importlib.import_module(SEAM)
    return SimpleNamespace(
        watching=module.watching,
        **{
            name: getattr(transformers, name)
            for name in ("GenerationConfig", "LlamaConfig", "LlamaForCausalLM", "generation")
        },
    )


@pytest.fixture(scope="module")
def model(hf):
    import torch

    torch.manual_seed(0)
    config = hf.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=64, max_position_embeddings=512, pad_token_id=0,
        bos_token_id=1, eos_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    return hf.LlamaForCausalLM(config).eval()


def generate(hf, model, num_blocks, num_outputs):
    rng = random.Random(1)
    shared = [[rng.randrange(3, 64) for _ in range(33)] for _ in range(3)]
    tails = [[rng.randrange(3, 64) for _ in range(rng.randrange(1, 30))] for _ in range(16)]
    prompts = [shared[i % 3] + tail for i, tail in enumerate(tails)]
    sampling = hf.GenerationConfig(
        max_new_tokens=20, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    # Refused by the constructor when greedy; what forks are compared by needs no sampling.
    sampling.num_return_sequences = num_outputs
    batching = hf.generation.configuration_utils.ContinuousBatchingConfig(
        page_size=8, num_blocks=num_blocks, max_batch_tokens=128
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate_batch(
            prompts, generation_config=sampling, continuous_batching_config=batching
        )


@pytest.mark.slow
@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("num_blocks", [400, 60, 30])
def test_transformers_and_nbkv_agree(hf, model, num_blocks, num_outputs):
    with hf.watching() as watch:
        outputs = generate(hf, model, num_blocks, num_outputs)
    watch.check()
    assert len(outputs) == 16 * num_outputs
    (shadow,) = watch.shadows
    assert shadow.difference is None
    assert shadow.num_calls > 100
    assert shadow.step > 5
    assert shadow.num_hit_blocks > 0
    assert shadow._mirror.tables == {}
    print(f"{num_blocks} blocks, {num_outputs} outputs: {shadow.num_calls} calls in"
          f" {shadow.step} steps, {shadow.num_hit_blocks} blocks hit")  # fmt: skip


@pytest.mark.slow
def test_a_bug_in_transformers_would_be_named(hf, model, monkeypatch):
    ledger = importlib.import_module(SEAM.rsplit(".", 1)[0] + ".cache_allocators.cache_allocator")
    release, count = ledger.BlockLedger.release, iter(range(10**6))

    def leaking(self, block_id, no_cache=False):
        return release(self, block_id, no_cache) and next(count) != 5

    monkeypatch.setattr(ledger.BlockLedger, "release", leaking)
    with hf.watching() as watch:
        generate(hf, model, 400, 1)
    with pytest.raises(ShadowError, match="free blocks: expected"):
        watch.check()


def test_transformers_allocator_is_put_back(hf):
    allocators = importlib.import_module(SEAM).ATTN_TYPE_TO_ALLOCATOR
    theirs = allocators["full_attention"]
    with hf.watching():
        assert issubclass(allocators["full_attention"], theirs)
        assert allocators["full_attention"] is not theirs
    assert allocators["full_attention"] is theirs
