"""How each call of a CudaPool is launched: which kernel, which grid, which arguments.

What comes here has been checked.
"""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.pools import cuda_kernels as kernels
from nbkv.pools.checks import FLOAT_CODES
from nbkv.pools.cuda_addressing import WIDE
from nbkv.pools.cuda_device import Staging
from nbkv.pools.cuda_fp8 import append_fp8, gather_fp8
from nbkv.pools.cuda_int8 import append_int8, gather_int8
from nbkv.pools.cuda_jit import Kernel
from nbkv.pools.cuda_shapes import (
    MAX_GRID,
    Indices,
    Place,
    Rows,
    alignments_of,
    heads_and_row,
    pool_units,
    power_up_to,
    runs_of,
    unit_of,
)

_WARP: Final = 32


def append(
    place: Place,
    layer: int,
    num_layers: int,
    key: Rows,
    value: Rows | None,
    at: Indices,
    stream: Any,  # noqa: ANN401
) -> None:
    """Write tokens' keys and values, from `layer` on: one launch where their strides agree.

    Parameters
    ----------
    place : Place
    layer, num_layers : int
    key : Rows
    value : Rows, optional
        None where the pool has one latent only.
    at : Indices
    stream : object
    """
    first = layer * place.geometry.kv_factor
    if value is None:
        _append_planes(place, first, (num_layers, 1), key, key.address, at, stream)
    elif replace(value, address=key.address) == key:
        _append_planes(place, first, (num_layers, 2), key, value.address, at, stream)
    else:
        _append_planes(place, first, (num_layers, 1), key, key.address, at, stream)
        _append_planes(place, first + 1, (num_layers, 1), value, value.address, at, stream)


def _append_planes(
    place: Place,
    first_plane: int,
    planes: tuple[int, int],
    key: Rows,
    value: int,
    at: Indices,
    stream: Any,  # noqa: ANN401
) -> None:
    g = place.geometry
    if at.num_tokens == 0:
        return
    grid = (at.num_tokens, *planes)
    head = (place.words, first_plane, key.address, value, at.address, at.kind)
    strides = (key.layer_stride, key.token_stride)
    launch = place.device.launch
    if g.dtype in ("fp8", "int8"):
        units, unit = pool_units(g)
        kernel = append_fp8 if g.dtype == "fp8" else append_int8
        block = _block(place, units, g.num_kv_heads, row_lanes=g.dtype == "int8")
        tail = (key.head_stride, g.num_kv_heads, units, unit, FLOAT_CODES[key.dtype_name])
        launch(kernel, grid, block, stream, head + strides + tail)
        return
    heads, row = heads_and_row(g, key.head_stride)
    unit = unit_of(row, *strides, *alignments_of(g), key.address, value, key.head_stride)
    if heads == 1 and unit == WIDE:
        block = _line(place, row // unit)
        launch(kernels.append, grid, block, stream, head + strides + (row // unit,))
        return
    block = _block(place, row // unit, heads)
    by_head = (key.head_stride, heads, row, unit)
    launch(kernels.append_heads, grid, block, stream, head + strides + by_head)


def gather(
    place: Place,
    layer: int,
    num_layers: int,
    out: Rows,
    kv_stride: int,
    at: Indices,
    stream: Any,  # noqa: ANN401
) -> None:
    """Read tokens' keys and values into rows, from `layer` on.

    Parameters
    ----------
    place : Place
    layer, num_layers : int
    out : Rows
        Of K; V lies `kv_stride` bytes behind.
    kv_stride : int
    at : Indices
    stream : object
    """
    g = place.geometry
    if at.num_tokens == 0:
        return
    grid = (at.num_tokens, num_layers, g.kv_factor)
    head = (place.words, layer * g.kv_factor, out.address, at.address, at.kind)
    strides = (out.layer_stride, kv_stride, out.token_stride, out.head_stride)
    launch = place.device.launch
    if g.dtype in ("fp8", "int8") and out.dtype_name in FLOAT_CODES:
        units, unit = pool_units(g)
        kernel = gather_fp8 if g.dtype == "fp8" else gather_int8
        block = _block(place, units, g.num_kv_heads)
        tail = (g.num_kv_heads, units, unit, FLOAT_CODES[out.dtype_name])
        launch(kernel, grid, block, stream, head + strides + tail)
        return
    heads, row = heads_and_row(g, out.head_stride)
    unit = unit_of(row, *strides, *alignments_of(g), out.address)
    planes_in_line = num_layers == 1 or out.layer_stride == g.kv_factor * kv_stride
    if heads == 1 and unit == WIDE and planes_in_line:
        args = (*head, kv_stride, out.token_stride, row // unit)
        launch(kernels.gather, grid, _line(place, row // unit), stream, args)
        return
    block = _block(place, row // unit, heads)
    launch(kernels.gather_heads, grid, block, stream, head + strides + (heads, row, unit))


def copy_blocks(
    place: Place,
    staging: Staging,
    pairs: npt.NDArray[np.int32],
    stream: Any,  # noqa: ANN401
) -> None:
    """Copy whole blocks, all planes.

    Parameters
    ----------
    place : Place
    staging : Staging
    pairs : int32 array, shape (n, 2)
    stream : object
    """
    g = place.geometry
    planes, num_bytes = runs_of(g)
    aligned = unit_of(num_bytes, *alignments_of(g)) == WIDE
    if planes == 0 or not aligned:
        counts = np.full(pairs.shape[0], g.block_size, np.int32)
        copy_rows(place, staging, pairs, counts, stream)
        return
    units = num_bytes // WIDE
    block = _line(place, units)
    parts = -(-units // (4 * block[0]))
    (address,) = staging.put(stream, pairs)
    for start in range(0, pairs.shape[0], MAX_GRID):
        grid = (parts, min(MAX_GRID, pairs.shape[0] - start), planes)
        args = (place.words, address + 8 * start, units)
        place.device.launch(kernels.copy, grid, block, stream, args)


def copy_rows(
    place: Place,
    staging: Staging,
    pairs: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
    stream: Any,  # noqa: ANN401
) -> None:
    """Copy the first tokens of blocks, all planes.

    Parameters
    ----------
    place : Place
    staging : Staging
    pairs : int32 array, shape (n, 2)
    counts : int32 array, shape (n,)
    stream : object
    """
    g = place.geometry
    heads, row = heads_and_row(g, g.row_bytes)
    unit = unit_of(row, *alignments_of(g))
    block = _block(place, row // unit, g.block_size)
    parts = min(MAX_GRID, -(-g.block_size // block[1]))
    scale_heads = g.num_kv_heads if g.dtype == "int8" else 0
    at, sizes = staging.put(stream, pairs, counts)
    for start in range(0, pairs.shape[0], MAX_GRID):
        grid = (parts, min(MAX_GRID, pairs.shape[0] - start), g.num_layers * g.kv_factor)
        tail = (heads, row // unit, unit, scale_heads)
        args = (place.words, at + 8 * start, sizes + 4 * start, *tail)
        place.device.launch(kernels.copy_rows, grid, block, stream, args)


def zero(
    place: Place,
    staging: Staging,
    blocks: npt.NDArray[np.int32],
    stream: Any,  # noqa: ANN401
) -> None:
    """Fill blocks with zero bytes.

    Parameters
    ----------
    place : Place
    staging : Staging
    blocks : int32 array
    stream : object
    """
    g = place.geometry
    planes, num_bytes = runs_of(g)
    heads, tokens, row = 1, 1, num_bytes
    if planes == 0:
        planes, tokens = g.num_layers * g.kv_factor, g.block_size
        heads, row = heads_and_row(g, g.row_bytes)
    unit = unit_of(row, *alignments_of(g))
    block = _line(place, row // unit)
    parts = min(-(-row // (unit * block[0])), MAX_GRID)
    (address,) = staging.put(stream, blocks)
    for start in range(0, blocks.size, MAX_GRID):
        grid = (parts, min(MAX_GRID, blocks.size - start), planes)
        args = (place.words, address + 4 * start, heads, tokens, row // unit, unit)
        place.device.launch(kernels.zero, grid, block, stream, args)


def swap(
    place: Place,
    source_words: int,
    words: int,
    run: tuple[int, int, int],
    staging: Staging,
    pairs: npt.NDArray[np.int32],
    stream: Any,  # noqa: ANN401
) -> None:
    """Copy whole blocks from one pool to another.

    Parameters
    ----------
    place : Place
        Either of them.
    source_words, words : int
        Addresses of both pools' words.
    run : tuple of int
        Planes, bytes of a run of one, and the unit that both pools allow.
    staging : Staging
    pairs : int32 array, shape (n, 2)
    stream : object
    """
    planes, num_bytes, unit = run
    kernel: Kernel = kernels.swap if unit == WIDE else kernels.swap_narrow
    block = _line(place, num_bytes // unit)
    parts = -(-num_bytes // (unit * block[0]))
    (address,) = staging.put(stream, pairs)
    for start in range(0, pairs.shape[0], MAX_GRID):
        grid = (parts, min(MAX_GRID, pairs.shape[0] - start), planes)
        args = (source_words, words, address + 8 * start, num_bytes // unit)
        place.device.launch(kernel, grid, block, stream, args)


def _line(place: Place, num_units: int) -> tuple[int, int, int]:
    """Return a block of threads along one row: whole warps."""
    warps = -(-num_units // _WARP)
    return min(warps * _WARP, place.device.max_threads), 1, 1


def _block(
    place: Place, num_units: int, num_rows: int, row_lanes: bool = False
) -> tuple[int, int, int]:
    """Return a block of threads over units and rows: whole warps, powers of two.

    With `row_lanes` a row's threads are in one warp.
    """
    most = place.device.max_threads
    along = power_up_to(num_units, _WARP if row_lanes else most)
    rows = max(power_up_to(num_rows, most // along), -(-_WARP // along))
    return along, rows, 1
