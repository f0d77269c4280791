"""A pool's memory, wherever it is: what is in it, and views of it."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.pools import checks
from nbkv.pools.check_kernels import WRITTEN
from nbkv.pools.geometry import PoolGeometry
from nbkv.pools.tensors import WORD_DTYPES, Parts

#: What views of the memory are: numpy's arrays, or a device's.
Array = TypeVar("Array")


class PoolMemory(ABC, Generic[Array]):
    """Shows a pool's memory, and knows which slots are written."""

    def _describe(
        self, config: CacheConfig, geometry: PoolGeometry, owner: object, parts: Parts
    ) -> None:
        """Take the memory that a geometry describes; `owner` keeps it allocated."""
        self.config = config
        self.geometry = geometry
        self._owner = owner
        self._parts = parts
        # What `nbkv.pools.check_kernels` marks: one a slot, one a block.
        self._slot_marks = np.zeros(config.num_blocks * config.block_size, np.uint8)
        self._block_marks = np.zeros(config.num_blocks, np.uint8)
        shape = (config.num_layers, config.kv_factor, config.num_kv_heads)
        self._scales = np.ones(shape if config.dtype == "fp8" else 0, np.float32)

    @abstractmethod
    def _view(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: "np.dtype[Any]"
    ) -> Array:
        """View the memory at an address; strides in bytes."""

    @abstractmethod
    def _use_scales(self) -> None:
        """Bring fp8's scales to where kernels read them."""

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.config.num_blocks * self.config.bytes_per_block

    @property
    def fill_ratio(self) -> float:
        """Share of token slots written, 0.0 to 1.0: through this pool, and not zeroed since.

        A slot counts once any of its layers is written. What a cache releases still counts
        until it is zeroed: a pool does not know. Slots that came in device memory are not
        counted: they are never read here.
        """
        return int(np.count_nonzero(self._slot_marks)) / self._slot_marks.size

    @property
    def scales(self) -> npt.NDArray[np.float32] | Array:
        """fp8's scales, (num_layers, kv_factor, num_kv_heads), on the host and read only.

        int8 has one for each token and head, (num_blocks, num_layers, kv_factor, block_size,
        num_kv_heads): a view of the blocks, where those are.

        Raises
        ------
        ArgumentError
            The dtype has no scales.
        """
        g = self.geometry
        if g.dtype == "fp8":
            view = self._scales.view()
            view.flags.writeable = False
            return view
        if g.dtype != "int8":
            raise ArgumentError(f"scales of {g.dtype} there are none, only of fp8 and int8")
        by_layer, by_kv = _steps(g.bases)
        shape = (g.num_blocks, g.num_layers, g.kv_factor, g.block_size, g.num_kv_heads)
        strides = (g.block_stride, by_layer, by_kv, g.scale_token_stride, g.scale_head_stride)
        start = int(g.bases[0, 0]) + g.scale_offset
        return self._view(start, shape, strides, WORD_DTYPES["float32"])

    def set_scales(self, scales: npt.ArrayLike) -> None:
        """Set the scales of an fp8 pool, before anything is written: words stay as they are.

        Parameters
        ----------
        scales : float or float32 array
            Above 0: one for all, or what broadcasts to (num_layers, kv_factor, num_kv_heads).

        Raises
        ------
        ArgumentError
        """
        self._scales = checks.check_scales(self.geometry, scales)
        self._use_scales()

    @property
    def data(self) -> Array:
        """All words: (num_blocks, num_layers, kv_factor, block_size, num_kv_heads, head_dim).

        A view, whatever the layout. uint16 for bfloat16, uint8 for fp8.

        Raises
        ------
        ArgumentError
            The layers lie apart (`wrap` of a list): use `layer`.
        """
        g = self.geometry
        if not self._parts.are_one:
            raise ArgumentError("data is not one array here, its layers lie apart; use layer(i)")
        by_layer, by_kv = _steps(g.bases)
        shape = (g.num_blocks, g.num_layers, g.kv_factor, g.block_size, g.num_kv_heads, g.head_dim)
        strides = (g.block_stride, by_layer, by_kv, g.token_stride, g.head_stride, g.item_bytes)
        return self._view(int(g.bases[0, 0]), shape, strides, WORD_DTYPES[g.dtype])

    def layer(self, layer: int, kv: int | None = None) -> Array:
        """View one layer's words: (num_blocks, kv_factor, block_size, num_kv_heads, head_dim).

        Parameters
        ----------
        layer : int
        kv : int, optional
            0 views its keys, 1 its values, without that axis.

        Returns
        -------
        array
            numpy's, or numba's on a device.

        Raises
        ------
        ArgumentError
            No such layer; or its keys and values lie apart (`wrap` of pairs) and `kv` is not
            given.
        """
        g = self.geometry
        number = checks.check_layer(g, layer)
        shape: tuple[int, ...] = (g.num_blocks, g.block_size, g.num_kv_heads, g.head_dim)
        strides: tuple[int, ...] = (g.block_stride, g.token_stride, g.head_stride, g.item_bytes)
        bases = g.bases[number]
        start = int(bases[0])
        if kv is not None:
            start = int(bases[check_count("kv", kv, g.kv_factor - 1)])
        elif number in self._parts.pairs:
            # Strides from one to the other would do, but a view spans all that lies between
            # them: numpy, which copies what it may overlap, calls itself without end.
            raise ArgumentError(
                f"layer {number} is not one array here, its keys and values lie apart;"
                " use layer(i, kv=0) and layer(i, kv=1)"
            )
        else:
            by_kv = int(bases[-1] - bases[0])
            shape = (shape[0], g.kv_factor, *shape[1:])
            strides = (strides[0], by_kv, *strides[1:])
        return self._view(start, shape, strides, WORD_DTYPES[g.dtype])

    @property
    def _written(self) -> npt.NDArray[np.uint8]:
        """One a slot, (num_blocks, block_size): not 0 where it is written."""
        return self._slot_marks.reshape(self.geometry.num_blocks, -1)

    def _mark_tokens(self, block_ids: npt.NDArray[np.int64], num_tokens: int) -> None:
        """Note the first tokens of a row of blocks as written."""
        full, rest = divmod(num_tokens, self.geometry.block_size)
        self._written[block_ids[:full]] = WRITTEN
        if rest:
            self._written[block_ids[full], :rest] = WRITTEN


def copy_written(
    source: PoolMemory[Any], destination: PoolMemory[Any], pairs: npt.NDArray[Any]
) -> None:
    """Note in a pool's blocks what is written in another's; (n, 2) source and destination."""
    destination._written[pairs[:, 1]] = source._written[pairs[:, 0]]


def _steps(bases: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Find how far apart the first two layers, and their keys and values, are."""
    by_layer = int(bases[1, 0] - bases[0, 0]) if bases.shape[0] > 1 else 0
    return by_layer, int(bases[0, -1] - bases[0, 0])
