"""What pools are asked to do, wherever their memory is: checked here, and marked when done."""

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, refuse
from nbkv._demand import ready
from nbkv.pools import checks
from nbkv.pools.check_kernels import copy_marks
from nbkv.pools.foreign import Foreign
from nbkv.pools.memory import Array, PoolMemory
from nbkv.pools.tensors import WORD_DTYPES

BlockIds = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Words = npt.NDArray[np.int64]


class PoolCalls(PoolMemory[Array]):
    """The calls of `HostPool` and `CudaPool`, each down to a hook that moves vectors."""

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
        sources = self._check_sources(("key", "value"), (key, value), ())
        self._append(number, sources, slot_mapping)

    def append_all(self, keys: Any, values: Any, slot_mapping: Any) -> None:  # noqa: ANN401
        """Write the keys and values of new tokens into all layers, on CUDA in one launch.

        Parameters
        ----------
        keys, values : array, shape (num_layers, num_tokens, num_kv_heads, head_dim)
            As `append` takes them, for each layer.
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
        pieces, scale = self._copy_blocks(checks.check_pairs(pairs, self._block_marks))
        ready(copy_marks)(pieces, self._slot_marks, scale)

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
        rows = checks.check_pairs(pairs, self._block_marks)
        most = self.geometry.block_size
        counts = checks.check_num_tokens("num_tokens", num_tokens, len(rows), most)
        ready(copy_marks)(self._copy_tokens(rows, counts), self._slot_marks, 1)

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
        leading = self._leading(layer)
        if out is None:
            dtype = WORD_DTYPES["float32" if g.dtype in checks.QUANTISED else g.dtype]
            out = self._new_rows((*leading, count, *g.row_shape), dtype)
        target = self._check_rows("out", out, (*leading, count))
        if target.is_read_only:
            refuse("out", "read-only", "writable")
        self._read(layer, ids, target)
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
        source = self._check_rows("values", values, (*self._leading(layer), None))
        count = source.shape[-3]
        check_count("values' num_tokens", count, ids.size * g.block_size)
        self._write(layer, ids, source)
        self._mark_tokens(ids, count)

    def zero(self, block_ids: BlockIds) -> None:
        """Set all bytes of blocks to 0, int8's scales too.

        Parameters
        ----------
        block_ids : int32 or int64 array

        Raises
        ------
        TypeError, ArgumentError
        """
        blocks = self.geometry.num_blocks
        ids = checks.check_block_ids("block_ids", block_ids, blocks, is_written=False)
        self._zero(ids)
        self._written[ids] = 0

    def _leading(self, layer: object) -> tuple[int, ...]:
        """Return the axes before the tokens of a tensor of one layer, or of all."""
        g = self.geometry
        if layer is None:
            return g.num_layers, g.kv_factor
        checks.check_layer(g, layer)
        return (g.kv_factor,)

    def _check_sources(
        self, names: tuple[str, str], arrays: tuple[object, object], leading: tuple[int, ...]
    ) -> list[Foreign]:
        """Check keys and values: of one shape, or no values where kv_factor is 1."""
        g = self.geometry
        plain = self._plain_sources(*arrays, leading)
        if plain:
            return plain
        if g.kv_factor == 1 and arrays[1] is not None:
            refuse(names[1], "an array", "None, since kv_factor is 1")
        num_tokens: int | None = None
        sources: list[Foreign] = []
        for name, array in zip(names[: g.kv_factor], arrays, strict=False):
            source = self._check_rows(name, array, (*leading, num_tokens))
            num_tokens = source.shape[-3]
            sources.append(source)
        return sources

    def _plain_sources(
        self,
        first: object,
        second: object,
        leading: tuple[int, ...],
    ) -> list[Foreign]:
        """Describe keys and values that nothing can be wrong with, or none: to be checked."""
        return []

    @abstractmethod
    def _check_rows(self, name: str, array: object, leading: tuple[int | None, ...]) -> Foreign:
        """Check keys, values or what takes them; None in `leading` is any extent."""

    @abstractmethod
    def _new_rows(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Array:
        """Allocate an array for `gather`."""

    @abstractmethod
    def _append(self, layer: int | None, sources: list[Foreign], slot_mapping: object) -> None:
        """Write checked keys and values to slots that are not, and mark those; None is all."""

    @abstractmethod
    def _copy_blocks(self, pairs: Words) -> tuple[Words, int]:
        """Copy blocks; return the pieces and their scale as `copy_marks` takes them."""

    @abstractmethod
    def _copy_tokens(self, pairs: Words, counts: Words) -> Words:
        """Copy the first tokens of blocks; return the pieces as `copy_marks` takes them."""

    @abstractmethod
    def _read(self, layer: int | None, block_ids: Words, target: Foreign) -> None:
        """Read the tokens of a row of blocks."""

    @abstractmethod
    def _write(self, layer: int | None, block_ids: Words, source: Foreign) -> None:
        """Write the tokens of a row of blocks."""

    @abstractmethod
    def _zero(self, block_ids: Words) -> None:
        """Set all bytes of blocks to 0."""
