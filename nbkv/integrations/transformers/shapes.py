"""What a model's configuration says of its keys and values."""

from typing import Any

from transformers.cache_utils import get_layer_types_and_kwargs

from nbkv._arguments import refuse
from nbkv.cache import PagedKVCache
from nbkv.pools import HostPool


def model_shape(config: Any) -> dict[str, int]:
    """Read the shape of a token's keys and values from a model's configuration.

    Parameters
    ----------
    config : transformers.PreTrainedConfig

    Returns
    -------
    dict
        num_layers, num_kv_heads and head_dim, as `nbkv.CacheConfig` takes them.

    Raises
    ------
    ArgumentError
        Some layers do not attend to all tokens, or keep something else than keys and values.
    """
    text = config.get_text_config(decoder=True)
    kinds = set(get_layer_types_and_kwargs(text)[0])
    if kinds != {"full_attention"}:
        refuse("config's layer types", sorted(kinds), "full_attention only")
    num_heads = text.num_attention_heads
    return {
        "num_layers": text.num_hidden_layers,
        "num_kv_heads": getattr(text, "num_key_value_heads", None) or num_heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // num_heads,
    }


def check_cache(config: Any, cache: object) -> PagedKVCache:
    """Check that a cache can hold a model's keys and values, on the CPU.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    cache : object

    Returns
    -------
    PagedKVCache

    Raises
    ------
    TypeError, ArgumentError
    """
    if not isinstance(cache, PagedKVCache):
        raise TypeError(f"cache is {cache!r}; it must be a nbkv.PagedKVCache")
    if not isinstance(cache.pool, HostPool):
        refuse("cache's pool", cache.pool, "a nbkv.HostPool: PagedKVCache(config, pool=...)")
    for name, wanted in (model_shape(config) | {"kv_factor": 2, "window": None}).items():
        found = getattr(cache.config, name)
        if found != wanted:
            refuse(f"cache's {name}", found, f"the model's, {wanted}")
    return cache
