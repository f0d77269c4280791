"""Where each vector of a pool lies: addresses and strides, for any layout and anybody's memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from nbkv._arguments import refuse
from nbkv.config import CacheConfig
from nbkv.pools.foreign import Foreign
from nbkv.pools.tensors import WORD_DTYPES, find_planes

LAYOUTS: Final = ("block_major", "layer_major")
TOKEN_ORDERS: Final = ("NHD", "HND")
SCALE_BYTES: Final = 4
#: What two pools must have in common for a block of one to be a block of the other.
SHAPE_FIELDS: Final = (
    "num_layers",
    "kv_factor",
    "block_size",
    "num_kv_heads",
    "head_dim",
    "dtype",
)
#: `PoolGeometry.as_words`: what stands at which index.
BLOCK_STRIDE, TOKEN_STRIDE, HEAD_STRIDE, SCALE_OFFSET, SCALE_TOKEN_STRIDE, SCALE_HEAD_STRIDE = (
    range(6)
)
FIRST_BASE: Final = 6


@dataclass(frozen=True, eq=False)
class PoolGeometry:
    """Shape, addresses and strides of a pool. All strides are in bytes.

    A *plane* is the keys, or the values, of one layer; a *chunk* is one block of a plane; a
    *row* is one head's vector of one token, always contiguous. Token t, head h of block b in
    plane (l, k) lies at::

        bases[l, k] + b * block_stride + t * token_stride + h * head_stride

    and with dtype ``int8`` its float32 scale, in the chunk behind the rows, at::

        bases[l, k] + b * block_stride + scale_offset + t * scale_token_stride
            + h * scale_head_stride

    Attributes
    ----------
    num_blocks, num_layers, kv_factor, block_size, num_kv_heads, head_dim : int
    dtype : str
        `CacheConfig`'s name.
    item_bytes, row_bytes : int
        Of one number, and of one row.
    bases : int64 array, shape (num_layers, kv_factor)
        Address of each plane's first row.
    block_stride, token_stride, head_stride : int
        The same for all planes.
    scale_offset, scale_token_stride, scale_head_stride : int
        0 unless dtype is ``int8``.
    chunk_bytes : int
        What a chunk takes where nothing is between its rows; scales included.
    """

    num_blocks: int
    num_layers: int
    kv_factor: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    item_bytes: int
    row_bytes: int
    bases: npt.NDArray[np.int64]
    block_stride: int
    token_stride: int
    head_stride: int
    scale_offset: int
    scale_token_stride: int
    scale_head_stride: int
    chunk_bytes: int

    @classmethod
    def own(cls, config: CacheConfig, address: int, layout: str, token_order: str) -> Self:
        """Lay a pool out in one piece of memory of ``num_blocks * bytes_per_block`` bytes.

        Parameters
        ----------
        config : CacheConfig
        address : int
            Where it begins.
        layout : str
            ``block_major``: (num_blocks, num_layers, kv, chunk), or ``layer_major``:
            (num_layers, kv, num_blocks, chunk).
        token_order : str
            A chunk is ``NHD``: (tokens, heads, head_dim), or ``HND``: (heads, tokens, head_dim).

        Returns
        -------
        PoolGeometry

        Raises
        ------
        ArgumentError
            An unknown layout or order.
        """
        check_choice("layout", layout, LAYOUTS)
        check_choice("token_order", token_order, TOKEN_ORDERS)
        chunk, planes = config.chunk_bytes, config.num_layers * config.kv_factor
        row = config.head_dim * WORD_DTYPES[config.dtype].itemsize
        by_block = layout == "block_major"
        apart = chunk if by_block else config.num_blocks * chunk
        bases = address + apart * np.arange(planes, dtype=np.int64)
        tokens, heads = config.block_size, config.num_kv_heads
        first = token_order == "NHD"
        steps = (heads, 1) if first else (1, tokens)
        scaled = config.dtype == "int8"
        return cls(
            **_shape(config),
            bases=bases.reshape(config.num_layers, config.kv_factor),
            block_stride=config.bytes_per_block if by_block else chunk,
            token_stride=steps[0] * row,
            head_stride=steps[1] * row,
            scale_offset=tokens * heads * row if scaled else 0,
            scale_token_stride=steps[0] * SCALE_BYTES if scaled else 0,
            scale_head_stride=steps[1] * SCALE_BYTES if scaled else 0,
        )

    @classmethod
    def of_tensors(cls, config: CacheConfig, tensors: object) -> tuple[Self, list[Foreign]]:
        """Find the strides of memory that somebody else has laid out.

        Parameters
        ----------
        config : CacheConfig
        tensors : array, or list of array or of pairs of array
            As `HostPool.wrap` takes them.

        Returns
        -------
        PoolGeometry
        list of Foreign
            The tensors described, each plane's memory among them; whoever uses the geometry
            keeps them.

        Raises
        ------
        TypeError, ArgumentError
            What cannot be a pool of this configuration.
        """
        if config.dtype == "int8":
            refuse("config.dtype", "int8", "another dtype: int8's scales have no place there")
        foreign, planes = find_planes(config, tensors)
        strides = planes[0][1]
        for name, other, _ in planes:
            if other != strides:
                refuse(f"{name}'s strides", other, f"the same as the first one's, {strides}")
        bases = np.array([address for _, _, address in planes], np.int64)
        block, token, head = strides
        geometry = cls(
            **_shape(config),
            bases=bases.reshape(config.num_layers, config.kv_factor),
            block_stride=block,
            token_stride=token,
            head_stride=head,
            scale_offset=0,
            scale_token_stride=0,
            scale_head_stride=0,
        )
        return geometry, foreign

    @cached_property
    def row_shape(self) -> tuple[int, int]:
        """The last axes of what holds one token of a plane: num_kv_heads and head_dim."""
        return self.num_kv_heads, self.head_dim

    @property
    def is_chunk_contiguous(self) -> bool:
        """Whether nothing is between the rows of a chunk, in whichever order they stand."""
        axes = [(self.token_stride, self.block_size), (self.head_stride, self.num_kv_heads)]
        expected = self.row_bytes
        for stride, extent in sorted(axis for axis in axes if axis[1] > 1):
            if stride != expected:
                return False
            expected *= extent
        return True

    @property
    def is_block_contiguous(self) -> bool:
        """Whether a block is one run of all its planes' chunks, from ``bases[0, 0]`` on."""
        planes = self.num_layers * self.kv_factor
        expected = self.bases[0, 0] + self.chunk_bytes * np.arange(planes, dtype=np.int64)
        return self.is_chunk_contiguous and bool((self.bases.ravel() == expected).all())

    @property
    def token_order(self) -> str:
        """``NHD`` where a token's heads are closer than a head's tokens, else ``HND``."""
        return "NHD" if self.head_stride <= self.token_stride else "HND"

    def as_words(self, layer: int | None = None) -> npt.NDArray[np.int64]:
        """Put into one array what kernels need: see `BLOCK_STRIDE` to `FIRST_BASE`.

        Parameters
        ----------
        layer : int, optional
            Only this layer's bases; all planes' when omitted.

        Returns
        -------
        int64 array
            Block, token and head stride, the scales' offset, token and head stride, and then
            the bases, row-major.
        """
        bases = self.bases if layer is None else self.bases[layer]
        strides = (
            self.block_stride,
            self.token_stride,
            self.head_stride,
            self.scale_offset,
            self.scale_token_stride,
            self.scale_head_stride,
        )
        return np.concatenate((np.array(strides, np.int64), bases.ravel()))


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Check that a keyword is one of the words it can be."""
    if value not in allowed:
        refuse(name, value, f"one of {', '.join(allowed)}")


def _shape(config: CacheConfig) -> dict[str, Any]:
    item = WORD_DTYPES[config.dtype].itemsize
    return {
        "num_blocks": config.num_blocks,
        "num_layers": config.num_layers,
        "kv_factor": config.kv_factor,
        "block_size": config.block_size,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "dtype": config.dtype,
        "item_bytes": item,
        "row_bytes": config.head_dim * item,
        "chunk_bytes": config.chunk_bytes,
    }
