"""The oracle of planning and committing: the whole model of `nbkv.PagedKVCache`.

One file a concept: `naive_blocks` (states, links, fence), `naive_writing` (slots and
copy-on-write), `naive_names`, `naive` (single calls), `naive_prefixes` (the tree over
tokens), `naive_plans`, `naive_commits`, and here what remains.
"""

from collections.abc import Sequence
from copy import copy

from naive_blocks import Block, Refused
from naive_commits import NaiveCommits
from naive_plans import Step

__all__ = ["NaiveSteps", "Refused", "Step"]


class NaiveSteps(NaiveCommits):
    """The semantics of the scheduler's calls, one rule a method."""

    def __init__(
        self,
        block_size: int,
        num_blocks: int,
        policy: str = "lru",
        *,
        run_ahead: bool = False,
        hit_visibility: str = "planned",
        partial_reuse: bool = False,
        dedup: bool = True,
        window: int | None = None,
        watermark: int = 0,
        max_leases: int = 1024,
        max_leased_blocks: int | None = None,
        max_extra_keys: int | None = None,
        **limits: int | None,
    ) -> None:
        super().__init__(block_size, num_blocks, policy, **limits)
        self.run_ahead, self.hit_visibility = run_ahead, hit_visibility
        self.partial_reuse, self.dedup = partial_reuse, dedup
        self.window, self.watermark = window, watermark
        self.max_leases = max_leases
        self.max_leased_blocks = max_leased_blocks or max(1024, num_blocks // 8)
        self.max_extra_keys = max_extra_keys or self.max_extra_keys
        self.leases: dict[int, list[Block]] = {}
        self.num_leases_made = 0
        self.preemptions = 0
        self.in_flight: list[Step] = []

    # --- a whole step ----------------------------------------------------------------
    def plan(self, *args: object, **options: object) -> Step:
        step = super().plan(*args, **options)
        self.in_flight.append(step)
        return step

    def commit(self, step: Step, *args: object) -> Step:
        super().commit(step, *args)
        self.in_flight.remove(step)
        return step

    def fail(self, step_id: int) -> list[tuple[int, int]]:
        lost = super().fail(step_id)
        self.in_flight.clear()
        return lost

    def step(
        self,
        seq_ids: Sequence[int],
        counts: Sequence[int],
        num_accepted: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        **options: object,
    ) -> Step:
        """Commit the oldest plan, then plan: one report of both. With none, only plan."""
        if not self.in_flight:
            return self.plan(seq_ids, counts, **options)
        oldest = self.in_flight[0]
        accepted = [e.count for e in oldest.entries] if num_accepted is None else num_accepted
        self._check_commit(oldest, accepted, tokens)
        if any(count < 0 for count in counts):
            raise Refused("ArgumentError")
        self._handles(seq_ids)
        self.commit(oldest, accepted, tokens)
        try:
            planned = self.plan(seq_ids, counts, **options)
        except Refused:  # no room: the commit stands
            planned = Step(exhausted=True)
        planned.table_changes = oldest.table_changes + planned.table_changes
        planned.skipped = oldest.skipped
        return planned

    # --- whole sequences -------------------------------------------------------------
    def finish(self, seq_ids: Sequence[int]) -> None:
        lines = self._handles(seq_ids)
        self._begin()
        for line in lines:
            self._close(line)

    def reorder(self, seq_ids: Sequence[int], parents: Sequence[int]) -> None:
        """Each sequence becomes what another one was; who stays itself is left alone."""
        if len(parents) != len(seq_ids) or any(not 0 <= p < len(seq_ids) for p in parents):
            raise Refused("ArgumentError")
        lines = self._handles(seq_ids)
        before = [copy(line) for line in lines]
        moves = [(lines[i], before[i], before[p]) for i, p in enumerate(parents) if p != i]
        if any((line.salt, line.extras) != (p.salt, p.extras) for line, _, p in moves):
            raise Refused("ArgumentError")
        self._begin()
        for line, _, parent in moves:
            line.table = parent.table[: self._blocks_for(parent.num_committed)]
            line.num_tokens = line.num_committed = parent.num_committed
            line.num_hit_tokens = parent.num_hit_tokens
            line.void_step = self.num_steps
            self._take_after(line, parent, parent.num_committed)
        # What a sequence has in the same place already, it keeps.
        for line, was, _ in moves:
            for block in [b for b in line.blocks if b not in was.blocks]:
                self._hold(block)
        for line, was, _ in moves:
            self._release([b for b in was.blocks if b not in line.blocks])

    # --- leases ----------------------------------------------------------------------
    def pin(self, seq_id: int) -> int:
        (line,) = self._handles([seq_id])
        columns = line.table[: self._blocks_for(line.num_committed)]
        blocks = [b for b in columns if b is not None]
        leased = sum(len(x) for x in self.leases.values())
        if len(self.leases) == self.max_leases or leased + len(blocks) > self.max_leased_blocks:
            raise Refused("CapacityError")
        self._begin()
        for block in blocks:
            block.pin_count += 1
        self.num_leases_made += 1
        self.leases[self.num_leases_made] = blocks
        return self.num_leases_made

    def unpin(self, lease: int) -> None:
        if lease not in self.leases:
            raise Refused("LeaseError")
        self._begin()
        blocks = self.leases.pop(lease)
        for block in blocks:
            block.pin_count -= 1
        self._settle(blocks)

    # --- the cache -------------------------------------------------------------------
    def evict(self, num_blocks: int) -> list[int]:
        self._begin()
        while len(self.last_evicted) < num_blocks and self.evictable:
            self._evict()
        return self.last_evicted

    def reset_prefix_cache(self) -> int:
        """Return how many blocks have become free."""
        self._begin()
        was_cached = self.cached
        self.names.clear()
        for block in self.blocks:
            block.names.clear()
            self._forget_key(block)
        for block in was_cached:
            self._free_if_loose(block)
        for line in self.sequences.values():
            line.no_index = True
        return len(was_cached)
