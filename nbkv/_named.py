"""The part of the facade that deals with named prefixes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_block_ids, check_id
from nbkv._inspection import ArenaOwner
from nbkv.errors import PrefixError
from nbkv.kernels import named
from nbkv.statuses import (
    NOT_LEADING,
    PARENT_NOT_HELD,
    SEQUENCE_EXISTS,
    TOO_MANY_BLOCKS,
    TOO_MANY_SEQUENCES,
)


class NamedPrefixes(ArenaOwner):
    """Prefixes under hashes of the caller's choosing: the seed's register and lookup."""

    def register_prefix(
        self, prefix_hash: int, block_ids: Sequence[int] | npt.NDArray[np.int32]
    ) -> None:
        """Name the leading full blocks of a live sequence.

        A name holds no reference: it keeps its blocks cached when they are let go, and dies
        whole when its last block is evicted. The same hash with the same blocks changes nothing.

        Parameters
        ----------
        prefix_hash : int
            uint64.
        block_ids : int32 array or sequence of int
            At least one; ``block_table(seq_id)[:n]``.

        Raises
        ------
        PrefixError
            No blocks, not the leading full blocks of one live sequence (one cut from the block
            before is none), or the hash names others. A block has external holds, but the one
            before it has none.
        CapacityError
            max_named_prefixes is reached.

        Examples
        --------
        >>> from nbkv import CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> ids = cache.allocate_blocks_for_tokens(1, 8)
        >>> cache.register_prefix(0xABC, ids)
        >>> cache.lookup_prefix(0xABC)
        array([0, 1], dtype=int32)
        """
        number = check_id("prefix_hash", prefix_hash)
        ids = check_block_ids("block_ids", block_ids, self.total_blocks)
        if ids.size == 0:
            raise PrefixError("block_ids is empty; it must have at least one block")
        status = named.register_prefix(self._arena, number, ids)
        if status == NOT_LEADING:
            self._fail(status, "block_ids", ids.tolist())
        if status == PARENT_NOT_HELD:
            at = int(self._runtime["detail"][0])
            self._fail(status, f"block_ids[{at}]", ids[at])
        if status < 0:
            self._fail(status, "prefix_hash", prefix_hash)

    def lookup_prefix(self, prefix_hash: int) -> npt.NDArray[np.int32] | None:
        """Return the block ids of a named prefix and count a hit or a miss.

        The blocks are not held: `attach_prefix` does that. A lookup is not a use.

        Parameters
        ----------
        prefix_hash : int
            uint64.

        Returns
        -------
        int32 array or None
            Head first; None when nothing is registered.
        """
        count = named.lookup_prefix(self._arena, check_id("prefix_hash", prefix_hash))
        return self._scratch[:count].copy() if count >= 0 else None

    def attach_prefix(self, prefix_hash: int, seq_id: int) -> None:
        """Open a sequence over a named prefix, holding its blocks.

        Parameters
        ----------
        prefix_hash, seq_id : int
            uint64.

        Raises
        ------
        PrefixError
            Nothing is registered under the hash.
        DuplicateSequenceError
            The sequence is alive already.
        CapacityError
            max_sequences or max_blocks_per_sequence is reached.
        """
        number = check_id("prefix_hash", prefix_hash)
        status = named.attach_prefix(self._arena, number, check_id("seq_id", seq_id))
        if status in (SEQUENCE_EXISTS, TOO_MANY_BLOCKS, TOO_MANY_SEQUENCES):
            self._fail(status, "seq_id", seq_id)
        if status < 0:
            self._fail(status, "prefix_hash", prefix_hash)

    def unregister_prefix(self, prefix_hash: int) -> None:
        """Forget a named prefix; blocks that nothing else keeps become free.

        Parameters
        ----------
        prefix_hash : int
            uint64.

        Raises
        ------
        PrefixError
            Nothing is registered under the hash.
        """
        status = named.unregister_prefix(self._arena, check_id("prefix_hash", prefix_hash))
        if status < 0:
            self._fail(status, "prefix_hash", prefix_hash)
