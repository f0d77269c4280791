"""The part of the facade that admits prompts: match, admit, and what is left cached."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_flag, check_id, check_prompt_hashes, check_tokens
from nbkv._exports import KeyExports
from nbkv.hashing import ExtraKey, Salt, Tokens, normalize_extra_keys
from nbkv.kernels import admit, hashed, match
from nbkv.statuses import TOO_MANY_EXTRAS

_INT64_MAX: Final = 2**63 - 1
_INT32_MAX: Final = 2**31 - 1
_ROW_MASK: Final = 0xFFFFFFFF
_NO_SALT: Final = (0, 0)
_ZERO: Final = 0
_new_tuple = tuple.__new__
_NO_EXTRAS: Final = normalize_extra_keys(())


class PrefixMatch(NamedTuple):
    """How much of a prompt is cached, as of the moment of asking.

    Attributes
    ----------
    num_tokens : int
        Of the prompt.
    num_hit_tokens : int
        Of which this many, from the start, need not be computed.
    num_hit_blocks : int
        Whole blocks hit.
    num_partial_tokens : int
        Tokens taken of one block more (``partial_reuse``); a plan copies them.
    num_revived : int
        Blocks hit, the partial one included, that are evictable now: holding them makes as
        many fewer evictable.
    """

    num_tokens: int
    num_hit_tokens: int
    num_hit_blocks: int
    num_partial_tokens: int
    num_revived: int


class Admission(KeyExports):
    """Prompts and the prefixes of them that are cached."""

    def match_prefix(
        self,
        token_ids: Tokens | None = None,
        *,
        block_hashes: npt.NDArray[np.uint64] | None = None,
        salt: Salt | None = None,
        extra_keys: Iterable[ExtraKey] = (),
        max_hit_tokens: int | None = None,
    ) -> PrefixMatch:
        """Tell how much of a prompt is cached; changes nothing and counts nothing.

        Parameters
        ----------
        token_ids : int32 array or sequence of int
            The prompt, unless its hashes are given.
        block_hashes : uint64 array, optional
            Hashes of its blocks made elsewhere. Shape (n, 2): chain hashes as
            `nbkv.hash_tokens` makes them with this cache's block_size and hash_seed. They
            are compared by their 128 bits and by what stands before; tokens are not, so
            take the result for an estimate: to route by, say. Shape (n,): the caller's own,
            as `add_sequence` and `index` take them.
        salt : Salt, optional
            Tenant and adapter; only prompts of the same hit.
        extra_keys : iterable of (start, end, digest)
            What placeholders at these token positions stand for.
        max_hit_tokens : int, optional
            Most tokens to hit, rounded down to whole blocks.

        Returns
        -------
        PrefixMatch
            Of hashes, ``num_tokens`` is that of as many full blocks. A block of the caller's
            last hash that is filled in part counts as ``num_partial_tokens``.

        Raises
        ------
        TypeError
            Not exactly one of `token_ids` and `block_hashes`, or a wrong type.
        ArgumentError

        Examples
        --------
        >>> import numpy as np
        >>> from nbkv import CacheConfig, PagedKVCache, StepBuffers
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> prompt = np.arange(10, dtype=np.int32)
        >>> handle, hit = cache.admit(1, prompt)
        >>> plan = cache.plan(np.array([handle]), 10 - hit)
        >>> _ = cache.commit(plan, tokens=prompt[hit:])
        >>> cache.match_prefix(prompt, max_hit_tokens=9).num_hit_tokens
        8
        >>> from nbkv import hash_tokens
        >>> cache.match_prefix(block_hashes=hash_tokens(prompt, 4)).num_hit_blocks
        2
        """
        if block_hashes is not None:
            if token_ids is not None or salt is not None or not _has_none(extra_keys):
                raise TypeError("block_hashes is given; nothing else of the prompt must be")
            return self._match_hashes(block_hashes, max_hit_tokens)
        limit = _INT64_MAX
        if max_hit_tokens is not None:
            check_tokens("token_ids", token_ids)
            limit = min(check_count("max_hit_tokens", max_hit_tokens), _INT64_MAX)
        if salt is None and _has_none(extra_keys):
            # Whether they are an int32 array as they should be, the kernel tells faster.
            try:
                fields = match.match_plain(self._arena, token_ids, limit)  # type: ignore[arg-type]
            except TypeError:
                fields = None
            if fields is None:
                tokens = check_tokens("token_ids", token_ids)
                fields = match.match_plain(self._arena, tokens, limit)
        else:
            tokens = check_tokens("token_ids", token_ids)
            low, high = _NO_SALT if salt is None else _words(salt)
            extras = normalize_extra_keys(extra_keys)
            fields = match.match_prefix(self._arena, tokens, limit, low, high, *extras)
        # Past the generated __new__, which costs as much as the whole kernel.
        return _new_tuple(PrefixMatch, fields)

    def _match_hashes(self, block_hashes: object, max_hit_tokens: int | None) -> PrefixMatch:
        hashes, words = check_prompt_hashes("block_hashes", block_hashes)
        columns = self.config.table_width
        if max_hit_tokens is not None:
            most = check_count("max_hit_tokens", max_hit_tokens)
            columns = min(columns, most // self._block_size)
        call = hashed.match_keys if words == 2 else hashed.match_hashes
        blocks, partial, revived = call(self._arena, hashes[: columns * words])
        hit = blocks * self._block_size + partial
        num_tokens = hashes.size // words * self._block_size
        return PrefixMatch(num_tokens, hit, blocks, partial, revived)

    def can_admit(self, match: PrefixMatch, reserve_tokens: int | None = None) -> bool:
        """Tell whether a matched prompt would fit now, the watermark left usable.

        Parameters
        ----------
        match : PrefixMatch
            From `match_prefix`, with nothing changed since.
        reserve_tokens : int, optional
            Tokens in all to have room for; the prompt's when omitted.

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ArgumentError
        """
        if not isinstance(match, PrefixMatch):
            raise TypeError(f"match is {match!r}; it must be a nbkv.PrefixMatch")
        tokens = match.num_tokens
        if reserve_tokens is not None:
            tokens = check_count("reserve_tokens", reserve_tokens)
        # Ints of any size: what a caller puts into a match may be numpy's.
        needed = -(-tokens // self._block_size) - int(match.num_hit_blocks)
        return needed <= self.num_usable_blocks - int(match.num_revived) - self.config.watermark

    def admit(
        self,
        seq_id: int,
        token_ids: Tokens,
        *,
        salt: Salt | None = None,
        extra_keys: Iterable[ExtraKey] = (),
        max_hit_tokens: int | None = None,
        reserve_tokens: int = 0,
        must_fit: bool = False,
        arrival: int | None = None,
        owner: int = 0,
    ) -> tuple[int, int]:
        """Open a sequence that holds the longest cached prefix of its prompt.

        Nothing is allocated unless `reserve_tokens` says so: `plan` does that.

        Parameters
        ----------
        seq_id : int
            uint64, not alive.
        token_ids : int32 array or sequence of int
            The prompt.
        salt, extra_keys, max_hit_tokens
            As `match_prefix` takes them. Engines that compute at least the last token of a
            prompt say ``max_hit_tokens=len(token_ids) - 1``.
        reserve_tokens : int
            Tokens in all for which the table is to have blocks at once.
        must_fit : bool
            Refuse unless the whole prompt would fit now, the watermark left usable.
        arrival : int, optional
            Its place in the order of arrival, int64 from 0 on: of a preempted sequence the
            one it had.
        owner : int
            A tag of the caller's, int32 from 0 on.

        Returns
        -------
        handle : int
            For batch calls.
        num_hit_tokens : int
            Tokens of the prompt that are there already.

        Raises
        ------
        DuplicateSequenceError, OutOfBlocksError, CapacityError, ArgumentError
        """
        plain = salt is None and arrival is None and _has_none(extra_keys)
        # `is`: what compares with 0 in a way of its own, an array say, is not plain.
        if plain and must_fit is False and reserve_tokens is _ZERO and owner is _ZERO:
            return self._admit_plain(seq_id, token_ids, max_hit_tokens)
        number = check_id("seq_id", seq_id)
        tokens = check_tokens("token_ids", token_ids)
        limit = _INT64_MAX
        if max_hit_tokens is not None:
            limit = min(check_count("max_hit_tokens", max_hit_tokens), _INT64_MAX)
        reserved = min(check_count("reserve_tokens", reserve_tokens), _INT32_MAX * 2**15)
        order = -1 if arrival is None else check_count("arrival", arrival, _INT64_MAX)
        tag = check_count("owner", owner, _INT32_MAX)
        low, high = _NO_SALT if salt is None else _words(salt)
        extras = _NO_EXTRAS if _has_none(extra_keys) else normalize_extra_keys(extra_keys)
        handle = admit.admit(
            self._arena,
            number,
            tokens,
            limit,
            reserved,
            check_flag("must_fit", must_fit),
            low,
            high,
            *extras,
            order,
            tag,
        )
        if handle == TOO_MANY_EXTRAS:
            self._fail(handle, "extra_keys", f"{extras[0].size} keys")
        if handle < 0:
            self._fail(handle, "seq_id", seq_id)
        return handle, int(self._hit_tokens[handle & _ROW_MASK])

    def _admit_plain(
        self, seq_id: int, token_ids: Tokens, max_hit_tokens: int | None
    ) -> tuple[int, int]:
        """Admit a prompt that is nothing but its tokens."""
        number, tokens, limit = seq_id, token_ids, _INT64_MAX
        if max_hit_tokens is not None or type(seq_id) is not int:
            number, tokens = check_id("seq_id", seq_id), check_tokens("token_ids", token_ids)
            if max_hit_tokens is not None:
                limit = min(check_count("max_hit_tokens", max_hit_tokens), _INT64_MAX)
        try:
            admitted = admit.admit_plain(self._arena, number, tokens, limit)  # type: ignore[arg-type]
        except (TypeError, OverflowError):
            admitted = None
        if admitted is None:
            # What is wrong is told here, and what only has another form is converted.
            number, tokens = check_id("seq_id", seq_id), check_tokens("token_ids", token_ids)
            admitted = admit.admit_plain(self._arena, number, tokens, limit)
        if admitted[0] < 0:
            self._fail(admitted[0], "seq_id", seq_id)
        return admitted


def _has_none(extra_keys: object) -> bool:
    # By type first: an array compares with () element by element.
    return type(extra_keys) is tuple and not extra_keys


def _words(salt: object) -> tuple[int, int]:
    if not isinstance(salt, Salt):
        raise TypeError(f"salt is {salt!r}; it must be a nbkv.Salt")
    return salt.words
