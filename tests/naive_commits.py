"""The model's commits: tokens become findable, rejected ones vanish, windows slide."""

from collections.abc import Sequence

from naive_blocks import Block, Line, Refused
from naive_plans import Entry, NaivePlans, Step


class NaiveCommits(NaivePlans):
    """What follows a plan: it is committed and completed, or it fails."""

    window: int | None

    def commit(
        self,
        step: Step,
        num_accepted: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
    ) -> Step:
        accepted = [e.count for e in step.entries] if num_accepted is None else list(num_accepted)
        self._check_commit(step, accepted, tokens)
        self._begin()
        self.committed_step = step.step_id
        step.skipped = []
        taken = 0
        for i, (entry, count) in enumerate(zip(step.entries, accepted, strict=True)):
            ids = None if tokens is None else list(tokens[taken : taken + count])
            taken += count
            if self._is_void(entry, step.step_id):
                step.skipped.append(i)
            else:
                self._commit_entry(entry, count, ids, step.step_id)
        if not self.run_ahead:
            self.completed_step = max(self.completed_step, step.step_id)
        step.table_changes = self.last_changes
        return step

    def _check_commit(
        self, step: Step, accepted: Sequence[int], tokens: Sequence[int] | None
    ) -> None:
        # Steps are committed in order, once; those that failed count as committed.
        if step.exhausted or step.step_id != self.committed_step + 1:
            raise Refused("StepError")
        if len(accepted) != len(step.entries):
            raise Refused("ArgumentError")
        if any(not 0 <= a <= e.count for a, e in zip(accepted, step.entries, strict=True)):
            raise Refused("ArgumentError")
        if tokens is not None and len(tokens) != sum(accepted):
            raise Refused("ArgumentError")

    def _is_void(self, entry: Entry, step_id: int) -> bool:
        line = entry.line
        alive = self.sequences.get(line.seq_id) is line
        # An entry without tokens does not keep single calls from adding some.
        return not alive or line.void_step >= step_id or line.num_committed != entry.start

    def _commit_entry(self, entry: Entry, count: int, ids: list[int] | None, step_id: int) -> None:
        line = entry.line
        if ids is not None and len(line.ids) == entry.start:
            line.ids += ids
        first = line.num_committed // self.block_size
        line.num_committed += count
        if count < entry.count:
            self._reject(line)
        for column in range(first, line.num_committed // self.block_size):
            self._publish(line, column, step_id)
        self._slide(line)

    def _reject(self, line: Line) -> None:
        """Drop what is planned beyond the committed tokens; the blocks stay, as capacity."""
        line.num_tokens = line.num_committed
        line.void_step = self.num_steps
        column, valid = divmod(line.num_committed, self.block_size)
        for block in line.table[column:]:
            block.num_tokens = min(block.num_tokens, valid)
            valid = 0

    # --- windows ---------------------------------------------------------------------
    def _least_tokens(self, line: Line) -> int:
        if not line.first_block:
            return 0
        return line.first_block * self.block_size + self.window - 1

    def _slide(self, line: Line) -> None:
        """Let go of the blocks wholly outside the window."""
        if self.window is None:
            return
        size = self.block_size
        outside = line.num_committed - self.window + 1
        columns = [c for c in range(line.first_block, len(line.table)) if (c + 1) * size <= outside]
        if not columns:
            return
        gone = [line.table[c] for c in columns]
        line.no_index = True
        for following in line.table[columns[-1] + 1 :][:1]:
            self._detach(following)
        for column in columns:
            line.table[column] = None
            self.last_changes.append((line.row, column, -1))
        self._release(gone)
        self.total_deallocations += len(gone)

    def _detach(self, block: Block) -> None:
        """A sequence holds a block without the one before: the two must not be linked."""
        for name in sorted(block.names):  # a name's blocks are found through parents
            self._drop_name(name, self.names.pop(name))
        self._unlink(block)
        block.detached = True

    # --- completion and failure ------------------------------------------------------
    def complete(self, step_id: int) -> None:
        if not 1 <= step_id <= self.num_steps:
            raise Refused("StepError")
        self._begin()
        self.completed_step = max(self.completed_step, step_id)
        self._pass_fence()

    def fail(self, step_id: int) -> list[tuple[int, int]]:
        """Return (seq_id, num_tokens) of those that lost tokens."""
        if not self.completed_step < step_id <= self.num_steps:
            raise Refused("StepError")
        if self.committed_step < step_id - 1:
            raise Refused("StepError")
        self._begin()
        published = self.committed_step >= step_id
        self._forget_since(step_id)
        lost = []
        for line in sorted(self.sequences.values(), key=lambda x: x.row):
            kept = self._kept_before(line, step_id, published)
            planned = line.last_step >= step_id and line.num_tokens > line.num_committed
            if kept < line.num_committed or planned:
                self._cut(line, kept)
                lost.append((line.seq_id, kept))
        self.committed_step = self.completed_step = self.num_steps
        self._pass_fence()
        return lost

    def _forget_since(self, step_id: int) -> None:
        """Un-index what steps from this one on have filled or copied."""
        for block in [b for b in self.blocks if b.ready_step >= step_id and b.findable]:
            for name in sorted(block.names):
                self._drop_name(name, self.names.pop(name))
            if block.findable:
                self._forget_key(block)
                self._free_if_loose(block)

    def _kept_before(self, line: Line, step_id: int, published: bool) -> int:
        """How many of a sequence's committed tokens do not come from this step or later."""
        size = self.block_size
        kept = line.num_committed
        bad = [c for c, b in enumerate(line.table) if b is not None and b.ready_step >= step_id]
        if bad:
            kept = min(kept, bad[0] * size)
        if published and line.last_step >= step_id:
            kept -= kept % size
        lost = kept < line.num_committed and kept < self._least_tokens(line)
        return 0 if lost else kept
