"""`HostPool`: keys and values in the CPU's memory."""

from nbkv.pools import files
from nbkv.pools.calls import BlockIds
from nbkv.pools.host_transfers import HostTransfers, check_peer, copy_between


class HostPool(HostTransfers):
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

    Notes
    -----
    Arrays may be numpy's, torch's on the CPU, or anything with ``__array_interface__`` or
    DLPack; their last axis is contiguous. Pools of float32, float16 and bfloat16 take and give
    their own dtype (uint16 arrays are bfloat16's words), pools of fp8 and int8 any of the three.
    After any exception the pool is as it was.

    Examples
    --------
    >>> import numpy as np
    >>> from nbkv import CacheConfig, HostPool
    >>> pool = HostPool(CacheConfig(4, 8, 1, num_kv_heads=1, head_dim=2, dtype="float32"))
    >>> key = np.array([[[1, 2]], [[3, 4]]], np.float32)
    >>> pool.append(0, key, -key, np.array([5, 6]))
    >>> pool.gather(0, [1], 3)[:, :, 0].tolist()
    [[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], [[-0.0, -0.0], [-1.0, -2.0], [-3.0, -4.0]]]
    """

    def swap_out(
        self,
        block_ids: BlockIds,
        host_pool: "HostPool",
        host_block_ids: BlockIds,
        stream: object = None,
    ) -> None:
        """Copy whole blocks to another pool of the same shape and dtype, in any layout.

        Parameters
        ----------
        block_ids : int32 or int64 array, shape (n,)
            Here.
        host_pool : HostPool
            fp8: with the same scales, since words go as they are.
        host_block_ids : int32 or int64 array, shape (n,)
            There, none twice.
        stream : None
            Of a device; here there is none.

        Raises
        ------
        TypeError, ArgumentError
        """
        check_peer(self, host_pool, stream)
        copy_between(self, host_pool, ("block_ids", block_ids), ("host_block_ids", host_block_ids))

    def swap_in(
        self,
        block_ids: BlockIds,
        host_pool: "HostPool",
        host_block_ids: BlockIds,
        stream: object = None,
    ) -> None:
        """Copy whole blocks from another pool, `host_block_ids` there to `block_ids` here.

        Parameters
        ----------
        block_ids, host_pool, host_block_ids, stream
            As `swap_out` takes them.

        Raises
        ------
        TypeError, ArgumentError
        """
        check_peer(self, host_pool, stream)
        copy_between(host_pool, self, ("host_block_ids", host_block_ids), ("block_ids", block_ids))

    def save(self, file: files.File) -> None:
        """Write all blocks, and fp8's scales, to a file that a pool of any layout can load.

        Parameters
        ----------
        file : path, or binary file open for writing

        Raises
        ------
        OSError
        """
        files.save_pool(self, file)

    def load(self, file: files.File) -> None:
        """Read back what `save` wrote, over all blocks and fp8's scales.

        Parameters
        ----------
        file : path, or binary file open for reading that can seek

        Raises
        ------
        OSError
        ArgumentError
            No pool's file, one of another shape, dtype or number of blocks, or cut short.
        """
        files.load_pool(self, file)
