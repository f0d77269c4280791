"""`HostPool`: keys and values in the CPU's memory."""

from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count
from nbkv._demand import ready
from nbkv.pools import checks, files, moves
from nbkv.pools.check_kernels import copy_marks
from nbkv.pools.host_transfers import HostTransfers, check_peer, copy_between
from nbkv.pools.tensors import WORD_DTYPES

BlockIds = npt.NDArray[np.int32] | npt.NDArray[np.int64]


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

    def append(self, layer: int, key: Any, value: Any, slot_mapping: BlockIds) -> None:  # noqa: ANN401
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
        sources = self._check_sources(("key", "value"), (key, value), ())
        self._append(number, sources, slot_mapping)

    def append_all(self, keys: Any, values: Any, slot_mapping: BlockIds) -> None:  # noqa: ANN401
        """Write the keys and values of new tokens into all layers: see `append`.

        Parameters
        ----------
        keys, values : array, shape (num_layers, num_tokens, num_kv_heads, head_dim)
        slot_mapping : int64 or int32 array, shape (num_tokens,)

        Raises
        ------
        TypeError, ArgumentError
        """
        leading = (self.geometry.num_layers,)
        sources = self._check_sources(("keys", "values"), (keys, values), leading)
        self._append(None, sources, slot_mapping)

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
        pieces = self._whole_blocks.copy(rows, self.num_threads)
        per_piece = self.geometry.block_size // self._whole_blocks.scale
        ready(copy_marks)(pieces, self._slot_marks, per_piece)

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
        place = self._place(None, None)
        pieces = moves.pair_pieces(rows * g.block_size, 1, counts)
        num_bytes = int(counts.sum()) * self.config.bytes_per_block // g.block_size
        shape = self._shape(None, None)
        moves.copy_pieces(pieces, place, place, shape, num_bytes, self.num_threads)
        ready(copy_marks)(pieces, self._slot_marks, 1)

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
            kind = WORD_DTYPES["float32" if g.dtype in checks.QUANTISED else g.dtype]
            out = np.empty((*leading, g.num_kv_heads, g.head_dim), kind)
        target = checks.check_rows("out", out, g, leading)
        checks.check_on_host("out", target, is_written=True)
        pieces = moves.block_pieces(ids, g.block_size, count, into=False)
        self._transfer(layer, None, pieces, count, target, self._addresses(target), into=False)
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
        leading = self._leading(layer, None)
        source = checks.check_rows("values", values, g, leading)
        checks.check_on_host("values", source)
        count = source.shape[-3]
        check_count("values' num_tokens", count, ids.size * g.block_size)
        pieces = moves.block_pieces(ids, g.block_size, count, into=True)
        self._transfer(layer, None, pieces, count, source, self._addresses(source), into=True)
        self._mark_blocks(ids, np.minimum(pieces[:, 2], g.block_size))

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
        for layer in range(g.num_layers):
            self.layer(layer)[ids] = 0
        if g.dtype == "int8":
            self.scales[ids] = 0
        self._slot_marks.reshape(g.num_blocks, -1)[ids] = 0

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
