"""Random calls made on a CudaPool and on a HostPool alike, compared byte for byte.

Whatever executes the kernels brings two functions: ``put`` makes a device array of a numpy view
with its strides, ``fetch`` makes a numpy array of a device array.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nbkv import CacheConfig, HostPool

FLOATS = ("float32", "float16", "bfloat16")
QUANTISED = ("fp8", "int8")
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1}
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


@dataclass
class Twins:
    """A CudaPool and a HostPool of the same content, and a third to exchange blocks with."""

    cuda: Any
    host: HostPool
    peer: HostPool | None
    peer_twin: HostPool | None
    put: Any
    fetch: Any
    # Pairs of arrays that are all of both pools' memory; the pools' own views when None.
    memory: Any = None


def bytes_of(array):
    """Return an array's bytes, in C order."""
    return np.ascontiguousarray(array).view(np.uint8)


def assert_same(twins):
    """Compare all blocks, int8's scales too."""
    g = twins.host.geometry
    pairs = twins.memory or [
        (twins.fetch(twins.cuda.layer(layer)), twins.host.layer(layer))
        for layer in range(g.num_layers)
    ]
    for layer, (ours, theirs) in enumerate(pairs):
        assert (bytes_of(ours) == bytes_of(theirs)).all(), f"layer {layer}"
    if g.dtype == "int8":
        ours, theirs = twins.fetch(twins.cuda.scales), twins.host.scales
        assert (bytes_of(ours) == bytes_of(theirs)).all(), "scales"
    if twins.peer is not None:
        same = bytes_of(twins.peer.data) == bytes_of(twins.peer_twin.data)
        assert same.all(), "the peer"
    assert twins.cuda.fill_ratio == twins.host.fill_ratio


def random_config(rng, dtype, max_units=6):
    """Return a small configuration whose rows are multiples of 8 bytes."""
    per_unit = 8 // ITEM_BYTES[dtype]
    units = rng.choice([1, 2, 3, rng.randint(1, max_units), 8])
    return CacheConfig(
        block_size=rng.choice([1, 2, 3, 5, 8, 16]),
        num_blocks=rng.randint(4, 9),
        num_layers=rng.randint(1, 3),
        num_kv_heads=rng.choice([1, 2, 3, 5]),
        head_dim=per_unit * units,
        dtype=dtype,
        kv_factor=rng.choice([1, 2, 2]),
    )


def random_layout(rng):
    """Return keyword arguments of a pool's own layout."""
    return {
        "layout": rng.choice(["block_major", "layer_major"]),
        "token_order": rng.choice(["NHD", "HND"]),
    }


def random_words(rng, dtype, shape):
    """Return words of a dtype: any bits where they are copied, else numbers of all kinds."""
    generator = np.random.default_rng(rng.randrange(2**31))
    kind = NUMPY[dtype]
    words = generator.integers(0, 2 ** (8 * kind().itemsize), shape, np.uint64)
    bits = words.astype(f"u{kind().itemsize}")
    # Mostly numbers of a size that quantising is for; the rest anything, NaN and infinity too.
    usual = (generator.standard_normal(shape) * generator.choice([1e-3, 1, 300])).astype(np.float32)
    if dtype == "bfloat16":
        usual_bits = (usual.view(np.uint32) >> 16).astype(np.uint16)
    else:
        usual_bits = usual.astype(kind).view(bits.dtype)
    chosen = np.where(generator.random(shape) < 0.1, bits, usual_bits)
    return chosen.astype(bits.dtype).view(kind)


def strided(rng, array, unit_bytes):
    """Return an array's content in a larger one's view, as a projection's output has it."""
    item = array.dtype.itemsize
    pad = max(1, unit_bytes // item)
    *front, tokens, heads, dim = array.shape
    row = -(-dim // pad) * pad + pad * rng.choice([0, 1])
    if rng.random() < 0.4:
        row = dim
    wide = heads + rng.choice([0, 2]) if row % pad == 0 else heads
    if wide * row % pad or row % pad:
        return array
    raw = np.zeros((*front, tokens, wide, row), array.dtype)
    view = raw[..., :heads, :dim]
    view[...] = array
    return view


def random_rows(rng, twins, leading):
    """Return (host array, device array) that a call of this pool takes."""
    g = twins.host.geometry
    dtype = rng.choice(FLOATS) if g.dtype in QUANTISED else g.dtype
    words = random_words(rng, dtype, (*leading, g.num_kv_heads, g.head_dim))
    view = strided(rng, words, 16 if g.dtype in QUANTISED else 8)
    return view, twins.put(view)


def random_pairs(rng, g):
    """Return pairs of blocks without chains."""
    blocks = rng.sample(range(g.num_blocks), rng.randint(2, g.num_blocks))
    middle = rng.randint(1, len(blocks) - 1)
    sources, destinations = blocks[:middle], blocks[middle:]
    return np.array([(rng.choice(sources), to) for to in destinations], np.int32)


def call_append(rng, twins):
    g = twins.host.geometry
    n = rng.randint(1, min(7, g.num_blocks * g.block_size))
    slots = np.array(rng.sample(range(g.num_blocks * g.block_size), n), np.int64)
    slots[np.array([rng.random() < 0.15 for _ in range(n)])] = -1
    every = rng.random() < 0.5
    leading = (g.num_layers, n) if every else (n,)
    key, cuda_key = random_rows(rng, twins, leading)
    value, cuda_value = random_rows(rng, twins, leading) if g.kv_factor > 1 else (None, None)
    given = rng.choice([slots, slots.astype(np.int32), slots.tolist()])
    if every:
        twins.host.append_all(key, value, slots)
        twins.cuda.append_all(cuda_key, cuda_value, given)
        return
    layer = rng.randrange(g.num_layers)
    twins.host.append(layer, key, value, slots)
    twins.cuda.append(layer, cuda_key, cuda_value, given)


def call_copy_blocks(rng, twins):
    pairs = random_pairs(rng, twins.host.geometry)
    twins.host.copy_blocks(pairs)
    twins.cuda.copy_blocks(pairs)


def call_copy_partial(rng, twins):
    g = twins.host.geometry
    pairs = random_pairs(rng, g)
    counts = [rng.randint(0, g.block_size) for _ in pairs]
    twins.host.copy_partial(pairs, counts)
    twins.cuda.copy_partial(pairs, counts)


def call_gather(rng, twins):
    g = twins.host.geometry
    ids = [rng.randrange(g.num_blocks) for _ in range(rng.randint(1, 3))]
    count = rng.randint(0, len(ids) * g.block_size)
    layer = rng.choice([None, rng.randrange(g.num_layers)])
    if rng.random() < 0.3:
        theirs = twins.host.gather(layer, ids, count)
        ours = twins.fetch(twins.cuda.gather(layer, ids, count))
    else:
        leading = (g.kv_factor, count) if layer is not None else (g.num_layers, g.kv_factor, count)
        out, cuda_out = random_rows(rng, twins, leading)
        theirs = np.array(twins.host.gather(layer, ids, count, out.copy()))
        ours = twins.fetch(twins.cuda.gather(layer, ids, count, cuda_out))
    assert ours.dtype == theirs.dtype
    assert (bytes_of(ours) == bytes_of(theirs)).all()


def call_scatter(rng, twins):
    g = twins.host.geometry
    ids = rng.sample(range(g.num_blocks), rng.randint(1, 3))
    count = rng.randint(1, len(ids) * g.block_size)
    layer = rng.choice([None, rng.randrange(g.num_layers)])
    leading = (g.kv_factor, count) if layer is not None else (g.num_layers, g.kv_factor, count)
    values, cuda_values = random_rows(rng, twins, leading)
    twins.host.scatter(layer, ids, values)
    twins.cuda.scatter(layer, ids, cuda_values)


def call_zero(rng, twins):
    ids = [rng.randrange(twins.host.geometry.num_blocks) for _ in range(rng.randint(1, 3))]
    twins.host.zero(ids)
    twins.cuda.zero(ids)


def call_swap(rng, twins):
    if twins.peer is None:
        return
    n = rng.randint(1, 3)
    here = rng.sample(range(twins.host.geometry.num_blocks), n)
    there = rng.sample(range(twins.peer.geometry.num_blocks), n)
    name = rng.choice(["swap_out", "swap_in"])
    getattr(twins.host, name)(here, twins.peer_twin, there)
    done = getattr(twins.cuda, name)(here, twins.peer, there)
    if hasattr(done, "synchronize"):
        done.synchronize()


CALLS = (
    call_append,
    call_append,
    call_scatter,
    call_copy_blocks,
    call_copy_partial,
    call_gather,
    call_gather,
    call_zero,
    call_swap,
)


def fill(rng, twins):
    """Give every block content of every layer."""
    g = twins.host.geometry
    for layer in range(g.num_layers):
        leading = (g.kv_factor, g.num_blocks * g.block_size)
        values, cuda_values = random_rows(rng, twins, leading)
        twins.host.scatter(layer, range(g.num_blocks), values)
        twins.cuda.scatter(layer, range(g.num_blocks), cuda_values)


def run_plan(rng, twins, num_calls):
    """Fill both pools, make random calls and compare after each."""
    if twins.host.geometry.dtype == "fp8":
        shape = (twins.host.geometry.num_layers, twins.host.geometry.kv_factor, 1)
        scales = np.array([rng.uniform(0.01, 2) for _ in range(shape[0] * shape[1])], np.float32)
        for pool in (twins.host, twins.cuda, twins.peer, twins.peer_twin):
            if pool is not None:
                pool.set_scales(scales.reshape(shape))
    fill(rng, twins)
    assert_same(twins)
    for _ in range(num_calls):
        call = rng.choice(CALLS)
        call(rng, twins)
        try:
            assert_same(twins)
        except AssertionError as error:
            error.add_note(f"after {call.__name__}, {twins.host.config}")
            raise
