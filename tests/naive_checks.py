"""What must hold in the model at any time, so that the oracle can be trusted by itself."""

from collections import Counter

from naive_steps import NaiveSteps


def assert_sound(model: NaiveSteps) -> None:
    """Check the equations of the design's section 3 on the model."""
    check_states(model)
    check_references(model)
    check_tree(model)
    check_names(model)


def check_states(model: NaiveSteps) -> None:
    free = [b for b in model.blocks if not b.held and not b.findable]
    fenced = [b for b in model.blocks if b.fence is not None]
    assert model.num_free == len(free)
    assert set(model.free) == {b for b in free if b.fence is None}
    assert len(set(model.free)) == len(model.free)
    assert set(model.fence) == set(fenced)
    assert len(set(model.fence)) == len(model.fence)
    assert not any(b.held for b in fenced)
    steps = [b.fence for b in model.fence]
    assert steps == sorted(steps)
    assert all(model.completed_step < step <= model.num_steps for step in steps)
    assert not steps or model.run_ahead
    assert model.completed_step <= model.num_steps
    assert model.committed_step + len(model.in_flight) == model.num_steps


def check_references(model: NaiveSteps) -> None:
    tables = [line.blocks for line in model.sequences.values()]
    entries = Counter(b for table in tables for b in table)
    pins = Counter(b for lease in model.leases.values() for b in lease)
    assert all(b.ref_count == entries[b] and b.pin_count == pins[b] for b in model.blocks)
    rows = [line.row for line in model.sequences.values()]
    assert sorted(rows + model.free_rows) == list(range(model.num_rows))
    for seq_id, line in model.sequences.items():
        assert line.seq_id == seq_id
        assert len(set(line.blocks)) == len(line.blocks)
        assert None not in line.table[line.first_block :]
        assert line.first_block * model.block_size <= line.num_committed
        assert 0 <= len(line.ids) <= line.num_committed <= line.num_tokens
        assert line.num_hit_tokens <= line.num_committed
        assert line.num_tokens <= len(line.table) * model.block_size
        assert len(line.table) <= model.max_blocks_per_sequence
        if line.partial:
            assert line.num_tokens == line.num_committed
            assert line.num_tokens % model.block_size
        planned = [s for s in model.in_flight if any(e.line is line for e in s.entries)]
        valid = [s for s in planned if s.step_id > line.void_step]
        outstanding = sum(e.count for s in valid for e in s.entries if e.line is line)
        assert line.num_tokens - line.num_committed == outstanding


def check_tree(model: NaiveSteps) -> None:
    keys = Counter()
    for block in model.blocks:
        if not block.findable:
            assert block.parent is None
            assert not model._children(block)
        if block.parent is not None:
            assert block.parent.findable
            # Held sets are prefix-closed, so what is cached has no held child.
            assert block.parent.held or not block.held
        if block.detached:
            assert block.parent is None
            assert not block.names
        assert block.chain_hash is None or block.tokens is None
        if block.tokens is not None:
            assert len(block.tokens) == block.num_keyed == model.block_size
            assert block.parent is None or block.parent.tokens is not None
            if not block.detached:
                keys[block.parent, block.tokens, block.extra] += 1
        assert block.child is None or block.child.parent is block or not block.findable
    assert set(keys.values()) <= {1}
    for line in model.sequences.values():
        for before, block in zip([None, *line.table], line.table, strict=False):
            if block is not None and block.findable:
                assert block.parent is before or block.detached


def check_names(model: NaiveSteps) -> None:
    over = Counter()
    for blocks in model.names.values():
        parent = None
        for block in blocks:
            over[block] += 1
            assert block.parent is parent
            assert not block.detached
            parent = block
    assert all(len(b.names) == over[b] for b in model.blocks)
