"""Blocks of one cache under keys that stand for whole prefixes: what adapters are made of.

Engines that hash find each block by a key of its own, whatever stands before it in a table.
So every block is indexed at the root, under 64 bits of its key; the whole key is compared at
each hit. Equal contents may lie in several blocks, as they do in these engines: each further
one is indexed under bits that no key leads to, and noted here.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig
from nbkv.kernels import external_keys
from nbkv.layout import INDEXED, NO_BLOCK

_BLOCK_MASK = 0xFFFFFFFF
_WORD_BYTES = 8
_ROOT = np.array([NO_BLOCK], np.int64)
_WORD_MASK = 2**64 - 1
#: Odd, so that its multiples run through all words before one comes back.
_STRIDE = 0x9E3779B97F4A7C15


class KeyedBlocks:
    """Blocks with external holds, found by keys of more than 64 bits.

    Parameters
    ----------
    num_blocks : int
    block_size : int
        Tokens a block.
    newest_first : bool
        Which of several blocks with one key is found: the one published last, or first.

    Notes
    -----
    ``keys[b]`` is what block b is found by, None where it is not: it was never published,
    was handed out anew, evicted or forgotten.
    """

    def __init__(self, num_blocks: int, block_size: int, *, newest_first: bool = False) -> None:
        config = CacheConfig(
            block_size, num_blocks, 1, 1, 1, max_sequences=1, max_blocks_per_sequence=1
        )
        self.cache = PagedKVCache(config)
        self.keys: list[bytes | None] = [None] * num_blocks
        self.ref_counts: npt.NDArray[np.int32] = self.cache.blocks["ref_count"]
        self._flags: npt.NDArray[np.uint8] = self.cache.blocks["flags"]
        self._num_held = self.cache.header["num_held_blocks"]
        self._num_blocks = num_blocks
        self._newest_first = newest_first
        #: Blocks that the index does not lead to from their key, oldest first.
        self._others: dict[bytes, dict[int, None]] = {}
        self._next_word = 0
        #: Which block was published behind each, and what was found last: a guess at what is
        #: looked up next.
        self._after = [0] * num_blocks
        self._last = 0
        self._word = np.empty(1, np.uint64)
        self._block = np.empty(1, np.int64)
        self._found = np.empty(1, np.int64)
        self._done = np.empty(1, np.bool_)

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds: handed out next, those that can be found last."""
        return self._num_blocks - int(self._num_held[0])

    def take(self, num_blocks: int) -> tuple[list[int], list[tuple[int, bytes]]]:
        """Hand out blocks, each held once.

        Parameters
        ----------
        num_blocks : int

        Returns
        -------
        block_ids : list of int
        evicted : list of (int, bytes)
            What could be found until now, and its key.

        Raises
        ------
        OutOfBlocksError
        """
        cache = self.cache
        block_ids = (cache.allocate(num_blocks) & _BLOCK_MASK).tolist()
        evicted = []
        for block_id in cache.last_evicted.tolist():
            key = self.forget(block_id)
            if key is not None:
                evicted.append((block_id, key))
        return block_ids, evicted

    def hold(self, block_ids: Sequence[int]) -> None:
        """Hold blocks once more, all or nothing.

        Parameters
        ----------
        block_ids : sequence of int
            Held, or findable.

        Raises
        ------
        BlockError
        """
        self.cache.acquire(np.array(block_ids, np.int32))

    def let_go(self, block_ids: Sequence[int]) -> None:
        """Give back one hold of each block, all or nothing.

        Parameters
        ----------
        block_ids : sequence of int
            Of those that can be found, the first is evicted first.

        Raises
        ------
        BlockError
            A block has fewer holds than times it stands here.
        """
        self.cache.release(np.array(block_ids[::-1], np.int32))

    def publish(
        self, block_ids: Sequence[int], keys: Sequence[bytes], before: int = NO_BLOCK
    ) -> None:
        """Make held blocks findable; a block that can be found already is left as it is.

        Parameters
        ----------
        block_ids : sequence of int
            Held here and by no one else, their contents written or about to be.
        keys : sequence of bytes
            At least 16 bytes, each standing for all tokens up to its block's end.
        before : int
            The block in front of the first, where there is one.

        Raises
        ------
        BlockError
        """
        pairs = zip(block_ids, keys, strict=True)
        new = [(block_id, key) for block_id, key in pairs if self.keys[block_id] is None]
        fresh = [pair for pair in new if not self._flags[pair[0]] & INDEXED]
        if fresh:
            self._index(fresh)
        for block_id, key in new:
            # Forgotten while it was held: the index still has it, under an old key.
            if self.keys[block_id] is None:
                self._note(block_id, key)
        for block_id in block_ids:
            if before != NO_BLOCK:
                self._after[before] = block_id
            before = block_id

    def find(self, keys: Sequence[bytes], words: npt.NDArray[np.uint64] | None = None) -> list[int]:
        """Look each key up by itself; nothing changes.

        Parameters
        ----------
        keys : sequence of bytes
        words : uint64 array, optional
            `word_of` each, where the caller has them.

        Returns
        -------
        list of int
            -1 where there is none.
        """
        if words is None:
            words = np.array([word_of(key) for key in keys], np.uint64)
        found = self.cache.find(words, np.full(len(keys), NO_BLOCK, np.int32))
        return [
            self._checked(handle & _BLOCK_MASK if handle >= 0 else NO_BLOCK, key)
            for handle, key in zip(found.tolist(), keys, strict=True)
        ]

    def find_one(self, key: bytes) -> int:
        """Look one key up: at once if it is what follows the one looked up before.

        Parameters
        ----------
        key : bytes

        Returns
        -------
        int
            -1 where there is none.
        """
        guess = self._after[self._last]
        if self.keys[guess] == key and key not in self._others:
            self._last = guess
            return guess
        self._word[0] = word_of(key)
        found = self._found
        external_keys.find_blocks(self.cache._arena, self._word, _ROOT, True, False, found)
        handle = int(found[0])
        block_id = self._checked(handle & _BLOCK_MASK if handle >= 0 else NO_BLOCK, key)
        if block_id != NO_BLOCK:
            self._last = block_id
        return block_id

    def forget(self, block_id: int) -> bytes | None:
        """Let a block be found no more; where it is held and when it is evicted stays.

        Parameters
        ----------
        block_id : int

        Returns
        -------
        bytes or None
            Its key, if it could be found.
        """
        key = self.keys[block_id]
        if key is None:
            return None
        self.keys[block_id] = None
        others = self._others.get(key)
        if others is not None and others.pop(block_id, NO_BLOCK) is None and not others:
            del self._others[key]
        return key

    def reset(self) -> None:
        """Forget all keys: what is not held becomes free."""
        self.cache.reset_prefix_cache()
        self.keys = [None] * self._num_blocks
        self._others.clear()

    def _index(self, fresh: list[tuple[int, bytes]]) -> None:
        """Index blocks that the index does not have."""
        # Younger blocks must not hide older ones with the same key.
        words = [self._spare_word() if key in self._others else word_of(key) for _, key in fresh]
        if len(fresh) == 1:
            done = [self._index_one(fresh[0][0], words[0])]
        else:
            ids = np.array([block_id for block_id, _ in fresh], np.int32)
            roots = np.full(len(fresh), NO_BLOCK, np.int32)
            done = self.cache.index(ids, np.array(words, np.uint64), roots).tolist()
        for (block_id, key), is_indexed in zip(fresh, done, strict=True):
            if is_indexed and key not in self._others:
                self.keys[block_id] = key
            else:
                self._index_apart(block_id, key, is_indexed)

    def _index_one(self, block_id: int, word: int) -> bool:
        """Index a block under 64 bits, unless another block is; what a decode step does."""
        self._block[0], self._word[0] = block_id, word
        status = external_keys.index_blocks(
            self.cache._arena, self._block, False, self._word, _ROOT, False, self._done
        )
        if status < 0:
            self.cache._fail_block(status, "block_ids", self._block)
        return bool(self._done[0])

    def _checked(self, block_id: int, key: bytes) -> int:
        """Compare the whole key of what 64 bits have found, or look among the others."""
        others = self._others.get(key)
        if others and self._newest_first:
            return next(reversed(others))
        if block_id != NO_BLOCK and self.keys[block_id] == key:
            return block_id
        return next(iter(others)) if others else NO_BLOCK

    def _index_apart(self, block_id: int, key: bytes, is_indexed: bool) -> None:
        """Index a block whose bits are taken, so that it is evicted in its turn."""
        while not is_indexed:
            is_indexed = self._index_one(block_id, self._spare_word())
        self._note(block_id, key)

    def _note(self, block_id: int, key: bytes) -> None:
        self.keys[block_id] = key
        self._others.setdefault(key, {})[block_id] = None

    def _spare_word(self) -> int:
        self._next_word = (self._next_word + _STRIDE) & _WORD_MASK
        return self._next_word


def word_of(key: bytes) -> int:
    """Take 64 bits of a key: of a digest, and of what may stand behind it.

    Parameters
    ----------
    key : bytes
        At least 16.

    Returns
    -------
    int
        uint64.
    """
    start, end = key[:_WORD_BYTES], key[-_WORD_BYTES:]
    return int.from_bytes(start, "little") ^ int.from_bytes(end, "little")
