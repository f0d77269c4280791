"""The part of the facade that moves keys and values along with what it decides."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_counts, check_vector, refuse
from nbkv._lifetimes import Handles
from nbkv._steps import StepCalls
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.layout import COPY_FIELDS
from nbkv.plan import StepPlan
from nbkv.pools.geometry import SHAPE_FIELDS
from nbkv.statuses import FOREIGN_PLAN

#: A `nbkv.HostPool` or `nbkv.CudaPool`.
Pool = Any
_SHAPE: Final = ("num_blocks", *SHAPE_FIELDS)


class PooledCalls(StepCalls):
    """Ties a cache to the pool whose blocks it hands out."""

    def __init__(self, config: CacheConfig, pool: Pool = None) -> None:
        super().__init__(config)
        self._pool = pool
        if pool is None:
            return
        if not hasattr(pool, "geometry"):
            raise TypeError(f"pool is {pool!r}; it must be a nbkv.HostPool or a nbkv.CudaPool")
        for name in _SHAPE:
            theirs, ours = getattr(pool.geometry, name), getattr(config, name)
            if theirs != ours:
                refuse(f"pool's {name}", theirs, f"that of config, {ours}")

    @property
    def pool(self) -> Pool:
        """The pool given at construction, or None."""
        return self._pool

    def append(
        self,
        sequences: Handles,
        keys: Any,  # noqa: ANN401
        values: Any,  # noqa: ANN401
        counts: npt.NDArray[np.int32] | int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Append tokens to live sequences and write their keys and values, all or nothing.

        `append_tokens`, the copies that it asks for, and `HostPool.append_all` in one call.

        Parameters
        ----------
        sequences : int64 or uint64 array, shape (n,)
            int64 are handles, uint64 are seq_ids.
        keys, values : array, shape (num_layers, num_tokens, num_kv_heads, head_dim)
            Of all new tokens, sequence after sequence. `values` is None where kv_factor is 1.
        counts : int32 array of shape (n,), or int, optional
            New tokens of each, or one number for all; one each when omitted.

        Returns
        -------
        int64 array
            Slots, sequence after sequence.

        Raises
        ------
        UnknownSequenceError, DuplicateSequenceError, OutOfBlocksError, CapacityError
        TypeError, ArgumentError
            All before anything changes, in the cache or in the pool.

        Examples
        --------
        >>> import numpy as np
        >>> from nbkv import CacheConfig, HostPool, PagedKVCache
        >>> config = CacheConfig(4, 8, num_layers=1, num_kv_heads=1, head_dim=2, dtype="float32")
        >>> cache = PagedKVCache(config, pool=HostPool(config))
        >>> handles = np.array([cache.add_sequence(7), cache.add_sequence(8)])
        >>> keys = np.ones((1, 2, 1, 2), np.float32)
        >>> cache.append(handles, keys, keys)
        array([0, 4])
        """
        pool = self._need_pool()
        by_handle = isinstance(sequences, np.ndarray) and sequences.dtype == np.int64
        rows = check_vector("sequences", sequences, np.int64 if by_handle else np.uint64)
        given = 1 if counts is None else counts
        numbers = check_counts("counts", given, rows.size)
        each = isinstance(given, np.ndarray)
        self._check_vectors(keys, values, int(numbers.sum()) * (1 if each else rows.size))
        slots = self.append_tokens(rows, given)
        count = int(self._num_copies[0])
        copies = self._copies[: COPY_FIELDS * count].reshape(count, COPY_FIELDS)
        if count:
            pool.copy_partial(copies[:, :2], copies[:, 2])
        pool.append_all(keys, values, slots)
        return slots

    def execute(
        self,
        plan: StepPlan,
        keys: Any = None,  # noqa: ANN401
        values: Any = None,  # noqa: ANN401
    ) -> None:
        """Carry out a plan in the pool: its copies, then what it writes.

        Parameters
        ----------
        plan : StepPlan
            Of this cache. Plans are executed in the order they were made, each once, before
            their buffers are filled again.
        keys, values : array, shape (num_layers, plan.num_tokens, num_kv_heads, head_dim)
            Written to ``plan.slot_mapping``. Without them only the copies are made, and the
            caller writes, layer by layer (`HostPool.append`).

        Raises
        ------
        StepError
            A plan of another cache.
        TypeError, ArgumentError
            All before anything changes in the pool.
        """
        pool = self._need_pool()
        if not isinstance(plan, StepPlan):
            raise TypeError(f"plan is {plan!r}; it must be a nbkv.StepPlan")
        if plan._count("identity") != int(self._runtime["identity"][0]):
            self._fail(FOREIGN_PLAN, "plan", plan)
        if keys is None and values is not None:
            refuse("keys", None, "given with values")
        if keys is not None:
            self._check_vectors(keys, values, plan.num_tokens)
        copies = plan.copies
        if len(copies):
            pool.copy_partial(copies[:, 1:3], copies[:, 3])
        if keys is not None:
            pool.append_all(keys, values, plan.slot_mapping)

    def _need_pool(self) -> Pool:
        if self._pool is None:
            raise ArgumentError("pool is None; it must be given when the cache is made")
        return self._pool

    def _check_vectors(self, keys: object, values: object, num_tokens: int) -> None:
        """Check keys and values for all layers before the metadata changes."""
        layers = self.config.num_layers
        sources = self._pool._check_sources(("keys", "values"), (keys, values), (layers,))
        if sources[0].shape[1] != num_tokens:
            refuse("keys", f"of {sources[0].shape[1]} tokens", f"of {num_tokens}, as planned")
