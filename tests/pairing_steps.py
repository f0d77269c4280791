"""The engine and the model side by side through whole steps, or the model alone.

Every operation is done on both; whatever can be seen afterwards is compared. Alone, the model
is checked by what must hold in itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from invariants import assert_intact
from naive_blocks import Refused
from naive_checks import assert_sound
from naive_prefixes import Match
from naive_steps import NaiveSteps, Step
from pairing import Pair, plain
from support import make_cache, stats_list

import nbkv

NO_HANDLE = 2**62 + 12345
_ROW_MASK = 0xFFFFFFFF

# Calls whose reports `last_evicted` and `last_copies` show.
_REPORTED = {
    "allocate_block",
    "allocate_blocks_for_tokens",
    "append_token",
    "append_tokens",
    "add_sequence",
    "free_sequence",
}
# Calls that give sequences tables of their own; a device's table is filled anew after them.
_RETABLED = _REPORTED | {"admit", "fork", "share_prefix", "attach_prefix", "reorder"}


def int32(values: Sequence[int]) -> "np.ndarray[Any, Any]":
    return np.array(values, np.int32)


def rows_of(array: "np.ndarray[Any, Any]") -> list[tuple[int, ...]]:
    """Take a two-dimensional or structured array apart."""
    return [tuple(int(x) for x in row) for row in array.tolist()]


class StepPair(Pair):
    """A cache and its model, step by step."""

    def __init__(
        self,
        block_size: int,
        num_blocks: int,
        policy: str = "lru",
        *,
        alone: bool = False,
        **options: Any,
    ) -> None:
        self.naive = NaiveSteps(block_size, num_blocks, policy, **options)
        self.engine: Any = None
        if not alone:
            self.engine = make_cache(num_blocks, block_size, eviction_policy=policy, **options)
            self.naive.bytes_per_block = self.engine.config.bytes_per_block
            width = self.naive.max_blocks_per_sequence
            self.mirror = np.full((self.naive.max_sequences, width), -2, np.int32)
        self.handles: dict[int, int] = {}
        self.latest: dict[int, int] = {}  # of each seq_id ever, maybe stale
        self.stale: list[int] = []
        self.plans: dict[int, Any] = {}
        self.leases: dict[int, Any] = {}
        self.with_buffers = self.refused = False

    # --- one operation ---------------------------------------------------------------
    def do(self, name: str, *args: Any, **options: Any) -> Any:
        """Run a method of both; ``refused`` says whether they did not."""
        wanted, refusal = None, None
        before = None if self.engine is None else self.engine.state_bytes()
        seen = self.model_state()
        try:
            wanted = getattr(self.naive, name)(*args, **options)
        except Refused as error:
            refusal = error
            assert self.model_state() == seen
        self.refused = refusal is not None
        if self.engine is not None:
            got = self.ask_engine(name, refusal, args, options)
            if refusal:
                assert (self.engine.state_bytes() == before).all()
            else:
                self.same_answer(name, wanted, got)
            self.note_handles()
            self.compare_all(name)
        return wanted

    def model_state(self) -> Any:
        """Return what a refusal must leave alone in the model."""
        naive = self.naive
        blocks = [(b.ref_count, b.pin_count, b.released, b.findable) for b in naive.blocks]
        lines = [(x.seq_id, list(x.table), x.num_tokens) for x in naive.sequences.values()]
        free = [b.block_id for b in naive.free], [b.block_id for b in naive.fence]
        return blocks, lines, free, naive.stats, naive.num_steps, naive.committed_step

    def ask_engine(self, name: str, refusal: Refused | None, args: Any, options: Any) -> Any:
        got, raised = None, None
        try:
            call: Callable[..., Any] = getattr(self, f"call_{name}", None) or self.call_plainly
            got = call(*args, **options) if call != self.call_plainly else call(name, *args)
        except nbkv.KVCacheError as error:
            raised = error
        if refusal is None:
            assert raised is None, raised
        else:
            assert type(raised).__name__ == refusal.kind, (raised, refusal)
        if isinstance(raised, nbkv.OutOfBlocksError):
            self.check_lack(raised, refusal.detail)
        return got

    def check_lack(self, error: Any, detail: tuple[int, int] | None) -> None:
        assert error.free == len(self.naive.free)
        assert error.fenced == len(self.naive.fence)
        assert error.needed > error.free + error.evictable
        if detail:
            assert (error.needed, error.evictable) == detail

    # --- the engine's calls ----------------------------------------------------------
    def handle_of(self, seq_id: int) -> int:
        return self.latest.get(seq_id, NO_HANDLE)

    def handles_of(self, seq_ids: Sequence[int]) -> "np.ndarray[Any, Any]":
        return np.array([self.handle_of(s) for s in seq_ids], np.int64)

    def buffers(self) -> Any:
        """Give every other plan buffers of the caller's."""
        self.with_buffers = not self.with_buffers
        return nbkv.StepBuffers.for_cache(self.engine, 512) if self.with_buffers else None

    def prompt_options(
        self, salt: object = None, extra_keys: Any = (), **options: Any
    ) -> dict[str, Any]:
        given = salt if salt is None else nbkv.Salt(tenant=salt)
        return {"salt": given, "extra_keys": list(extra_keys), **options}

    def call_plainly(self, name: str, *args: Any) -> Any:
        return self.on_engine(name, *args)

    def call_match_prefix(self, token_ids: Sequence[int], **options: Any) -> Any:
        return self.engine.match_prefix(int32(token_ids), **self.prompt_options(**options))

    def call_admit(self, seq_id: int, token_ids: Sequence[int], **options: Any) -> Any:
        prompt = int32(token_ids)
        handle, num_hit = self.engine.admit(seq_id, prompt, **self.prompt_options(**options))
        assert handle == self.engine.handle(seq_id)
        return num_hit

    def plan_options(
        self, rank: Any = None, victims: Sequence[int] = (), **options: Any
    ) -> dict[str, Any]:
        if rank is not None:
            options["rank"] = np.array(rank, np.int64)
        if victims:
            options["victims"] = self.handles_of(victims)
        return {**options, "out": self.buffers()}

    def call_plan(self, seq_ids: Sequence[int], counts: Sequence[int], **options: Any) -> Any:
        handles = self.handles_of(seq_ids)
        return self.engine.plan(handles, int32(counts), **self.plan_options(**options))

    def call_commit(self, step: Step, num_accepted: Any = None, tokens: Any = None) -> Any:
        accepted = None if num_accepted is None else int32(num_accepted)
        ids = None if tokens is None else int32(tokens)
        return self.engine.commit(self.plans[step.step_id], accepted, ids, out=self.buffers())

    def call_step(
        self,
        seq_ids: Sequence[int],
        counts: Sequence[int],
        num_accepted: Any = None,
        tokens: Any = None,
        **options: Any,
    ) -> Any:
        accepted = None if num_accepted is None else int32(num_accepted)
        ids = None if tokens is None else int32(tokens)
        handles = self.handles_of(seq_ids)
        settings = self.plan_options(**options)
        return self.engine.step(handles, int32(counts), accepted, ids, **settings)

    def call_finish(self, seq_ids: Sequence[int]) -> None:
        self.engine.finish(self.handles_of(seq_ids))

    def call_reorder(self, seq_ids: Sequence[int], parents: Sequence[int]) -> None:
        self.engine.reorder(self.handles_of(seq_ids), int32(parents))

    def call_pin(self, seq_id: int) -> Any:
        return self.engine.pin(self.handle_of(seq_id))

    def call_unpin(self, lease: int) -> None:
        self.engine.unpin(self.leases.get(lease, NO_HANDLE))

    # --- answers ---------------------------------------------------------------------
    def same_answer(self, name: str, wanted: Any, got: Any) -> None:
        if name in ("plan", "step"):
            self.same_plan(wanted, got)
        elif name == "commit":
            self.same_commit(wanted, got)
        elif name == "match_prefix":
            self.same_match(wanted, got)
        elif name == "fail":
            handles = {(s, self.handles[s], n) for s, n in wanted}
            assert {tuple(x) for x in got.tolist()} == handles
        elif name == "pin":
            self.leases[wanted] = got
        elif name != "add_sequence":
            assert plain(got) == wanted

    def same_plan(self, wanted: Step, got: Any) -> None:
        self.same_changes(wanted.table_changes, got.table_changes)
        assert got.slot_mapping.dtype == np.int64
        assert got.slot_mapping.tolist() == wanted.slot_mapping
        assert got.seq_lens.dtype == np.int32
        assert got.seq_lens.tolist() == wanted.seq_lens
        assert rows_of(got.copies) == [(0, *copy) for copy in wanted.copies]
        assert got.evicted["block"].tolist() == wanted.evicted
        assert got.survivors.tolist() == wanted.survivors
        assert got.deferred.tolist() == wanted.deferred
        assert got.skipped.tolist() == wanted.skipped
        assert rows_of(got.preempted) == [
            (s, self.handles[s], arrival, tokens) for s, arrival, tokens in wanted.preempted
        ]
        assert got.num_entries == len(wanted.entries)
        assert (got.status != "ok") == wanted.exhausted
        if not wanted.exhausted:
            assert got.step_id == wanted.step_id
            self.plans[wanted.step_id] = got

    def same_commit(self, wanted: Step, got: Any) -> None:
        self.same_changes(wanted.table_changes, got.table_changes)
        assert got.skipped.tolist() == wanted.skipped
        del self.plans[wanted.step_id]

    def same_match(self, wanted: Match, got: Any) -> None:
        for field in ("tokens", "hit_tokens", "hit_blocks", "partial_tokens", "revived"):
            assert getattr(got, f"num_{field}") == getattr(wanted, f"num_{field}"), field
        for reserve in (None, 0, 1, wanted.num_tokens + self.naive.block_size):
            admits = self.engine.can_admit(got, reserve_tokens=reserve)
            assert admits == self.naive.can_admit(wanted, reserve)

    def same_changes(self, wanted: Sequence[tuple[int, int, int]], got: Any) -> None:
        """Compare table changes, and apply them as a device would."""
        assert got.dtype == np.int32
        assert rows_of(got) == [(0, *change) for change in wanted]
        for _, row, column, block_id in got.tolist():
            self.mirror[row, column] = block_id

    # --- everything that can be seen -------------------------------------------------
    def note_handles(self) -> None:
        super().note_handles()
        self.latest.update(self.handles)
        for seq_id, line in self.naive.sequences.items():
            assert self.handles[seq_id] & _ROW_MASK == line.row

    def compare_all(self, name: str) -> None:
        engine, naive = self.engine, self.naive
        if name in _REPORTED and not self.refused:
            assert engine.last_evicted.tolist() == naive.last_evicted
            copies = [tuple(x)[:2] for x in engine.last_copies.tolist()]
            assert copies == naive.last_copies
        assert stats_list(engine) == naive.stats
        assert engine.num_free_blocks == naive.num_free
        assert engine.num_cached_blocks == len(naive.cached)
        assert engine.num_held_blocks == len(naive.held)
        assert engine.num_fenced_blocks == len(naive.fence)
        assert engine.num_sequences == len(naive.sequences)
        for clock in ("num_steps", "committed_step", "completed_step", "preemptions"):
            assert engine.header[clock][0] == getattr(naive, clock), clock
        assert engine.fragmentation() == naive.fragmentation()
        records = engine.sequences
        for seq_id, line in naive.sequences.items():
            assert engine.block_table(seq_id).tolist() == naive.block_table(seq_id)
            assert records["num_tokens"][line.row] == line.num_tokens
            assert records["num_committed"][line.row] == line.num_committed
            assert records["num_known"][line.row] == len(line.ids)
            assert engine.num_hit_tokens(seq_id) == line.num_hit_tokens
            self.compare_row(line.row, engine.tables, retabled=name in _RETABLED)

    def compare_row(self, row: int, tables: Any, *, retabled: bool) -> None:
        """What changes have made of a device's table is what the tables say."""
        columns = int(self.engine.sequences["num_blocks"][row])
        if retabled:
            self.mirror[row, :columns] = tables[row, :columns]
        assert (self.mirror[row, :columns] == tables[row, :columns]).all()

    def check(self) -> None:
        """Check both sides by what must hold in each."""
        assert_sound(self.naive)
        if self.engine is not None:
            assert_intact(self.engine)
