"""A pool's memory on the CPU, and views of it."""

import importlib
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_out, refuse
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.pools.checks import check_config, check_layer, check_scales, source_names
from nbkv.pools.geometry import PoolGeometry
from nbkv.pools.moves import WholeBlocks
from nbkv.pools.tensors import WORD_DTYPES
from nbkv.pools.threads import count_threads
from nbkv.pools.views import view_at

_ALIGNMENT: Final = 64
_KEY_AND_VALUE: Final = 2
#: Sources that numpy itself has a dtype for.
_PLAIN: Final = ("float32", "float16", "uint16")


class HostMemory:
    """Owns or borrows a pool's memory and shows it: see `HostPool`."""

    def __init__(
        self,
        config: CacheConfig,
        *,
        layout: str = "block_major",
        token_order: str = "NHD",
        memory: npt.NDArray[np.uint8] | None = None,
        pinned: bool = False,
    ) -> None:
        check_config(config)
        num_bytes = config.num_blocks * config.bytes_per_block
        if pinned and memory is not None:
            refuse("pinned", pinned, "False with memory, which is page-locked or not as it comes")
        if pinned:
            # The device's side owns what is page-locked: `page_locked(num_bytes)` there.
            memory = importlib.import_module("nbkv.pools.cuda").page_locked(num_bytes)
        memory = _allocate(num_bytes, memory)
        address = memory.__array_interface__["data"][0]
        self._set_up(config, PoolGeometry.own(config, address, layout, token_order), memory)

    @classmethod
    def wrap(cls, config: CacheConfig, tensors: object) -> Self:
        """Make a pool of memory that somebody else has laid out, without a copy.

        Parameters
        ----------
        config : CacheConfig
            Of any dtype but ``int8``.
        tensors : array, or list of array or of pairs of array
            One array with the logical axes (num_blocks, num_layers, kv, block_size, heads,
            head_dim), in any strides; or for each layer one without num_layers; or for each
            layer its keys and its values, (num_blocks, block_size, heads, head_dim).

        Returns
        -------
        HostPool

        Raises
        ------
        TypeError, ArgumentError
        """
        check_config(config)
        geometry, foreign = PoolGeometry.of_tensors(config, tensors)
        if any(tensor.on_cuda for tensor in foreign):
            refuse("tensors", "in a device's memory", "in the CPU's; see CudaPool.wrap")
        pool = cls.__new__(cls)
        pool._set_up(config, geometry, foreign, not isinstance(tensors, (list, tuple)))
        return pool

    def _set_up(
        self, config: CacheConfig, geometry: PoolGeometry, owner: object, is_one_array: bool = True
    ) -> None:
        self.config = config
        self.geometry = geometry
        #: Threads that a large call is spread over, 1 or more.
        self.num_threads = count_threads()
        self._owner = owner
        self._is_one_array = is_one_array
        # What `nbkv.pools.check_kernels` marks: one a slot, one a block.
        self._slot_marks = np.zeros(config.num_blocks * config.block_size, np.uint8)
        self._block_marks = np.zeros(config.num_blocks, np.uint8)
        # What kernels are given, made when first needed.
        self._places: dict[tuple[int | None, int | None], npt.NDArray[np.int64]] = {}
        self._shapes: dict[tuple[bool, bool], npt.NDArray[np.int64]] = {}
        # dtypes of keys and values that the hot path knows, where there are both.
        named = ((np.dtype(name), name) for name in source_names(config.dtype) if name in _PLAIN)
        self._plain_names = dict(named) if config.kv_factor == _KEY_AND_VALUE else {}
        self._whole_blocks = WholeBlocks.between(geometry, geometry)
        shape = (config.num_layers, config.kv_factor, config.num_kv_heads)
        self._scales = self._inverse_scales = np.zeros((config.num_layers, 0), np.float32)
        if config.dtype == "fp8":
            self._scales = self._inverse_scales = np.ones(shape, np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.config.num_blocks * self.config.bytes_per_block

    @property
    def fill_ratio(self) -> float:
        """Share of token slots written, 0.0 to 1.0: through this pool, and not zeroed since.

        A slot counts once any of its layers is written. What a cache releases still counts
        until it is zeroed: a pool does not know.
        """
        return int(np.count_nonzero(self._slot_marks)) / self._slot_marks.size

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """fp8's scales, (num_layers, kv_factor, num_kv_heads), read only; or int8's.

        int8 has one for each token and head, (num_blocks, num_layers, kv_factor, block_size,
        num_kv_heads): a view of the blocks.

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
        return view_at(start, shape, strides, WORD_DTYPES["float32"], self._owner)

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
        self._scales = check_scales(self.geometry, scales)
        self._inverse_scales = np.float32(1) / self._scales

    @property
    def data(self) -> npt.NDArray[Any]:
        """All words: (num_blocks, num_layers, kv_factor, block_size, num_kv_heads, head_dim).

        A view, whatever the layout. uint16 for bfloat16, uint8 for fp8.

        Raises
        ------
        ArgumentError
            The layers lie apart (`wrap` of a list): use `layer`.
        """
        g = self.geometry
        if not self._is_one_array:
            raise ArgumentError("data is not one array here, its layers lie apart; use layer(i)")
        by_layer, by_kv = _steps(g.bases)
        shape = (g.num_blocks, g.num_layers, g.kv_factor, g.block_size, g.num_kv_heads, g.head_dim)
        strides = (g.block_stride, by_layer, by_kv, g.token_stride, g.head_stride, g.item_bytes)
        return view_at(int(g.bases[0, 0]), shape, strides, WORD_DTYPES[g.dtype], self._owner)

    def layer(self, layer: int) -> npt.NDArray[Any]:
        """View one layer's words: (num_blocks, kv_factor, block_size, num_kv_heads, head_dim).

        Parameters
        ----------
        layer : int

        Returns
        -------
        numpy.ndarray

        Raises
        ------
        ArgumentError
        """
        g = self.geometry
        bases = g.bases[check_layer(g, layer)]
        shape = (g.num_blocks, g.kv_factor, g.block_size, g.num_kv_heads, g.head_dim)
        by_kv = int(bases[-1] - bases[0])
        strides = (g.block_stride, by_kv, g.token_stride, g.head_stride, g.item_bytes)
        return view_at(int(bases[0]), shape, strides, WORD_DTYPES[g.dtype], self._owner)


def _steps(bases: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Find how far apart the first two layers, and their keys and values, are."""
    by_layer = int(bases[1, 0] - bases[0, 0]) if bases.shape[0] > 1 else 0
    return by_layer, int(bases[0, -1] - bases[0, 0])


def _allocate(num_bytes: int, memory: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8]:
    """Make zeroed memory, or check what is given."""
    if memory is None:
        try:
            raw = np.zeros(num_bytes + _ALIGNMENT, np.uint8)
        except (MemoryError, ValueError, OverflowError):
            raise ArgumentError(
                f"config needs {num_bytes} bytes, more than can be allocated"
            ) from None
        shift = -raw.__array_interface__["data"][0] % _ALIGNMENT
        return raw[shift : shift + num_bytes]
    check_out("memory", memory, np.uint8)
    if memory.size < num_bytes:
        refuse("memory", f"{memory.size} bytes", f"at least {num_bytes}, num_blocks of them")
    if memory.__array_interface__["data"][0] % 16:
        refuse("memory's address", memory.__array_interface__["data"][0], "a multiple of 16")
    return memory
