"""What a forward pass spends in its cache: PagedCache beside DynamicCache, one thread.

python cache_speed.py

The shape is SmolLM2-135M's, 30 layers of 3 heads of 64 numbers, float32.
"""

import time

import torch
import transformers

import nbkv
from nbkv.integrations.transformers import PagedCache, model_shape

BATCHES = [(1, 128), (1, 2048), (8, 512)]
NUM_STEPS = 50


def milliseconds(past, keys):
    """Update all layers with the same new keys and values."""
    start = time.perf_counter()
    for layer in range(len(past.layers)):
        past.update(keys, keys, layer)
    return 1000 * (time.perf_counter() - start)


def main():
    """Print the best of many decode steps."""
    torch.set_num_threads(1)
    config = transformers.LlamaConfig(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
    )
    for batch, length in BATCHES:
        pages = batch * (length // 16 + NUM_STEPS)
        shape = nbkv.CacheConfig(16, pages, dtype="float32", **model_shape(config))
        cache = nbkv.PagedKVCache(shape, pool=nbkv.HostPool(shape))
        results = []
        for past in (transformers.DynamicCache(config=config), PagedCache(config, cache)):
            # As a model makes them: heads of a token side by side.
            prompt, token = (
                torch.randn(batch, size, 3, 64).transpose(1, 2) for size in (length, 1)
            )
            milliseconds(past, prompt)
            results.append(min(milliseconds(past, token) for _ in range(NUM_STEPS)))
        print(
            f"{batch} x {length}: DynamicCache {results[0]:.2f} ms, PagedCache {results[1]:.2f} ms"
        )


if __name__ == "__main__":
    main()
