"""nbkv in the shadow of nano-vllm's manager: it agrees, and it finds planted bugs."""

import pickle

import pytest
from invariants import assert_intact
from nano_double import PlainManager, Scheduler, Sequence, random_sequences

from nbkv.integrations.nano_vllm import BlockManager
from nbkv.integrations.nano_vllm_shadow import ShadowedBlockManager
from nbkv.shadow import Difference, Shadow, ShadowError


def shadowed(manager):
    return ShadowedBlockManager(manager, lambda manager: manager.num_free_blocks)


def run(manager, sequences, max_tokens=32):
    scheduler = Scheduler(manager, max_tokens=max_tokens)
    for seq in sequences:
        scheduler.add(seq)
    while scheduler.waiting or scheduler.running:
        scheduler.step(lambda seq: (sum(seq.token_ids) + len(seq)) % 5)
    return scheduler


@pytest.mark.parametrize("kind", [PlainManager, BlockManager])
@pytest.mark.parametrize("num_blocks", [14, 30, 300])
def test_random_schedules_agree(rng, kind, num_blocks):
    num_preemptions = 0
    for _ in range(6):
        manager = shadowed(kind(num_blocks, 4))
        scheduler = run(manager, random_sequences(rng, 30, 4))
        num_preemptions += scheduler.num_preemptions
        assert manager.shadow.difference is None
        assert manager.shadow.num_calls > 100
        assert manager.shadow.step > 10
        assert manager.shadow.num_hit_blocks == scheduler.num_hit_tokens // 4
        assert manager.shadow._mirror.tables == {}
        assert_intact(manager.shadow._mirror.blocks.cache)
    assert num_preemptions > 0 or num_blocks > 14
    assert manager.shadow.num_missed_hits == 0 or kind is PlainManager


def test_a_managers_own_line_of_free_blocks_is_counted():
    plain = PlainManager(8, 4)
    plain.free_block_ids = plain.line
    manager = ShadowedBlockManager(plain)
    run(manager, [Sequence(0, [1] * 9)])
    assert manager.shadow.num_blocks == manager.num_blocks == 8
    plain.line.popleft()
    with pytest.raises(ShadowError, match="free blocks: expected 5, got 4"):
        manager.allocate(Sequence(1, [1] * 9), 2)


class TakesHeldBlocks(PlainManager):
    """Calls a shared block free as soon as one of its holders goes."""

    def deallocate(self, seq):
        for block in reversed(seq.block_table):
            self.holders[block] -= 1
            if block not in self.line:
                self.line.append(block)
        seq.num_cached_tokens = 0
        seq.block_table.clear()


class KeepsHashes(PlainManager):
    """Finds blocks under what was in them before they were handed out."""

    def next_block(self):
        block = self.line.popleft()
        self.holders[block] = 1
        return block


class IgnoresPrefixes(PlainManager):
    """Looks a block up by its own tokens, not by all before them."""

    def hits(self, seq):
        found = []
        for i in range(1, self.num_blocks_of(seq)):
            own = tuple(seq.token_ids[(i - 1) * self.block_size : i * self.block_size])
            blocks = [block for p, block in self.block_of.items() if p[-self.block_size :] == own]
            if not blocks:
                break
            found.append(blocks[0])
        return found


class Leaks(PlainManager):
    """Forgets the last block of every fifth sequence."""

    def deallocate(self, seq):
        if seq.seq_id % 5 == 4:
            seq.block_table.pop()
        super().deallocate(seq)


class LosesBlocks(PlainManager):
    """Never gives back the last block of one sequence."""

    def deallocate(self, seq):
        table = list(seq.block_table)
        super().deallocate(seq)
        if seq.seq_id == 3:
            self.line.remove(table[-1])


class SwapsEntries(PlainManager):
    """Changes a table behind the scheduler's back."""

    def may_append(self, seq):
        super().may_append(seq)
        if len(seq.block_table) > 3:
            seq.block_table[:2] = reversed(seq.block_table[:2])


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (TakesHeldBlocks, "a new block|free blocks"),
        (KeepsHashes, "the content of hit|a new block"),
        (IgnoresPrefixes, "the content of hit"),
        (Leaks, "the block table|free blocks"),
        (LosesBlocks, "free blocks"),
        (SwapsEntries, "the block table"),
    ],
)
def test_planted_bugs_are_named(rng, kind, what):
    found = []
    for _ in range(10):
        manager = shadowed(kind(30, 4))
        with pytest.raises(ShadowError, match=what) as info:
            run(manager, random_sequences(rng, 300, 4, vocabulary=2))
        found.append(info.value.difference)
        assert manager.shadow.difference == info.value.difference
        assert str(info.value.difference) == str(info.value)
    assert {difference.call for difference in found} <= {
        "allocate", "deallocate", "may_append", "hash_blocks",
    }  # fmt: skip


def test_the_first_difference_says_step_call_sequence_and_both_answers():
    manager = shadowed(LosesBlocks(30, 4))
    for seq_id in range(4):
        seq = Sequence(seq_id, [seq_id] * 5)
        manager.allocate(seq, manager.can_allocate(seq))
        seq.num_scheduled_tokens = 5
        manager.hash_blocks(seq)
        if seq_id < 3:
            manager.deallocate(seq)
    manager.can_append(seq)
    with pytest.raises(ShadowError) as info:
        manager.deallocate(seq)
    assert info.value.difference == Difference(4, "deallocate", None, "free blocks", 30, 29)
    assert str(info.value) == "step 4, deallocate: free blocks: expected 30, got 29"
    again = Sequence(9, [1] * 5)
    manager.allocate(again, 0)
    assert manager.shadow.difference is info.value.difference
    assert pickle.loads(pickle.dumps(info.value.difference)) == info.value.difference


def test_a_hit_on_another_content_says_what_the_block_has():
    shadow = Shadow(8, 4)
    shadow.opened("allocate", "a", [5, 6], [1] * 8)
    shadow.filled("hash", "a", [5, 6], [1] * 8, 2)
    with pytest.raises(ShadowError) as info:
        shadow.opened("allocate", "b", [6, 7], [1] * 8, 1)
    assert str(info.value) == (
        "step 0, allocate of sequence 'b': the content of hit 0:"
        " expected tokens 0 to 3, got block 6, which sequence 'a' holds"
    )


def test_content_that_was_cached_and_not_hit_is_a_miss():
    counting, raising = Shadow(8, 4, raise_missed_hits=False), Shadow(8, 4)
    for shadow in (counting, raising):
        shadow.opened("allocate", "a", [0], [1] * 4)
        shadow.filled("hash", "a", [0], [1] * 4, 1)
        shadow.closed("free", "a")
    counting.opened("allocate", "b", [1, 2], [1] * 5)
    assert counting.num_missed_hits == 1
    with pytest.raises(ShadowError, match="hit blocks: expected 1 or more, got 0"):
        raising.opened("allocate", "b", [1, 2], [1] * 5)


def test_what_an_engine_evicts_is_no_miss():
    shadow = Shadow(8, 4)
    shadow.opened("allocate", "a", [0], [1] * 4)
    shadow.filled("hash", "a", [0], [1] * 4, 1)
    shadow.evicted([0, 7])
    shadow.closed("free", "a")
    shadow.evicted([0])
    shadow.opened("allocate", "b", [1, 2], [1] * 5)
    with pytest.raises(ShadowError, match="whose content is gone"):
        shadow.opened("allocate", "c", [0, 3], [1] * 5, 1)


def test_an_entry_may_change_to_a_block_of_the_same_content_only():
    shadow = Shadow(8, 4)
    for name, table in (("a", [0, 1]), ("b", [2, 3])):
        shadow.opened("allocate", name, table, [1] * 8)
    shadow.filled("hash", "a", [0, 1], [1] * 8, 2)
    shadow.filled("hash", "b", [0, 3], [1] * 8, 1)
    shadow.check_free("hash", 5)
    with pytest.raises(ShadowError, match="entry 1: expected block 3, or one of its content"):
        shadow.filled("hash", "b", [0, 0], [1] * 8, 2)


def test_content_written_over_is_found():
    shadow = Shadow(8, 4)
    shadow.opened("allocate", "a", [0], [1] * 4)
    shadow.filled("hash", "a", [0], [1] * 4, 1)
    with pytest.raises(ShadowError, match="the content of block 0: expected what was written"):
        shadow.filled("hash", "a", [0], [2] * 4, 1)


def test_forks_share_what_they_say():
    shadow = Shadow(8, 4)
    shadow.opened("allocate", "a", [0, 1], [1] * 6)
    shadow.forked("fork", "b", [0, 2], "a", 1)
    shadow.check_free("fork", 5)
    shadow.closed("free", "a", [0, 1])
    shadow.check_free("free", 6)
    with pytest.raises(ShadowError, match="block 0, which sequence 'b' holds"):
        shadow.opened("allocate", "c", [3, 0], [1] * 6)
    with pytest.raises(
        ShadowError, match="fork of sequence 'z': the sequence has: expected blocks"
    ):
        Shadow(8, 4).forked("fork", "b", [0], "z", 1)


def test_a_sequence_freed_twice_is_found():
    shadow = Shadow(8, 4)
    shadow.opened("allocate", "a", [0], [1])
    shadow.closed("free", "a")
    with pytest.raises(ShadowError, match="the sequence has: expected blocks, got none"):
        shadow.closed("free", "a")
    with pytest.raises(ShadowError, match="the sequence has: expected none, got blocks"):
        open_twice()


def open_twice():
    shadow = Shadow(8, 4)
    for _ in range(2):
        shadow.opened("allocate", "a", [0], [1])
