"""A CudaPool's memory on the device, its own or borrowed, and its streams."""

from typing import Any, Final, Self

import numpy as np

from nbkv._arguments import refuse
from nbkv.config import CacheConfig
from nbkv.errors import ConfigError
from nbkv.pools import checks, cuda_shapes
from nbkv.pools.calls import PoolCalls
from nbkv.pools.cuda_device import Device, Staging
from nbkv.pools.geometry import PoolGeometry
from nbkv.pools.tensors import WORD_DTYPES, Parts

_FP8_NEEDS: Final = (8, 9)
#: What rows are multiples of, in bytes and where they lie.
_UNIT: Final = 8


class CudaMemory(PoolCalls[Any]):
    """Owns or borrows a pool's device memory: see `CudaPool`."""

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
        self._set_up(config, geometry, memory, Parts(), device, stream)

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
        parts = Parts.of_tensors(tensors)
        pool._set_up(config, geometry, foreign, parts, device, stream)
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
        parts: Parts,
        device: Device,
        stream: object,
    ) -> None:
        places = cuda_shapes.alignments_of(geometry)
        if cuda_shapes.unit_of(*places) < _UNIT:
            refuse("tensors' addresses and strides", places, f"multiples of {_UNIT} bytes")
        self._describe(config, geometry, owner, parts)
        self._device = device
        self._stream = device.as_stream(stream)
        self._side_stream: Any = None
        self._pending: list[Any] = []
        self._staging: dict[int, Staging] = {}
        self._partials: dict[int, Staging] = {}
        self._scale_memory = device.allocate(2 * self._scales.nbytes)
        self._use_scales()
        scales = self._scale_memory.address
        words = cuda_shapes.make_words(geometry, scales, scales + self._scales.nbytes)
        self._words = device.allocate(words.nbytes)
        device.upload(self._words.address, words, self._stream)
        self._place = cuda_shapes.Place(geometry, device, self._words.address)

    def _view(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: "np.dtype[Any]"
    ) -> Any:  # noqa: ANN401
        return self._device.view(address, shape, strides, dtype, self._owner)

    def _use_scales(self) -> None:
        # In place: a captured graph has the addresses.
        both = np.concatenate((self._scales.ravel(), (np.float32(1) / self._scales).ravel()))
        self._device.upload(self._scale_memory.address, both, self._stream)

    @property
    def stream(self) -> Any:  # noqa: ANN401
        """The stream that calls are launched into: numba's, torch's, CuPy's or a handle."""
        return self._stream

    @stream.setter
    def stream(self, stream: object) -> None:
        self._stream = self._device.as_stream(stream)

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
