"""CudaPool, its kernels' PTX executed, agrees with HostPool byte for byte on random plans."""

import random

import numpy as np
import pytest
from cuda_plans import FLOATS, Twins, random_config, random_layout, run_plan

from nbkv import HostPool
from ptx.wheels import require_wheels

require_wheels()

from ptx.pool_device import OnDevice, PTXDevice, pool_class  # noqa: E402

CASES = [
    (cc, dtype)
    for cc in ((8, 0), (8, 9), (9, 0), (10, 0))
    for dtype in ("float32", "float16", "bfloat16", "fp8", "int8")
    if (dtype == "fp8" and cc >= (8, 9)) or (dtype != "fp8" and cc != (8, 9))
]


def fetch(array):
    return array.array if isinstance(array, OnDevice) else array


def make_twins(rng, cc, dtype):
    device = PTXDevice(cc)
    device.max_threads = rng.choice([32, 64, 128])
    config = random_config(rng, dtype)
    options = random_layout(rng)
    peer_options = random_layout(rng) | {"token_order": options["token_order"]}
    peer = HostPool(config, **peer_options)
    device.map_host(peer)
    return Twins(
        cuda=pool_class(device)(config, **options),
        host=HostPool(config, **options),
        peer=peer,
        peer_twin=HostPool(config, **peer_options),
        put=device.put,
        fetch=fetch,
    )


@pytest.mark.parametrize(("cc", "dtype"), CASES)
def test_random_plans_agree_with_hostpool(cc, dtype, rng):
    for _ in range(4):
        run_plan(rng, make_twins(rng, cc, dtype), num_calls=6)


def make_wrapped(rng, dtype):
    """Make pools over foreign memory with gaps: K and V of each layer allocated apart."""
    config = random_config(rng, dtype)
    device = PTXDevice((9, 0))
    word = np.dtype({"bfloat16": "u2", "fp8": "u1"}.get(dtype, dtype))
    heads = config.num_kv_heads + rng.choice([0, 1])
    dim = config.head_dim + 8 // word.itemsize * rng.choice([0, 1, 2])
    is_hnd = rng.random() < 0.5
    inner = (heads, config.block_size) if is_hnd else (config.block_size, heads)
    shape = (config.num_blocks, *inner, dim)
    count = config.num_layers * config.kv_factor
    memory = [(np.zeros(shape, word), np.zeros(shape, word)) for _ in range(count)]

    def part(raw):
        view = raw.swapaxes(1, 2) if is_hnd else raw
        return view[:, : config.block_size, : config.num_kv_heads, : config.head_dim]

    def by_layer(planes):
        step = config.kv_factor
        return [tuple(planes[i : i + step]) for i in range(0, count, step)]

    ours = by_layer([device.put(part(raw)) for raw, _ in memory])
    theirs = by_layer([part(raw) for _, raw in memory])
    cuda, host = pool_class(device).wrap(config, ours), HostPool.wrap(config, theirs)
    return Twins(cuda, host, None, None, device.put, fetch, memory)


@pytest.mark.parametrize("dtype", [*FLOATS, "fp8"])
def test_random_plans_agree_on_wrapped_memory_of_any_strides(dtype, rng):
    for _ in range(5):
        run_plan(rng, make_wrapped(rng, dtype), num_calls=6)


def test_slots_in_device_memory_are_taken_as_they_are():
    rng = random.Random(3)
    twins = make_twins(rng, (9, 0), "float16")
    g = twins.host.geometry
    words = np.arange(3 * g.num_kv_heads * g.head_dim, dtype=np.float16)
    key = words.reshape(3, g.num_kv_heads, g.head_dim)
    value = key + 1 if g.kv_factor == 2 else None
    for kind in (np.int64, np.int32):
        slots = np.array([g.block_size * g.num_blocks - 1, -1, 0], kind)
        given = value if value is None else twins.put(value)
        twins.cuda.append(0, twins.put(key), given, twins.put(slots))
        twins.host.append(0, key, value, slots)
        assert (fetch(twins.cuda.layer(0)) == twins.host.layer(0)).all()
