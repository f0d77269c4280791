"""`CudaPool`: keys and values in a GPU's memory."""

from typing import Any

from nbkv.pools.calls import BlockIds
from nbkv.pools.cuda_attention import CudaAttention
from nbkv.pools.cuda_device import page_locked
from nbkv.pools.host import HostPool

__all__ = ["CudaPool", "page_locked"]


class CudaPool(CudaAttention):
    """The K/V memory of a `CacheConfig` on the current CUDA device.

    Parameters
    ----------
    config : CacheConfig
        A row of head_dim numbers is a multiple of 8 bytes; fp8 needs compute capability 8.9.
    layout, token_order : str
        As `HostPool` takes them.
    stream : object, optional
        What calls are launched into: a stream of numba, torch or CuPy, or a handle; the
        default stream when omitted. Also an attribute.

    Notes
    -----
    Methods and errors are `HostPool`'s. Keys, values, `out` and `values` are arrays in device
    memory of any library; where a pool quantises they lie at multiples of 16 bytes, else of 8.
    Block ids and pairs are host arrays, checked before anything is launched. So is a
    slot_mapping on the host; one in device memory is taken on trust, since reading it would
    wait for the device: a slot out of range writes outside of the pool. Calls return before the
    device is done. With everything in device memory `append` allocates nothing and waits for
    nothing, so that a CUDA graph can capture it (once it has run: the first call compiles).
    """

    def swap_out(
        self,
        block_ids: BlockIds,
        host_pool: HostPool,
        host_block_ids: BlockIds,
        stream: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Copy whole blocks to a page-locked pool of the same shape and dtype.

        Parameters
        ----------
        block_ids : int32 or int64 array, shape (n,)
            Here.
        host_pool : HostPool
            Made with ``pinned=True``, of the same token_order; fp8: with the same scales.
        host_block_ids : int32 or int64 array, shape (n,)
            There, none twice.
        stream : object, optional
            Where to launch it, and order is then the caller's duty. When omitted a stream
            of the pool's own: it begins behind what this pool has launched, and the pool's
            next call begins behind it.

        Returns
        -------
        numba event
            Reached when the blocks are there: ``synchronize()`` before the host reads them.

        Raises
        ------
        TypeError, ArgumentError
        """
        pairs = self._check_swap(block_ids, host_pool, host_block_ids, is_in=False)
        return self._swap(host_pool, pairs, stream, is_in=False)

    def swap_in(
        self,
        block_ids: BlockIds,
        host_pool: HostPool,
        host_block_ids: BlockIds,
        stream: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Copy whole blocks from a page-locked pool, `host_block_ids` there to `block_ids` here.

        Parameters
        ----------
        block_ids, host_pool, host_block_ids, stream
            As `swap_out` takes them; here none of `block_ids` stands twice.

        Returns
        -------
        numba event

        Raises
        ------
        TypeError, ArgumentError
        """
        pairs = self._check_swap(block_ids, host_pool, host_block_ids, is_in=True)
        return self._swap(host_pool, pairs, stream, is_in=True)
