"""Tiny models of transformers with seeded weights, and caches of their shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import needs
import numpy as np
from invariants import assert_intact

import nbkv

transformers = needs.transformers()

import torch  # noqa: E402

from nbkv.integrations.transformers import PagedCache, model_shape  # noqa: E402, F401

VOCABULARY, PAD, EOS = 97, 0, 96
BLOCK = 4
KINDS = ["Llama", "Qwen3"]


def make_model(kind: str, dtype: str = "float32", **options: Any) -> Any:
    """Make a model of a few thousand random weights, the same each time."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": EOS,
    }
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **options})
    torch.manual_seed(7)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    # No output ends by chance: tests count tokens.
    model.generation_config.eos_token_id = None
    return model.to(getattr(torch, dtype)).eval()


def make_kv(model: Any, num_blocks: int = 256, **options: Any) -> nbkv.PagedKVCache:
    """Make a cache with a pool for a model."""
    dtype = str(model.dtype).rpartition(".")[2]
    options = {"dtype": dtype, "max_sequences": 32, **options}
    config = nbkv.CacheConfig(BLOCK, num_blocks, **model_shape(model.config), **options)
    return nbkv.PagedKVCache(config, pool=nbkv.HostPool(config))


def make_prompts(rng: Any, *lengths: int) -> tuple[Any, Any]:
    """Make random prompts, padded on the left, and their mask."""
    longest = max(lengths)
    ids = np.full((len(lengths), longest), PAD, np.int64)
    mask = np.zeros_like(ids)
    for i, length in enumerate(lengths):
        ids[i, longest - length :] = [rng.randrange(2, EOS) for _ in range(length)]
        mask[i, longest - length :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def dense(model: Any) -> Any:
    """Make the cache that others are compared with."""
    return transformers.DynamicCache(config=model.config)


def check_empty(kv: nbkv.PagedKVCache) -> None:
    """Check that nothing is held any more, and that all records agree."""
    assert kv.num_sequences == 0
    assert kv.num_held_blocks == 0
    assert_intact(kv)


@contextmanager
def counted(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Note the shape of the input ids of every forward pass."""
    shapes: list[tuple[int, int]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


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
