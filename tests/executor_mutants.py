"""The engine with one rule taken away, each by patching interpreted kernels.

Run as a program in a process of its own (NUMBA_DISABLE_JIT=1), it prints what a
`LaggingExecutor` says of each mutant named on its command line, as JSON.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import nbkv
from nbkv.kernels import buffers, leases, publish
from nbkv.kernels.commit import _record_tokens
from nbkv.kernels.holding import settle_block
from nbkv.kernels.state import State, open_state
from nbkv.layout import COPY_TAIL, HELD, INDEXED, NAMED, NO_BLOCK
from nbkv.testing import LaggingExecutor, SlotError, run_random_schedule

Patch = tuple[str, str, Any]  # module (or * for all kernels), name, what takes its place
_ROW_MASK = 0xFFFFFFFF
NUM_EVENTS = 400


def original(module: str, name: str) -> Any:
    return getattr(sys.modules[f"nbkv.kernels.{module}"], name)


@contextmanager
def patched(patches: list[Patch]) -> Iterator[None]:
    """Replace functions of nbkv.kernels wherever their names are used."""
    undo = []
    for module, name, replacement in patches:
        for known in [m for n, m in sys.modules.items() if n.startswith("nbkv.kernels.")]:
            if module in ("*", known.__name__.rpartition(".")[2]) and name in vars(known):
                undo.append((known, name, vars(known)[name]))
                setattr(known, name, replacement)
    assert undo, patches
    try:
        yield
    finally:
        for known, name, function in reversed(undo):
            setattr(known, name, function)


def nothing(*_: object) -> None:
    """Do nothing."""


# --- the rules of the design ------------------------------------------------------------
def fence_removed() -> list[Patch]:
    return [("*", "must_fence", lambda state: False)]


def fence_passed_at_any_completion() -> list[Patch]:
    return [("holding", "is_past", lambda step, clock: True)]


def sources_released_before_room_is_made() -> list[Patch]:
    """Take the same-call rule away: a copy's source may be evicted by the call that copies."""
    write_entries = original("plan", "_write_entries")

    def release_first(state: State, step: Any, counts: Any, size: int, *rest: Any) -> None:
        for row in state.scratch[:size].tolist():
            if state.sequences["flags"][row] & COPY_TAIL:
                column = state.sequences["num_tokens"][row] // state.header["block_size"][0]
                block_id = state.tables[row * state.header["table_stride"][0] + column]
                held = state.blocks["ref_count"][block_id] + state.blocks["pin_count"][block_id]
                if held == 0 and state.blocks["state"][block_id] == HELD:
                    settle_block(state, block_id)
        write_entries(state, step, counts, size, *rest)

    return [("plan", "_write_entries", release_first)]


def no_copy_if(forgiven: Callable[[State, int, int], bool]) -> Callable[..., bool]:
    must_copy = original("tails", "must_copy")

    def mutant(state: State, block_id: int, offset: int) -> bool:
        return bool(must_copy(state, block_id, offset)) and not forgiven(state, block_id, offset)

    return mutant


def is_cut(state: State, block_id: int) -> bool:
    """Tell whether a block, held once, unpinned and unnamed, is findable with children."""
    blocks = state.blocks
    held = blocks["ref_count"][block_id] > 1 or blocks["pin_count"][block_id] > 0
    return not held and not blocks["flags"][block_id] & NAMED


def truncated_blocks_written_in_place() -> list[Patch]:
    mutant = no_copy_if(lambda state, block_id, _: is_cut(state, block_id))
    return [("*", "must_copy", mutant), ("tails", "unindex_block", nothing)]


def truncated_blocks_stay_findable() -> list[Patch]:
    return [("tails", "unindex_block", nothing)]


def shared_blocks_written_in_place() -> list[Patch]:
    mutant = no_copy_if(lambda state, block_id, _: state.blocks["ref_count"][block_id] > 1)
    return [("*", "must_copy", mutant)]


def pinned_blocks_written_in_place() -> list[Patch]:
    mutant = no_copy_if(
        lambda state, block_id, _: (
            state.blocks["ref_count"][block_id] == 1 and state.blocks["pin_count"][block_id] > 0
        )
    )
    return [("*", "must_copy", mutant)]


# --- what a step reports ----------------------------------------------------------------
def copies_not_reported() -> list[Patch]:
    return [("plan", "report_copies", nothing)]


def copies_one_token_short() -> list[Patch]:
    def short(state: State, step: buffers.Step) -> None:
        buffers.report_copies(state, step)
        step.copies[3 : 4 * step.header["num_copies"][0] : 4] -= 1

    return [("plan", "report_copies", short)]


def change_of_a_copy_not_reported() -> list[Patch]:
    return [("plan", "add_change", nothing)]


def last_new_column_not_reported() -> list[Patch]:
    def short(state: State, step: Any, row: int, first: int, end: int) -> None:
        buffers.add_columns(state, step, row, first, end - 1)

    return [("plan", "add_columns", short)]


def exchange_not_reported() -> list[Patch]:
    return [("publish", "add_change", nothing)]


# --- the index --------------------------------------------------------------------------
def exchanged_for_a_block_of_other_content() -> list[Patch]:
    find_keyed = original("publish", "find_keyed")

    def any_child(state: State, parent: int, *key: Any) -> int:
        found = int(find_keyed(state, parent, *key))
        if found != NO_BLOCK:
            return found
        same = (state.blocks["parent"] == parent) & (state.blocks["flags"] & INDEXED != 0)
        others = np.flatnonzero(same)
        return int(others[0]) if others.size else NO_BLOCK

    return [("publish", "find_keyed", any_child)]


def salt_and_extra_keys_ignored() -> list[Patch]:
    root_hash = original("hashing", "root_hash")
    return [
        ("publish", "extra_at", lambda *_: np.uint64(0)),
        ("publish", "root_hash", lambda seed, *_: root_hash(seed, np.uint64(0), np.uint64(0))),
    ]


def failed_blocks_stay_findable() -> list[Patch]:
    return [("failing", "_forget_blocks", nothing)]


def rejected_drafts_kept() -> list[Patch]:
    return [("commit", "_reject", nothing)]


def hits_before_completion() -> list[Patch]:
    return [("*", "is_visible", lambda state, block_id: True)]


def pins_hold_nothing() -> list[Patch]:
    pin_blocks, unpin_blocks = leases.pin_blocks, leases.unpin_blocks
    room = np.empty(64, np.int32)

    def shift(arena: Any, lease: int, by: int) -> None:
        count = leases.list_leased(arena, lease, room)
        np.add.at(open_state(arena).blocks["pin_count"], room[:count], by)

    def pin(arena: Any, handle: int) -> int:
        lease = int(pin_blocks(arena, handle))
        if lease > 0:
            shift(arena, lease, -1)
        return lease

    def unpin(arena: Any, lease: int) -> int:
        shift(arena, lease, 1)
        return int(unpin_blocks(arena, lease))

    return [("leases", "pin_blocks", pin), ("leases", "unpin_blocks", unpin)]


def nothing_removed() -> list[Patch]:
    return []


def indexed_when_planned() -> list[Patch]:
    return []


class EagerExecutor(LaggingExecutor):
    """Makes blocks findable as soon as their tokens are planned."""

    def submit(self, plan: nbkv.StepPlan, tokens: Any = None) -> Any:
        ids = super().submit(plan, tokens)
        state = open_state(self.cache.writable_arena())
        step = buffers.open_step(plan.buffers.data)
        size, at = self.cache.config.block_size, 0
        for row, _, start, count in plan.entries.tolist():
            _record_tokens(state, row, start, count, ids, at)
            publish.publish_blocks(
                state, step, row, start // size, (start + count) // size, plan.step_id
            )
            at += count
        return ids


# Name: what is patched, and the configuration that the rule matters in.
MUTANTS: dict[str, tuple[Callable[[], list[Patch]], dict[str, Any]]] = {
    "fence_removed": (fence_removed, {"run_ahead": True}),
    "fence_passed_at_any_completion": (fence_passed_at_any_completion, {"run_ahead": True}),
    "sources_released_before_room_is_made": (
        sources_released_before_room_is_made,
        {"partial_reuse": True, "eviction_policy": "fifo", "block_size": 4},
    ),
    "indexed_when_planned": (indexed_when_planned, {"dedup": False, "block_size": 2}),
    "truncated_blocks_written_in_place": (truncated_blocks_written_in_place, {"block_size": 4}),
    "truncated_blocks_stay_findable": (truncated_blocks_stay_findable, {"block_size": 4}),
    "shared_blocks_written_in_place": (shared_blocks_written_in_place, {"block_size": 4}),
    "pinned_blocks_written_in_place": (pinned_blocks_written_in_place, {"block_size": 4}),
    "copies_not_reported": (copies_not_reported, {"block_size": 4}),
    "copies_one_token_short": (copies_one_token_short, {"block_size": 4}),
    "change_of_a_copy_not_reported": (change_of_a_copy_not_reported, {"block_size": 4}),
    "last_new_column_not_reported": (last_new_column_not_reported, {}),
    "exchange_not_reported": (exchange_not_reported, {"dedup": True}),
    "exchanged_for_a_block_of_other_content": (
        exchanged_for_a_block_of_other_content,
        {"dedup": True},
    ),
    "salt_and_extra_keys_ignored": (salt_and_extra_keys_ignored, {}),
    "failed_blocks_stay_findable": (failed_blocks_stay_findable, {"run_ahead": True}),
    "rejected_drafts_kept": (rejected_drafts_kept, {}),
    "hits_before_completion": (
        hits_before_completion,
        {"run_ahead": True, "hit_visibility": "completed"},
    ),
    "pins_hold_nothing": (pins_hold_nothing, {}),
    "nothing_removed": (nothing_removed, {}),
}


def configure(rng: random.Random, fixed: dict[str, Any]) -> nbkv.CacheConfig:
    """Draw a configuration: small pools, so that they are nearly full."""
    options: dict[str, Any] = {
        "block_size": rng.choice((1, 2, 4)),
        "num_blocks": rng.choice((10, 16, 30)),
        "max_sequences": rng.choice((4, 8)),
        "run_ahead": rng.random() < 0.7,
        "partial_reuse": rng.random() < 0.5,
        "dedup": rng.random() < 0.7,
        "hit_visibility": rng.choice(("planned", "completed")),
        "window": rng.choice((None, None, None, 1, 5, 9)),
        "eviction_policy": rng.choice(("lru", "fifo", "frequency")),
        "max_leases": 4,
        "max_leased_blocks": 12,
    }
    return nbkv.CacheConfig(num_layers=1, num_kv_heads=1, head_dim=8, **options | fixed)


def run(seed: int, fixed: dict[str, Any], num_events: int, *, eager: bool = False) -> Any:
    """Run one random schedule on a configuration drawn from the same seed."""
    rng = random.Random(seed)
    cache = nbkv.PagedKVCache(configure(rng, fixed))
    lag = rng.choice((0, 2, 5, (0, 6)))
    executor = (EagerExecutor if eager else LaggingExecutor)(
        cache, lag=lag, seed=seed, vocabulary=2
    )
    with executor:
        return run_random_schedule(cache, executor, rng, num_events)


def hunt(name: str, first_seed: int, num_seeds: int) -> dict[str, Any]:
    """Run schedules until the executor fails."""
    patches, fixed = MUTANTS[name]
    for seed in range(first_seed, first_seed + num_seeds):
        with patched(made) if (made := patches()) else contextmanager(lambda: iter([0]))():
            try:
                run(seed, fixed, NUM_EVENTS, eager=name == "indexed_when_planned")
            except SlotError as error:
                return {"caught": str(error), "seed": seed, "runs": seed - first_seed + 1}
    return {"caught": "", "seed": seed, "runs": num_seeds}


if __name__ == "__main__":
    first, most = int(sys.argv[1]), int(sys.argv[2])
    for mutant in sys.argv[3:] or MUTANTS:
        print(json.dumps({"mutant": mutant, **hunt(mutant, first, most)}), flush=True)
