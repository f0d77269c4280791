"""What a cache tells of itself: counters, read-only views, one sequence's table."""

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv._arguments import check_id, check_out, refuse
from nbkv._failures import fail
from nbkv._jit import compile_entries
from nbkv.arena import new_arena, read_only
from nbkv.config import CacheConfig
from nbkv.kernels import inspect
from nbkv.stats import CacheStats


class ArenaOwner:
    """Holds one arena and everything that only reads it.

    Parameters
    ----------
    config : CacheConfig
        Shape and policy.
    """

    def __init__(self, config: CacheConfig) -> None:
        if not isinstance(config, CacheConfig):
            raise TypeError(f"config is {config!r}; it must be a nbkv.CacheConfig")
        for _ in compile_entries():
            pass
        self.config = config
        # Plain attributes for the hot path: a property costs more than a kernel's block.
        self._block_size = config.block_size
        self._num_blocks = config.num_blocks
        self._arena = new_arena(config)
        self._header = read_only(self._arena, "header", layout.HEADER_DTYPE, 1)
        self._runtime = read_only(self._arena, "runtime", layout.RUNTIME_DTYPE, 1)
        self._free = self._header["num_free_blocks"]
        self._num_copies = self._runtime["num_copies"]
        self._sequences = read_only(
            self._arena, "sequences", layout.SEQUENCE_DTYPE, config.max_sequences
        )
        self._hit_tokens = self._sequences["num_hit_tokens"]
        self._num_evicted = self._runtime["num_evicted"]
        self._copies = self._runtime_array("copies")
        self._evicted = self._runtime_array("evicted")
        self._scratch = self._runtime_array("scratch")

    def _runtime_array(self, name: str) -> npt.NDArray[np.int32]:
        start, end = int(self._runtime[f"{name}_start"][0]), int(self._runtime[f"{name}_end"][0])
        return self._arena[start:end].view(np.int32)

    def _fail(self, status: int, name: str, value: object) -> NoReturn:
        fail(status, self._header, self._runtime, name, value)

    def _count(self, field: str) -> int:
        return int(self._header[field][0])

    @property
    def arena(self) -> npt.NDArray[np.uint8]:
        """All state: uint8, shape (arena_bytes,), read only."""
        view = self._arena.view()
        view.flags.writeable = False
        return view

    def writable_arena(self) -> npt.NDArray[np.uint8]:
        """Return all state as compiled callers of `nbkv.embed` take it: not read only.

        What else writes to it breaks the cache, and nothing finds out.

        Returns
        -------
        uint8 array, shape (arena_bytes,)
            The same memory for as long as the cache lives.
        """
        return self._arena

    @property
    def header(self) -> npt.NDArray[Any]:
        """Configuration, section offsets and counters: HEADER_DTYPE, shape (1,), read only."""
        return self._header

    @property
    def blocks(self) -> npt.NDArray[Any]:
        """Block records: BLOCK_DTYPE, shape (num_blocks,), read only."""
        return read_only(self._arena, "blocks", layout.BLOCK_DTYPE, self.total_blocks)

    @property
    def block_keys(self) -> npt.NDArray[Any]:
        """Block keys: BLOCK_KEY_DTYPE, shape (num_blocks,), read only."""
        return read_only(self._arena, "block_keys", layout.BLOCK_KEY_DTYPE, self.total_blocks)

    @property
    def sequences(self) -> npt.NDArray[Any]:
        """Sequence rows: SEQUENCE_DTYPE, shape (max_sequences,), read only."""
        return self._sequences

    @property
    def tables(self) -> npt.NDArray[np.int32]:
        """Block tables: int32, shape (max_sequences, max_blocks_per_sequence), read only.

        Entries beyond a row's num_blocks are meaningless.
        """
        rows, stride = self.config.max_sequences, self._count("table_stride")
        flat = read_only(self._arena, "tables", layout.INT32, rows * stride)
        return flat.reshape(rows, stride)[:, : self.config.table_width]

    def state_bytes(self) -> npt.NDArray[np.uint8]:
        """Copy the arena without its runtime section: equal before and after an error."""
        start, end = self._count("runtime_start"), self._count("runtime_end")
        return np.concatenate((self._arena[:start], self._arena[end:]))

    @property
    def num_free_blocks(self) -> int:
        """Blocks whose content is meaningless, ready to be handed out."""
        return int(self._free[0])

    @property
    def num_cached_blocks(self) -> int:
        """Blocks that nobody holds but a prefix can still find: evictable."""
        return self._count("num_cached_blocks")

    @property
    def num_held_blocks(self) -> int:
        """Blocks that at least one sequence or lease holds."""
        return self._count("num_held_blocks")

    @property
    def num_fenced_blocks(self) -> int:
        """Free and cached blocks that steps in flight may still touch: not handed out yet."""
        return self._count("num_fenced_blocks")

    @property
    def num_usable_blocks(self) -> int:
        """Blocks that a call can have now: free or cached, and past the fence."""
        return self.num_free_blocks + self.num_cached_blocks - self.num_fenced_blocks

    @property
    def num_sequences(self) -> int:
        """Sequences alive."""
        return self._count("num_sequences")

    @property
    def total_blocks(self) -> int:
        """Blocks of the pool."""
        return self.config.num_blocks

    @property
    def utilization(self) -> float:
        """Share of blocks that are not free, 0.0 to 1.0."""
        return (self.total_blocks - self.num_free_blocks) / self.total_blocks

    @property
    def memory_usage_bytes(self) -> int:
        """Bytes of keys and values in blocks that are not free; exact at any size."""
        return (self.total_blocks - self.num_free_blocks) * self.config.bytes_per_block

    @property
    def stats(self) -> CacheStats:
        """The counters, frozen now."""
        fields = CacheStats.__dataclass_fields__
        return CacheStats(**{name: self._count(name) for name in fields})

    def fragmentation(self) -> float:
        """Return the partly filled share of the distinct held blocks, 0.0 when none is held."""
        held = self.num_held_blocks
        return inspect.count_partial(self._arena) / held if held else 0.0

    @property
    def last_copies(self) -> npt.NDArray[np.int32]:
        """What the latest mutating call copied: int32, shape (n, 2), source and destination."""
        count = int(self._num_copies[0])
        rows = self._copies[: layout.COPY_FIELDS * count].reshape(count, layout.COPY_FIELDS)
        return rows[:, :2].copy()

    @property
    def last_evicted(self) -> npt.NDArray[np.int32]:
        """What the latest mutating call evicted, in order: int32, shape (n,)."""
        return self._evicted[: int(self._num_evicted[0])].copy()

    def __contains__(self, seq_id: object) -> bool:
        """Tell whether a sequence is alive."""
        return bool(inspect.find_sequence(self._arena, check_id("seq_id", seq_id)) >= 0)

    def handle(self, seq_id: int) -> int:
        """Return the handle of a sequence, for batch calls.

        Parameters
        ----------
        seq_id : int
            uint64.

        Returns
        -------
        int
            ``generation << 32 | row``; stale once the sequence is freed.

        Raises
        ------
        UnknownSequenceError
        """
        handle = inspect.find_handle(self._arena, check_id("seq_id", seq_id))
        if handle < 0:
            self._fail(handle, "seq_id", seq_id)
        return handle

    def num_cached_tokens(self, seq_id: int) -> int:
        """Return the tokens of a sequence, 0 when it is unknown."""
        return self._sequence_field(seq_id, "num_tokens")

    def num_hit_tokens(self, seq_id: int) -> int:
        """Return the tokens that `add_sequence` found cached, 0 when unknown."""
        return self._sequence_field(seq_id, "num_hit_tokens")

    def _sequence_field(self, seq_id: int, field: str) -> int:
        row = inspect.find_sequence(self._arena, check_id("seq_id", seq_id))
        return int(self._sequences[field][row]) if row >= 0 else 0

    def block_table(
        self, seq_id: int, out: npt.NDArray[np.int32] | None = None
    ) -> npt.NDArray[np.int32] | None:
        """Return the block ids of a sequence in logical order.

        Parameters
        ----------
        seq_id : int
            uint64.
        out : int32 array, optional
            Takes the ids instead of a new array; at least as long as the table.

        Returns
        -------
        int32 array or None
            Shape (num_blocks,), a view of `out` when given; None when unknown.

        Raises
        ------
        ArgumentError
            `out` is too short, or not a writable int32 vector.
        """
        number = check_id("seq_id", seq_id)
        if out is None:
            row = inspect.find_sequence(self._arena, number)
            if row < 0:
                return None
            out = np.empty(int(self._sequences["num_blocks"][row]), np.int32)
        check_out("out", out, np.int32)
        count = inspect.copy_table(self._arena, number, out)
        if count > out.size:
            refuse("out", f"of length {out.size}", f"at least {count} long, as the table is")
        return out[:count] if count >= 0 else None
