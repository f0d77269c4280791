"""A pool's memory on the CPU, its own or borrowed."""

import importlib
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_out, refuse
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.pools.calls import PoolCalls
from nbkv.pools.checks import check_config, source_names
from nbkv.pools.geometry import PoolGeometry
from nbkv.pools.moves import WholeBlocks
from nbkv.pools.tensors import Parts
from nbkv.pools.threads import count_threads
from nbkv.pools.views import view_at

_ALIGNMENT: Final = 64
_KEY_AND_VALUE: Final = 2
#: Sources that numpy itself has a dtype for.
_PLAIN: Final = ("float32", "float16", "uint16")


class HostMemory(PoolCalls[npt.NDArray[Any]]):
    """Owns or borrows a pool's memory: see `HostPool`."""

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
        geometry = PoolGeometry.own(config, address, layout, token_order)
        self._set_up(config, geometry, memory, Parts())

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
        pool._set_up(config, geometry, foreign, Parts.of_tensors(tensors))
        return pool

    def _set_up(
        self, config: CacheConfig, geometry: PoolGeometry, owner: object, parts: Parts
    ) -> None:
        self._describe(config, geometry, owner, parts)
        #: Threads that a large call is spread over, 1 or more.
        self.num_threads = count_threads()
        # What kernels are given, made when first needed.
        self._places: dict[tuple[int | None, int | None], npt.NDArray[np.int64]] = {}
        self._shapes: dict[tuple[bool, bool], npt.NDArray[np.int64]] = {}
        # dtypes of keys and values that the hot path knows, where there are both.
        named = ((np.dtype(name), name) for name in source_names(config.dtype) if name in _PLAIN)
        self._plain_names = dict(named) if config.kv_factor == _KEY_AND_VALUE else {}
        self._whole_blocks = WholeBlocks.between(geometry, geometry)
        self._inverse_scales = self._scales

    def _view(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: "np.dtype[Any]"
    ) -> npt.NDArray[Any]:
        return view_at(address, shape, strides, dtype, self._owner)

    def _use_scales(self) -> None:
        self._inverse_scales = np.float32(1) / self._scales


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
