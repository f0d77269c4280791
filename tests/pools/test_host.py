"""Every call of HostPool against a rendering in plain NumPy, for all dtypes and layouts."""

import random

import numpy as np
import pytest
from pool_support import (
    CASES,
    QUANTISED,
    SOURCES,
    PlainPool,
    as_floats,
    fill,
    in_words,
    make_config,
    make_pool,
    numbers,
    pair_of,
    sources_of,
)

import nbkv

cases = pytest.mark.parametrize(("dtype", "place"), CASES)


def slots_for(rng: random.Random, config: nbkv.CacheConfig, count: int) -> np.ndarray:
    """Pick slots: a run, some single ones, some -1."""
    every = list(range(config.num_blocks * config.block_size))
    start = rng.randrange(len(every) - count // 2)
    run = every[start : start + count // 2]
    rest = rng.sample([slot for slot in every if slot not in run], count - len(run))
    slots = np.array(run + rest, np.int64)
    slots[[rng.randrange(count) for _ in range(2)]] = -1
    return slots


@cases
@pytest.mark.parametrize("kv_factor", [2, 1])
def test_append_writes_the_slots_and_nothing_else(rng, dtype, place, kv_factor) -> None:
    config = make_config(dtype, kv_factor=kv_factor)
    pool, plain = pair_of(rng, config, place)
    fill(rng, pool, plain)
    for source in sources_of(dtype):
        slots = slots_for(rng, config, 11)
        layer = rng.randrange(config.num_layers)
        floats = [numbers(rng, (11, 2, 8)) for _ in range(kv_factor)]
        given = [values.astype(SOURCES[source]) for values in floats]
        pool.append(layer, given[0], given[1] if kv_factor == 2 else None, slots)
        for kv, values in enumerate(given):
            words = values if dtype in QUANTISED else in_words(values.astype(np.float32), dtype)
            for i, slot in enumerate(slots.tolist()):
                if slot >= 0:
                    plain.write(layer, kv, slot, words[i])
        plain.assert_equals(pool)


@cases
def test_append_all_takes_strided_sources_and_int32_slots(rng, dtype, place) -> None:
    config = make_config(dtype)
    pool, plain = pair_of(rng, config, place)
    slots = slots_for(rng, config, 9)
    # A projection's output: query, key and value heads side by side in one array.
    projected = numbers(rng, (3, 9, 6, 8))
    if dtype not in QUANTISED:
        projected = in_words(projected, dtype)
    # Values with other strides than the keys'.
    values = np.ascontiguousarray(projected[:, :, 4:].swapaxes(1, 2)).swapaxes(1, 2)
    for last in (projected[:, :, 4:], values):
        pool.append_all(projected[:, :, 2:4], last, slots.astype(np.int32))
        for layer in range(3):
            for i, slot in enumerate(slots.tolist()):
                if slot >= 0:
                    plain.write(layer, 0, slot, projected[layer, i, 2:4])
                    plain.write(layer, 1, slot, projected[layer, i, 4:])
        plain.assert_equals(pool)
        pool.zero(np.arange(7))
        plain = PlainPool(config, plain.scales)
        plain.assert_equals(pool)


@cases
def test_copies_move_whole_blocks_or_their_first_tokens(rng, dtype, place) -> None:
    config = make_config(dtype)
    pool, plain = pair_of(rng, config, place)
    fill(rng, pool, plain)
    pool.copy_blocks(np.array([[1, 2], [1, 5], [3, 0]], np.int32))
    for source, destination in ((1, 2), (1, 5), (3, 0)):
        plain.copy(source, destination, config.block_size)
    plain.assert_equals(pool)
    pool.copy_partial(np.array([[4, 6], [5, 1], [2, 3]], np.int32), np.array([3, 0, 4], np.int32))
    for source, destination, count in ((4, 6, 3), (5, 1, 0), (2, 3, 4)):
        plain.copy(source, destination, count)
    plain.assert_equals(pool)


@cases
def test_gather_reads_what_was_written_in_every_dtype(rng, dtype, place) -> None:
    config = make_config(dtype)
    pool, plain = pair_of(rng, config, place)
    fill(rng, pool, plain)
    ids = [5, 0, 5, 2]
    for num_tokens in (0, 1, 7, 16):
        want = plain.read(1, ids, num_tokens)
        got = pool.gather(1, np.array(ids, np.int32), num_tokens)
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes()
        # A target with strides of its own, and every dtype that a quantising pool gives.
        for source in sources_of(dtype):
            kind = SOURCES[source] if dtype in QUANTISED else want.dtype
            out = np.zeros((2, num_tokens, 4, 8), kind)
            assert pool.gather(1, ids, num_tokens, out[:, :, 1:3]).base is out
            assert out[:, :, 1:3].tobytes() == want.astype(kind).tobytes()
            assert not out[:, :, [0, 3]].any()
        every = pool.gather(None, ids, num_tokens)
        for layer in range(3):
            assert every[layer].tobytes() == plain.read(layer, ids, num_tokens).tobytes()


@cases
def test_scatter_is_the_inverse_of_gather(rng, dtype, place) -> None:
    config = make_config(dtype)
    pool, plain = pair_of(rng, config, place)
    fill(rng, pool, plain)
    ids, count = [6, 1, 3], 10
    for layer in (2, None):
        shape = (2, count, 2, 8) if layer == 2 else (3, 2, count, 2, 8)
        values = numbers(rng, shape)
        if dtype not in QUANTISED:
            values = in_words(values, dtype)
        pool.scatter(layer, ids, values)
        for i in [layer] if layer == 2 else range(3):
            part = values if layer == 2 else values[i]
            for kv in range(2):
                for t in range(count):
                    plain.write(i, kv, ids[t // 4] * 4 + t % 4, part[kv, t])
        plain.assert_equals(pool)


@cases
def test_zero_clears_blocks_and_no_others(rng, dtype, place) -> None:
    pool, plain = pair_of(rng, make_config(dtype), place)
    fill(rng, pool, plain)
    pool.zero([2, 5, 2])
    for block_id in (2, 5):
        plain.zero(block_id)
    plain.assert_equals(pool)


@cases
@pytest.mark.parametrize("other", [("block_major", "NHD"), ("layer_major", "HND")])
def test_swap_moves_blocks_between_layouts(rng, dtype, place, other) -> None:
    config = make_config(dtype)
    pool, plain = pair_of(rng, config, place)
    fill(rng, pool, plain)
    far_config = make_config(dtype, num_blocks=4)
    far, far_plain = make_pool(far_config, other), PlainPool(far_config, plain.scales)
    if dtype == "fp8":
        far.set_scales(pool.scales)
    pool.swap_out([6, 1], far, np.array([0, 3], np.int32))
    for here, there in ((6, 0), (1, 3)):
        far_plain.words[there] = plain.words[here]
        far_plain.row_scales[there] = plain.row_scales[here]
    far_plain.assert_equals(far)
    pool.swap_in([2], far, [3])
    plain.copy(1, 2, 4)
    plain.assert_equals(pool)
    assert far.fill_ratio == 0.5


@cases
def test_data_and_layers_are_views_with_logical_axes(rng, dtype, place) -> None:
    pool, plain = pair_of(rng, make_config(dtype), place)
    fill(rng, pool, plain)
    assert pool.layer(1, 1).shape == (7, 4, 2, 8)
    pool.layer(1, kv=1)[3, 2] = 1
    plain.words[3, 1, 1, 2] = 1
    plain.assert_equals(pool)
    if place[1] == "pairs":
        # A view from the one to the other would span memory of others, and numpy overflows
        # the stack over copies of such.
        with pytest.raises(nbkv.ArgumentError, match=r"layer 1 .* use layer\(i, kv=0\)"):
            pool.layer(1)
    else:
        assert pool.layer(1).tobytes() == plain.words[:, 1].tobytes()
        pool.layer(1)[3, 0, 2] = 1
        plain.words[3, 1, 0, 2] = 1
        plain.assert_equals(pool)
    with pytest.raises(nbkv.ArgumentError, match=r"kv is 2; .* 0 to 1"):
        pool.layer(1, 2)
    if place[1] in ("layers", "pairs"):
        with pytest.raises(nbkv.ArgumentError, match=r"use layer\(i\)"):
            _ = pool.data
    else:
        pool.data[5, 2, 0] = 0
        plain.words[5, 2, 0] = 0
        plain.assert_equals(pool)


def test_fill_ratio_counts_slots_written_and_not_zeroed(rng) -> None:
    pool = make_pool(make_config(), ("block_major", "NHD"))
    assert pool.fill_ratio == 0
    key = numbers(rng, (3, 2, 8))
    pool.append(0, key, key, [0, -1, 9])
    pool.append(1, key, key, [0, 1, -1])
    assert pool.fill_ratio == 3 / 28
    pool.copy_blocks([[0, 4]])
    assert pool.fill_ratio == 5 / 28
    pool.copy_partial([[4, 5]], [1])
    assert pool.fill_ratio == 6 / 28
    pool.scatter(0, [6], numbers(rng, (2, 2, 2, 8)))
    assert pool.fill_ratio == 8 / 28
    pool.zero([0, 3])
    assert pool.fill_ratio == 6 / 28
    assert pool.nbytes == 7 * 3 * 2 * 4 * 2 * 8 * 4


def test_float16_and_bfloat16_pools_hold_what_was_given_bit_for_bit(rng) -> None:
    every = np.arange(2**16, dtype=np.uint16).reshape(-1, 1, 16)
    for dtype, given in (("float16", every.view(np.float16)), ("bfloat16", every)):
        config = nbkv.CacheConfig(16, 256, 1, 1, 16, dtype=dtype, kv_factor=1)
        pool = nbkv.HostPool(config, token_order="HND")
        pool.append(0, given, None, np.arange(4096))
        assert pool.data.tobytes() == every.tobytes()
        got = pool.gather(0, np.arange(256), 4096)
        assert got.tobytes() == every.tobytes()


def test_quantising_pools_keep_numbers_near(rng) -> None:
    values = numbers(rng, (28, 2, 64))
    for dtype, error in (("fp8", 2**-4), ("int8", 0.5 / 127)):
        pool = nbkv.HostPool(make_config(dtype, head_dim=64))
        pool.append(0, values, values, np.arange(28))
        got = as_floats(pool.gather(0, np.arange(7), 28)[1], "float32")
        most = np.abs(values).max(-1, keepdims=True)
        reference = np.abs(values) + 2**-6 if dtype == "fp8" else most
        assert (np.abs(got - values) <= error * reference * 1.0001).all()
