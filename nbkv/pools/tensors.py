"""Tensors that somebody else has laid out, checked and taken apart into planes."""

from typing import Any, Final, NamedTuple, Self

import numpy as np

from nbkv._arguments import refuse
from nbkv.config import CacheConfig
from nbkv.pools.foreign import Foreign, describe

#: The number type that a pool's array has for each dtype of `CacheConfig`.
WORD_DTYPES: Final[dict[str, "np.dtype[Any]"]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "fp8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
}
#: What wrapped memory may call itself, for each dtype of `CacheConfig`.
FOREIGN_NAMES: Final = {
    "float32": ("float32",),
    "float16": ("float16",),
    "bfloat16": ("bfloat16", "uint16"),
    "fp8": ("float8_e4m3fn", "uint8"),
    "int8": ("int8",),
}


#: A plane's name in errors, its block, token and head stride, and its address.
Plane = tuple[str, tuple[int, ...], int]


class Parts(NamedTuple):
    """Of how many arrays a pool's memory is.

    Attributes
    ----------
    are_one : bool
        One array has all layers.
    pairs : frozenset of int
        Layers whose keys and values are arrays of their own.
    """

    are_one: bool = True
    pairs: frozenset[int] = frozenset()

    @classmethod
    def of_tensors(cls, tensors: object) -> Self:
        """Look at what `find_planes` takes."""
        if not isinstance(tensors, (list, tuple)):
            return cls()
        pairs = (i for i, item in enumerate(tensors) if isinstance(item, (list, tuple)))
        return cls(False, frozenset(i for i in pairs if len(tensors[i]) > 1))


def find_planes(config: CacheConfig, tensors: object) -> tuple[list[Foreign], list[Plane]]:
    """Describe the tensors of a pool and find each plane in them, layer by layer.

    Parameters
    ----------
    config : CacheConfig
    tensors : array, or list of array or of pairs of array
        As `HostPool.wrap` takes them.

    Returns
    -------
    list of Foreign
    list of Plane

    Raises
    ------
    TypeError, ArgumentError
    """
    inner = (config.block_size, config.num_kv_heads, config.head_dim)
    blocks, layers, kv = config.num_blocks, config.num_layers, config.kv_factor
    if not isinstance(tensors, (list, tuple)):
        whole = _described("tensors", tensors, config, (blocks, layers, kv, *inner))
        by_block, by_layer, by_kv, *within = whole.strides
        starts = (
            whole.address + i * by_layer + k * by_kv for i in range(layers) for k in range(kv)
        )
        strides = (by_block, *within[:2])
        return [whole], [("tensors", strides, start) for start in starts]
    if len(tensors) != layers:
        refuse("tensors", f"a list of {len(tensors)}", f"as long as num_layers, {layers}")
    foreign: list[Foreign] = []
    planes: list[Plane] = []
    for i, item in enumerate(tensors):
        name = f"tensors[{i}]"
        if not isinstance(item, (list, tuple)):
            layer = _described(name, item, config, (blocks, kv, *inner))
            foreign.append(layer)
            by_block, by_kv, *within = layer.strides
            strides = (by_block, *within[:2])
            planes += [(name, strides, layer.address + k * by_kv) for k in range(kv)]
            continue
        if len(item) != kv:
            refuse(name, f"{len(item)} arrays", f"kv_factor of them, {kv}")
        for k, plane in enumerate(item):
            one = _described(f"{name}[{k}]", plane, config, (blocks, *inner))
            foreign.append(one)
            planes.append((f"{name}[{k}]", one.strides[:3], one.address))
    return foreign, planes


def _described(name: str, tensor: object, config: CacheConfig, shape: tuple[int, ...]) -> Foreign:
    """Describe one tensor and check that it can be a part of a pool."""
    found = describe(name, tensor)
    allowed, item = FOREIGN_NAMES[config.dtype], WORD_DTYPES[config.dtype].itemsize
    if found.dtype_name not in allowed:
        wanted = f"{' or '.join(allowed)}, since config.dtype is {config.dtype}"
        refuse(f"{name}'s dtype", found.dtype_name, wanted)
    if found.shape != shape:
        refuse(f"{name}'s shape", found.shape, f"{shape}")
    if found.is_read_only:
        refuse(name, "read-only", "writable")
    if found.strides[-1] != item and shape[-1] > 1:
        refuse(f"{name}'s last stride", found.strides[-1], f"{item} bytes: rows are contiguous")
    for extent, stride in zip(shape, found.strides, strict=True):
        if extent > 1 and (stride <= 0 or stride % item):
            refuse(f"{name}'s strides", found.strides, f"above 0 and multiples of {item} bytes")
    if found.address % item:
        refuse(f"{name}'s address", hex(found.address), f"a multiple of {item}")
    return found
