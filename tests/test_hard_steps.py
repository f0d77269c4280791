"""Small cases that are easy to get wrong: fences, failures, windows and what they leave behind.

Worked out by hand, on model and engine; `device_model` found most of them.
"""

import pytest
from naive_blocks import Refused
from pairing_steps import StepPair
from test_naive_steps import filled, tables


def test_released_blocks_wait_for_the_steps_in_flight() -> None:
    pair = StepPair(2, 2, run_ahead=True)
    pair.do("admit", 1, [])
    pair.do("admit", 2, [])
    first = pair.do("plan", [1], [4])
    pair.do("finish", [1])
    assert len(pair.naive.fence) == 2
    assert pair.do("plan", [2], [1], on_exhaustion="preempt").deferred == [0]
    pair.do("complete", first.step_id)
    # Released while step 1 was the last one planned.
    assert pair.naive.fence == []
    assert pair.do("plan", [2], [1]).slot_mapping == [0]


def test_who_shares_with_somebody_deferred_copies_after_all() -> None:
    pair = StepPair(2, 4, run_ahead=True)
    filled(pair, 1, [1])
    pair.do("fork", 1, 2)
    pair.do("admit", 3, [])
    pair.do("plan", [3], [4])
    # One block is left. Sequence 1 needs a copy and two blocks more; deferred, it keeps its
    # reference, so that sequence 2 must copy and takes the last one.
    step = pair.do("plan", [1, 2, 3], [5, 1, 1], on_exhaustion="preempt")
    assert (step.deferred, step.survivors) == ([0, 2], [1])
    assert step.copies == [(0, 3, 1)]
    pair.check()


def test_hits_behind_the_fence_need_no_room() -> None:
    pair = StepPair(2, 2, run_ahead=True)
    filled(pair, 1, [1, 1, 1, 1])
    pair.do("admit", 2, [])
    pair.do("plan", [2], [0])
    pair.do("finish", [1])
    assert len(pair.naive.fence) == 2
    assert pair.do("admit", 3, [1, 1, 1, 1]) == 4
    pair.do("finish", [3])
    pair.do("admit", 3, [1, 1, 1, 1], reserve_tokens=6)
    assert pair.refused


def test_completed_visibility_hides_what_may_not_have_run() -> None:
    pair = StepPair(2, 4, run_ahead=True, hit_visibility="completed")
    pair.do("admit", 1, [])
    step = pair.do("plan", [1], [2])
    pair.do("commit", step, None, [3, 3])
    assert pair.do("match_prefix", [3, 3]).num_hit_blocks == 0
    pair.do("complete", 1)
    assert pair.do("match_prefix", [3, 3]).num_hit_blocks == 1


def test_the_window_leaves_holes_and_cuts_what_follows() -> None:
    pair = StepPair(2, 8, window=3)
    pair.do("admit", 1, [])
    step = pair.do("plan", [1], [6])
    report = pair.do("commit", step, None, [1, 2, 3, 4, 5, 6])
    # The next token is the seventh; it attends to the fifth, sixth and itself.
    assert report.table_changes == [(0, 0, -1), (0, 1, -1)]
    assert tables(pair) == {1: [-1, -1, 2]}
    assert [b.block_id for b in pair.naive.cached] == [0, 1]
    # The third block is not found through the second any more.
    assert pair.do("match_prefix", [1, 2, 3, 4, 5, 6]).num_hit_blocks == 2
    pair.do("truncate", 1, 5)
    assert pair.refused
    pair.check()


def test_a_name_over_a_block_that_a_window_cuts_dies() -> None:
    pair = StepPair(2, 8, window=5)
    filled(pair, 1, [1, 2, 3, 4])
    pair.do("register_prefix", 9, [0, 1])
    step = pair.do("plan", [1], [2])
    assert pair.do("commit", step, None, [5, 6]).table_changes == [(0, 0, -1)]
    assert pair.do("lookup_prefix", 9) is None
    pair.check()


def test_a_block_held_behind_a_hole_gets_no_name_later() -> None:
    pair = StepPair(2, 8, window=5)
    pair.do("admit", 1, [])
    pair.do("commit", pair.do("plan", [1], [4]))  # without ids: not indexed
    pair.do("fork", 1, 2)
    pair.do("commit", pair.do("plan", [1], [2]))
    assert tables(pair) == {1: [-1, 1, 2], 2: [0, 1]}
    # Named, block 1 would be linked to block 0, and held without it by sequence 1.
    pair.do("register_prefix", 9, [0, 1])
    assert pair.refused
    pair.do("register_prefix", 9, [0])
    pair.check()


def test_a_table_of_holes_has_an_end_too() -> None:
    pair = StepPair(1, 3, window=1, max_blocks_per_sequence=4)
    pair.do("admit", 1, [])
    for _ in range(4):
        pair.do("commit", pair.do("plan", [1], [1]))
    assert tables(pair) == {1: [-1, -1, -1, -1]}
    with pytest.raises(Refused, match="CapacityError"):
        pair.naive.plan([1], [1])
    pair.do("plan", [1], [1])
    pair.check()


def test_holes_are_not_blocks_that_a_sequence_needs() -> None:
    pair = StepPair(1, 3, window=1, max_blocks_per_sequence=9)
    pair.do("admit", 1, [])
    for _ in range(4):
        pair.do("commit", pair.do("plan", [1], [1]))
    pair.do("admit", 2, [], reserve_tokens=3)
    step = pair.do("plan", [1], [1], on_exhaustion="preempt", victims=[2])
    assert step.preempted == [(2, 2, 0)]
    assert step.table_changes == [(0, 4, 1)]


def test_a_failed_step_takes_back_blocks_tokens_and_copies() -> None:
    pair = StepPair(2, 8, run_ahead=True)
    filled(pair, 1, [1, 1, 1])
    pair.do("fork", 1, 2)
    # Step 2 copies the half-full block of sequence 1; the copy never happens.
    step = pair.do("plan", [1], [1])
    assert step.copies == [(1, 2, 1)]
    assert pair.do("fail", step.step_id) == [(1, 2)]
    assert tables(pair) == {1: [0], 2: [0, 1]}
    pair.do("commit", step, None, [1])
    assert pair.refused


def test_a_failed_step_takes_back_what_others_have_of_it() -> None:
    pair = StepPair(4, 8, run_ahead=True)
    filled(pair, 1, [1, 1, 1, 1])
    step = pair.do("plan", [1], [1])
    pair.do("commit", step, None, [2])
    pair.do("fork", 1, 2)
    # Sequence 2 has a token of step 2 that no block tells of.
    assert sorted(pair.do("fail", step.step_id)) == [(1, 4), (2, 4)]
    assert tables(pair) == {1: [0], 2: [0]}


def test_an_attached_prefix_cut_inside_a_block_is_not_indexed_under_other_keys() -> None:
    pair = StepPair(4, 8)
    filled(pair, 1, [1, 1, 1, 1], salt="tenant")
    pair.do("register_prefix", 9, [0])
    pair.do("attach_prefix", 9, 2)
    pair.do("truncate", 2, 3)
    step = pair.do("plan", [2], [1])
    pair.do("commit", step, None, [5])
    # Three of these tokens were computed with the tenant's salt.
    assert pair.do("match_prefix", [1, 1, 1, 5]).num_hit_blocks == 0
