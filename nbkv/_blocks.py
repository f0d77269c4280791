"""The part of the facade for adapters that manage blocks themselves, beside sequences."""

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_hashes, check_vector, refuse
from nbkv._named import NamedPrefixes
from nbkv.kernels import external, external_keys, release
from nbkv.layout import INT64
from nbkv.statuses import BAD_PARENT

BlockIds = npt.NDArray[np.int64] | npt.NDArray[np.int32]

_INT64_MAX = 2**63 - 1


class BlockCalls(NamedPrefixes):
    """Blocks by themselves: external holds, in no sequence's table."""

    def allocate(self, num_blocks: int) -> npt.NDArray[np.int64]:
        """Hand out blocks with one external hold each, all or nothing.

        Cached blocks are evicted where free ones do not suffice (`last_evicted`).

        Parameters
        ----------
        num_blocks : int

        Returns
        -------
        int64 array, shape (num_blocks,)
            Handles, ``generation << 32 | block_id``: stale once the block is given up.

        Raises
        ------
        OutOfBlocksError

        Examples
        --------
        >>> from nbkv import CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> handles = cache.allocate(2)
        >>> handles & 0xFFFFFFFF
        array([0, 1])
        >>> cache.release(handles)
        """
        count = min(check_count("num_blocks", num_blocks), _INT64_MAX)
        out = np.empty(min(count, self.total_blocks), INT64)
        status = external.allocate_blocks(self._arena, count, out)
        if status < 0:
            self._fail(status, "num_blocks", num_blocks)
        return out

    def acquire(self, block_ids: BlockIds) -> None:
        """Add an external hold to each block, all or nothing: it is kept until `release`.

        A block that can be found is held for what it continues, too: acquire a prefix from
        its first block on, in one call or several. One whose parent has no external hold
        after this call is cut from it, and no walk finds it or what follows any more.

        Parameters
        ----------
        block_ids : int64 or int32 array
            int64 are handles (`allocate`, `find`), int32 are block ids. A block that stands
            in it twice is held twice.

        Raises
        ------
        StaleHandleError
            A handle's block is free, or was handed out anew.
        BlockError
            A block is free, or empty and some sequence's.
        PrefixError
            A block would be cut that a named prefix covers.
        CapacityError
            A block has 32,767 external holds.
        ArgumentError
        """
        values, by_handle = _as_blocks("block_ids", block_ids)
        status = external.acquire_blocks(self._arena, values, by_handle)
        if status < 0:
            self._fail_block(status, "block_ids", values)

    def release(self, block_ids: BlockIds) -> None:
        """Take an external hold from each block, all or nothing.

        Blocks that nobody holds then become free in the order given; those that can be found
        stay cached and enter the eviction order last first, but each after its children. Give
        them head first, as in a block table.

        Parameters
        ----------
        block_ids : int64 or int32 array
            Handles or block ids. Blocks that still have external holds when their parent's
            last one goes are cut from it.

        Raises
        ------
        BlockError
            A block has fewer external holds than times it stands here.
        StaleHandleError
            A handle's block is free, or was handed out anew.
        PrefixError
            A block would be cut that a named prefix covers.
        ArgumentError

        Notes
        -----
        Which children a block has is not recorded. When the last external hold of a block
        with several linked children goes, or with one that has external holds, all blocks
        are looked through.
        """
        values, by_handle = _as_blocks("block_ids", block_ids)
        status = release.release_blocks(self._arena, values, by_handle)
        if status < 0:
            self._fail_block(status, "block_ids", values)

    def index(
        self, block_ids: BlockIds, keys: npt.NDArray[np.uint64], parents: BlockIds
    ) -> npt.NDArray[np.bool_]:
        """Make full blocks findable under the caller's hashes, all or nothing.

        The caller states that their content exists once this call returns. `add_sequence`
        and ``match_prefix(block_hashes=...)`` find them as well.

        Parameters
        ----------
        block_ids : int64 or int32 array, shape (n,)
            Blocks with external holds and no other holder, neither indexed nor named.
        keys : uint64 array, shape (n,)
            Each stands for all tokens up to its block's end.
        parents : int64 or int32 array, shape (n,)
            The block before each: `NO_BLOCK` at the root, or one with external holds, itself
            under a caller's hash or in `block_ids` further in front.

        Returns
        -------
        bool array, shape (n,)
            False for a block that stays private: another one has its key under the same
            parent (`find` tells which), or its parent has stayed private in this call.

        Raises
        ------
        BlockError, StaleHandleError
        PrefixError
            A parent cannot be one.
        ArgumentError

        Examples
        --------
        >>> import numpy as np
        >>> from nbkv import NO_BLOCK, CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> handles, keys = cache.allocate(2), np.array([7, 8], np.uint64)
        >>> cache.index(handles, keys, np.array([NO_BLOCK, handles[0]]))
        array([ True,  True])
        >>> bool((cache.find(keys) == handles).all())
        True
        """
        values, by_handle = _as_blocks("block_ids", block_ids)
        hashes = check_hashes("keys", keys)
        above, parents_by_handle = _as_blocks("parents", parents)
        for name, array in (("keys", hashes), ("parents", above)):
            if array.size != values.size:
                refuse(name, f"{array.size} numbers", f"as many as block_ids, {values.size}")
        out = np.empty(values.size, np.bool_)
        status = external_keys.index_blocks(
            self._arena, values, by_handle, hashes, above, parents_by_handle, out
        )
        if status < 0:
            if status == BAD_PARENT:
                self._fail_block(status, "parents", above)
            self._fail_block(status, "block_ids", values)
        return out

    def find(
        self, keys: npt.NDArray[np.uint64], parents: BlockIds | None = None
    ) -> npt.NDArray[np.int64]:
        """Find full blocks by the caller's hashes; changes nothing and counts nothing.

        Parameters
        ----------
        keys : uint64 array, shape (n,)
        parents : int64 or int32 array, shape (n,), optional
            Look each key up under its parent, `NO_BLOCK` for the root. When omitted, the
            first key is looked up at the root and each other one under the block before.

        Returns
        -------
        int64 array, shape (n,)
            Handles, held or cached blocks; -1 where there is none. Nothing keeps a cached
            block until it is acquired.

        Raises
        ------
        StaleHandleError, BlockError, ArgumentError
            Of `parents`.
        """
        hashes = check_hashes("keys", keys)
        out = np.empty(hashes.size, INT64)
        above, by_handle = (out, True) if parents is None else _as_blocks("parents", parents)
        if above.size != hashes.size:
            refuse("parents", f"{above.size} numbers", f"as many as keys, {hashes.size}")
        found = external_keys.find_blocks(
            self._arena, hashes, above, by_handle, parents is None, out
        )
        if found < 0:
            self._fail_block(found, "parents", above)
        return out

    @property
    def num_external_holds(self) -> int:
        """External holds of all blocks together."""
        return self._count("num_external_holds")

    def _fail_block(self, status: int, name: str, values: npt.NDArray[np.int64]) -> NoReturn:
        at = int(self._runtime["detail"][0])
        self._fail(status, f"{name}[{at}]", int(values[at]))


def _as_blocks(name: str, values: object) -> tuple[npt.NDArray[np.int64], bool]:
    """Take handles as they are and block ids as int64; tell which they are."""
    if isinstance(values, np.ndarray) and values.dtype == np.int32:
        return check_vector(name, values, np.int32).astype(np.int64), False
    if isinstance(values, np.ndarray) and values.dtype != np.int64:
        refuse(name, f"{values.dtype} array", "int64 for handles or int32 for block ids")
    return check_vector(name, values, np.int64), True
