"""nano-vllm's scheduler on our block manager, beside its own."""

from types import SimpleNamespace

import numpy as np
import pytest
from invariants import assert_intact
from nano_double import PlainManager, Scheduler, Sequence, random_sequences

import nbkv
from nbkv.integrations.nano_vllm import DOES_NOT_FIT, BlockManager


def next_token(seq):
    return (sum(seq.token_ids) + len(seq)) % 5


def run(manager, sequences, **limits):
    """Run to the end; return what each step did."""
    scheduler, steps = Scheduler(manager, **limits), []
    for seq in sequences:
        scheduler.add(seq)
    while scheduler.waiting or scheduler.running:
        tables = [(s.seq_id, len(s.block_table)) for s in scheduler.running]
        chosen = scheduler.step(next_token)
        assert chosen
        seqs = [(s.seq_id, s.num_cached_tokens, s.num_hit_tokens) for s in chosen]
        steps.append((seqs, tables, manager.num_free_blocks))
        check_tables(manager, [*scheduler.running, *scheduler.waiting])
    return scheduler, steps


def check_tables(manager, sequences):
    """A block in two tables has the same tokens before it and in it, all of them computed."""
    size, contents = manager.block_size, {}
    for seq in sequences:
        assert len(set(seq.block_table)) == len(seq.block_table)
        for i, block in enumerate(seq.block_table):
            is_full = (i + 1) * size <= seq.num_cached_tokens
            prefix = tuple(seq.token_ids[: (i + 1) * size]) if is_full else (seq.seq_id, i)
            assert contents.setdefault(block, prefix) == prefix
    assert manager.num_free_blocks == manager.num_blocks - len(contents)


@pytest.mark.parametrize("block_size", [2, 4, 16])
def test_schedules_are_those_of_nano_vllm_when_nothing_is_evicted(rng, block_size):
    sequences = random_sequences(rng, 40, block_size)
    again = [Sequence(s.seq_id, list(s.token_ids), s.max_tokens) for s in sequences]
    theirs, expected = run(PlainManager(4000, block_size), sequences)
    ours, got = run(BlockManager(4000, block_size), again)
    assert got == expected
    assert ours.num_hit_tokens == theirs.num_hit_tokens > 0


@pytest.mark.parametrize("num_blocks", [12, 20, 40])
def test_schedules_with_preemption_leave_nothing_behind(rng, num_blocks):
    for _ in range(8):
        sequences = random_sequences(rng, 30, 4)
        manager = BlockManager(num_blocks, 4)
        scheduler, _ = run(manager, sequences, max_tokens=rng.choice([5, 16, 64]))
        assert manager.num_free_blocks == num_blocks
        assert manager._blocks.cache.num_external_holds == 0
        assert not manager._converted
        assert_intact(manager._blocks.cache)
    assert scheduler.num_preemptions > 0 or num_blocks > 20


def test_tokens_are_those_of_nano_vllm_under_pressure(rng):
    sequences = random_sequences(rng, 30, 4)
    again = [Sequence(s.seq_id, list(s.token_ids), s.max_tokens) for s in sequences]
    run(PlainManager(20, 4), sequences)
    run(BlockManager(20, 4), again)
    assert [s.token_ids for s in again] == [s.token_ids for s in sequences]


def test_what_can_be_found_goes_after_what_cannot():
    manager = BlockManager(6, 4)
    cached, private = Sequence(1, list(range(8))), Sequence(2, [9] * 4)
    manager.allocate(cached, 0)
    cached.num_scheduled_tokens = 8
    manager.hash_blocks(cached)
    manager.deallocate(cached)
    manager.allocate(private, 0)
    manager.deallocate(private)
    manager.allocate(Sequence(3, [8] * 16), 0)
    again = Sequence(4, list(range(9)))
    assert manager.can_allocate(again) == DOES_NOT_FIT
    assert manager._find(again) == [0, 1]


def test_of_equal_blocks_the_other_is_hit_once_one_is_evicted():
    manager = BlockManager(5, 4)
    twins = [Sequence(seq_id, [1, 2, 3, 4]) for seq_id in (1, 2)]
    for seq in twins:
        manager.allocate(seq, manager.can_allocate(seq))
    for seq in twins:
        seq.num_scheduled_tokens = 4
        manager.hash_blocks(seq)
    third = Sequence(3, [1, 2, 3, 4, 5])
    assert manager._find(third) == [1]
    for seq in reversed(twins):
        manager.deallocate(seq)
    manager.allocate(Sequence(4, [7] * 16), 0)
    assert manager._find(third) == [0]


def test_a_prefix_with_another_ones_hash_is_no_hit():
    manager = BlockManager(8, 4)
    seq = Sequence(1, list(range(8)))
    manager.allocate(seq, 0)
    seq.num_scheduled_tokens = 8
    manager.hash_blocks(seq)
    keys = manager._keys(np.arange(8, dtype=np.int32))
    manager._keys = lambda tokens: keys
    assert manager._find(Sequence(2, [0, 1, 2, 3, 4, 5, 6, 8, 9])) == [0]


def test_misuse_is_refused_and_changes_nothing():
    manager = BlockManager(4, 4)
    seq, other = Sequence(1, [1] * 9), Sequence(2, [2] * 20)
    manager.allocate(seq, 0)
    before = manager._blocks.cache.state_bytes().tobytes()
    with pytest.raises(nbkv.BlockError, match="sequence 1 has a block table already"):
        manager.allocate(seq, 0)
    with pytest.raises(nbkv.ArgumentError, match="num_cached_blocks is 1; allowed: 0 to 0"):
        manager.allocate(other, 1)
    with pytest.raises(nbkv.OutOfBlocksError):
        manager.allocate(other, 0)
    with pytest.raises(nbkv.BlockError, match="sequence 2 has no blocks"):
        manager.deallocate(other)
    seq.num_scheduled_tokens = 12
    with pytest.raises(nbkv.ArgumentError, match="sequence 1 has 9 tokens; its blocks need 12"):
        manager.hash_blocks(seq)
    assert manager._blocks.cache.state_bytes().tobytes() == before
    table = list(seq.block_table)
    manager.deallocate(seq)
    seq.block_table.extend(table)
    with pytest.raises(nbkv.BlockError):
        manager.deallocate(seq)


def test_a_hit_that_cannot_be_completed_is_let_go():
    manager = BlockManager(3, 4)
    seq = Sequence(1, [1] * 4)
    manager.allocate(seq, 0)
    seq.num_scheduled_tokens = 4
    manager.hash_blocks(seq)
    manager.deallocate(seq)
    with pytest.raises(nbkv.OutOfBlocksError):
        manager.allocate(Sequence(2, [1] * 17), 1)
    assert manager.num_free_blocks == 3


def test_a_seq_id_used_again_does_not_bring_its_tokens_back():
    manager = BlockManager(8, 4)
    first = Sequence(1, [1] * 9)
    assert manager.can_allocate(first) == 0
    second = Sequence(1, [2] * 9)
    manager.allocate(second, manager.can_allocate(second))
    second.num_scheduled_tokens = 8
    manager.hash_blocks(second)
    assert manager._find(Sequence(2, [1] * 9)) == []
    assert len(manager._find(Sequence(3, [2] * 9))) == 2


def test_sequences_may_be_of_any_class():
    class Request(SimpleNamespace):
        def __len__(self):
            return len(self.token_ids)

    manager = BlockManager(2, 4)
    request = Request(seq_id=0, token_ids=[1], block_table=[], num_cached_tokens=0)
    manager.allocate(request, manager.can_allocate(request))
    assert request.block_table == [0]
