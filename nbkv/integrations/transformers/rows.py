"""The sequences behind a transformers batch: rows of one length, padded on the left.

transformers counts in *columns* of a batch, nbkv in the tokens of each sequence. Column c of
row i is its token ``c - pads[i]``; the columns before that are padding, which is not kept.
"""

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt

from nbkv.cache import PagedKVCache
from nbkv.errors import KVCacheError
from nbkv.hashing import Salt
from nbkv.layout import INT32
from nbkv.plan import StepBuffers, StepPlan

Ints = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]

_NO_TOKENS: Final[Tokens] = np.empty((0, 0), INT32)
_NO_PADS: Final[Ints] = np.empty(0, np.int64)
#: From the upper half: callers who number their own sequences on the same cache begin below.
_seq_ids = itertools.count(2**63)


class Rows:
    """A batch of sequences that grow by the same number of columns at a time.

    Parameters
    ----------
    cache : PagedKVCache

    Attributes
    ----------
    seq_ids : list of int
        One a row.
    pads : int64 array, shape (num_rows,)
        Columns of padding in front of each row.
    ids : int32 array, shape (num_rows, num_known)
        Token ids by column, padding included, as far as they are known. Columns behind them
        hold keys and values of tokens whose ids nobody told: they cannot be found by prefix.
    num_columns : int
        Committed.
    salt : Salt or None
        What the rows were admitted with.
    are_permuted : bool
        Rows have changed places, so that outputs no longer belong to them one by one.
    """

    def __init__(self, cache: PagedKVCache) -> None:
        self.cache = cache
        self._buffers: StepBuffers | None = None
        self._room = 0
        self._plan: StepPlan | None = None
        self._forget()

    def _forget(self) -> None:
        self.seq_ids: list[int] = []
        self.pads, self.ids = _NO_PADS, _NO_TOKENS
        self.num_columns = 0
        self.salt: Salt | None = None
        self.are_permuted = False

    @property
    def num_known(self) -> int:
        """Columns whose token ids are known; more than num_columns while a prompt is computed."""
        known: int = self.ids.shape[1]
        return known

    def new_id(self) -> int:
        """Return a seq_id that no live sequence has."""
        return next(number for number in _seq_ids if number not in self.cache)

    def known_tokens(self) -> list[Tokens]:
        """Return the ids of each row's tokens, as far as they are known and committed."""
        known = self.ids[:, : self.num_columns]
        return [row[pad:] for row, pad in zip(known, self.pads.tolist(), strict=True)]

    def keep(self, seq_ids: list[int]) -> None:
        """End all sequences but these, which `take` gives their new places."""
        self.finish([seq_id for seq_id in self.seq_ids if seq_id not in seq_ids])
        self._forget()
        self.seq_ids = seq_ids

    def take(
        self, seq_ids: list[int], ids: Tokens, pads: Ints, num_columns: int, salt: Salt | None
    ) -> None:
        """Make these sequences, which have their first columns, the rows."""
        self.seq_ids, self.ids, self.pads = seq_ids, ids, pads
        self.num_columns, self.salt = num_columns, salt

    def open(self, count: int) -> None:
        """Open rows of which nothing is known."""
        try:
            for _ in range(count):
                seq_id = self.new_id()
                self.cache.add_sequence(seq_id)
                self.seq_ids.append(seq_id)
        except KVCacheError:
            self.release()
            raise
        self.pads, self.ids = np.zeros(count, np.int64), np.empty((count, 0), INT32)

    def plan(self, num_new: int) -> Ints:
        """Plan columns for all rows and make the copies that this takes.

        Parameters
        ----------
        num_new : int
            Columns.

        Returns
        -------
        int64 array, shape (num_rows, num_new)
            Slots; -1 for padding.

        Raises
        ------
        OutOfBlocksError, CapacityError
            Nothing has changed then.
        """
        columns = np.arange(self.num_columns, self.num_columns + num_new)
        is_token = columns >= self.pads[:, None]
        plan = self.plan_sequences(self.seq_ids, is_token.sum(axis=1, dtype=INT32))
        self._plan = plan
        self.cache.execute(plan)
        slots = np.full(is_token.shape, -1, np.int64)
        slots[is_token] = plan.slot_mapping
        return slots

    def commit(self, num_new: int) -> None:
        """Commit the columns planned: with their ids, as far as those are known."""
        first, self.num_columns = self.num_columns, self.num_columns + num_new
        plan, self._plan = self._plan, None
        assert plan is not None
        known = self.ids[:, first : self.num_columns]
        is_token = np.arange(first, first + known.shape[1]) >= self.pads[:, None]
        if not known.shape[1]:
            self.commit_plan(plan)
        elif known.shape[1] == num_new:
            self.commit_plan(plan, tokens=known[is_token])
        else:
            # A commit takes ids for all that it keeps or for nothing: what is behind the
            # known ones is planned again, in the same slots, and committed without.
            kept = is_token.sum(axis=1, dtype=INT32)
            counts = (plan.seq_lens - np.maximum(first - self.pads, 0) - kept).astype(INT32)
            self.commit_plan(plan, kept, known[is_token])
            self.commit_plan(self.plan_sequences(self.seq_ids, counts))

    def abandon(self) -> None:
        """Withdraw what is planned and not committed, if anything is."""
        plan, self._plan = self._plan, None
        if plan is not None:
            self.commit_plan(plan, np.zeros(len(self.seq_ids), INT32), np.empty(0, INT32))

    def crop(self, num_columns: int) -> None:
        """Keep the first columns."""
        for seq_id, pad in zip(self.seq_ids, self.pads.tolist(), strict=True):
            self.cache.truncate(seq_id, max(0, num_columns - pad))
        self.num_columns = num_columns
        self.ids = self.ids[:, :num_columns]

    def select(self, sources: Ints) -> None:
        """Let the batch consist of these of its rows, some perhaps more than once.

        Blocks are shared, not copied, until one of those who share writes.

        Parameters
        ----------
        sources : int64 array
            Row i becomes what row ``sources[i]`` was.

        Raises
        ------
        CapacityError
            Nothing has changed then.
        """
        if len(sources) == len(self.seq_ids):
            self.cache.reorder(self._array(self.seq_ids), sources.astype(INT32))
        else:
            self.seq_ids = self._fork(sources)
        self.pads, self.ids = self.pads[sources], self.ids[sources]
        self.are_permuted = True

    def expand(self, repeats: int) -> None:
        """Put each row, repeated, in its own place, as `generate` expands its inputs."""
        were_permuted = self.are_permuted
        self.select(np.repeat(np.arange(len(self.seq_ids)), repeats))
        self.are_permuted = were_permuted

    def _fork(self, sources: Ints) -> list[int]:
        """Keep each row that is asked for, fork it when it is asked for again, end the rest."""
        kept: list[int] = []
        made: list[int] = []
        try:
            for source in sources.tolist():
                seq_id = self.seq_ids[source]
                if seq_id in kept:
                    copy = self.new_id()
                    self.cache.fork(seq_id, copy)
                    made.append(copy)
                    seq_id = copy
                kept.append(seq_id)
        except KVCacheError:
            self.finish(made)
            raise
        self.finish([seq_id for seq_id in self.seq_ids if seq_id not in kept])
        return kept

    def copy(self) -> "Rows":
        """Fork all rows into a batch of their own."""
        other = Rows(self.cache)
        for seq_id in self.seq_ids:
            copy = self.new_id()
            try:
                self.cache.fork(seq_id, copy)
            except KVCacheError:
                other.release()
                raise
            other.seq_ids.append(copy)
        other.pads, other.ids = self.pads, self.ids
        other.num_columns, other.salt = self.num_columns, self.salt
        other.are_permuted = self.are_permuted
        return other

    def release(self) -> None:
        """End all rows; what a prefix can find stays cached."""
        self.abandon()
        self.keep([])

    def table(self, seq_id: int) -> npt.NDArray[np.int32]:
        """Return a sequence's block ids."""
        found = self.cache.block_table(seq_id)
        assert found is not None
        return found

    def plan_sequences(self, seq_ids: list[int], counts: Tokens) -> StepPlan:
        """Plan so many tokens of each; the plan is good until the next."""
        total = int(counts.sum())
        if self._buffers is None or total > self._room:
            self._room = max(total, self.cache.config.max_sequences)
            self._buffers = StepBuffers.for_cache(self.cache, self._room)
        return self.cache.plan(self._array(seq_ids), counts, out=self._buffers)

    def commit_plan(
        self, plan: StepPlan, num_accepted: Tokens | None = None, tokens: Tokens | None = None
    ) -> None:
        """Commit a plan, and complete it, since it has run."""
        self.cache.commit(plan, num_accepted, tokens)
        if self.cache.config.run_ahead:
            self.cache.complete(plan.step_id)

    def finish(self, seq_ids: list[int]) -> None:
        """End sequences."""
        self.cache.finish(self._array(seq_ids))

    @staticmethod
    def _array(seq_ids: list[int]) -> npt.NDArray[np.uint64]:
        return np.array(seq_ids, np.uint64)
