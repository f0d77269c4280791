"""What a sequence has said: its tokens, and for each one number that stands for all up to it.

Keys and values of a token depend on every token before it, on the salt and on what the
placeholders among them stand for; so does its digest here, and on nothing else.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv.hashing import ExtraKey, Salt, hash_tokens, normalize_extra_keys

_MASK: Final = 2**64 - 1
_STEP: Final = 0x9E37_79B9_7F4A_7C15


def mix(first: int, second: int) -> int:
    """Mix two numbers into one of 64 bits."""
    value = (first + _STEP * (second + 1)) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return value ^ (value >> 31)


class History:
    """One sequence's tokens and digests.

    Parameters
    ----------
    seq_id : int
    prompt : sequence of int
        Tokens that it is to say first.
    salt : Salt, optional
    extra_keys : iterable of (start, end, digest)

    Attributes
    ----------
    family : object
        The same for all that share blocks by fork, share, reorder or a name.
    """

    __slots__ = (
        "_extra_keys",
        "_extras",
        "_is_attached",
        "_root",
        "_salt",
        "digests",
        "family",
        "prompt",
        "seq_id",
        "tokens",
    )

    def __init__(
        self,
        seq_id: int,
        prompt: Sequence[int] = (),
        salt: Salt | None = None,
        extra_keys: Iterable[ExtraKey] = (),
    ) -> None:
        self.seq_id = seq_id
        self.prompt = [int(token) for token in prompt]
        self._salt, self._extra_keys = salt, tuple(extra_keys)
        self._is_attached = False
        self.family: object = self
        low, high = (0, 0) if salt is None else salt.words
        self._root = mix(low, high)
        starts, ends, digests = (part.tolist() for part in normalize_extra_keys(self._extra_keys))
        self._extras = (starts, ends, digests)
        self.tokens: list[int] = []
        self.digests: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def like(self, seq_id: int, num_tokens: int) -> "History":
        """Return another sequence that begins with these tokens, on the same terms."""
        if self._is_attached and num_tokens == 0:
            other = History(seq_id, self.prompt)
            other.family = self.family
            return other
        other = History(seq_id, self.prompt, self._salt, self._extra_keys)
        other._is_attached, other.family = self._is_attached, self.family
        other.tokens = self.tokens[:num_tokens]
        other.digests = self.digests[:num_tokens]
        return other

    def attached(self, seq_id: int) -> "History":
        """Return a sequence opened over these tokens that knows nothing of their terms."""
        count = len(self.tokens)
        extra_keys = [(a, min(b, count), key) for a, b, key in self._extra_keys if a < count]
        other = History(seq_id, (), self._salt, extra_keys)
        other._is_attached, other.family = True, self.family
        other.tokens, other.digests = self.tokens[:], self.digests[:]
        return other

    def say(self, tokens: Iterable[int]) -> None:
        """Go on with these tokens."""
        for token in tokens:
            number = int(token)
            self.digests.append(mix(mix(self._before, number), self._extra_at(len(self.tokens))))
            self.tokens.append(number)

    @property
    def _before(self) -> int:
        return self.digests[-1] if self.digests else self._root

    def draw(self, count: int, vocabulary: int) -> list[int]:
        """Say `count` tokens more: the prompt's, then what a model would make of all before."""
        first = len(self.tokens)
        for position in range(first, first + count):
            if position < len(self.prompt):
                self.say((self.prompt[position],))
            else:
                self.say((mix(self._before, 1) % vocabulary,))
        return self.tokens[first:]

    def _extra_at(self, position: int) -> int:
        starts, ends, digests = self._extras
        at = bisect_right(starts, position) - 1
        if at < 0 or position >= ends[at]:
            return 0
        return mix(digests[at], position - starts[at])

    def expect(self, first: int, end: int) -> npt.NDArray[np.uint64]:
        """Return the digests of positions ``first:end``."""
        return np.array(self.digests[first:end], np.uint64)

    def keys(self, num_tokens: int, block_size: int, hash_seed: int) -> npt.NDArray[np.uint64]:
        """Return the chain hashes of its first full blocks, as a cache makes them."""
        tokens = np.array(self.tokens[:num_tokens], np.int32)
        return hash_tokens(
            tokens, block_size, salt=self._salt, extra_keys=self._extra_keys, seed=hash_seed
        )
