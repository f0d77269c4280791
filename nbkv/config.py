"""What a cache is made from, checked where it is written down."""

import operator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nbkv import layout
from nbkv.errors import ConfigError

_INT32_MAX: Final = 2**31 - 1
_BLOCK_SIZE_MAX: Final = 2**15 - 1
_DEFAULT_TABLE: Final = 16_384
VISIBILITIES: Final = ("planned", "completed")
#: Bytes that a block's scales (int8) are filled up to, so that what follows is aligned.
_SCALE_ALIGNMENT: Final = 16
BYTES_PER_ELEMENT: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1}


class EvictionPolicy(StrEnum):
    """Which cached block goes first: see `nbkv.kernels.victim`."""

    LRU = "lru"
    FIFO = "fifo"
    FREQUENCY = "frequency"

    @property
    def code(self) -> int:
        """The int that kernels compare with."""
        codes = {"lru": layout.LRU, "fifo": layout.FIFO, "frequency": layout.FREQUENCY}
        return codes[self.value]


@dataclass(frozen=True)
class CacheConfig:
    """Shape and policy of a cache; every field is checked at construction.

    Parameters
    ----------
    block_size : int
        Tokens a block holds, 1 to 32,767.
    num_blocks : int
        Blocks of the pool, 1 to 2**31 - 1.
    num_layers, num_kv_heads, head_dim : int
        Shape of one token's keys and values, at least 1.
    dtype : str
        ``float32``, ``float16``, ``bfloat16``, ``fp8`` or ``int8``.
    eviction_policy : EvictionPolicy or str
        ``lru``, ``fifo`` or ``frequency``.
    max_sequences : int
        Sequences alive at once.
    max_blocks_per_sequence : int, optional
        Longest block table; ``min(num_blocks, 16384)`` when omitted.
    max_named_prefixes : int, optional
        Named prefixes registered at once; ``max(1024, num_blocks // 8)`` when omitted.
    run_ahead : bool
        Several plans may be in flight; `complete` is then the caller's duty.
    hit_visibility : str
        When a committed block may be hit: ``planned`` (by steps planned later: one stream
        that executes in order) or ``completed`` (once its step is).
    partial_reuse : bool
        Also take the beginning of a cached block, by a copy.
    dedup : bool
        At commit, let a table take the block that has the same content already.
    window : int, optional
        Sliding attention window in tokens: blocks wholly outside leave the table.
    watermark : int
        Blocks that admission with ``must_fit`` leaves usable.
    hash_seed : int
        Keys the chain hashes, 0 to 2**63 - 1; the same wherever keys are exchanged.
    max_extra_keys : int, optional
        Extra keys of all sequences at once; ``max(1024, 4 * max_sequences)`` when omitted.
    max_leases : int
        Leases (`PagedKVCache.pin`) at once.
    max_leased_blocks : int, optional
        Blocks in all leases at once; ``max(1024, num_blocks // 8)`` when omitted.
    kv_factor : int
        What a token keeps in each layer: 2, a key and a value; 1, one latent of width
        head_dim that stands for both (MLA).

    Raises
    ------
    ConfigError
        A field is not an integer or out of its range.

    Examples
    --------
    >>> CacheConfig(16, 1024, num_layers=32, num_kv_heads=8, head_dim=128).bytes_per_block
    2097152
    """

    block_size: int
    num_blocks: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str = "float16"
    eviction_policy: EvictionPolicy | str = EvictionPolicy.LRU
    max_sequences: int = 1024
    max_blocks_per_sequence: int | None = None
    max_named_prefixes: int | None = None
    run_ahead: bool = False
    hit_visibility: str = "planned"
    partial_reuse: bool = False
    dedup: bool = True
    window: int | None = None
    watermark: int = 0
    hash_seed: int = 0
    max_extra_keys: int | None = None
    max_leases: int = 1024
    max_leased_blocks: int | None = None
    kv_factor: int = 2

    def __post_init__(self) -> None:
        self._check_int("block_size", 1, _BLOCK_SIZE_MAX)
        self._check_int("num_blocks", 1, _INT32_MAX)
        for name in ("num_layers", "num_kv_heads", "head_dim"):
            self._check_int(name, 1, None)
        self._check_int("kv_factor", 1, 2)
        self._check_int("max_sequences", 1, 2**30)
        if self.max_blocks_per_sequence is None:
            longest = min(self.num_blocks, _DEFAULT_TABLE, _INT32_MAX // self.block_size)
            object.__setattr__(self, "max_blocks_per_sequence", longest)
        self._check_int("max_blocks_per_sequence", 1, _INT32_MAX // self.block_size)
        if self.max_named_prefixes is None:
            object.__setattr__(self, "max_named_prefixes", max(1024, self.num_blocks // 8))
        self._check_int("max_named_prefixes", 1, 2**30)
        self._check_step_fields()
        if self.dtype not in BYTES_PER_ELEMENT:
            raise ConfigError(f"dtype is {self.dtype!r}; allowed: {', '.join(BYTES_PER_ELEMENT)}")
        try:
            policy = EvictionPolicy(self.eviction_policy)
        except ValueError:
            allowed = ", ".join(EvictionPolicy)
            raise ConfigError(
                f"eviction_policy is {self.eviction_policy!r}; allowed: {allowed}"
            ) from None
        object.__setattr__(self, "eviction_policy", policy)

    def _check_step_fields(self) -> None:
        """Check what only planning, committing and matching by tokens look at."""
        for name in ("run_ahead", "partial_reuse", "dedup"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        if self.hit_visibility not in VISIBILITIES:
            allowed = ", ".join(VISIBILITIES)
            raise ConfigError(f"hit_visibility is {self.hit_visibility!r}; allowed: {allowed}")
        if self.window is not None:
            self._check_int("window", 1, _INT32_MAX)
        self._check_int("watermark", 0, self.num_blocks)
        self._check_int("hash_seed", 0, 2**63 - 1)
        if self.max_extra_keys is None:
            object.__setattr__(
                self, "max_extra_keys", min(2**30, max(1024, 4 * self.max_sequences))
            )
        if self.max_leased_blocks is None:
            object.__setattr__(self, "max_leased_blocks", max(1024, self.num_blocks // 8))
        for name in ("max_extra_keys", "max_leases", "max_leased_blocks"):
            self._check_int(name, 1, 2**30)

    def _check_int(self, name: str, low: int, high: int | None) -> None:
        given = getattr(self, name)
        try:
            value = operator.index(given)
        except TypeError:
            raise ConfigError(f"{name} is {given!r}; it must be an integer") from None
        if isinstance(given, bool) or value < low or (high is not None and value > high):
            upto = "" if high is None else f" and at most {high}"
            raise ConfigError(f"{name} is {given!r}; it must be at least {low}{upto}")
        object.__setattr__(self, name, value)

    @property
    def table_width(self) -> int:
        """Columns of a block table, never None."""
        return int(self.max_blocks_per_sequence or 0)

    @property
    def name_capacity(self) -> int:
        """Named prefixes at once, never None."""
        return int(self.max_named_prefixes or 0)

    @property
    def extra_capacity(self) -> int:
        """Extra keys at once, never None."""
        return int(self.max_extra_keys or 0)

    @property
    def leased_capacity(self) -> int:
        """Blocks in all leases at once, never None."""
        return int(self.max_leased_blocks or 0)

    @property
    def policy_code(self) -> int:
        """The eviction policy as kernels see it."""
        return EvictionPolicy(self.eviction_policy).code

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one block's keys, or values, of one layer.

        int8 has one float32 scale a token and head behind them, filled up to 16 bytes.
        """
        vectors = self.block_size * self.num_kv_heads
        data = vectors * self.head_dim * BYTES_PER_ELEMENT[self.dtype]
        if self.dtype != "int8":
            return data
        return -(-(data + 4 * vectors) // _SCALE_ALIGNMENT) * _SCALE_ALIGNMENT

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block, all layers, int8's scales too; exact at any size."""
        return self.num_layers * self.kv_factor * self.chunk_bytes
