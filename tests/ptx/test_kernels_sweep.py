"""Kernels at every size of a row: the right bytes, no more stores than needed, whole sectors."""

import numpy as np
import pytest
from cuda_plans import Twins, assert_same, bytes_of

from nbkv import CacheConfig, HostPool
from ptx.wheels import require_wheels

require_wheels()

from ptx.pool_device import PTXDevice, pool_class  # noqa: E402
from ptx.test_kernels_plans import fetch  # noqa: E402

THREADS = 32
#: Every size where a loop of 32 threads takes 1 to 4 turns and begins another.
EVERY = range(1, 4 * THREADS + 3)
CORNERS = [1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 129, 130]
SWEEPS = [((8, 0), CORNERS), ((9, 0), EVERY), ((10, 0), CORNERS)]


def make(cc, token_order="NHD", **shape):
    config = CacheConfig(**shape)
    device = PTXDevice(cc)
    device.max_threads = THREADS
    peer, peer_twin = (HostPool(config, token_order=token_order) for _ in range(2))
    device.map_host(peer)
    cuda = pool_class(device)(config, token_order=token_order)
    host = HostPool(config, token_order=token_order)
    return Twins(cuda, host, peer, peer_twin, device.put, fetch), device


def make_rows(g, count, kind=np.float16):
    shape = (g.num_layers, g.kv_factor, count, g.num_kv_heads, g.head_dim)
    generator = np.random.default_rng(g.head_dim)
    return (generator.standard_normal(shape) * 20).astype(kind)


def append_both(twins, rows, slots):
    keys, values = rows[:, 0], rows[:, 1]
    twins.host.append_all(keys, values, slots)
    twins.cuda.append_all(twins.put(keys), twins.put(values), slots)


def check_traffic(device, kernel, num_bytes, width, whole_sectors):
    """Check what the last launch stored and loaded in data's width."""
    name, report = device.reports[-1]
    assert name == kernel
    assert report.stored_bytes == num_bytes
    store, load = report.of("store", width), report.of("load", width)
    assert store.num_bytes == num_bytes
    if width == 16:
        assert load.num_bytes == num_bytes or kernel == "zero"
        if whole_sectors:
            assert store.sectors * 32 == num_bytes == store.ideal_sectors * 32
            assert load.sectors * 32 == load.num_bytes


@pytest.mark.parametrize(("cc", "sizes"), SWEEPS)
def test_wide_rows_move_exactly(cc, sizes):
    slots = np.array([5, -1, 0, 3])
    for units in sizes:
        twins, device = make(
            cc, block_size=2, num_blocks=4, num_layers=1, num_kv_heads=1, head_dim=8 * units
        )
        g = twins.host.geometry
        row, even = 16 * units, units % 2 == 0
        append_both(twins, make_rows(g, 4), slots)
        check_traffic(device, "append", 3 * 2 * row, 16, even)
        pairs = [[0, 3], [2, 1]]
        twins.host.copy_blocks(pairs)
        twins.cuda.copy_blocks(pairs)
        check_traffic(device, "copy", 2 * 2 * 2 * row, 16, even)
        ours, theirs = fetch(twins.cuda.gather(0, [3, 1], 3)), twins.host.gather(0, [3, 1], 3)
        assert (ours == theirs).all()
        check_traffic(device, "gather", 3 * 2 * row, 16, even)
        twins.cuda.swap_out([3, 2], twins.peer, [0, 1])
        twins.host.swap_out([3, 2], twins.peer_twin, [0, 1])
        check_traffic(device, "swap", 2 * 2 * 2 * row, 16, even)
        twins.host.zero([3])
        twins.cuda.zero([3])
        check_traffic(device, "zero", 2 * 2 * row, 16, even)
        assert_same(twins)


@pytest.mark.parametrize(("cc", "sizes"), SWEEPS)
@pytest.mark.parametrize("narrow", [False, True])
def test_rows_of_heads_move_exactly(cc, sizes, narrow):
    slots = np.array([0, 4, -1])
    for units in sizes:
        dim = 8 * units + 4 if narrow else 8 * units
        twins, device = make(
            cc, "HND", block_size=2, num_blocks=3, num_layers=1, num_kv_heads=2, head_dim=dim
        )
        width, row = (8 if narrow else 16), 2 * dim
        append_both(twins, make_rows(twins.host.geometry, 3), slots)
        check_traffic(device, "append_heads", 2 * 2 * 2 * row, width, units % 2 == 0)
        twins.host.copy_partial([[0, 1]], [1])
        twins.cuda.copy_partial([[0, 1]], [1])
        check_traffic(device, "copy_rows", 2 * 2 * row, width, units % 2 == 0)
        ours = fetch(twins.cuda.gather(0, [1, 2], 3))
        assert (ours == twins.host.gather(0, [1, 2], 3)).all()
        check_traffic(device, "gather_heads", 3 * 2 * 2 * row, width, units % 2 == 0)
        assert_same(twins)


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
def test_odd_chunks_are_copied_swapped_and_zeroed_in_narrow_units(cc):
    for units in CORNERS:
        twins, device = make(
            cc, block_size=1, num_blocks=3, num_layers=1, num_kv_heads=1, head_dim=8 * units - 4
        )
        row = 16 * units - 8
        append_both(twins, make_rows(twins.host.geometry, 3), np.array([0, 1, 2]))
        check_traffic(device, "append_heads", 3 * 2 * row, 8, False)
        twins.host.swap_in([1], twins.peer_twin, [0])
        twins.cuda.swap_in([1], twins.peer, [0])
        # K and V of an odd block are one run of 16-byte units, but not in layer-major order.
        assert device.reports[-1][0] in ("swap", "swap_narrow")
        twins.host.copy_blocks([[0, 1]])
        twins.cuda.copy_blocks([[0, 1]])
        twins.host.zero([2])
        twins.cuda.zero([2])
        assert_same(twins)


QUANTISED = [
    *[((8, 0), "int8", kind) for kind in (np.float32, np.float16)],
    *[(cc, "int8", np.float16) for cc in ((9, 0), (10, 0))],
    *[(cc, "fp8", kind) for cc in ((8, 9), (9, 0)) for kind in (np.float32, np.float16)],
    ((10, 0), "fp8", np.float16),
]


@pytest.mark.parametrize(("cc", "dtype", "kind"), QUANTISED)
def test_quantised_rows_of_every_size_agree(cc, dtype, kind):
    for eights in [*range(1, 12), 31, 32, 33, 63, 64, 65, 66, 129, 130]:
        twins, device = make(
            cc,
            block_size=2,
            num_blocks=3,
            num_layers=1,
            num_kv_heads=3,
            head_dim=8 * eights,
            dtype=dtype,
        )
        g = twins.host.geometry
        append_both(twins, make_rows(g, 3, kind), np.array([0, 4, -1]))
        report = device.reports[-1][1]
        scales = 4 * (2 * 2 * 3) if dtype == "int8" else 0
        assert report.stored_bytes == 2 * 2 * 3 * g.row_bytes + scales
        width = 16 if eights % 2 == 0 else 8
        assert report.of("store", width).num_bytes == report.stored_bytes - scales
        for out_kind in (np.float32, np.float16, np.uint16):
            out = np.zeros((2, 3, 3, g.head_dim), out_kind)
            theirs = twins.host.gather(0, [0, 2], 3, out.copy())
            ours = fetch(twins.cuda.gather(0, [0, 2], 3, twins.put(out)))
            assert (bytes_of(ours) == bytes_of(theirs)).all()
            assert device.reports[-1][1].of("store", 16).num_bytes == ours.nbytes
        assert_same(twins)
