"""Paged attention to check other kernels against, and to fall back on where there is no device.

A reference, not a production kernel: it reads each key once for its queries and keeps nothing
in tiles.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, refuse
from nbkv.layout import NO_BLOCK
from nbkv.pools import HostPool
from nbkv.pools.attention_kernels import FP8, INT8, decode_rows
from nbkv.pools.checks import FLOAT_CODES, as_integers, check_layer, check_on_host
from nbkv.pools.foreign import Foreign, describe
from nbkv.pools.threads import run_over
from nbkv.pools.views import view_at

_KINDS: Final = FLOAT_CODES | {"fp8": FP8, "int8": INT8}
#: Multiplications from which threads are worth it.
_SPREAD_FROM: Final = 2**19

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.int64]


def decode(
    query: Any,  # noqa: ANN401
    pool: Any,  # noqa: ANN401
    block_table: npt.NDArray[np.int32],
    seq_lens: npt.NDArray[np.int32],
    *,
    layer: int,
    scale: float | None = None,
    value_dim: int | None = None,
    out: Floats | None = None,
) -> Floats:
    """Attend with one query token of each sequence over the keys and values of its blocks.

    Parameters
    ----------
    query : array, shape (num_sequences, num_heads, head_dim)
        float32, float16 or bfloat16; num_heads is a multiple of the pool's num_kv_heads, and
        query heads that follow one another share a KV head.
    pool : HostPool or CudaPool
        Of any layout and dtype. With a `CudaPool` arrays are as `CudaPool.attend` takes them.
    block_table : int32 array, shape (num_sequences, width)
        As `nbkv.page_tables.block_tables` writes it. Tokens of holes, NO_BLOCK, are left out.
    seq_lens : int32 array, shape (num_sequences,)
        Tokens to attend to, the query's own included.
    layer : int
    scale : float, optional
        Of the scores; ``head_dim ** -0.5`` when omitted.
    value_dim : int, optional
        Only where kv_factor is 1 (MLA): how much of each latent is its value; all when omitted.
    out : float32 array, shape (num_sequences, num_heads, value_dim), optional
        Takes the result.

    Returns
    -------
    float32 array, shape (num_sequences, num_heads, head_dim or value_dim)
        0 for a sequence without tokens.

    Raises
    ------
    TypeError, ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> from nbkv import CacheConfig, HostPool, attention
    >>> pool = HostPool(CacheConfig(4, 8, 1, num_kv_heads=1, head_dim=2, dtype="float32"))
    >>> key = np.array([[[1, 0]], [[0, 1]]], np.float32)
    >>> pool.append(0, key, key, np.array([8, 9]))
    >>> query = np.array([[[0, 0]]], np.float32)
    >>> attention.decode(query, pool, np.array([[2]], np.int32), np.array([2], np.int32), layer=0)
    array([[[0.5, 0.5]]], dtype=float32)
    """
    if not isinstance(pool, HostPool):
        device: Floats = _on_device(
            query, pool, block_table, seq_lens, layer, scale, value_dim, out
        )
        return device
    g = pool.geometry
    number = check_layer(g, layer)
    queries = _check_query(query, g.num_kv_heads, g.head_dim)
    size, num_heads = queries.shape[:2]
    table, lengths = _check_table(block_table, seq_lens, size, g.num_blocks, g.block_size)
    width = g.head_dim
    if value_dim is not None:
        if g.kv_factor == 2:
            refuse("value_dim", value_dim, "None, since kv_factor is 2")
        width = check_count("value_dim", value_dim, g.head_dim)
    shape = (size, num_heads, width)
    result = _check_result(out, shape)
    factor = g.head_dim**-0.5 if scale is None else _check_scale(scale)
    kinds = (g.block_size, g.num_kv_heads, _KINDS[g.dtype], g.kv_factor - 1, width)
    words = np.array(kinds, np.int64)
    scales = pool.scales[number].ravel() if g.dtype == "fp8" else np.empty(0, np.float32)
    place, group = g.as_words(number), num_heads // g.num_kv_heads

    def arguments() -> tuple[Any, ...]:
        row = np.empty(g.head_dim, np.float32)
        state = np.empty((group, 2 + g.block_size), np.float64)
        return queries, place, table, lengths, words, scales, factor, row, state, result

    work = int(lengths.sum()) * num_heads * (g.head_dim + width)
    kernels = decode_rows
    run_over(kernels, arguments, size, work, pool.num_threads, _SPREAD_FROM)
    return result


def _on_device(
    query: Any,  # noqa: ANN401
    pool: Any,  # noqa: ANN401
    block_table: Any,  # noqa: ANN401
    seq_lens: Any,  # noqa: ANN401
    layer: int,
    scale: float | None,
    value_dim: int | None,
    out: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Let a `CudaPool` attend: nothing here imports numba-cuda."""
    attend = getattr(pool, "attend", None)
    if attend is None:
        raise TypeError(f"pool is {pool!r}; it must be a nbkv.HostPool or a nbkv.CudaPool")
    if value_dim is not None:
        refuse("value_dim", value_dim, "None with a CudaPool")
    return attend(layer, query, block_table, seq_lens, scale=scale, out=out)


def _check_query(query: object, num_kv_heads: int, head_dim: int) -> Floats:
    """Check the query and make it float32, C-contiguous."""
    found = describe("query", query)
    check_on_host("query", found)
    if found.dtype_name not in FLOAT_CODES:
        refuse("query's dtype", found.dtype_name, f"one of {', '.join(FLOAT_CODES)}")
    shape = found.shape
    if len(shape) != 3 or shape[2] != head_dim or shape[1] % num_kv_heads or not shape[1]:
        wanted = f"(any, a multiple of {num_kv_heads}, {head_dim})"
        refuse("query's shape", shape, wanted)
    return _as_floats(found)


def _as_floats(array: Foreign) -> Floats:
    """View, or widen, an array of floats as float32, C-contiguous."""
    is_bfloat = array.dtype_name in ("bfloat16", "uint16")
    kind = np.dtype(np.uint16 if is_bfloat else array.dtype_name)
    if 0 in array.shape:
        return np.empty(array.shape, np.float32)
    view = view_at(array.address, array.shape, array.strides, kind, array.owner)
    if is_bfloat:
        view = (np.ascontiguousarray(view).astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(view, np.float32)


def _check_table(
    block_table: object, seq_lens: object, size: int, num_blocks: int, block_size: int
) -> tuple[Words, Words]:
    """Check block tables and lengths: as many as queries, and blocks of the pool."""
    table = as_integers("block_table", block_table, 2)
    lengths = as_integers("seq_lens", seq_lens)
    for name, array in (("block_table", table), ("seq_lens", lengths)):
        if len(array) != size:
            refuse(name, f"of {len(array)} sequences", f"of as many as query, {size}")
    most = table.shape[1] * block_size
    wrong = np.flatnonzero((lengths < 0) | (lengths > most))
    if wrong.size:
        refuse(f"seq_lens[{wrong[0]}]", int(lengths[wrong[0]]), f"0 to {most}, the table's width")
    used = np.arange(table.shape[1]) * block_size < lengths[:, None]
    bad = np.argwhere(used & ((table < NO_BLOCK) | (table >= num_blocks)))
    if len(bad):
        row, column = bad[0].tolist()
        refuse(
            f"block_table[{row}, {column}]",
            int(table[row, column]),
            f"NO_BLOCK or 0 to {num_blocks - 1}",
        )
    return table, lengths


def _check_result(out: Floats | None, shape: tuple[int, ...]) -> Floats:
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray) or out.shape != shape:
        refuse("out's shape", getattr(out, "shape", out), f"{shape}")
    if out.dtype != np.float32 or not out.flags.carray:
        refuse("out", f"a {out.dtype} array", "float32, contiguous and writable")
    return out


def _check_scale(scale: object) -> float:
    if isinstance(scale, bool) or not isinstance(scale, (int, float, np.floating)):
        raise TypeError(f"scale is {scale!r}; it must be a number")
    if not math.isfinite(scale):
        refuse("scale", scale, "finite")
    return float(scale)
