"""Streams, CUDA graphs, torch's and CuPy's arrays: on a device only."""

import numpy as np
import pytest
from test_parity import fetch, put

from nbkv import CacheConfig, HostPool

CONFIG = {
    "block_size": 16,
    "num_blocks": 64,
    "num_layers": 4,
    "num_kv_heads": 8,
    "head_dim": 128,
}


def make(dtype="float16", **options):
    from nbkv import CudaPool

    return CudaPool(CacheConfig(**CONFIG, dtype=dtype), **options)


def test_append_can_be_captured_into_a_cuda_graph():
    torch = pytest.importorskip("torch")
    stream = torch.cuda.Stream()
    pool = make(stream=stream)
    key = torch.zeros((4, 8, 8, 128), dtype=torch.float16, device="cuda")
    value = torch.zeros_like(key)
    slots = torch.full((8,), -1, dtype=torch.int64, device="cuda")
    with torch.cuda.stream(stream):
        pool.append_all(key, value, slots)  # compiles
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        pool.append_all(key, value, slots)
    for step in range(3):
        key.fill_(step + 1)
        value.fill_(-step - 1)
        slots.copy_(torch.arange(8 * step, 8 * step + 8))
        graph.replay()
    torch.cuda.synchronize()
    rows = fetch(pool.gather(None, [0, 1], 24))
    expected = np.repeat([1, 2, 3], 8)
    assert (rows[:, 0] == expected[None, :, None, None]).all()
    assert (rows[:, 1] == -expected[None, :, None, None]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "fp8", "int8"])
def test_torch_tensors_are_taken_as_they_are(dtype):
    torch = pytest.importorskip("torch")
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float16
    pool, host = make(dtype), HostPool(CacheConfig(**CONFIG, dtype=dtype))
    torch.cuda.synchronize()
    qkv = torch.randn((32, 3, 8, 128), device="cuda").to(kind)
    key, value = qkv[:, 1], qkv[:, 2]  # a projection's views
    slots = torch.randperm(1024, device="cuda")[:32]
    torch.cuda.synchronize()
    pool.append(2, key, value, slots)
    host.append(2, key.cpu(), value.cpu(), slots.cpu().numpy())
    assert (fetch(pool.layer(2)) == host.layer(2)).all()
    view = torch.as_tensor(pool.layer(2), device="cuda")
    assert view.data_ptr() == pool.geometry.bases[2, 0]


def test_torch_memory_is_wrapped_without_a_copy():
    torch = pytest.importorskip("torch")
    from nbkv import CudaPool

    tensors = [torch.zeros((2, 64, 16, 8, 128), dtype=torch.float16, device="cuda") for _ in "1234"]
    config = CacheConfig(**CONFIG)
    pool = CudaPool.wrap(config, [tensor.transpose(0, 1) for tensor in tensors])
    key = torch.ones((1, 8, 128), dtype=torch.float16, device="cuda")
    torch.cuda.synchronize()
    pool.append(3, key, 2 * key, np.array([17]))
    torch.cuda.synchronize()
    assert float(tensors[3][0, 1, 1].sum()) == 1024
    assert float(tensors[3][1, 1, 1].sum()) == 2048


def test_cupy_arrays_and_streams_are_taken_as_they_are():
    cupy = pytest.importorskip("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    pool = make(stream=stream)
    with stream:
        key = cupy.ones((4, 8, 128), cupy.float16)
        slots = cupy.arange(4)
    pool.append(0, key, 3 * key, slots)
    out = cupy.zeros((2, 4, 8, 128), cupy.float16)
    pool.gather(0, [0], 4, out)
    stream.synchronize()
    assert (out[0] == 1).all()
    assert (out[1] == 3).all()


def test_work_on_torchs_stream_comes_before_and_after(rng):
    torch = pytest.importorskip("torch")
    stream = torch.cuda.Stream()
    pool = make(stream=stream)
    with torch.cuda.stream(stream):
        for step in range(50):
            key = torch.full((4, 16, 8, 128), step, dtype=torch.float16, device="cuda")
            pool.append_all(key, key, np.arange(16))
            out = torch.empty((4, 2, 16, 8, 128), dtype=torch.float16, device="cuda")
            pool.gather(None, [0], 16, out)
            assert bool((out == step).all())


def test_a_slot_of_minus_one_writes_nothing():
    pool = make()
    key = put(np.ones((2, 8, 128), np.float16))
    pool.append(0, key, key, put(np.array([-1, 5], np.int32)))
    assert fetch(pool.layer(0)).sum() == 2 * 8 * 128
