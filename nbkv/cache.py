"""`PagedKVCache`: checks arguments, calls one kernel, raises what it refuses."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nbkv._arguments import (
    check_count,
    check_hashes,
    check_id,
    refuse,
)
from nbkv._failures import lack_of_blocks
from nbkv._pooled import PooledCalls
from nbkv.kernels import append, sequences
from nbkv.layout import INT32
from nbkv.statuses import BELOW_WINDOW, SEQUENCE_EXISTS, SHARE_TOO_LONG, TOO_MANY_SEQUENCES

_INT64_MAX = 2**63 - 1
#: Looked up once: twice a call, in numpy and here, it took longer than an id's check.
_empty = np.empty
_BLAMES_NEW_SEQUENCE = (SEQUENCE_EXISTS, TOO_MANY_SEQUENCES)


class PagedKVCache(PooledCalls):
    """Decides which block of the pool each token of each sequence lives in.

    Parameters
    ----------
    config : CacheConfig
        Shape and policy.
    pool : HostPool or CudaPool, optional
        Of the same shape: `append` and `execute` move bytes in it. No other call does.

    Notes
    -----
    After any exception the arena, its runtime section aside, is byte for byte what it was.
    Calls of one cache must not overlap; kernels hold the GIL, which sees to it.

    Examples
    --------
    >>> from nbkv import CacheConfig, PagedKVCache
    >>> cache = PagedKVCache(CacheConfig(16, 100, num_layers=32, num_kv_heads=8, head_dim=128))
    >>> cache.allocate_blocks_for_tokens(seq_id=1, num_tokens=50)
    array([0, 1, 2, 3], dtype=int32)
    >>> cache.append_token(1)
    3
    >>> cache.num_free_blocks
    96
    """

    def allocate_block(self, seq_id: int) -> int:
        """Add an empty block to a sequence's table, opening the sequence if unknown.

        Parameters
        ----------
        seq_id : int
            uint64.

        Returns
        -------
        int
            Its block_id.

        Raises
        ------
        OutOfBlocksError, CapacityError
        """
        block_id = append.allocate_block(self._arena, check_id("seq_id", seq_id))
        if block_id < 0:
            self._fail(block_id, "seq_id", seq_id)
        return block_id

    def allocate_blocks_for_tokens(self, seq_id: int, num_tokens: int) -> npt.NDArray[np.int32]:
        """Append tokens to a sequence, opening it if unknown.

        A partial tail is filled first, then blocks that the table already has, then new ones.

        Parameters
        ----------
        seq_id : int
            uint64.
        num_tokens : int
            0 does nothing and opens nothing.

        Returns
        -------
        int32 array
            The new block ids only.

        Raises
        ------
        OutOfBlocksError, CapacityError
        """
        if type(seq_id) is not int:
            seq_id = check_id("seq_id", seq_id)
        if type(num_tokens) is not int or num_tokens <= 0:
            num_tokens = check_count("num_tokens", num_tokens)
            if num_tokens == 0:
                check_id("seq_id", seq_id)
                return _empty(0, INT32)
        needed = (num_tokens - 1) // self._block_size + 1
        if needed > self._num_blocks:
            check_id("seq_id", seq_id)
            raise lack_of_blocks(self._header, needed)
        out = _empty(needed, INT32)
        try:
            written = append.allocate_for_tokens(self._arena, seq_id, num_tokens, out)
        except OverflowError:
            check_id("seq_id", seq_id)
            raise
        if written == needed:
            return out
        if written < 0:
            self._fail(written, "seq_id", seq_id)
        return out[:written]

    def append_token(self, seq_id: int) -> int:
        """Append one token to a sequence, opening it if unknown.

        Parameters
        ----------
        seq_id : int
            uint64.

        Returns
        -------
        int
            The block_id it lies in; a copy's when the block was shared (`last_copies`).

        Raises
        ------
        OutOfBlocksError, CapacityError
        """
        if type(seq_id) is not int:
            seq_id = check_id("seq_id", seq_id)
        try:
            block_id = append.append_token(self._arena, seq_id)
        except OverflowError:
            check_id("seq_id", seq_id)
            raise
        if block_id < 0:
            self._fail(block_id, "seq_id", seq_id)
        return block_id

    def add_sequence(
        self,
        seq_id: int,
        block_hashes: Sequence[int] | npt.NDArray[np.uint64] | None = None,
        num_tokens: int | None = None,
    ) -> int:
        """Open a sequence: hold its longest cached prefix, allocate and index the rest.

        The caller states that the blocks under these hashes exist once this call returns.

        Parameters
        ----------
        seq_id : int
            uint64, not alive.
        block_hashes : uint64 array or sequence of int, optional
            One a block, each standing for all tokens up to its block's end.
        num_tokens : int, optional
            ``len(block_hashes) * block_size`` when omitted. Blocks beyond the hashes are
            private; a partly filled last block is indexed with its fill.

        Returns
        -------
        int
            The handle. `num_hit_tokens` tells the hit.

        Raises
        ------
        DuplicateSequenceError, OutOfBlocksError, CapacityError
        ArgumentError
            Fewer tokens than the hashes cover.
        """
        number = check_id("seq_id", seq_id)
        hashes = check_hashes("block_hashes", block_hashes)
        block_size = self._block_size
        if num_tokens is None:
            tokens = hashes.size * block_size
        else:
            tokens = check_count("num_tokens", num_tokens)
            least = (hashes.size - 1) * block_size + 1 if hashes.size else 0
            if not least <= tokens <= _INT64_MAX:
                refuse("num_tokens", num_tokens, f"{least} to {_INT64_MAX} with these hashes")
        handle = sequences.add_sequence(self._arena, number, hashes, tokens)
        if handle < 0:
            self._fail(handle, "seq_id", seq_id)
        return handle

    def free_sequence(self, seq_id: int) -> None:
        """End a sequence; blocks that a prefix finds stay cached, the others become free.

        Parameters
        ----------
        seq_id : int
            uint64.

        Raises
        ------
        UnknownSequenceError
        """
        status = sequences.free_sequence(self._arena, check_id("seq_id", seq_id))
        if status < 0:
            self._fail(status, "seq_id", seq_id)

    def share_prefix(self, src: int, dst: int, num_blocks: int) -> None:
        """Open a sequence over the leading blocks of another one, without a copy.

        Parameters
        ----------
        src, dst : int
            uint64; `dst` is not alive.
        num_blocks : int
            1 up to the block of the next token of `src`, if its table has it.

        Raises
        ------
        UnknownSequenceError, DuplicateSequenceError, PrefixError, CapacityError
        ArgumentError
            It would end among blocks that the window has left behind.
        """
        count = check_count("num_blocks", num_blocks)
        self._share(src, dst, min(count, _INT64_MAX))

    def fork(self, src: int, dst: int) -> None:
        """Open a sequence that continues another one: all its blocks with tokens are shared.

        Parameters
        ----------
        src, dst : int
            uint64; `dst` is not alive.

        Raises
        ------
        UnknownSequenceError, DuplicateSequenceError, CapacityError
        """
        self._share(src, dst, -1)

    def _share(self, src: int, dst: int, num_blocks: int) -> None:
        source, number = check_id("src", src), check_id("dst", dst)
        status = sequences.share_prefix(self._arena, source, number, num_blocks)
        if status == SHARE_TOO_LONG:
            self._fail(status, "num_blocks", num_blocks)
        if status == BELOW_WINDOW:
            least = int(self._runtime["detail"][0])
            allowed = f"at least {least}, since blocks before have left the window"
            refuse("num_blocks", num_blocks, allowed)
        if status in _BLAMES_NEW_SEQUENCE:
            self._fail(status, "dst", dst)
        if status < 0:
            self._fail(status, "src", src)

    def truncate(self, seq_id: int, num_tokens: int) -> None:
        """Keep a sequence's first tokens and release the blocks beyond them.

        Parameters
        ----------
        seq_id : int
            uint64.
        num_tokens : int
            0 to what the sequence has.

        Raises
        ------
        UnknownSequenceError
        ArgumentError
            More than the sequence has, or so few that its window would have holes.
        """
        count = min(check_count("num_tokens", num_tokens), _INT64_MAX)
        status = sequences.truncate(self._arena, check_id("seq_id", seq_id), count)
        if status < 0:
            name = "seq_id" if seq_id not in self else "num_tokens"
            self._fail(status, name, seq_id if name == "seq_id" else num_tokens)
