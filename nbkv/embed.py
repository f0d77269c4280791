"""Kernels for compiled schedulers: what `PagedKVCache` calls, without the way through Python.

Importing this module makes them ready: loads them from disk, or compiles them. Call them from
functions under `nbkv.kernel`, with `PagedKVCache.writable_arena` and `StepBuffers.data`. Where
the facade raises they return a status below 0, one of `nbkv.statuses`.
"""

from nbkv._jit import ready_entry
from nbkv.kernels.buffers import Step, open_step
from nbkv.kernels.fence import num_usable
from nbkv.kernels.index import find_row
from nbkv.kernels.plan import PREEMPT, RAISE, STOP
from nbkv.kernels.rows import handle_of, row_of
from nbkv.kernels.state import State, open_state

# Admission.
admit = ready_entry("admit")
admit_plain = ready_entry("admit_plain")
match_prefix = ready_entry("match_prefix")
match_plain = ready_entry("match_plain")
add_sequence = ready_entry("add_sequence")

# Steps.
plan_step = ready_entry("plan_step")
commit_step = ready_entry("commit_step")
next_step = ready_entry("next_step")
complete_step = ready_entry("complete_step")
append_by_handle = ready_entry("append_by_handle")
append_by_id = ready_entry("append_by_id")

# Sequences.
finish_rows = ready_entry("finish_rows")
free_sequence = ready_entry("free_sequence")
share_prefix = ready_entry("share_prefix")
truncate = ready_entry("truncate")
reorder_rows = ready_entry("reorder_rows")
resolve_ids = ready_entry("resolve_ids")

# What is kept.
pin_blocks = ready_entry("pin_blocks")
unpin_blocks = ready_entry("unpin_blocks")
evict = ready_entry("evict")
reset_prefix_cache = ready_entry("reset_prefix_cache")

__all__ = [
    "PREEMPT",
    "RAISE",
    "STOP",
    "State",
    "Step",
    "add_sequence",
    "admit",
    "admit_plain",
    "append_by_handle",
    "append_by_id",
    "commit_step",
    "complete_step",
    "evict",
    "find_row",
    "finish_rows",
    "free_sequence",
    "handle_of",
    "match_plain",
    "match_prefix",
    "next_step",
    "num_usable",
    "open_state",
    "open_step",
    "pin_blocks",
    "plan_step",
    "reorder_rows",
    "reset_prefix_cache",
    "resolve_ids",
    "row_of",
    "share_prefix",
    "truncate",
    "unpin_blocks",
]
