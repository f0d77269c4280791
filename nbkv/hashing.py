"""Chain hashes of prompts without a cache, and what besides tokens enters them.

The same in every process: a router, a tokenizer's process and the cache agree on them.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_id, check_tokens, refuse
from nbkv._jit import make_ready
from nbkv.kernels.chains import hash_chain

Tokens: TypeAlias = npt.NDArray[np.integer] | Sequence[int]
#: (first token position, position after the last, digest).
ExtraKey: TypeAlias = tuple[int, int, int | bytes | str]

_INT32_MAX: Final = 2**31 - 1
_BLOCK_SIZE_MAX: Final = 2**15 - 1
_NO_EXTRA_KEYS: Final = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint64))
_ROOT_TAG: Final = b"nbkv.chain.sha256.root.1"
_BLOCK_TAG: Final = b"nbkv.chain.sha256.block.1"


def _encode(value: int | bytes | str | None) -> bytes:
    """Encode a value so that no two are alike, alone or one after another: type, length, bytes."""
    if value is None:
        tag, payload = b"n", b""
    elif isinstance(value, str):
        tag, payload = b"s", value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        tag, payload = b"b", value
    else:
        tag, payload = b"i", str(int(value)).encode()
    return tag + struct.pack("<Q", len(payload)) + payload


@dataclass(frozen=True)
class Salt:
    """Keeps prompts apart that must not share blocks although their tokens are equal.

    Parameters
    ----------
    tenant : str, bytes or int, optional
        Whose prompt it is.
    adapter : str, bytes or int, optional
        What the keys and values are computed with, a LoRA adapter say.

    Raises
    ------
    TypeError
        A field is of another type. ``1``, ``"1"`` and ``b"1"`` are three different tenants.

    Examples
    --------
    >>> Salt().words
    (0, 0)
    >>> Salt(tenant="a").words == Salt(adapter="a").words
    False
    """

    tenant: str | bytes | int | None = None
    adapter: str | bytes | int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            allowed = value is None or isinstance(value, (str, bytes, int, np.integer))
            if not allowed or isinstance(value, bool):
                raise TypeError(
                    f"{field.name} is {value!r}; it must be a str, bytes, an integer or None"
                )

    @cached_property
    def words(self) -> tuple[int, int]:
        """What kernels take: two uint64, both 0 for no salt."""
        if self.tenant is None and self.adapter is None:
            return 0, 0
        digest = hashlib.blake2b(self._encoded, digest_size=16, person=b"nbkv.salt.1").digest()
        low, high = struct.unpack("<QQ", digest)
        return low, high

    @property
    def _encoded(self) -> bytes:
        return _encode(self.tenant) + _encode(self.adapter)


_NO_SALT: Final = Salt()


def _check_extra_keys(extra_keys: Iterable[ExtraKey]) -> Iterator[ExtraKey]:
    """Check one extra key after the other."""
    reached = 0
    for i, key in enumerate(extra_keys):
        name = f"extra_keys[{i}]"
        if not isinstance(key, (tuple, list)) or len(key) != 3:
            raise TypeError(f"{name} is {key!r}; it must be (start, end, digest)")
        start, end = check_count(f"start of {name}", key[0]), check_count(f"end of {name}", key[1])
        if end <= start or end > _INT32_MAX:
            refuse(name, key, f"one whose end is above its start and at most {_INT32_MAX}")
        if start < reached:
            refuse(name, key, f"after the one before, which ends at {reached}")
        digest = key[2]
        if not isinstance(digest, (bytes, str)):
            digest = check_id(f"digest of {name}", digest)
        reached = end
        yield start, end, digest


def normalize_extra_keys(
    extra_keys: Iterable[ExtraKey],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Make extra keys into what kernels take.

    Parameters
    ----------
    extra_keys : iterable of (start, end, digest)
        Token positions ``start <= p < end`` depend on what has this digest: an image, say,
        of which they are the placeholders. In order, not overlapping. A digest is a uint64, or
        bytes or a str of any length.

    Returns
    -------
    starts, ends : int32 array
    digests : uint64 array

    Raises
    ------
    TypeError, ArgumentError
        The message names the one at fault, ``extra_keys[i]``.
    """
    checked = list(_check_extra_keys(extra_keys))
    if not checked:
        return _NO_EXTRA_KEYS
    starts, ends, digests = zip(*checked, strict=True)
    words = [_digest_word(digest) for digest in digests]
    return np.array(starts, np.int32), np.array(ends, np.int32), np.array(words, np.uint64)


def _digest_word(digest: int | bytes | str) -> int:
    if isinstance(digest, int):
        return digest
    short = hashlib.blake2b(_encode(digest), digest_size=8, person=b"nbkv.extra.1").digest()
    return int.from_bytes(short, "little")


def _check_block_size(block_size: int) -> int:
    number = check_count("block_size", block_size)
    if not 1 <= number <= _BLOCK_SIZE_MAX:
        refuse("block_size", block_size, f"1 to {_BLOCK_SIZE_MAX}")
    return number


def _check_salt(salt: Salt | None) -> Salt:
    if salt is None:
        return _NO_SALT
    if not isinstance(salt, Salt):
        raise TypeError(f"salt is {salt!r}; it must be a Salt or None")
    return salt


def hash_tokens(
    tokens: Tokens,
    block_size: int,
    salt: Salt | None = None,
    extra_keys: Iterable[ExtraKey] = (),
    *,
    seed: int = 0,
) -> npt.NDArray[np.uint64]:
    """Hash each full block of a prompt together with all that comes before it.

    Needs no cache, and may be called from any thread.

    Parameters
    ----------
    tokens : int32 array, or a sequence of integers
        Anything but a contiguous int32 array is converted first.
    block_size : int
        1 to 32,767.
    salt : Salt, optional
        Whose prompt it is.
    extra_keys : iterable of (start, end, digest)
        See `normalize_extra_keys`.
    seed : int
        The cache's ``hash_seed``, a uint64.

    Returns
    -------
    uint64 array, (len(tokens) // block_size, 2)
        Lower and upper half of each block's hash. Tokens after the last full block are not
        hashed.

    Raises
    ------
    TypeError, ArgumentError

    Examples
    --------
    >>> hashes = hash_tokens(range(40), 16)
    >>> hashes.shape
    (2, 2)
    >>> bool((hash_tokens(range(32), 16) == hashes).all())
    True
    """
    checked, size = check_tokens("tokens", tokens), _check_block_size(block_size)
    low, high = _check_salt(salt).words
    starts, ends, digests = normalize_extra_keys(extra_keys)
    hashes = np.empty((checked.size // size, 2), np.uint64)
    key = check_id("seed", seed)
    make_ready(hash_chain)
    hash_chain(key, low, high, checked, size, starts, ends, digests, hashes)
    return hashes


def sha256_chain(
    tokens: Tokens,
    block_size: int,
    salt: Salt | None = None,
    extra_keys: Iterable[ExtraKey] = (),
) -> list[bytes]:
    """Hash each full block of a prompt, and all before it, with SHA-256.

    For stores that look content up by its hash and cannot compare the tokens. It has
    nothing in common with `hash_tokens` but what enters it; of the salt and of a digest
    given as bytes or a str that is what a cache keeps, 128 and 64 bits.

    Parameters
    ----------
    tokens, block_size, salt, extra_keys
        As for `hash_tokens`.

    Returns
    -------
    list of bytes
        32 bytes a block.

    Raises
    ------
    TypeError, ArgumentError
    """
    checked, size = check_tokens("tokens", tokens), _check_block_size(block_size)
    extras = zip(*(array.tolist() for array in normalize_extra_keys(extra_keys)), strict=True)
    return sha256_blocks(checked, size, _check_salt(salt).words, list(extras))


def sha256_blocks(
    tokens: npt.NDArray[np.int32],
    block_size: int,
    salt: tuple[int, int],
    extra_keys: list[tuple[int, int, int]],
) -> list[bytes]:
    """Hash blocks with SHA-256: `sha256_chain` after its arguments are checked.

    Parameters
    ----------
    tokens : int32 array
    block_size : int
    salt : (int, int)
        `Salt.words`.
    extra_keys : list of (int, int, int)
        Start, end and 64-bit digest, as `normalize_extra_keys` makes them.

    Returns
    -------
    list of bytes
    """
    digest = hashlib.sha256(_ROOT_TAG + struct.pack("<QQ", *salt)).digest()
    chain = []
    for start in range(0, tokens.size // block_size * block_size, block_size):
        end = start + block_size
        inside = [key for key in extra_keys if key[0] < end and key[1] > start]
        parts = [_BLOCK_TAG, digest, struct.pack("<Q", block_size)]
        parts.append(tokens[start:end].astype("<i4").tobytes())
        parts.append(struct.pack("<Q", len(inside)))
        for first, last, word in inside:
            parts.append(struct.pack("<qqQ", first - start, min(last - start, block_size), word))
        digest = hashlib.sha256(b"".join(parts)).digest()
        chain.append(digest)
    return chain


def key_bytes(low: int, high: int) -> bytes:
    """Write a chain hash as 16 bytes, little endian, lower half first.

    Parameters
    ----------
    low, high : int
        uint64.

    Returns
    -------
    bytes
    """
    return struct.pack("<QQ", low, high)
