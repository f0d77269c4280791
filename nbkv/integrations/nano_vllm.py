"""nano-vllm's block manager over nbkv: put it in the place of `nanovllm`'s own."""

import secrets
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nbkv._keyed_blocks import KeyedBlocks
from nbkv.errors import ArgumentError, BlockError
from nbkv.hashing import hash_tokens

#: What `BlockManager.can_allocate` answers when a sequence does not fit.
DOES_NOT_FIT = -1

_KEY_BYTES = 16
_NO_TOKENS = np.empty(0, np.int32)


class Sequence(Protocol):
    """What the manager reads and writes of nano-vllm's sequences."""

    seq_id: int
    token_ids: Items[int]
    block_table: list[int]
    num_cached_tokens: int
    num_scheduled_tokens: int

    def __len__(self) -> int: ...


class BlockManager:
    """Decides which blocks the sequences of nano-vllm's scheduler use.

    Parameters
    ----------
    num_blocks : int
    block_size : int
        Tokens a block.

    Notes
    -----
    A call that raises has changed nothing. A hit compares 128 bits of a hash over the whole
    prefix, keyed anew in each process, and the tokens of each block.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class Request(SimpleNamespace):
    ...     def __len__(self):
    ...         return len(self.token_ids)
    >>> manager = BlockManager(num_blocks=8, block_size=4)
    >>> first = Request(seq_id=1, token_ids=list(range(9)), block_table=[], num_cached_tokens=0)
    >>> manager.allocate(first, manager.can_allocate(first))
    >>> first.num_scheduled_tokens = 9
    >>> manager.hash_blocks(first)
    >>> second = Request(seq_id=2, token_ids=list(range(9)), block_table=[], num_cached_tokens=0)
    >>> manager.allocate(second, manager.can_allocate(second))
    >>> first.block_table, second.block_table, second.num_cached_tokens
    ([0, 1, 2], [0, 1, 3], 8)
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._blocks = KeyedBlocks(num_blocks, block_size, newest_first=True)
        self._seed = secrets.randbits(63)
        self._contents = np.empty((num_blocks, block_size), np.int32)
        #: What each sequence's leading blocks were converted from, and to.
        self._converted: dict[int, tuple[Items[int], npt.NDArray[np.int32]]] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks in no sequence's table."""
        return self._blocks.num_free

    def can_allocate(self, seq: Sequence) -> int:
        """Tell how many blocks of a sequence are cached, if it fits as a whole.

        Parameters
        ----------
        seq : Sequence
            Without a block table. Its last block is never counted: something must be left
            to compute.

        Returns
        -------
        int
            Blocks, or ``DOES_NOT_FIT``.
        """
        hits = self._find(seq)
        num_held = np.count_nonzero(self._blocks.ref_counts[hits]) if hits else 0
        if self._num_blocks_of(seq) - num_held > self._blocks.num_free:
            # It may never come back: an abort of what waits is not told.
            self._converted.pop(seq.seq_id, None)
            return DOES_NOT_FIT
        return len(hits)

    def allocate(self, seq: Sequence, num_cached_blocks: int) -> None:
        """Give a sequence its block table: what is cached, then new blocks.

        Parameters
        ----------
        seq : Sequence
            Its `block_table` and `num_cached_tokens` are set.
        num_cached_blocks : int
            As `can_allocate` has just told, or fewer.

        Raises
        ------
        BlockError
            It has a block table.
        ArgumentError
            Not so many blocks are cached.
        OutOfBlocksError
        """
        if seq.block_table:
            raise BlockError(f"sequence {seq.seq_id} has a block table already")
        hits = self._find(seq)[:num_cached_blocks]
        if not 0 <= num_cached_blocks == len(hits):
            raise ArgumentError(
                f"num_cached_blocks is {num_cached_blocks}; allowed: 0 to {len(hits)},"
                " the blocks that are cached"
            )
        self._blocks.hold(hits)
        try:
            new, _ = self._blocks.take(self._num_blocks_of(seq) - len(hits))
        except BaseException:
            self._blocks.let_go(hits[::-1])
            raise
        seq.block_table.extend(hits + new)
        seq.num_cached_tokens = len(hits) * self.block_size

    def deallocate(self, seq: Sequence) -> None:
        """Take a sequence's blocks back: it is finished, or preempted.

        Parameters
        ----------
        seq : Sequence
            What can be found of it stays cached, and its end is evicted first.

        Raises
        ------
        BlockError
            It has no blocks, or one of them was given back already.
        """
        if not seq.block_table:
            raise BlockError(f"sequence {seq.seq_id} has no blocks: was it deallocated before?")
        self._blocks.let_go(seq.block_table[::-1])
        self._converted.pop(seq.seq_id, None)
        seq.num_cached_tokens = 0
        seq.block_table.clear()

    def can_append(self, seq: Sequence) -> bool:
        """Tell whether there is room for the last token of a sequence.

        Parameters
        ----------
        seq : Sequence

        Returns
        -------
        bool
        """
        return self._blocks.num_free >= self._num_blocks_of(seq) - len(seq.block_table)

    def may_append(self, seq: Sequence) -> None:
        """Add a block to a sequence's table if its last token needs one.

        Parameters
        ----------
        seq : Sequence

        Raises
        ------
        OutOfBlocksError
        """
        missing = self._num_blocks_of(seq) - len(seq.block_table)
        if missing > 0:
            seq.block_table.extend(self._blocks.take(missing)[0])

    def hash_blocks(self, seq: Sequence) -> None:
        """Make the blocks findable that the tokens just computed have filled.

        Parameters
        ----------
        seq : Sequence
            `num_cached_tokens` are those computed before, `num_scheduled_tokens` those since.

        Raises
        ------
        ArgumentError
            The sequence has fewer tokens than that.
        """
        size = self.block_size
        start = seq.num_cached_tokens // size
        end = (seq.num_cached_tokens + seq.num_scheduled_tokens) // size
        if start == end:
            return
        tokens = self._tokens_of(seq, end)
        keys = self._keys(tokens)[0][start:end]
        block_ids = seq.block_table[start:end]
        self._contents[block_ids] = tokens[start * size :].reshape(end - start, size)
        self._blocks.publish(block_ids, keys)

    def _num_blocks_of(self, seq: Sequence) -> int:
        return -(-len(seq) // self.block_size)

    def _find(self, seq: Sequence) -> list[int]:
        """Find the longest cached prefix of a sequence, its last block excluded."""
        num_blocks = self._num_blocks_of(seq) - 1
        if num_blocks <= 0:
            return []
        tokens = self._tokens_of(seq, num_blocks)
        keys, words = self._keys(tokens)
        found = self._blocks.find(keys, words)
        hits = found[: found.index(-1)] if -1 in found else found
        same = self._contents[hits] == tokens.reshape(num_blocks, -1)[: len(hits)]
        differing = np.flatnonzero(~same.all(axis=1))
        return hits[: differing[0]] if differing.size else hits

    def _tokens_of(self, seq: Sequence, num_blocks: int) -> npt.NDArray[np.int32]:
        """Return the tokens of a sequence's leading blocks, converting each only once."""
        count = num_blocks * self.block_size
        source, known = self._converted.get(seq.seq_id, (None, _NO_TOKENS))
        if source is not seq.token_ids:
            known = _NO_TOKENS
        if known.size < count:
            more = np.array(seq.token_ids[known.size : count], np.int32)
            known = np.concatenate((known, more))
            if known.size < count:
                raise ArgumentError(
                    f"sequence {seq.seq_id} has {known.size} tokens; its blocks need {count}"
                )
            self._converted[seq.seq_id] = seq.token_ids, known
        return known[:count]

    def _keys(self, tokens: npt.NDArray[np.int32]) -> tuple[list[bytes], npt.NDArray[np.uint64]]:
        """Return the chain hash of each block, and `word_of` it."""
        hashes = hash_tokens(tokens, self.block_size, seed=self._seed)
        data = hashes.tobytes()
        keys = [data[at : at + _KEY_BYTES] for at in range(0, len(data), _KEY_BYTES)]
        return keys, hashes[:, 0] ^ hashes[:, 1]
