"""Paged attention against dense attention in float64, and against torch's own."""

import random

import ml_dtypes
import numpy as np
import pytest
from pool_support import CASES, QUANTISED, SOURCES, fill, in_words, make_config, numbers, pair_of

import nbkv
from nbkv import attention

cases = pytest.mark.parametrize(("dtype", "place"), CASES)


def dense(query, keys, values, scale=None):
    """Attend in float64: query (heads, dim), keys and values (tokens, kv_heads, dim)."""
    group = query.shape[0] // keys.shape[1]
    keys, values = (np.repeat(part.astype(np.float64), group, axis=1) for part in (keys, values))
    scores = np.einsum("hd,thd->ht", query.astype(np.float64), keys)
    scores *= query.shape[1] ** -0.5 if scale is None else scale
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ht,thd->hd", weights, values)


def widened(plain, layer: int, ids: list[int], count: int) -> np.ndarray:
    words = plain.read(layer, ids, count)
    if plain.config.dtype == "bfloat16":
        words = words.view(ml_dtypes.bfloat16)
    return words.astype(np.float32)


@cases
@pytest.mark.parametrize("group", [1, 3])
def test_decode_equals_dense_attention_over_the_tokens(rng, dtype, place, group) -> None:
    config = make_config(dtype)
    pool, plain = pair_of(rng, config, place)
    fill(rng, pool, plain)
    lengths = [9, 1, 0, 16]
    tables = [rng.sample(range(7), 4) for _ in lengths]
    query = numbers(rng, (4, 2 * group, 8))
    got = attention.decode(query, pool, np.array(tables), np.array(lengths), layer=2)
    assert got.dtype == np.float32
    for i, length in enumerate(lengths):
        if not length:
            assert not got[i].any()
            continue
        keys, values = widened(plain, 2, tables[i], length)
        want = dense(query[i], keys, values)
        np.testing.assert_allclose(got[i], want, rtol=2e-6, atol=2e-6 * np.abs(values).max())


def test_the_largest_score_may_come_last_or_first(rng) -> None:
    config = nbkv.CacheConfig(4, 8, 1, 1, 16, dtype="float32")
    pool = nbkv.HostPool(config)
    for order in (1, -1):
        keys = np.ones((32, 1, 16), np.float32) * np.linspace(-40, 40, 32)[::order, None, None]
        keys = keys.astype(np.float32)
        values = numbers(rng, (32, 1, 16))
        pool.append(0, keys, values, np.arange(32))
        query = np.ones((1, 1, 16), np.float32)
        got = attention.decode(query, pool, np.arange(8)[None], [32], layer=0)
        np.testing.assert_allclose(got[0], dense(query[0], keys, values), rtol=1e-6, atol=1e-7)


def test_long_sequences_stay_exact_in_threads(rng) -> None:
    config = nbkv.CacheConfig(16, 40, 1, 2, 32, dtype="float32")
    pool = nbkv.HostPool(config)
    pool.num_threads = 2
    keys, values = (numbers(rng, (640, 2, 32), 0.3) for _ in range(2))
    pool.append(0, keys, values, np.arange(640))
    count = 8 if nbkv._jit.INTERPRETED else 80
    lengths = np.array([rng.randrange(1, 41) for _ in range(count)])
    if not nbkv._jit.INTERPRETED:
        lengths *= 16
    table = np.tile(np.arange(40), (count, 1))
    query = numbers(rng, (count, 4, 32))
    got = attention.decode(query, pool, table, lengths, layer=0)
    for i, length in enumerate(lengths.tolist()):
        want = dense(query[i], keys[:length], values[:length])
        np.testing.assert_allclose(got[i], want, rtol=2e-6, atol=2e-6)


def test_holes_are_left_out(rng) -> None:
    config = nbkv.CacheConfig(4, 8, 1, 1, 8, dtype="float32")
    pool = nbkv.HostPool(config)
    keys, values = (numbers(rng, (32, 1, 8)) for _ in range(2))
    pool.append(0, keys, values, np.arange(32))
    query = numbers(rng, (2, 2, 8))
    table = np.array([[-1, 3, 5], [-1, -1, 0]], np.int32)
    got = attention.decode(query, pool, table, np.array([10, 8], np.int32), layer=0)
    seen = [*range(12, 16), 20, 21]
    want = dense(query[0], keys[seen], values[seen])
    np.testing.assert_allclose(got[0], want, rtol=2e-6, atol=2e-6)
    assert not got[1].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8"])
def test_mla_takes_the_beginning_of_each_latent_for_its_value(rng, dtype) -> None:
    config = nbkv.CacheConfig(4, 8, 2, 1, 24, dtype=dtype, kv_factor=1)
    pool, plain = pair_of(rng, config, ("block_major", "NHD"))
    fill(rng, pool, plain)
    query = numbers(rng, (1, 5, 24))
    table = [[6, 2, 4]]
    latents = widened(plain, 1, table[0], 11)[0]
    for value_dim, width in ((16, 16), (None, 24)):
        got = attention.decode(
            query, pool, np.array(table), [11], layer=1, value_dim=value_dim, scale=0.25
        )
        want = dense(query[0], latents, latents[..., :width], scale=0.25)
        np.testing.assert_allclose(got[0], want, rtol=2e-6, atol=2e-6 * np.abs(latents).max())


@pytest.mark.parametrize("source", list(SOURCES))
def test_queries_of_any_float_and_strides_and_a_target(rng, source) -> None:
    pool, plain = pair_of(rng, make_config(), ("block_major", "NHD"))
    fill(rng, pool, plain)
    wide = numbers(rng, (3, 6, 8)).astype(SOURCES[source])
    query = wide[:, 1:5]
    out = np.empty((3, 4, 8), np.float32)
    table = np.array([[0, 1], [2, 3], [4, 5]], np.int32)
    got = attention.decode(query, pool, table, [5, 8, 2], layer=0, out=out)
    assert got is out
    want = attention.decode(query.astype(np.float32), pool, table, [5, 8, 2], layer=0)
    assert got.tobytes() == want.tobytes()
    words = query.view(np.uint16) if source == "bfloat16" else query
    again = attention.decode(words, pool, table, [5, 8, 2], layer=0)
    assert again.tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.zeros((1, 3, 8), np.float32)}, "query's shape"),
        ({"query": np.zeros((1, 2, 7), np.float32)}, "query's shape"),
        ({"query": np.zeros((1, 2, 8), np.float64)}, "query's dtype is 'float64'"),
        ({"block_table": [[7]]}, r"block_table\[0, 0\] is 7; it must be NO_BLOCK or 0 to 6"),
        ({"block_table": [[-2]]}, r"block_table\[0, 0\] is -2"),
        ({"block_table": [[0], [1]]}, "block_table is 'of 2 sequences'"),
        ({"seq_lens": [5]}, r"seq_lens\[0\] is 5; it must be 0 to 4"),
        ({"seq_lens": [-1]}, r"seq_lens\[0\] is -1"),
        ({"layer": 3}, "layer is 3; it must be 0 to 2"),
        ({"value_dim": 4}, "value_dim is 4; it must be None"),
        ({"scale": float("nan")}, "scale is nan; it must be finite"),
        ({"out": np.zeros((1, 2, 4), np.float32)}, "out's shape"),
        ({"out": np.zeros((1, 2, 8), np.float64)}, "out is 'a float64 array'"),
    ],
)
def test_decode_refuses(change, message) -> None:
    given = {
        "query": np.zeros((1, 2, 8), np.float32),
        "pool": nbkv.HostPool(make_config()),
        "block_table": [[0]],
        "seq_lens": [1],
        "layer": 0,
    } | change
    with pytest.raises(nbkv.ArgumentError, match=message):
        attention.decode(**given)


def test_decode_refuses_other_types() -> None:
    query = np.zeros((1, 2, 8), np.float32)
    with pytest.raises(TypeError, match="pool is 3; it must be"):
        attention.decode(query, 3, [[0]], [1], layer=0)
    with pytest.raises(TypeError, match="scale is 'a'"):
        attention.decode(query, nbkv.HostPool(make_config()), [[0]], [1], layer=0, scale="a")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", *QUANTISED])
def test_decode_equals_torchs_attention_on_gathered_keys(rng: random.Random, dtype) -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install '.[test-torch]'")
    config = nbkv.CacheConfig(16, 24, 2, 2, 64, dtype=dtype)
    pool = nbkv.HostPool(config, token_order="HND")
    slots = np.arange(24 * 16)
    generator = np.random.default_rng(rng.randrange(2**31))
    keys, values = (generator.standard_normal((slots.size, 2, 64), np.float32) for _ in range(2))
    if dtype not in QUANTISED:
        keys, values = in_words(keys, dtype), in_words(values, dtype)
    pool.append(1, keys, values, slots)
    lengths = [200, 1, 33, 256]
    tables = [rng.sample(range(24), 16) for _ in lengths]
    query = generator.standard_normal((4, 8, 64), np.float32)
    got = attention.decode(query, pool, np.array(tables), np.array(lengths), layer=1)
    for i, length in enumerate(lengths):
        gathered = pool.gather(1, tables[i], length)
        if dtype == "bfloat16":
            gathered = gathered.view(ml_dtypes.bfloat16).astype(np.float32)
        k, v = (torch.from_numpy(part.astype(np.float32)).transpose(0, 1) for part in gathered)
        want = torch.nn.functional.scaled_dot_product_attention(
            torch.from_numpy(query[i])[:, None], k, v, enable_gqa=True
        )
        torch.testing.assert_close(torch.from_numpy(got[i]), want[:, 0], rtol=2e-6, atol=2e-6)
