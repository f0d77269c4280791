"""A CudaPool's memory on the device, views of it, and its streams."""

from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from nbkv._arguments import refuse
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError, ConfigError
from nbkv.pools import checks, cuda_shapes
from nbkv.pools.cuda_device import Device, Staging
from nbkv.pools.geometry import PoolGeometry
from nbkv.pools.tensors import WORD_DTYPES

_FP8_NEEDS: Final = (8, 9)
#: What rows are multiples of, in bytes and where they lie.
_UNIT: Final = 8


class CudaMemory:
    """Owns or borrows a pool's device memory and shows it: see `CudaPool`."""

    def __init__(
        self,
        config: CacheConfig,
        *,
        layout: str = "block_major",
        token_order: str = "NHD",
        stream: object = None,
    ) -> None:
        checks.check_config(config)
        device = self._device_for(config)
        num_bytes = config.num_blocks * config.bytes_per_block
        # An unknown layout is found before memory is asked for.
        PoolGeometry.own(config, 0, layout, token_order)
        memory = device.allocate(num_bytes)
        device.fill_zero(memory, num_bytes, device.as_stream(stream))
        geometry = PoolGeometry.own(config, memory.address, layout, token_order)
        self._set_up(config, geometry, memory, device, stream)

    @classmethod
    def wrap(cls, config: CacheConfig, tensors: object, *, stream: object = None) -> Self:
        """Make a pool of device memory that somebody else has laid out, without a copy.

        Parameters
        ----------
        config : CacheConfig
            Of any dtype but ``int8``.
        tensors : array, or list of array or of pairs of array
            As `HostPool.wrap` takes them: torch's, CuPy's, or with
            ``__cuda_array_interface__`` or DLPack.
        stream : object, optional
            As `CudaPool` takes it.

        Returns
        -------
        CudaPool

        Raises
        ------
        TypeError, ArgumentError, ConfigError
        """
        checks.check_config(config)
        geometry, foreign = PoolGeometry.of_tensors(config, tensors)
        device = cls._device_for(config)
        if not all(device.reaches(tensor) for tensor in foreign):
            refuse("tensors", "in the CPU's memory", "in a device's; see HostPool.wrap")
        pool = cls.__new__(cls)
        pool._set_up(config, geometry, foreign, device, stream)
        return pool

    @classmethod
    def _device_for(cls, config: CacheConfig) -> Device:
        """Return the device, if this configuration can be on it."""
        item = WORD_DTYPES[config.dtype].itemsize
        if config.head_dim * item % _UNIT:
            multiple = _UNIT // item
            raise ConfigError(
                f"head_dim is {config.head_dim}; on CUDA a row of {config.dtype} must be a"
                f" multiple of {_UNIT} bytes: head_dim of {multiple}"
            )
        if config.num_blocks * config.block_size >= cuda_shapes.MAX_SLOTS:
            raise ConfigError(
                f"num_blocks * block_size is {config.num_blocks * config.block_size};"
                f" on CUDA it must be below {cuda_shapes.MAX_SLOTS}"
            )
        if config.num_layers * config.kv_factor > cuda_shapes.MAX_GRID:
            raise ConfigError(
                f"num_layers is {config.num_layers}; on CUDA num_layers * kv_factor must be at"
                f" most {cuda_shapes.MAX_GRID}"
            )
        device = cls._new_device()
        found = device.compute_capability()
        if config.dtype == "fp8" and found < _FP8_NEEDS:
            raise ConfigError(
                f"dtype is 'fp8'; this device's compute capability is {found[0]}.{found[1]},"
                " and fp8 needs 8.9"
            )
        return device

    @staticmethod
    def _new_device() -> Device:
        return Device()

    def _set_up(
        self,
        config: CacheConfig,
        geometry: PoolGeometry,
        owner: object,
        device: Device,
        stream: object,
    ) -> None:
        places = cuda_shapes.alignments_of(geometry)
        if cuda_shapes.unit_of(*places) < _UNIT:
            refuse("tensors' addresses and strides", places, f"multiples of {_UNIT} bytes")
        self.config = config
        self.geometry = geometry
        self._owner = owner
        self._device = device
        self._stream = device.as_stream(stream)
        self._side_stream: Any = None
        self._pending: list[Any] = []
        self._staging: dict[int, Staging] = {}
        self._partials: dict[int, Staging] = {}
        self._slot_marks = np.zeros(config.num_blocks * config.block_size, np.uint8)
        self._block_marks = np.zeros(config.num_blocks, np.uint8)
        shape = (config.num_layers, config.kv_factor, config.num_kv_heads)
        self._scales = np.ones(shape if config.dtype == "fp8" else 0, np.float32)
        self._scale_memory = device.allocate(2 * self._scales.nbytes)
        self._upload_scales()
        scales = self._scale_memory.address
        words = cuda_shapes.make_words(geometry, scales, scales + self._scales.nbytes)
        self._words = device.allocate(words.nbytes)
        device.upload(self._words.address, words, self._stream)
        self._place = cuda_shapes.Place(geometry, device, self._words.address)

    def _upload_scales(self) -> None:
        both = np.concatenate((self._scales.ravel(), (np.float32(1) / self._scales).ravel()))
        self._device.upload(self._scale_memory.address, both, self._stream)

    @property
    def stream(self) -> Any:  # noqa: ANN401
        """The stream that calls are launched into: numba's, torch's, CuPy's or a handle."""
        return self._stream

    @stream.setter
    def stream(self, stream: object) -> None:
        self._stream = self._device.as_stream(stream)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.config.num_blocks * self.config.bytes_per_block

    @property
    def fill_ratio(self) -> float:
        """Share of token slots written, 0.0 to 1.0: through this pool, and not zeroed since.

        As `HostPool.fill_ratio`, and slots that came in device memory are not counted: they
        are never read here.
        """
        return int(np.count_nonzero(self._slot_marks)) / self._slot_marks.size

    @property
    def scales(self) -> Any:  # noqa: ANN401
        """fp8's scales, (num_layers, kv_factor, num_kv_heads), on the host and read only.

        int8 has one for each token and head, (num_blocks, num_layers, kv_factor, block_size,
        num_kv_heads): a view of the blocks, on the device.

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
        return self._device.view(start, shape, strides, WORD_DTYPES["float32"], self._owner)

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
        # In place: a captured graph has the addresses.
        self._upload_scales()

    @property
    def data(self) -> Any:  # noqa: ANN401
        """All words, a view: see `HostPool.data`. A numba device array, strided.

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
        return self._device.view(
            int(g.bases[0, 0]), shape, strides, WORD_DTYPES[g.dtype], self._owner
        )

    def layer(self, layer: int) -> Any:  # noqa: ANN401
        """View one layer's words: (num_blocks, kv_factor, block_size, num_kv_heads, head_dim).

        Parameters
        ----------
        layer : int

        Returns
        -------
        numba device array

        Raises
        ------
        ArgumentError
        """
        g = self.geometry
        bases = g.bases[checks.check_layer(g, layer)]
        shape = (g.num_blocks, g.kv_factor, g.block_size, g.num_kv_heads, g.head_dim)
        by_kv = int(bases[-1] - bases[0])
        strides = (g.block_stride, by_kv, g.token_stride, g.head_stride, g.item_bytes)
        return self._device.view(int(bases[0]), shape, strides, WORD_DTYPES[g.dtype], self._owner)

    def _staged(self, stream: Any) -> Staging:  # noqa: ANN401
        """Return the staging memory of a stream."""
        return self._staging.setdefault(id(stream), Staging(self._device))

    def _partials_of(self, stream: Any) -> Staging:  # noqa: ANN401
        """Return the memory that attention keeps its partial results of a stream in."""
        return self._partials.setdefault(id(stream), Staging(self._device))

    def _ordered_stream(self) -> Any:  # noqa: ANN401
        """Return the pool's stream, behind the swaps under way."""
        for event in self._pending:
            self._device.wait(self._stream, event)
        self._pending.clear()
        return self._stream


def _steps(bases: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Find how far apart the first two layers, and their keys and values, are."""
    by_layer = int(bases[1, 0] - bases[0, 0]) if bases.shape[0] > 1 else 0
    return by_layer, int(bases[0, -1] - bases[0, 0])
