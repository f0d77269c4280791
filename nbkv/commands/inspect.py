"""``nbkv inspect``: a cache's occupancy in words."""

import argparse

import numpy as np

from nbkv import layout
from nbkv.cache import PagedKVCache
from nbkv.commands import common
from nbkv.replay import report
from nbkv.replay.runs import begin_replay

DEFAULT_RUNNING = 8


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "inspect",
        help="describe a cache's occupancy in words",
        description="Replay a workload with one policy and capacity, stop, and describe what the"
        " cache then holds.",
    )
    common.add_trace_arguments(parser)
    parser.add_argument(
        "--policy", choices=common.POLICIES, default="lru", help="eviction policy (default: lru)"
    )
    parser.add_argument(
        "--capacity",
        type=common.capacity,
        default="25%",
        metavar="SIZE",
        help="percent of the trace's distinct blocks, a block count, or"
        f" {common.UNLIMITED} (default: 25%%)",
    )
    parser.add_argument(
        "--running",
        type=common.count,
        default=DEFAULT_RUNNING,
        metavar="W",
        help="requests holding their blocks at the same time (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, then describe."""
    trace = common.load_trace(args)
    blocks = common.num_capacity_blocks(args.capacity, trace, args.running)
    replay = begin_replay(trace, args.policy, blocks, args.running)
    with common.progress_bar("replaying", trace.num_requests) as (advance, _):
        replay.drive(advance)
    print(report.headline(trace) + ".")
    if trace.num_skipped:
        print(report.skipped_line(trace))
    print(f"After its last request, under {args.policy}:")
    for line in describe(replay.cache):
        print(f"- {line}")
    return 0


def describe(cache: PagedKVCache) -> list[str]:
    """Describe what a cache holds.

    Parameters
    ----------
    cache : PagedKVCache
        Read only.

    Returns
    -------
    list of str
        One sentence or two each: occupancy, sequences, sharing, fill, traffic, memory.
    """
    return [
        _occupancy(cache),
        *_sequences(cache),
        *_sharing(cache),
        *_fill(cache),
        _traffic(cache),
        _memory(cache),
    ]


def _occupancy(cache: PagedKVCache) -> str:
    total = cache.total_blocks
    parts = (
        (cache.num_held_blocks, "held by sequences"),
        (cache.num_cached_blocks, "cached (findable, evictable)"),
        (cache.num_free_blocks, "free"),
    )
    states = ", ".join(f"{blocks:,} ({blocks / total:.1%}) {words}" for blocks, words in parts)
    return f"{_count(total, 'block')} of {cache.config.block_size} tokens: {states}."


def _sequences(cache: PagedKVCache) -> list[str]:
    rows = cache.sequences[cache.sequences["state"] == layout.ROW_ACTIVE]
    if not len(rows):
        return ["No sequence is alive."]
    lengths = rows["num_blocks"]
    longest = rows[int(np.argmax(lengths))]
    verb = "is" if len(rows) == 1 else "are"
    return [
        f"{_count(len(rows), 'sequence')} {verb} alive, with a median of"
        f" {int(np.median(lengths)):,} blocks. The longest is number {int(longest['seq_id'])}:"
        f" {_count(int(longest['num_blocks']), 'block')},"
        f" of which {int(longest['num_hit_tokens']) // cache.config.block_size:,} were found"
        " in the cache when it came."
    ]


def _sharing(cache: PagedKVCache) -> list[str]:
    blocks = cache.blocks
    holders = blocks["ref_count"][blocks["state"] == layout.HELD]
    if not len(holders):
        return []
    num_shared = int(np.count_nonzero(holders > 1))
    if not num_shared:
        return ["No held block is shared."]
    verb = "is" if num_shared == 1 else "are"
    return [
        f"{_count(num_shared, 'held block')} ({num_shared / len(holders):.1%}) {verb} shared;"
        f" the most shared has {int(holders.max())} holders."
    ]


def _fill(cache: PagedKVCache) -> list[str]:
    blocks, rows = cache.blocks, cache.sequences
    fills = blocks["num_tokens"].astype(np.int64)
    # While a sequence writes a block, the fill stands in its row, not in the block's record.
    writing = rows[(rows["state"] == layout.ROW_ACTIVE) & (rows["flags"] & layout.TAIL_OPEN != 0)]
    fills[writing["tail_block"]] = writing["tail_fill"]
    used = fills[blocks["state"] != layout.FREE]
    if not len(used):
        return []
    return [
        f"Held and cached blocks are {used.mean() / cache.config.block_size:.1%} full;"
        f" {cache.fragmentation():.1%} of the held ones are partly filled."
    ]


def _traffic(cache: PagedKVCache) -> str:
    stats = cache.stats
    return (
        f"So far {_count(stats.total_allocations, 'block')} were allocated and"
        f" {stats.evictions:,} evicted; {stats.hit_rate:.1%} of the requests"
        " found at least one block."
    )


def _memory(cache: PagedKVCache) -> str:
    size = int(cache.header["arena_bytes"][0])
    return (
        f"The metadata takes {size / 2**20:,.1f} MiB of address space,"
        f" {size / cache.total_blocks:,.0f} bytes a block, tables included."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
