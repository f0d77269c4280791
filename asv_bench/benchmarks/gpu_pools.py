"""Keys and values on a GPU: GB/s, beside the rate at which the same card copies memory.

Skipped where there is no device: asv prints n/a. Both rates count bytes read and bytes written.
"""

import importlib.util

import numpy as np

ROUNDS = 20
#: 32 layers of K and V, 8 heads of 128: 2 MiB a block in float16.
SHAPE = {"block_size": 16, "num_layers": 32, "num_kv_heads": 8, "head_dim": 128}
NUM_BLOCKS = 1024


def require_device():
    """Raise NotImplementedError, with which asv skips, unless kernels can run."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise NotImplementedError("numba-cuda is not installed")
    from numba import config, cuda

    if config.ENABLE_CUDASIM or not cuda.is_available():
        raise NotImplementedError("no CUDA device")


def seconds_of(call):
    """Return the best time of a call on the default stream, by the device's own clock."""
    from numba import cuda

    call()
    best = float("inf")
    for _ in range(ROUNDS):
        begin, end = cuda.event(), cuda.event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        best = min(best, cuda.event_elapsed_time(begin, end) / 1e3)
    return best


def copy_rate():
    """Return the card's GB/s when the driver copies 512 MiB, read and written."""
    from numba import cuda

    source = cuda.device_array(2**29, np.uint8)
    target = cuda.device_array_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_to_device(source)) / 1e9


class Pools:
    """What each call moves, in GB/s and as a share of the card's copy rate."""

    params = (["float16", "fp8", "int8"], ["NHD", "HND"])
    param_names = ("dtype", "order")
    timeout = 300

    def setup(self, dtype, order):
        require_device()
        from numba import cuda

        from nbkv import CacheConfig, CudaPool

        if dtype == "fp8" and cuda.get_current_device().compute_capability < (8, 9):
            raise NotImplementedError("fp8 needs compute capability 8.9")
        self.pool = CudaPool(
            CacheConfig(num_blocks=NUM_BLOCKS, dtype=dtype, **SHAPE), token_order=order
        )
        generator = np.random.default_rng(0)
        self.tokens = 256
        rows = generator.standard_normal((32, self.tokens, 8, 128)).astype(np.float16)
        self.rows = cuda.to_device(rows)
        slots = generator.permutation(16 * NUM_BLOCKS)[: self.tokens].astype(np.int64)
        self.slots = cuda.to_device(slots)
        self.out = cuda.device_array((32, 2, self.tokens, 8, 128), np.float16)
        self.blocks = generator.permutation(NUM_BLOCKS)[: self.tokens // 16].astype(np.int32)
        pairs = generator.permutation(NUM_BLOCKS)[:128].reshape(64, 2)
        self.pairs = pairs.astype(np.int32)
        # A number is read as float16 and written as what the pool keeps, or the other way.
        item = 2 if dtype == "float16" else 1
        self.moved = 2 * self.rows.size * (2 + item)

    def append(self):
        self.pool.append_all(self.rows, self.rows, self.slots)

    def gather(self):
        self.pool.gather(None, self.blocks, self.tokens, self.out)

    def copy(self):
        self.pool.copy_blocks(self.pairs)

    def track_append(self, dtype, order):
        return self.moved / seconds_of(self.append) / 1e9

    def track_append_share(self, dtype, order):
        return self.track_append(dtype, order) / copy_rate()

    def track_gather(self, dtype, order):
        return self.moved / seconds_of(self.gather) / 1e9

    def track_gather_share(self, dtype, order):
        return self.track_gather(dtype, order) / copy_rate()

    def track_copy_blocks(self, dtype, order):
        moved = 2 * len(self.pairs) * self.pool.config.bytes_per_block
        return moved / seconds_of(self.copy) / 1e9

    def track_copy_blocks_share(self, dtype, order):
        return self.track_copy_blocks(dtype, order) / copy_rate()

    for _tracked in (track_append, track_gather, track_copy_blocks):
        _tracked.unit = "GB/s"
    for _tracked in (track_append_share, track_gather_share, track_copy_blocks_share):
        _tracked.unit = "of the copy rate"


class Launch:
    """What a call costs the host: one token appended to one layer."""

    def setup(self):
        require_device()
        from numba import cuda

        from nbkv import CacheConfig, CudaPool

        self.pool = CudaPool(CacheConfig(num_blocks=16, **SHAPE))
        self.row = cuda.to_device(np.ones((1, 8, 128), np.float16))
        self.slot = cuda.to_device(np.zeros(1, np.int64))
        self.pool.append(0, self.row, self.row, self.slot)

    def time_append_one_token(self):
        self.pool.append(0, self.row, self.row, self.slot)


class Swap:
    """Blocks to page-locked memory and back, in GB/s over the bus."""

    params = ([1, 16],)
    param_names = ("blocks",)

    def setup(self, num_blocks):
        require_device()
        from nbkv import CacheConfig, CudaPool, HostPool

        config = CacheConfig(num_blocks=64, **SHAPE)
        self.pool, self.peer = CudaPool(config), HostPool(config, pinned=True)
        self.ids = list(range(num_blocks))

    def track_swap_out(self, num_blocks):
        moved = num_blocks * self.pool.config.bytes_per_block
        seconds = seconds_of(lambda: self.pool.swap_out(self.ids, self.peer, self.ids, stream=0))
        return moved / seconds / 1e9

    def track_swap_in(self, num_blocks):
        moved = num_blocks * self.pool.config.bytes_per_block
        seconds = seconds_of(lambda: self.pool.swap_in(self.ids, self.peer, self.ids, stream=0))
        return moved / seconds / 1e9

    track_swap_out.unit = track_swap_in.unit = "GB/s"
