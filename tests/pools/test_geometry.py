"""Where vectors lie, and which foreign memory can be a pool."""

import numpy as np
import pytest
from pool_support import DTYPES, LAYOUTS, full_shape, make_config, make_pool, places_of, wrap_pool

import nbkv
from nbkv.pools import PoolGeometry
from nbkv.pools.geometry import FIRST_BASE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", LAYOUTS)
def test_own_layouts_use_each_byte_once(dtype, place) -> None:
    config = make_config(dtype, num_kv_heads=3, head_dim=5)
    g = PoolGeometry.own(config, 1000, *place)
    grid = np.indices(full_shape(config)).reshape(6, -1)
    blocks, layers, kv, tokens, heads, dims = grid
    rows = g.bases[layers, kv] + blocks * g.block_stride + tokens * g.token_stride
    rows = rows + heads * g.head_stride
    used = [rows + dims * g.item_bytes + i for i in range(g.item_bytes)]
    if dtype == "int8":
        scales = g.bases[layers, kv] + blocks * g.block_stride + g.scale_offset
        scales = scales + tokens * g.scale_token_stride + heads * g.scale_head_stride
        used += [scales[dims == 0] + i for i in range(4)]
    places = np.concatenate(used)
    assert np.unique(places).size == places.size
    assert places.min() == 1000
    assert places.max() < 1000 + config.num_blocks * config.bytes_per_block
    assert g.is_chunk_contiguous
    assert g.is_block_contiguous == (place[0] == "block_major")
    assert g.token_order == place[1]


def test_the_seeds_bytes_per_block_stay() -> None:
    config = nbkv.CacheConfig(16, 1024, num_layers=32, num_kv_heads=8, head_dim=128)
    assert config.bytes_per_block == 2 * 2**20
    assert make_config("fp8", head_dim=5).bytes_per_block == 3 * 2 * 4 * 2 * 5


def test_mla_has_one_latent_and_int8_has_scales() -> None:
    config = nbkv.CacheConfig(16, 64, 61, 1, 576, dtype="bfloat16", kv_factor=1)
    assert config.bytes_per_block == 61 * 16 * 576 * 2
    config = nbkv.CacheConfig(3, 64, 2, 5, 7, dtype="int8")
    assert config.chunk_bytes == 176  # 105 numbers and 60 bytes of scales, filled up to 16
    assert config.bytes_per_block == 2 * 2 * 176


@pytest.mark.parametrize("value", [0, 3, True, 1.0])
def test_kv_factor_is_checked(value) -> None:
    with pytest.raises(nbkv.ConfigError, match="kv_factor is"):
        make_config(kv_factor=value)


def test_words_hold_strides_and_bases_row_major() -> None:
    g = make_pool(make_config("int8"), ("layer_major", "HND")).geometry
    strides = [g.block_stride, g.token_stride, g.head_stride]
    scales = [g.scale_offset, g.scale_token_stride, g.scale_head_stride]
    assert g.as_words().tolist() == [*strides, *scales, *g.bases.ravel().tolist()]
    assert g.as_words(1)[FIRST_BASE:].tolist() == g.bases[1].tolist()


def test_wrapped_memory_keeps_its_strides() -> None:
    whole = wrap_pool(make_config(), "whole").geometry
    assert (whole.token_stride, whole.head_stride) == (3 * 32, 32)
    assert not whole.is_chunk_contiguous
    layers = wrap_pool(make_config(), "layers").geometry
    assert (layers.token_stride, layers.head_stride) == (32, 4 * 32)
    assert layers.is_chunk_contiguous
    assert not layers.is_block_contiguous
    assert len(set(wrap_pool(make_config(), "pairs").geometry.bases.ravel().tolist())) == 6
    assert places_of("int8") == LAYOUTS


def parts(shape, count=3, dtype=np.float32):
    return [np.zeros(shape, dtype) for _ in range(count)]


WHOLE = (7, 3, 2, 4, 2, 8)
LAYER = (7, 2, 4, 2, 8)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (np.zeros(WHOLE, np.float16), "tensors's dtype is 'float16'; it must be float32, since"),
        (np.zeros((7, 3, 2, 4, 2, 9), np.float32), r"tensors's shape is .* must be \(7, 3, 2, 4"),
        (np.zeros((7, 3, 2, 4, 2, 16), np.float32)[..., ::2], "tensors's last stride is 8"),
        (np.broadcast_to(np.float32(0), WHOLE), "tensors is 'read-only'"),
        (np.zeros(WHOLE, np.float32)[::-1], "tensors's strides is"),
        (
            np.zeros((7, 3, 2, 4, 2, 33), np.uint8)[..., 1:].view(np.float32),
            "tensors's (strides|address) is",
        ),
        (parts(LAYER, 2), "tensors is 'a list of 2'; it must be as long as num_layers, 3"),
        ([*parts(LAYER, 2), np.zeros((7, 2, 2, 4, 8), np.float32).swapaxes(2, 3)], "the same as"),
        ([tuple(parts((7, 4, 2, 8), 1))] * 3, r"tensors\[0\] is '1 arrays'; it must be kv_factor"),
        ([np.zeros((6, 2, 4, 2, 8), np.float32)] * 3, r"tensors\[0\]'s shape"),
    ],
)
def test_memory_that_cannot_be_a_pool_is_refused(tensors, message) -> None:
    with pytest.raises(nbkv.ArgumentError, match=message):
        nbkv.HostPool.wrap(make_config(), tensors)


def test_int8_and_devices_are_not_wrapped_here() -> None:
    with pytest.raises(nbkv.ArgumentError, match=r"config.dtype is 'int8'"):
        nbkv.HostPool.wrap(make_config("int8"), np.zeros(WHOLE, np.int8))
    memory = np.zeros(WHOLE, np.float32)

    class OnDevice:
        __cuda_array_interface__ = memory.__array_interface__

    with pytest.raises(nbkv.ArgumentError, match="in a device's memory"):
        nbkv.HostPool.wrap(make_config(), OnDevice())
    with pytest.raises(TypeError, match="config is 3"):
        nbkv.HostPool.wrap(3, memory)
