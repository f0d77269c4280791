"""How fast a host pool moves bytes, as a share of what memcpy does with as many."""

import ctypes
from collections.abc import Callable

import numpy as np

from nbkv import attention
from nbkv.bench.timing import seconds_of
from nbkv.config import CacheConfig
from nbkv.pools import HostPool

BLOCK_SIZE = 16
NUM_LAYERS, NUM_HEADS, HEAD_DIM = 32, 8, 128  # 2 MiB a block in float16
NUM_BLOCKS = 160
NUM_TOKENS = 256
NUM_SEQUENCES, CONTEXT = 16, 1_024


class Moving:
    """A pool, tensors of `NUM_TOKENS` tokens, and memcpy beside them.

    Parameters
    ----------
    dtype : str
        `CacheConfig`'s. Pools that quantise are given float16.
    layout, token_order : str
        `HostPool`'s.
    num_threads : int
    """

    def __init__(
        self,
        dtype: str = "float16",
        layout: str = "block_major",
        token_order: str = "NHD",
        num_threads: int = 1,
    ) -> None:
        config = CacheConfig(BLOCK_SIZE, NUM_BLOCKS, NUM_LAYERS, NUM_HEADS, HEAD_DIM, dtype=dtype)
        self.pool = HostPool(config, layout=layout, token_order=token_order)
        self.pool.num_threads = num_threads
        # Pages that nobody has written are all the same one, and too fast to read.
        self.pool.data[...] = 1
        rng = np.random.default_rng(1)
        self.order = rng.permutation(NUM_BLOCKS).astype(np.int32)
        self.block_ids = self.order[: NUM_TOKENS // BLOCK_SIZE]
        within = np.arange(BLOCK_SIZE)
        self.slots = (self.block_ids[:, None].astype(np.int64) * BLOCK_SIZE + within).ravel()
        self.scattered = rng.permutation(NUM_BLOCKS * BLOCK_SIZE)[:NUM_TOKENS]
        kind = np.dtype(np.float16) if dtype in ("fp8", "int8") else self.pool.data.dtype
        shape = (NUM_LAYERS, NUM_TOKENS, NUM_HEADS, HEAD_DIM)
        self.keys = np.ones(shape, kind)
        self.values = np.ones(shape, kind)
        self.out = np.ones((NUM_LAYERS, 2, *shape[1:]), kind)
        self.area = np.ones(2 * self.keys.nbytes, np.uint8)

    def copy_blocks(self, num_blocks: int) -> Callable[[], object]:
        """Return a call that copies blocks."""
        ids = self.order[: 2 * num_blocks].reshape(2, num_blocks)
        pairs = np.ascontiguousarray(ids.T)
        return lambda: self.pool.copy_blocks(pairs)

    def same_blocks(self, num_blocks: int) -> Callable[[], object]:
        """Return a call that has memcpy copy the same blocks of a block-major pool."""
        geometry, size = self.pool.geometry, self.pool.config.bytes_per_block
        first = int(geometry.bases[0, 0])
        places = first + self.order[: 2 * num_blocks].astype(np.int64) * geometry.block_stride
        pairs = places.reshape(2, num_blocks).T.tolist()

        def copy() -> None:
            for source, destination in pairs:
                ctypes.memmove(destination, source, size)

        return copy

    def append(self, slots: np.ndarray) -> Callable[[], object]:
        """Return a call that appends to one layer."""
        key, value = self.keys[3], self.values[3]
        return lambda: self.pool.append(3, key, value, slots)

    def append_all(self) -> None:
        """Append to all layers."""
        self.pool.append_all(self.keys, self.values, self.slots)

    def gather(self) -> None:
        """Read one layer."""
        self.pool.gather(3, self.block_ids, NUM_TOKENS, self.out[3])

    def gather_all(self) -> None:
        """Read all layers."""
        self.pool.gather(None, self.block_ids, NUM_TOKENS, self.out)

    def same_bytes(self, num_layers: int) -> Callable[[], object]:
        """Return a call that has memcpy copy the keys and the values of some layers."""
        size = num_layers * self.keys[0].nbytes
        to, keys, values = (array.ctypes.data for array in (self.area, self.keys, self.values))

        def copy() -> None:
            ctypes.memmove(to, keys, size)
            ctypes.memmove(to + size, values, size)

        return copy


def share_of(copy: Callable[[], object], call: Callable[[], object], rounds: int) -> float:
    """Time memcpy and a call in turn; return the rate of the call, memcpy's being 1.

    Parameters
    ----------
    copy, call : callable
        They move the same number of bytes.
    rounds : int
    """
    call()
    times = [(seconds_of(copy), seconds_of(call)) for _ in range(rounds)]
    return min(time for time, _ in times) / min(time for _, time in times)


def decode_microseconds(rounds: int) -> float:
    """Time attention of `NUM_SEQUENCES` queries over `CONTEXT` tokens each, one layer."""
    width = CONTEXT // BLOCK_SIZE
    config = CacheConfig(BLOCK_SIZE, NUM_SEQUENCES * width, 1, NUM_HEADS, HEAD_DIM, dtype="float16")
    pool = HostPool(config)
    pool.data[...] = 1
    query = np.ones((NUM_SEQUENCES, 4 * NUM_HEADS, HEAD_DIM), np.float32)
    table = np.arange(NUM_SEQUENCES * width, dtype=np.int32).reshape(NUM_SEQUENCES, width)
    lengths = np.full(NUM_SEQUENCES, CONTEXT, np.int32)

    def call() -> None:
        attention.decode(query, pool, table, lengths, layer=0)

    call()
    return min(seconds_of(call) for _ in range(rounds)) * 1e6
