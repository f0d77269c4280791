"""`CudaPool`: keys and values in a GPU's memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, refuse
from nbkv.pools import checks, cuda_moves, cuda_shapes
from nbkv.pools.check_kernels import WRITTEN
from nbkv.pools.cuda_attention import CudaAttention
from nbkv.pools.cuda_device import page_locked
from nbkv.pools.host import HostPool

__all__ = ["CudaPool", "page_locked"]

BlockIds = npt.NDArray[np.int32] | npt.NDArray[np.int64]


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

    def append(self, layer: int, key: Any, value: Any, slot_mapping: Any) -> None:  # noqa: ANN401
        """Write the keys and values of new tokens into one layer.

        Parameters
        ----------
        layer : int
        key, value : array, shape (num_tokens, num_kv_heads, head_dim)
            `value` is None where kv_factor is 1.
        slot_mapping : int64 or int32 array, shape (num_tokens,)
            Where each token goes, none twice; -1 is nowhere.

        Raises
        ------
        TypeError, ArgumentError
        """
        number = checks.check_layer(self.geometry, layer)
        self._append(
            number, 1, self._check_sources(("key", "value"), (key, value), ()), slot_mapping
        )

    def append_all(self, keys: Any, values: Any, slot_mapping: Any) -> None:  # noqa: ANN401
        """Write the keys and values of new tokens into all layers, in one launch.

        Parameters
        ----------
        keys, values : array, shape (num_layers, num_tokens, num_kv_heads, head_dim)
        slot_mapping : int64 or int32 array, shape (num_tokens,)

        Raises
        ------
        TypeError, ArgumentError
        """
        layers = self.geometry.num_layers
        sources = self._check_sources(("keys", "values"), (keys, values), (layers,))
        self._append(0, layers, sources, slot_mapping)

    def copy_blocks(self, pairs: BlockIds) -> None:
        """Copy whole blocks, all layers.

        Parameters
        ----------
        pairs : int32 array, shape (n, 2)
            Source and destination; no block is a destination twice, or both.

        Raises
        ------
        TypeError, ArgumentError
        """
        rows = checks.check_pairs(pairs, self._block_marks)
        stream = self._ordered_stream()
        narrow = rows.astype(np.int32)
        cuda_moves.copy_blocks(self._place, self._staged(stream), narrow, stream)
        written = self._slot_marks.reshape(self.geometry.num_blocks, -1)
        written[rows[:, 1]] = written[rows[:, 0]]

    def copy_partial(self, pairs: BlockIds, num_tokens: BlockIds) -> None:
        """Copy the first tokens of blocks, all layers, for copy-on-write.

        Parameters
        ----------
        pairs : int32 array, shape (n, 2)
            As `copy_blocks` takes them.
        num_tokens : int32 array, shape (n,)
            Of each; what is behind them stays as it is.

        Raises
        ------
        TypeError, ArgumentError
        """
        g = self.geometry
        rows = checks.check_pairs(pairs, self._block_marks)
        counts = checks.check_num_tokens("num_tokens", num_tokens, len(rows), g.block_size)
        stream = self._ordered_stream()
        staging, short = self._staged(stream), counts.astype(np.int32)
        cuda_moves.copy_rows(self._place, staging, rows.astype(np.int32), short, stream)
        written = self._slot_marks.reshape(g.num_blocks, -1)
        copied = np.arange(g.block_size) < counts[:, None]
        written[rows[:, 1]] = np.where(copied, written[rows[:, 0]], written[rows[:, 1]])

    def gather(
        self,
        layer: int | None,
        block_ids: BlockIds,
        num_tokens: int,
        out: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Read the tokens of a row of blocks, a block table say, one after another.

        Parameters
        ----------
        layer : int or None
            None reads all.
        block_ids : int32 or int64 array
        num_tokens : int
            At most what the blocks have.
        out : array, optional
            Takes them: (kv_factor, num_tokens, num_kv_heads, head_dim), num_layers in front
            where `layer` is None. New and, from a quantising pool, float32 when omitted.

        Returns
        -------
        array
            `out`.

        Raises
        ------
        TypeError, ArgumentError
        """
        g = self.geometry
        ids = checks.check_block_ids("block_ids", block_ids, g.num_blocks, is_written=False)
        count = check_count("num_tokens", num_tokens, ids.size * g.block_size)
        leading = self._leading(layer, count)
        if out is None:
            out = self._new_rows(leading)
        target = self._check_rows("out", out, leading)
        if target.is_read_only:
            refuse("out", "read-only", "writable")
        stream = self._ordered_stream()
        at = self._block_indices(ids, count, stream)
        rows, by_kv = cuda_shapes.planes_of(target)
        first, layers = self._layers(layer)
        cuda_moves.gather(self._place, first, layers, rows, by_kv, at, stream)
        return out

    def scatter(self, layer: int | None, block_ids: BlockIds, values: Any) -> None:  # noqa: ANN401
        """Write the tokens of a row of blocks: the inverse of `gather`.

        Parameters
        ----------
        layer : int or None
            None writes all.
        block_ids : int32 or int64 array
            No block twice.
        values : array
            (kv_factor, num_tokens, num_kv_heads, head_dim), num_layers in front where `layer`
            is None.

        Raises
        ------
        TypeError, ArgumentError
        """
        g = self.geometry
        ids = checks.check_block_ids("block_ids", block_ids, g.num_blocks, is_written=True)
        source = self._check_rows("values", values, self._leading(layer, None))
        count = source.shape[-3]
        check_count("values' num_tokens", count, ids.size * g.block_size)
        stream = self._ordered_stream()
        at = self._block_indices(ids, count, stream)
        key, by_kv = cuda_shapes.planes_of(source)
        value = replace(key, address=key.address + by_kv) if g.kv_factor > 1 else None
        first, layers = self._layers(layer)
        cuda_moves.append(self._place, first, layers, key, value, at, stream)
        written = self._slot_marks.reshape(g.num_blocks, -1)
        full, rest = divmod(count, g.block_size)
        written[ids[:full]] = WRITTEN
        if rest:
            written[ids[full], :rest] = WRITTEN

    def zero(self, block_ids: BlockIds) -> None:
        """Set all bytes of blocks to 0, int8's scales too.

        Parameters
        ----------
        block_ids : int32 or int64 array

        Raises
        ------
        TypeError, ArgumentError
        """
        g = self.geometry
        ids = checks.check_block_ids("block_ids", block_ids, g.num_blocks, is_written=False)
        stream = self._ordered_stream()
        # Twice the same block would be two stores to one place.
        narrow = np.unique(ids).astype(np.int32)
        cuda_moves.zero(self._place, self._staged(stream), narrow, stream)
        self._slot_marks.reshape(g.num_blocks, -1)[ids] = 0

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
