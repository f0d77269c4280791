"""The oracle by itself: what it says of small cases that can be worked out by hand.

The cases run on `StepPair`, so where the engine has the calls it must say the same.
"""

from typing import Any

import pytest
from naive_blocks import Refused
from naive_steps import NaiveSteps
from pairing_steps import StepPair


def filled(pair: StepPair, seq_id: int, prompt: list[int], **options: Any) -> int:
    """Admit a prompt and compute what is not cached; return the hit tokens."""
    hits = pair.do("admit", seq_id, prompt, **options)
    step = pair.do("plan", [seq_id], [len(prompt) - hits])
    pair.do("commit", step, None, prompt[hits:])
    if pair.naive.run_ahead:
        pair.do("complete", step.step_id)
    pair.check()
    return hits


def tables(pair: StepPair) -> dict[int, list[int]]:
    return {seq_id: pair.naive.block_table(seq_id) for seq_id in sorted(pair.naive.sequences)}


def test_a_plan_gives_slots_and_a_commit_makes_full_blocks_findable() -> None:
    pair = StepPair(2, 6)
    assert pair.do("admit", 7, [1, 2, 3]) == 0
    step = pair.do("plan", [7], [3])
    assert (step.slot_mapping, step.seq_lens) == ([0, 1, 2], [3])
    assert step.table_changes == [(0, 0, 0), (0, 1, 1)]
    assert pair.do("match_prefix", [1, 2, 9]).num_hit_blocks == 0
    pair.do("commit", step, None, [1, 2, 3])
    # The second block has one token: only the first is found.
    assert pair.do("match_prefix", [1, 2, 3, 4]).num_hit_tokens == 2
    assert pair.do("admit", 8, [1, 2, 9]) == 2
    step = pair.do("plan", [7, 8], [1, 1])
    assert step.slot_mapping == [3, 4]
    assert tables(pair) == {7: [0, 1], 8: [0, 2]}
    pair.check()


def test_salt_and_extra_keys_keep_equal_tokens_apart() -> None:
    pair = StepPair(2, 9)
    prompt = [1, 2, 3, 4]
    filled(pair, 1, prompt)
    filled(pair, 2, prompt, salt="a")
    assert filled(pair, 3, prompt, salt="a", extra_keys=((2, 4, 7),)) == 2
    assert pair.do("match_prefix", prompt).num_revived == 0
    hits = [
        pair.do("match_prefix", prompt, salt=salt, extra_keys=extra_keys).num_hit_blocks
        for salt in (None, "a", "b")
        for extra_keys in ((), ((2, 4, 7),), ((2, 4, 8),), ((0, 2, 7),))
    ]
    assert hits == [2, 1, 1, 0, 2, 2, 1, 0, 0, 0, 0, 0]


def test_a_block_is_exchanged_for_an_equal_one_of_an_earlier_step_only() -> None:
    pair = StepPair(2, 8)
    for seq_id in (1, 2, 3):
        pair.do("admit", seq_id, [5, 6])
    step = pair.do("plan", [1, 2], [2, 2])
    # Both were filled by one step: the second stays private.
    assert pair.do("commit", step, None, [5, 6, 5, 6]).table_changes == []
    step = pair.do("plan", [3], [2])
    assert step.slot_mapping == [4, 5]
    assert pair.do("commit", step, None, [5, 6]).table_changes == [(2, 0, 0)]
    assert tables(pair) == {1: [0], 2: [1], 3: [0]}
    assert pair.naive.num_free == 6
    assert pair.naive.total_deallocations == 1


def test_rejected_drafts_are_planned_again_and_their_blocks_stay() -> None:
    pair = StepPair(2, 8, run_ahead=True)
    pair.do("admit", 1, [])
    first = pair.do("plan", [1], [3], lookahead=1)
    second = pair.do("plan", [1], [2])
    assert tables(pair) == {1: [0, 1, 2]}
    assert second.slot_mapping == [3, 4]
    pair.do("commit", first, [1], [9])
    # What was planned behind a rejected token counts for nothing.
    assert pair.do("commit", second, None, [8, 8]).skipped == [0]
    assert tables(pair) == {1: [0, 1, 2]}
    assert pair.do("plan", [1], [1]).slot_mapping == [1]


def test_exhaustion_raises_stops_or_preempts_the_latest() -> None:
    for mode in ("raise", "stop", "preempt"):
        pair = StepPair(2, 4)
        for seq_id in (1, 2, 3):
            filled(pair, seq_id, [seq_id, seq_id])
        step = pair.do(
            "plan", [1, 2], [2, 2], on_exhaustion=mode, victims=[3] * (mode == "preempt")
        )
        assert pair.refused == (mode == "raise")
        if mode == "stop":
            assert (step.survivors, step.preempted) == ([0], [])
        if mode == "preempt":
            assert (step.survivors, step.preempted) == ([0, 1], [(3, 3, 2)])
            assert step.evicted == [2]
            assert step.slot_mapping == [6, 7, 4, 5]


def test_a_needer_goes_itself_when_only_those_before_it_could_help() -> None:
    pair = StepPair(2, 4)
    filled(pair, 1, [1, 1, 1, 1])
    filled(pair, 2, [2, 2, 2, 2])
    step = pair.do("plan", [2], [1], on_exhaustion="preempt", victims=[1])
    assert (step.survivors, step.preempted) == ([], [(2, 2, 4)])
    assert tables(pair) == {1: [0, 1]}
    # Its blocks stay cached.
    assert pair.do("match_prefix", [2, 2, 2, 2]).num_hit_tokens == 4


def test_a_block_used_in_part_is_copied_before_the_next_write() -> None:
    pair = StepPair(4, 8, partial_reuse=True)
    filled(pair, 1, [1, 1, 1, 1, 2, 2, 2, 2])
    match = pair.do("match_prefix", [1, 1, 1, 1, 2, 2, 3])
    assert (match.num_hit_blocks, match.num_partial_tokens) == (1, 2)
    assert pair.do("admit", 2, [1, 1, 1, 1, 2, 2, 3]) == 6
    pair.do("finish", [1])
    step = pair.do("plan", [2], [1])
    # Even alone with it: the source stays findable.
    assert step.copies == [(1, 2, 2)]
    assert pair.do("match_prefix", [1, 1, 1, 1, 2, 2, 2, 2]).num_hit_blocks == 2


def test_reorder_shares_and_the_next_plan_copies_for_all_but_one() -> None:
    pair = StepPair(2, 9)
    filled(pair, 1, [1, 2, 3])
    pair.do("fork", 1, 2)
    pair.do("fork", 1, 3)
    step = pair.do("plan", [1, 2, 3], [1, 1, 1])
    assert step.copies == [(1, 2, 1), (1, 3, 1)]
    pair.do("commit", step, None, [4, 5, 6])
    assert tables(pair) == {1: [0, 2], 2: [0, 3], 3: [0, 1]}
    pair.do("reorder", [1, 2, 3], [1, 1, 0])
    assert tables(pair) == {1: [0, 3], 2: [0, 3], 3: [0, 2]}
    # Sequence 3's own block, the fuller one, is cached: it can be found.
    assert pair.do("match_prefix", [1, 2, 3, 6]).num_hit_tokens == 4
    pair.check()


def test_pinned_blocks_outlive_their_sequence_and_are_not_written_to() -> None:
    pair = StepPair(4, 4)
    filled(pair, 1, [1, 1, 1, 1, 2, 2])
    lease = pair.do("pin", 1)
    pair.do("truncate", 1, 5)
    assert pair.do("plan", [1], [1]).copies == [(1, 2, 1)]
    pair.do("finish", [1])
    assert {b.block_id for b in pair.naive.held} == {0, 1}
    pair.do("unpin", lease)
    assert {b.block_id for b in pair.naive.cached} == {0}
    pair.do("unpin", lease)
    assert pair.refused


@pytest.mark.parametrize(
    ("policy", "order"), [("lru", [0, 1, 2]), ("fifo", [0, 1, 2]), ("frequency", [0, 2, 1])]
)
def test_eviction_follows_the_policy(policy: str, order: list[int]) -> None:
    pair = StepPair(2, 4, policy)
    for seq_id in (1, 2, 3):
        filled(pair, seq_id, [seq_id, seq_id])
    pair.do("admit", 4, [2, 2])  # block 1 is used once more
    pair.do("finish", [4])
    pair.do("finish", [1, 2, 3])
    assert pair.do("evict", 5) == order
    pair.check()


def test_reset_forgets_everything_and_living_sequences_index_no_more() -> None:
    pair = StepPair(2, 6)
    filled(pair, 1, [1, 1, 1])
    filled(pair, 2, [2, 2])
    pair.do("finish", [2])
    pair.do("reset_prefix_cache")
    assert pair.naive.cached == []
    step = pair.do("plan", [1], [1])
    pair.do("commit", step, None, [1])
    assert pair.do("match_prefix", [1, 1, 1, 1]).num_hit_blocks == 0


def test_single_calls_refuse_tokens_behind_planned_ones() -> None:
    naive = NaiveSteps(2, 4)
    naive.admit(1, [1])
    step = naive.plan([1], [1])
    for call in (
        lambda: naive.append_token(1),
        lambda: naive.allocate_block(1),
        lambda: naive.append_tokens([1], [0]),
        lambda: naive.plan([1], [1]),
    ):
        with pytest.raises(Refused, match="StepError"):
            call()
    naive.commit(step)
    assert naive.append_token(1) == 0
