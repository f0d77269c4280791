"""A pool rendered in plain NumPy, and pools of every kind to hold against it."""

import random
from typing import Any

import ml_dtypes
import numpy as np

import nbkv

DTYPES = ["float32", "float16", "bfloat16", "fp8", "int8"]
QUANTISED = ["fp8", "int8"]
WORDS = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "fp8": np.uint8,
    "int8": np.int8,
}
SOURCES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LAYOUTS = [(layout, order) for layout in ("block_major", "layer_major") for order in ("NHD", "HND")]
#: Those, and memory that somebody else has laid out: one array, an array a layer, two a layer.
PLACES = [*LAYOUTS, ("wrapped", "whole"), ("wrapped", "layers"), ("wrapped", "pairs")]


def numbers(rng: random.Random, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Make float32 numbers of several magnitudes, zeros among them."""
    generator = np.random.default_rng(rng.randrange(2**31))
    values = generator.standard_normal(shape) * scale * 2.0 ** generator.integers(-6, 6, shape)
    values[generator.random(shape) < 0.05] = 0
    return values.astype(np.float32)


def in_words(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 to the words of a pool that does not quantise."""
    if dtype == "bfloat16":
        return values.astype(ml_dtypes.bfloat16).view(np.uint16)
    return values.astype(WORDS[dtype])


def as_floats(words: np.ndarray, dtype: str) -> np.ndarray:
    """Widen such words to float32."""
    if dtype == "bfloat16":
        return words.view(ml_dtypes.bfloat16).astype(np.float32)
    return words.astype(np.float32)


def make_config(dtype: str = "float32", **options: Any) -> nbkv.CacheConfig:
    shape = {
        "block_size": 4,
        "num_blocks": 7,
        "num_layers": 3,
        "num_kv_heads": 2,
        "head_dim": 8,
    }
    return nbkv.CacheConfig(**(shape | {"dtype": dtype} | options))


def full_shape(config: nbkv.CacheConfig) -> tuple[int, ...]:
    return (
        config.num_blocks,
        config.num_layers,
        config.kv_factor,
        config.block_size,
        config.num_kv_heads,
        config.head_dim,
    )


def wrap_pool(config: nbkv.CacheConfig, how: str) -> nbkv.HostPool:
    """Wrap memory with gaps: in an order of axes of its own, by layers, or by pairs."""
    blocks, layers, kv, tokens, heads, dim = full_shape(config)
    words = WORDS[config.dtype]
    if how == "whole":
        memory = np.zeros((kv, blocks, layers, tokens, heads + 1, dim), words)
        return nbkv.HostPool.wrap(config, memory[..., :heads, :].transpose(1, 2, 0, 3, 4, 5))
    if how == "layers":
        parts = [np.zeros((blocks, kv, heads, tokens, dim), words) for _ in range(layers)]
        return nbkv.HostPool.wrap(config, [part.transpose(0, 1, 3, 2, 4) for part in parts])
    parts = [
        tuple(np.zeros((blocks, tokens, heads, dim + 8), words)[..., :dim] for _ in range(kv))
        for _ in range(layers)
    ]
    return nbkv.HostPool.wrap(config, parts)


def make_pool(config: nbkv.CacheConfig, place: tuple[str, str]) -> nbkv.HostPool:
    layout, order = place
    if layout == "wrapped":
        return wrap_pool(config, order)
    return nbkv.HostPool(config, layout=layout, token_order=order)


def places_of(dtype: str) -> list[tuple[str, str]]:
    return LAYOUTS if dtype == "int8" else PLACES


CASES = [(dtype, place) for dtype in DTYPES for place in places_of(dtype)]


class PlainPool:
    """What a pool holds, in arrays with its logical axes.

    Parameters
    ----------
    config : nbkv.CacheConfig
    scales : float32 array, optional
        fp8's.
    """

    def __init__(self, config: nbkv.CacheConfig, scales: np.ndarray | None = None) -> None:
        self.config = config
        self.words = np.zeros(full_shape(config), WORDS[config.dtype])
        self.row_scales = np.zeros(full_shape(config)[:-1], np.float32)
        shape = (config.num_layers, config.kv_factor, config.num_kv_heads)
        self.scales = np.ones(shape, np.float32) if scales is None else scales

    def write(self, layer: int, kv: int, slot: int, vectors: np.ndarray) -> None:
        """Write one token's vectors, (heads, dim): words, or floats to quantise."""
        where = (slot // self.config.block_size, layer, kv, slot % self.config.block_size)
        if self.config.dtype == "fp8":
            inverse = np.float32(1) / self.scales[layer, kv][:, None]
            vectors = np.clip(vectors.astype(np.float32) * inverse, -448, 448)
            vectors = vectors.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        elif self.config.dtype == "int8":
            vectors, self.row_scales[where] = quantise_int8(vectors.astype(np.float32))
        self.words[where] = vectors

    def copy(self, source: int, destination: int, num_tokens: int) -> None:
        for array in (self.words, self.row_scales):
            array[destination, :, :, :num_tokens] = array[source, :, :, :num_tokens]

    def zero(self, block_id: int) -> None:
        self.words[block_id] = 0
        self.row_scales[block_id] = 0

    def read(self, layer: int, block_ids: list[int], num_tokens: int) -> np.ndarray:
        """Return words, or float32 from a quantising pool: (kv, num_tokens, heads, dim)."""
        words = self.words[block_ids, layer].swapaxes(0, 1)
        words = words.reshape(words.shape[0], -1, *words.shape[3:])[:, :num_tokens]
        if self.config.dtype == "fp8":
            return (
                words.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
                * (self.scales[layer][:, None, :, None])
            )
        if self.config.dtype == "int8":
            scales = self.row_scales[block_ids, layer].swapaxes(0, 1)
            scales = scales.reshape(scales.shape[0], -1, scales.shape[-1])[:, :num_tokens]
            return words.astype(np.float32) * scales[..., None]
        return words

    def assert_equals(self, pool: nbkv.HostPool) -> None:
        for layer, kv in np.ndindex(self.words.shape[1:3]):
            got, want = pool.layer(layer, kv), self.words[:, layer, kv]
            assert got.tobytes() == want.tobytes(), f"layer {layer}, {['keys', 'values'][kv]}"
        if self.config.dtype == "int8":
            assert pool.scales.tobytes() == self.row_scales.tobytes()


def quantise_int8(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise rows of float32: words, and one scale a row."""
    size = np.where(np.isfinite(vectors), np.abs(vectors), np.float32(0))
    most = size.max(axis=-1, keepdims=True)
    scale = most / np.float32(127)
    with np.errstate(all="ignore"):
        inverse = np.where(most > 0, np.float32(127) / most, np.float32(0))
        products = vectors * inverse
    products = np.where(np.isnan(products), np.float32(0), products)
    return np.rint(np.clip(products, -127, 127)).astype(np.int8), scale[..., 0]


def random_scales(rng: random.Random, config: nbkv.CacheConfig) -> np.ndarray:
    shape = (config.num_layers, config.kv_factor, config.num_kv_heads)
    generator = np.random.default_rng(rng.randrange(2**31))
    return generator.uniform(0.01, 3, shape).astype(np.float32)


def pair_of(
    rng: random.Random, config: nbkv.CacheConfig, place: tuple[str, str]
) -> tuple[nbkv.HostPool, PlainPool]:
    """Make a pool and its rendering, with random scales where there are any."""
    pool = make_pool(config, place)
    scales = random_scales(rng, config) if config.dtype == "fp8" else None
    if scales is not None:
        pool.set_scales(scales)
    return pool, PlainPool(config, scales)


def sources_of(dtype: str) -> list[str]:
    """Name the dtypes that a pool takes."""
    return list(SOURCES) if dtype in QUANTISED else [dtype]


def fill(rng: random.Random, pool: nbkv.HostPool, plain: PlainPool) -> None:
    """Write random vectors to every slot of both."""
    config = pool.config
    slots = np.arange(config.num_blocks * config.block_size)
    shape = (config.num_layers, slots.size, config.num_kv_heads, config.head_dim)
    both = [numbers(rng, shape) for _ in range(config.kv_factor)]
    if config.dtype not in QUANTISED:
        both = [in_words(values, config.dtype) for values in both]
    pool.append_all(both[0], both[1] if config.kv_factor == 2 else None, slots)
    for kv, values in enumerate(both):
        for layer in range(config.num_layers):
            for slot in slots.tolist():
                plain.write(layer, kv, slot, values[layer, slot])
