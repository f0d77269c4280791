"""Every refusal of the scheduler's calls: kind, argument, value and range; nothing changed."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from step_support import compute, handles, int32
from support import make_cache

import nbkv

Cache = nbkv.PagedKVCache
Refusal = tuple[type[Exception], str, Callable[[Cache], Any]]
I8, U8, I4 = np.int64, np.uint64, np.int32
ARGUMENT, STEP = nbkv.ArgumentError, nbkv.StepError
GONE = (1 << 32) + 2  # the handle of sequence 3, which has ended


def busy_cache() -> Cache:
    """Make a cache of 7 blocks of 2: sequence 1 has 3 tokens and one planned, 2 has none.

    Sequence 3 has ended; its block is cached, and three are free. Step 3 is outstanding.
    """
    cache = make_cache(
        7, max_sequences=3, max_blocks_per_sequence=5, max_extra_keys=2, run_ahead=True
    )
    compute(cache, 1, [1, 2, 3])
    cache.admit(2, [])
    handle, _ = compute(cache, 3, [7, 7])
    assert handle == GONE
    cache.finish(handles(handle))
    cache.plan(ids(1), 1, lookahead=1)
    cache.complete(2)
    return cache


def ids(*seq_ids: int) -> Any:
    return np.array(seq_ids, U8)


def oldest(cache: Cache) -> nbkv.StepPlan:
    return cache._outstanding[0]


def plan(*args: Any, **options: Any) -> Callable[[Cache], Any]:
    return lambda c: c.plan(*args, **options)


def both(kind: type[Exception], message: str, *args: Any, **options: Any) -> list[Refusal]:
    """The same refusal from `plan`, and from `step` before it commits."""
    return [
        (kind, message, lambda c: c.plan(*args, **options)),
        (kind, message, lambda c: c.step(*args, **options)),
    ]


BATCHES: list[Refusal] = [
    # sequences
    *both(TypeError, r"sequences is a list; .*numpy array", [1], 1),
    *both(TypeError, r"sequences is a int; .*numpy array", 1, 1),
    *both(ARGUMENT, r"sequences is 'int32 array .*int64", np.ones(1, I4), 1),
    *both(ARGUMENT, r"sequences is 'float64 array .*int64", np.ones(1), 1),
    *both(ARGUMENT, r"sequences is 'int64 array of shape \(1, 1\)", np.ones((1, 1), I8), 1),
    *both(ARGUMENT, r"sequences is 'int64 array of shape \(\)", np.array(1), 1),
    *both(nbkv.UnknownSequenceError, r"sequences\[1\] is 9; no such", ids(2, 9), 1),
    *both(nbkv.StaleHandleError, rf"sequences\[0\] is {GONE}; ", handles(GONE), 1),
    *both(nbkv.StaleHandleError, r"sequences\[0\] is -1; ", handles(-1), 1),
    *both(nbkv.StaleHandleError, r"sequences\[0\] is 0; ", handles(0), 1),
    *both(nbkv.StaleHandleError, rf"sequences\[0\] is {2**63 - 1}; ", handles(2**63 - 1), 1),
    *both(nbkv.StaleHandleError, r"sequences\[0\] is -9", handles(-(2**63)), 1),
    *both(nbkv.DuplicateSequenceError, r"sequences\[2\] is 2, .*twice", ids(2, 1, 2), 1),
    # counts
    *both(TypeError, r"counts is 1\.0; .*integer", ids(2), 1.0),
    *both(TypeError, r"counts is True; .*integer", ids(2), True),
    *both(TypeError, r"counts is \[1\]; ", ids(2), [1]),
    *both(ARGUMENT, r"counts is -1; .*at least 0", ids(2), -1),
    *both(ARGUMENT, rf"counts is {2**31}; .*0 to {2**31 - 1}", ids(2), 2**31),
    *both(ARGUMENT, r"counts is 'int64 array .*int32", ids(2), np.ones(1, I8)),
    *both(ARGUMENT, r"counts is 'int32 array of shape \(1, 1\)", ids(2), np.ones((1, 1), I4)),
    *both(ARGUMENT, r"counts is 'int32 .*\(2,\).*as long as sequences, 1", ids(2), int32(1, 1)),
    *both(ARGUMENT, r"counts\[1\] is -5; .*at least 0", ids(2, 1), int32(1, -5)),
    # lookahead, on_exhaustion
    *both(TypeError, r"lookahead is 1\.5; ", ids(2), 1, lookahead=1.5),
    *both(ARGUMENT, r"lookahead is -1; .*0", ids(2), 1, lookahead=-1),
    *both(ARGUMENT, rf"lookahead is {2**31}; .*{2**31 - 1}", ids(2), 1, lookahead=2**31),
    *both(
        ARGUMENT, r"on_exhaustion is 'wait'; .*raise, stop, pre", ids(2), 1, on_exhaustion="wait"
    ),
    *both(ARGUMENT, r"on_exhaustion is None; ", ids(2), 1, on_exhaustion=None),
    # rank, victims
    *both(TypeError, r"rank is a list; ", ids(2), 1, rank=[1]),
    *both(ARGUMENT, r"rank is 'int32 array .*int64", ids(2), 1, rank=int32(1)),
    *both(ARGUMENT, r"rank is '1 numbers'; .*2", ids(2), 1, rank=np.zeros(1, I8), victims=ids(1)),
    *both(TypeError, r"victims is a list; ", ids(2), 1, victims=[1]),
    *both(ARGUMENT, r"victims is 'float64 array", ids(2), 1, victims=np.ones(1)),
    *both(nbkv.UnknownSequenceError, r"victims\[0\] is 9; ", ids(2), 1, victims=ids(9)),
    *both(nbkv.StaleHandleError, rf"victims\[0\] is {GONE}; ", ids(2), 1, victims=handles(GONE)),
    *both(nbkv.DuplicateSequenceError, r"victims\[0\] is 2, ", ids(2), 1, victims=ids(2)),
    *both(nbkv.DuplicateSequenceError, r"victims\[1\] is 1, ", ids(2), 1, victims=ids(1, 1)),
    # out
    *both(TypeError, r"out is array.*StepBuffers", ids(2), 1, out=np.zeros(9, np.uint8)),
    *both(TypeError, r"out is 7; .*StepBuffers", ids(2), 1, out=7),
    *both(ARGUMENT, r"out is .*no room for 9000 rows.*max_tokens", ids(2), 9000),
    # availability: told by a status in `step`
    (
        nbkv.CapacityError,
        r"sequences\[1\] is 2: .*max_blocks_per_sequence.* 5",
        plan(ids(1, 2), int32(1, 11)),
    ),
    (
        nbkv.CapacityError,
        r"sequences\[0\] is 2: .*max_blocks",
        plan(ids(2), 1, lookahead=11),
    ),
    (
        nbkv.OutOfBlocksError,
        r"needed 6 blocks, but only 3 free \+ 1 evict",
        plan(ids(1, 2), int32(6, 8)),
    ),
]

COMMITS: list[Refusal] = [
    (TypeError, r"plan is 3; .*StepPlan", lambda c: c.commit(3)),
    (TypeError, r"plan is <nbkv.*StepPlan", lambda c: c.commit(oldest(c).buffers)),
    (TypeError, r"out is 'x'; .*StepBuffers", lambda c: c.commit(oldest(c), out="x")),
    (TypeError, r"num_accepted is a int; ", lambda c: c.commit(oldest(c), 1)),
    (TypeError, r"num_accepted is a list; ", lambda c: c.commit(oldest(c), [1])),
    (ARGUMENT, r"num_accepted is 'int64 array", lambda c: c.commit(oldest(c), np.ones(1, I8))),
    (ARGUMENT, r"num_accepted is .*\(1, 1\)", lambda c: c.commit(oldest(c), np.ones((1, 1), I4))),
    (ARGUMENT, r"num_accepted is \[2\]; .*0 to what", lambda c: c.commit(oldest(c), int32(2))),
    (ARGUMENT, r"num_accepted is \[-1\]; ", lambda c: c.commit(oldest(c), int32(-1))),
    (ARGUMENT, r"num_accepted is \[1, 1\]; ", lambda c: c.commit(oldest(c), int32(1, 1))),
    (TypeError, r"tokens is 5; ", lambda c: c.commit(oldest(c), tokens=5)),
    (TypeError, r"tokens\[0\] is 1\.5; ", lambda c: c.commit(oldest(c), tokens=[1.5])),
    (TypeError, r"tokens is a float64 array", lambda c: c.commit(oldest(c), tokens=np.ones(1))),
    (ARGUMENT, rf"tokens\[0\] is {2**31}; ", lambda c: c.commit(oldest(c), tokens=[2**31])),
    (
        ARGUMENT,
        r"tokens is 'int32 array of shape \(1, 1\)",
        lambda c: c.commit(oldest(c), tokens=np.ones((1, 1), I4)),
    ),
    (ARGUMENT, r"tokens has 2 ids; .*have 1", lambda c: c.commit(oldest(c), tokens=[1, 2])),
    (ARGUMENT, r"tokens has 0 ids; .*have 1", lambda c: c.commit(oldest(c), tokens=[])),
    (
        STEP,
        r"plan is <StepPlan 0.*3 is next",
        lambda c: c.commit(nbkv.StepBuffers.for_cache(c).plan),
    ),
    # of step, before it plans
    (ARGUMENT, r"num_accepted is \[2\]; ", lambda c: c.step(ids(2), 1, int32(2))),
    (ARGUMENT, r"tokens has 2 ids; .*have 1", lambda c: c.step(ids(2), 1, tokens=[1, 2])),
    # complete, fail
    (TypeError, r"step_id is 1\.0; ", lambda c: c.complete(1.0)),
    (ARGUMENT, r"step_id is -1; ", lambda c: c.complete(-1)),
    (STEP, r"step_id is 0; .*at most 3", lambda c: c.complete(0)),
    (STEP, r"step_id is 4; .*at most 3", lambda c: c.complete(4)),
    (STEP, rf"step_id is {2**64}; .*at most 3", lambda c: c.complete(2**64)),
    (TypeError, r"step_id is None; ", lambda c: c.fail(None)),
    (ARGUMENT, r"step_id is -1; ", lambda c: c.fail(-1)),
    (STEP, r"step_id is 0; ", lambda c: c.fail(0)),
    (STEP, r"step_id is 2; .*not completed", lambda c: c.fail(2)),
    (STEP, r"step_id is 4; .*at most 3", lambda c: c.fail(4)),
    (STEP, rf"step_id is {2**64}; .*at most 3", lambda c: c.fail(2**64)),
]

LIFETIMES: list[Refusal] = [
    # finish
    (TypeError, r"sequences is a list; ", lambda c: c.finish([1])),
    (ARGUMENT, r"sequences is 'int32 array", lambda c: c.finish(int32(1))),
    (nbkv.UnknownSequenceError, r"sequences\[1\] is 9; ", lambda c: c.finish(ids(1, 9))),
    (nbkv.StaleHandleError, rf"sequences\[0\] is {GONE}; ", lambda c: c.finish(handles(GONE))),
    (nbkv.DuplicateSequenceError, r"sequences\[1\] is 1, ", lambda c: c.finish(ids(1, 1))),
    # reorder
    (TypeError, r"parents is a list; ", lambda c: c.reorder(ids(1), [0])),
    (ARGUMENT, r"parents is 'int64 array", lambda c: c.reorder(ids(1), np.zeros(1, I8))),
    (ARGUMENT, r"parents is '2 positions'; .*, 1", lambda c: c.reorder(ids(1), int32(0, 0))),
    (ARGUMENT, r"parents\[1\] is 2; .*0 to 1", lambda c: c.reorder(ids(1, 2), int32(0, 2))),
    (ARGUMENT, r"parents\[0\] is -1; .*0 to 1", lambda c: c.reorder(ids(1, 2), int32(-1, 0))),
    (nbkv.UnknownSequenceError, r"sequences\[0\] is 9; ", lambda c: c.reorder(ids(9), int32(0))),
    (nbkv.StaleHandleError, r"sequences\[0\]", lambda c: c.reorder(handles(GONE), int32(0))),
    (nbkv.DuplicateSequenceError, r"sequences\[1\]", lambda c: c.reorder(ids(1, 1), int32(0, 0))),
    # leases
    (TypeError, r"handle is 1\.0; ", lambda c: c.pin(1.0)),
    (ARGUMENT, r"handle is -1; ", lambda c: c.pin(-1)),
    (ARGUMENT, rf"handle is {2**63}; .*{2**63 - 1}", lambda c: c.pin(2**63)),
    (nbkv.StaleHandleError, r"handle is 1; ", lambda c: c.pin(1)),
    (nbkv.StaleHandleError, rf"handle is {GONE}; ", lambda c: c.pin(GONE)),
    (TypeError, r"lease is 'x'; ", lambda c: c.unpin("x")),
    (ARGUMENT, r"lease is -1; ", lambda c: c.unpin(-1)),
    (ARGUMENT, rf"lease is {2**63}; ", lambda c: c.unpin(2**63)),
    (nbkv.LeaseError, r"lease is 5; ", lambda c: c.unpin(5)),
    (TypeError, r"lease is None; ", lambda c: c.leased_blocks(None)),
    (ARGUMENT, r"lease is -1; ", lambda c: c.leased_blocks(-1)),
    (nbkv.LeaseError, r"lease is 5; ", lambda c: c.leased_blocks(5)),
    # evict
    (TypeError, r"num_blocks is 1\.0; ", lambda c: c.evict(1.0)),
    (ARGUMENT, r"num_blocks is -1; ", lambda c: c.evict(-1)),
    # single calls behind planned tokens
    (STEP, r"seq_id is 1, .*planned and not committed", lambda c: c.append_token(1)),
    (STEP, r"seq_id is 1, .*planned", lambda c: c.allocate_block(1)),
    (STEP, r"seq_id is 1, .*planned", lambda c: c.allocate_blocks_for_tokens(1, 1)),
    (STEP, r"sequences\[1\] is 1, .*planned", lambda c: c.append_tokens(ids(2, 1), 1)),
]

PROMPTS: list[Refusal] = [
    (nbkv.DuplicateSequenceError, r"seq_id is 1; ", lambda c: c.admit(1, [1])),
    (nbkv.DuplicateSequenceError, r"seq_id is 1; ", lambda c: c.admit(1, [1], owner=2)),
    (TypeError, r"seq_id is 1\.0; ", lambda c: c.admit(1.0, [1])),
    (ARGUMENT, r"seq_id is -1; ", lambda c: c.admit(-1, [1])),
    (ARGUMENT, rf"seq_id is {2**64}; ", lambda c: c.admit(2**64, [1])),
    (TypeError, r"token_ids is None; ", lambda c: c.admit(9, None)),
    (TypeError, r"token_ids is 'ab'; ", lambda c: c.admit(9, "ab")),
    (TypeError, r"token_ids\[1\] is 'b'; ", lambda c: c.admit(9, [1, "b"])),
    (ARGUMENT, rf"token_ids\[1\] is {-(2**31) - 1}; ", lambda c: c.admit(9, [1, -(2**31) - 1])),
    (ARGUMENT, rf"token_ids is {2**40}; ", lambda c: c.admit(9, np.array([1, 2**40]))),
    (ARGUMENT, r"token_ids is .*\(1, 2\)", lambda c: c.admit(9, np.ones((1, 2), I4))),
    (TypeError, r"token_ids is a float32 array", lambda c: c.admit(9, np.ones(2, np.float32))),
    (TypeError, r"salt is 'a'; .*Salt", lambda c: c.admit(9, [1], salt="a")),
    (TypeError, r"extra_keys\[0\] is 5; ", lambda c: c.admit(9, [1], extra_keys=[5])),
    (
        ARGUMENT,
        r"extra_keys\[0\] is \(1, 1, 3\); ",
        lambda c: c.admit(9, [1], extra_keys=[(1, 1, 3)]),
    ),
    (
        ARGUMENT,
        r"extra_keys\[1\] is .*ends at 2",
        lambda c: c.admit(9, [1], extra_keys=[(0, 2, 3), (1, 3, 4)]),
    ),
    (
        nbkv.CapacityError,
        r"extra_keys is 3 keys: max_extra_keys",
        lambda c: c.admit(9, [1], extra_keys=[(i, i + 1, 3) for i in range(3)]),
    ),
    (TypeError, r"max_hit_tokens is 1\.5; ", lambda c: c.admit(9, [1], max_hit_tokens=1.5)),
    (ARGUMENT, r"max_hit_tokens is -1; ", lambda c: c.admit(9, [1], max_hit_tokens=-1)),
    (TypeError, r"reserve_tokens is 'x'; ", lambda c: c.admit(9, [1], reserve_tokens="x")),
    (ARGUMENT, r"reserve_tokens is -1; ", lambda c: c.admit(9, [1], reserve_tokens=-1)),
    (ARGUMENT, r"arrival is -1; ", lambda c: c.admit(9, [1], arrival=-1)),
    (ARGUMENT, rf"arrival is {2**63}; .*{2**63 - 1}", lambda c: c.admit(9, [1], arrival=2**63)),
    (ARGUMENT, r"owner is -1; ", lambda c: c.admit(9, [1], owner=-1)),
    (ARGUMENT, rf"owner is {2**31}; .*{2**31 - 1}", lambda c: c.admit(9, [1], owner=2**31)),
    (
        nbkv.CapacityError,
        r"seq_id is 9: .*max_blocks_per_sequence.* 5",
        lambda c: c.admit(9, [1], reserve_tokens=11),
    ),
    (
        nbkv.CapacityError,
        r"seq_id is 9: .*max_blocks_per_sequence",
        lambda c: c.admit(9, [1] * 11, must_fit=True),
    ),
    (
        nbkv.OutOfBlocksError,
        r"needed 4 blocks, but only 3 free \+ 0 evictable",
        lambda c: c.admit(9, [7, 7], reserve_tokens=10),
    ),
    (TypeError, r"token_ids is None; ", lambda c: c.match_prefix()),
    (TypeError, r"token_ids is 3; ", lambda c: c.match_prefix(3)),
    (TypeError, r"salt is 7; ", lambda c: c.match_prefix([1], salt=7)),
    (TypeError, r"extra_keys\[0\] is 'ab'; ", lambda c: c.match_prefix([1], extra_keys=["ab"])),
    (ARGUMENT, r"max_hit_tokens is -2; ", lambda c: c.match_prefix([1], max_hit_tokens=-2)),
    (TypeError, r"block_hashes is given; ", lambda c: c.match_prefix([1], block_hashes=ids(1))),
    (
        ARGUMENT,
        r"block_hashes is .*\(1, 3\)",
        lambda c: c.match_prefix(block_hashes=np.ones((1, 3), U8)),
    ),
    (
        ARGUMENT,
        r"max_hit_tokens is -2; ",
        lambda c: c.match_prefix(block_hashes=ids(1), max_hit_tokens=-2),
    ),
    (TypeError, r"reserve_tokens is 1\.0; ", lambda c: c.can_admit(c.match_prefix([1]), 1.0)),
    (ARGUMENT, r"reserve_tokens is -1; ", lambda c: c.can_admit(c.match_prefix([1]), -1)),
    (TypeError, r"match is \[1\]; .*PrefixMatch", lambda c: c.can_admit([1])),
]

REFUSALS = BATCHES + COMMITS + LIFETIMES + PROMPTS


@pytest.mark.parametrize(
    ("kind", "message", "call"), REFUSALS, ids=[f"{i}-{m}" for i, (_, m, _) in enumerate(REFUSALS)]
)
def test_a_refusal_says_why_and_changes_nothing(
    kind: type[Exception], message: str, call: Callable[[Cache], Any]
) -> None:
    cache = busy_cache()
    data = oldest(cache).buffers.data
    before, planned = cache.state_bytes(), data.copy()
    with pytest.raises(kind, match=message) as caught:
        call(cache)
    assert type(caught.value) is kind
    assert (cache.state_bytes() == before).all()
    assert (data == planned).all()
    assert_intact(cache)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (kind, str(caught.value))


def test_a_cache_goes_on_after_every_refusal() -> None:
    cache = busy_cache()
    for kind, _, call in REFUSALS:
        with pytest.raises(kind):
            call(cache)
    plan = cache.step(ids(1, 2), 1, tokens=[4])
    # Sequence 1 uses the block it had ahead.
    assert plan.slot_mapping.tolist() == [6, 8]
    assert cache.match_prefix([1, 2, 3, 4]).num_hit_blocks == 2
    assert_intact(cache)


def test_one_plan_at_a_time_without_run_ahead() -> None:
    cache = make_cache(8, 2)
    cache.admit(1, [])
    first = cache.plan(ids(1), 1)
    before = cache.state_bytes()
    with pytest.raises(STEP, match=r"sequences is a batch of 1, but step 1 is planned .*run_ahead"):
        cache.plan(ids(1), 1)
    assert (cache.state_bytes() == before).all()
    cache.commit(first)
    assert cache.plan(ids(1), 1).step_id == 2
    # And what commits also completes.
    for call in (cache.fail, lambda step_id: cache.complete(step_id + 2)):
        with pytest.raises(STEP, match="step_id is"):
            call(1)


def test_steps_before_a_failed_one_are_committed_first() -> None:
    cache = make_cache(8, 2, run_ahead=True)
    cache.admit(1, [])
    plans = [cache.plan(ids(1), 1) for _ in range(3)]
    before = cache.state_bytes()
    with pytest.raises(STEP, match=r"step_id is 3; .*committed first, 1 is next"):
        cache.fail(3)
    assert (cache.state_bytes() == before).all()
    cache.commit(plans[0])
    assert cache.fail(2)["num_tokens"].tolist() == [1]


def test_parents_of_other_prompts_are_refused() -> None:
    cache = make_cache(8, 2)
    cache.admit(1, [1], salt=nbkv.Salt(tenant="a"))
    cache.admit(2, [1])
    before = cache.state_bytes()
    with pytest.raises(ARGUMENT, match=r"parents\[0\] is 1; .*same salt and extra keys"):
        cache.reorder(ids(1, 2), int32(1, 1))
    assert (cache.state_bytes() == before).all()


@pytest.mark.parametrize("form", ["strided", "read-only"])
def test_arrays_that_kernels_do_not_take_are_copied(form: str) -> None:
    def shaped(values: Any) -> Any:
        if form == "strided":
            return np.repeat(values, 2)[::2]
        values = values.copy()
        values.flags.writeable = False
        return values

    cache = make_cache(8, 2)
    batch = shaped(handles(cache.admit(1, [])[0], cache.admit(2, [])[0]))
    plan = cache.plan(batch, shaped(int32(2, 1)), rank=shaped(handles(1, 2)))
    assert plan.slot_mapping.tolist() == [0, 1, 2]
    cache.commit(plan, shaped(int32(2, 1)), shaped(int32(5, 6, 7)))
    assert cache.match_prefix(shaped(int32(5, 6))).num_hit_tokens == 2
    assert cache.admit(3, shaped(int32(5, 6)))[1] == 2
    cache.reorder(batch, shaped(int32(1, 1)))
    cache.step(batch, 1, shaped(int32()), None)
    cache.finish(batch)
    assert cache.num_sequences == 1
    assert_intact(cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_ahead": 1}, r"run_ahead is 1; it must be True or False"),
        ({"partial_reuse": None}, r"partial_reuse is None; "),
        ({"dedup": "yes"}, r"dedup is 'yes'; "),
        ({"hit_visibility": "always"}, r"hit_visibility is 'always'; allowed: planned, completed"),
        ({"hit_visibility": None}, r"hit_visibility is None; "),
        ({"window": 0}, r"window is 0; .*at least 1"),
        ({"window": 2**31}, r"window is 2147483648; .*at most 2147483647"),
        ({"window": 1.5}, r"window is 1\.5; .*integer"),
        ({"watermark": -1}, r"watermark is -1; .*at least 0 and at most 4"),
        ({"watermark": 5}, r"watermark is 5; .*at most 4"),
        ({"hash_seed": -1}, r"hash_seed is -1; "),
        ({"hash_seed": 2**63}, r"hash_seed is 9223372036854775808; .*at most 9223372036854775807"),
        ({"max_extra_keys": 0}, r"max_extra_keys is 0; .*at least 1"),
        ({"max_leases": 0}, r"max_leases is 0; "),
        ({"max_leases": 2**31}, r"max_leases is 2147483648; .*at most 1073741824"),
        ({"max_leased_blocks": 0}, r"max_leased_blocks is 0; "),
        ({"max_leased_blocks": True}, r"max_leased_blocks is True; "),
    ],
)
def test_a_configuration_is_checked_where_it_is_written(
    change: dict[str, Any], message: str
) -> None:
    fields = {"block_size": 2, "num_blocks": 4, "num_layers": 1, "num_kv_heads": 1, "head_dim": 8}
    with pytest.raises(nbkv.ConfigError, match=message):
        nbkv.CacheConfig(**fields | change)
