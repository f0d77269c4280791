"""The part of the facade that gives the keys of blocks to stores and routers."""

import numpy as np

from nbkv import layout
from nbkv._arguments import check_count, check_flag
from nbkv._blocks import BlockCalls
from nbkv.arena import read_only
from nbkv.hashing import key_bytes, sha256_blocks
from nbkv.kernels import exports

_ROW_MASK = 0xFFFFFFFF


class KeyExports(BlockCalls):
    """Names of contents, the same in every process."""

    def export_keys(
        self, seq_id: int | None = None, sha256: bool = False, *, handle: int | None = None
    ) -> list[bytes]:
        """Return the key of each full block of a sequence whose tokens are known.

        Computed from the recorded tokens, whether or not the blocks are indexed: the same
        as those of `nbkv.hash_tokens` for the prompt, its salt and extra keys, or of
        `nbkv.hashing.sha256_chain`.

        Parameters
        ----------
        seq_id : int, optional
            uint64.
        sha256 : bool
            Return SHA-256 digests, for stores that look content up by its hash alone.
        handle : int, optional
            Of the sequence, instead of its seq_id.

        Returns
        -------
        list of bytes
            16 bytes a block (`nbkv.hashing.key_bytes`), or 32.

        Raises
        ------
        UnknownSequenceError, StaleHandleError
        PrefixError
            The keys are not known: the first blocks have left the window, or the sequence
            was cut inside an extra key, or attached to a prefix of another salt.
        TypeError
            Not exactly one of `seq_id` and `handle`.

        Examples
        --------
        >>> from nbkv import CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> handle, _ = cache.admit(1, range(9))
        >>> plan = cache.plan(np.array([handle]), 9)
        >>> _ = cache.commit(plan, tokens=range(9))
        >>> [len(key) for key in cache.export_keys(1)]
        [16, 16]
        """
        if (seq_id is None) == (handle is None):
            raise TypeError("export_keys takes a seq_id or a handle, one of them")
        if seq_id is not None:
            name, given, number = "seq_id", seq_id, self.handle(seq_id)
        elif handle is not None:
            name, given = "handle", handle
            number = min(check_count(name, handle), 2**63 - 1)
        digests = check_flag("sha256", sha256)
        count = exports.count_known(self._arena, number)
        if count < 0:
            self._fail(count, name, given)
        hashes = np.empty((count, 2), np.uint64)
        tokens = np.empty(count * self._block_size, np.int32)
        status = exports.export_chain(self._arena, number, hashes, tokens)
        if status < 0:
            self._fail(status, name, given)
        if not digests:
            return [key_bytes(low, high) for low, high in hashes.tolist()]
        salt, extra_keys = self._identity(number & _ROW_MASK)
        return sha256_blocks(tokens, self._block_size, salt, extra_keys)

    def _identity(self, row: int) -> tuple[tuple[int, int], list[tuple[int, int, int]]]:
        """Read a sequence's salt and extra keys, as they are kept."""
        keys = read_only(
            self._arena, "sequence_keys", layout.SEQUENCE_KEY_DTYPE, self.config.max_sequences
        )
        extras = read_only(self._arena, "extras", layout.EXTRA_DTYPE, self.config.extra_capacity)
        found = []
        extra = int(keys["first_extra"][row]) - 1
        while extra >= 0:
            start, end, digest = (extras[field][extra] for field in ("start", "end", "digest"))
            found.append((int(start), int(end), int(digest)))
            extra = int(extras["next_extra"][extra]) - 1
        return (int(keys["salt_low"][row]), int(keys["salt_high"][row])), found
