"""What a pool refuses, wherever its memory is: by name, value and what is allowed.

Everything is checked before anything is launched or written.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, refuse
from nbkv._demand import ready
from nbkv.config import CacheConfig
from nbkv.layout import INT32, INT64
from nbkv.pools.check_kernels import (
    CHAIN,
    OUT_OF_RANGE,
    TWICE,
    find_bad_block,
    find_bad_pair,
    find_bad_slot,
)
from nbkv.pools.foreign import Foreign, describe
from nbkv.pools.geometry import SHAPE_FIELDS, PoolGeometry
from nbkv.pools.tensors import FOREIGN_NAMES

#: What quantising pools take, and give when asked: a dtype's name to its code in kernels.
FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2
FLOAT_CODES: Final = {
    "float32": FLOAT32,
    "float16": FLOAT16,
    "bfloat16": BFLOAT16,
    "uint16": BFLOAT16,
}
QUANTISED: Final = ("fp8", "int8")


def check_config(config: object) -> None:
    """Check that a configuration is one."""
    if not isinstance(config, CacheConfig):
        raise TypeError(f"config is {config!r}; it must be a nbkv.CacheConfig")


def check_layer(geometry: PoolGeometry, layer: object) -> int:
    """Check the number of a layer."""
    return check_count("layer", layer, geometry.num_layers - 1)


def as_integers(name: str, values: object, num_dimensions: int = 1) -> npt.NDArray[np.int64]:
    """Make an array of integers, or a list of them, into int64, C-contiguous.

    Parameters
    ----------
    name : str
    values : object
    num_dimensions : int

    Returns
    -------
    int64 array

    Raises
    ------
    TypeError
        Not integers.
    ArgumentError
        Wrong number of dimensions, or too large for int64.
    """
    if type(values) is np.ndarray and values.ndim == num_dimensions:
        # The hot path.
        if values.dtype is INT64 and values.flags.carray:
            return values
        if values.dtype is INT32:
            return values.astype(INT64, "C")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        raise TypeError(f"{name} is {values!r}; it must be integers") from None
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = np.empty((0, 2) if num_dimensions == 2 else 0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} is {array.dtype}; it must be integers")
    if array.ndim != num_dimensions:
        refuse(f"{name}'s shape", array.shape, f"of {num_dimensions} dimensions")
    if array.dtype == np.uint64 and array.size and array.max() > 2**63 - 1:
        refuse(name, int(array.max()), "int64")
    return np.ascontiguousarray(array, np.int64)


def check_slots(
    slot_mapping: object, num_tokens: int, marks: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Check where tokens are to go: each slot in the pool and once, or -1.

    Parameters
    ----------
    slot_mapping : int64 or int32 array
    num_tokens : int
        How many there must be.
    marks : uint8 array
        One a slot of the pool (`nbkv.pools.check_kernels`).

    Returns
    -------
    int64 array
    """
    slots = as_integers("slot_mapping", slot_mapping)
    if slots.size != num_tokens:
        refuse("slot_mapping", f"{slots.size} slots", f"one for each of {num_tokens} tokens")
    problem, at = ready(find_bad_slot)(slots, marks)
    if problem == OUT_OF_RANGE:
        refuse(f"slot_mapping[{at}]", int(slots[at]), f"-1 or 0 to {marks.size - 1}")
    if problem == TWICE:
        refuse(f"slot_mapping[{at}]", int(slots[at]), "a slot that stands in it once")
    return slots


def check_pairs(pairs: object, marks: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Check blocks to copy: in the pool, no destination twice, none a source as well.

    Parameters
    ----------
    pairs : int32 or int64 array, shape (n, 2)
        Source and destination.
    marks : uint8 array, all 0
        One a block of the pool.

    Returns
    -------
    int64 array, shape (n, 2)
    """
    rows = as_integers("pairs", pairs, 2)
    if rows.shape[1] != 2:
        refuse("pairs' shape", rows.shape, "(n, 2): source and destination")
    problem, at = ready(find_bad_pair)(rows, marks)
    row = rows[at].tolist() if problem else None
    if problem == OUT_OF_RANGE:
        refuse(f"pairs[{at}]", row, f"block ids, 0 to {marks.size - 1}")
    if problem == TWICE:
        refuse(f"pairs[{at}]", row, "a pair whose destination no other pair has")
    if problem == CHAIN:
        refuse(f"pairs[{at}]", row, "blocks that are not source and destination in one call")
    return rows


def check_block_ids(
    name: str, block_ids: object, num_blocks: int, is_written: bool
) -> npt.NDArray[np.int64]:
    """Check block ids: in the pool, and none twice where they are written to.

    Parameters
    ----------
    name : str
    block_ids : int32 or int64 array
    num_blocks : int
    is_written : bool

    Returns
    -------
    int64 array
    """
    ids = as_integers(name, block_ids)
    at = ready(find_bad_block)(ids, num_blocks)
    if at >= 0:
        refuse(f"{name}[{at}]", int(ids[at]), f"0 to {num_blocks - 1}")
    if is_written and np.unique(ids).size != ids.size:
        values, counts = np.unique(ids, return_counts=True)
        refuse(name, f"block {values[counts > 1][0]} twice", "blocks that stand in it once")
    return ids


def check_num_tokens(name: str, num_tokens: object, size: int, most: int) -> npt.NDArray[np.int64]:
    """Check one count of tokens for each pair or block: 0 to `most`."""
    counts = as_integers(name, num_tokens)
    if counts.size != size:
        refuse(name, f"{counts.size} counts", f"one for each of {size}")
    wrong = (counts < 0) | (counts > most)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        refuse(f"{name}[{at}]", int(counts[at]), f"0 to {most}")
    return counts


def source_names(dtype: str) -> tuple[str, ...]:
    """Name the dtypes of what a pool of a dtype takes and gives."""
    return tuple(FLOAT_CODES) if dtype in QUANTISED else FOREIGN_NAMES[dtype]


def _agree(have: int, want: int | None) -> bool:
    return want is None or have == want


def check_rows(
    name: str,
    array: object,
    geometry: PoolGeometry,
    leading: tuple[int | None, ...],
    alignment: int = 1,
) -> Foreign:
    """Check keys, values or what takes them: dtype, shape and contiguous rows.

    Parameters
    ----------
    name : str
    array : array
        Its last axes are (num_kv_heads, head_dim).
    geometry : PoolGeometry
    leading : tuple of int or None
        Its first axes; None is any extent.
    alignment : int
        What addresses and strides must be multiples of; an element's size at least.

    Returns
    -------
    Foreign
    """
    names = source_names(geometry.dtype)
    if type(array) is np.ndarray and array.flags.carray and alignment == 1:
        # The hot path: nothing can be wrong but dtype and shape.
        found = describe(name, array)
        fits = found.dtype_name in names and found.shape[len(leading) :] == geometry.row_shape
        if fits and all(map(_agree, found.shape, leading)):
            return found
    found = describe(name, array)
    if found.dtype_name not in names:
        refuse(f"{name}'s dtype", found.dtype_name, f"one of {', '.join(names)}")
    wanted = (*leading, *geometry.row_shape)
    if len(found.shape) != len(wanted) or not all(map(_agree, found.shape, wanted)):
        shown = ", ".join("any" if extent is None else str(extent) for extent in wanted)
        refuse(f"{name}'s shape", found.shape, f"({shown})")
    if 0 in found.shape:  # whose strides mean nothing
        return found
    item = item_bytes(found.dtype_name)
    if found.shape[-1] > 1 and found.strides[-1] != item:
        refuse(f"{name}'s last stride", found.strides[-1], f"{item} bytes: rows are contiguous")
    unit = max(item, alignment)
    axes = zip(found.shape[:-1], found.strides[:-1], strict=True)
    places = (found.address, *(stride for extent, stride in axes if extent > 1))
    if any(place % unit for place in places):
        refuse(f"{name}'s address and strides", places, f"multiples of {unit} bytes")
    return found


def item_bytes(dtype_name: str) -> int:
    """Return the bytes of one element of a dtype that pools know."""
    known = {"float32": 4, "float16": 2, "bfloat16": 2, "uint16": 2}
    return known.get(dtype_name, 1)


def check_scales(geometry: PoolGeometry, scales: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401
    """Check fp8's scales: above 0 and finite, a number or what fits (layers, kv, heads)."""
    if geometry.dtype != "fp8":
        refuse("config.dtype", geometry.dtype, "fp8: no other dtype has scales that are set")
    given = np.asarray(scales, np.float32)
    shape = (geometry.num_layers, geometry.kv_factor, geometry.num_kv_heads)
    try:
        full = np.broadcast_to(given, shape)
    except ValueError:
        refuse("scales' shape", given.shape, f"a number or what broadcasts to {shape}")
    # A scale whose inverse overflows, or is 0, would make every number infinite or 0.
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / full
    if not (np.isfinite(full) & (full > 0) & np.isfinite(inverse)).all():
        refuse("scales", given, "above 0 and finite, as their inverses")
    return np.ascontiguousarray(full)


def check_on_host(name: str, array: Foreign) -> None:
    """Check that an array is in the CPU's memory."""
    if array.on_cuda:
        refuse(name, "in a device's memory", "in the CPU's")


def check_same_shape(name: str, other: PoolGeometry, own: PoolGeometry) -> None:
    """Check that two pools can exchange blocks."""
    for field in SHAPE_FIELDS:
        theirs, ours = getattr(other, field), getattr(own, field)
        if theirs != ours:
            refuse(f"{name}'s {field}", theirs, f"that of this pool, {ours}")
