"""`HostPool`: keys and values in the CPU's memory."""

from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_out, refuse
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.pools.checks import check_config, check_layer
from nbkv.pools.geometry import PoolGeometry
from nbkv.pools.tensors import WORD_DTYPES
from nbkv.pools.views import view_at

_ALIGNMENT: Final = 64


class HostPool:
    """The K/V memory of a `CacheConfig` on the CPU.

    Parameters
    ----------
    config : CacheConfig
    layout : str
        ``block_major``: a block is one run of memory; ``layer_major``: a layer is.
    token_order : str
        Within a block of a layer: ``NHD``, a token's heads side by side, or ``HND``, a head's
        tokens.
    memory : uint8 array, optional
        Where to put it: one-dimensional, contiguous, writable, at least `nbytes` long; new and
        zeroed when omitted.
    pinned : bool
        Page-locked for CUDA, so that copies to a device run beside other work; needs
        numba-cuda.
    """

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
        pool._set_up(config, geometry, foreign)
        return pool

    def _set_up(self, config: CacheConfig, geometry: PoolGeometry, owner: object) -> None:
        self.config = config
        self.geometry = geometry
        self._owner = owner

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.config.num_blocks * self.config.bytes_per_block

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
        by_layer, by_kv = _steps(g.bases)
        expected = g.bases[0, 0] + np.add.outer(
            by_layer * np.arange(g.num_layers), by_kv * np.arange(g.kv_factor)
        )
        if not (g.bases == expected).all():
            raise ArgumentError("data is not one array here, its layers lie apart; use layer(i)")
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
