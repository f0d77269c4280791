"""``nbkv replay``: what a cache of a given size would have saved on a trace, or a schedule."""

import argparse
import json
import sys
from pathlib import Path

from nbkv.commands import common, schedule
from nbkv.replay import report
from nbkv.replay.reading import AnyTrace
from nbkv.replay.replay import ReplayRun
from nbkv.replay.runs import replay_trace, warm_up


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "replay",
        help="replay a trace through the engine",
        description="Replay an LLM-serving trace through the engine and report what prefix"
        " caching would have saved, for each policy and capacity.",
    )
    common.add_trace_arguments(parser)
    parser.add_argument(
        "--policy",
        type=common.policies,
        metavar="NAMES",
        help=f"eviction policies, joined by commas (default: {','.join(common.POLICIES)};"
        f" with --schedule {schedule.DEFAULT_POLICY})",
    )
    parser.add_argument(
        "--capacity",
        type=common.capacities,
        metavar="LIST",
        help="cache sizes: percent of the trace's distinct blocks, rounded down, block counts, or"
        f" {common.UNLIMITED}"
        f" (default: {common.DEFAULT_CAPACITY.replace('%', '%%')};"
        f" with --schedule {schedule.DEFAULT_CAPACITY.replace('%', '%%')})",
    )
    parser.add_argument(
        "--running",
        type=common.count,
        metavar="W",
        help="requests holding their blocks at the same time (default: 1; with --schedule, where"
        f" it is the largest batch, {schedule.DEFAULT_RUNNING})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--plot",
        metavar="FILE.png",
        help="save a plot of hits over capacity, or of a schedule over time",
    )
    schedule.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay and report."""
    _check_extras(args)
    if not args.schedule:
        schedule.check_absent(args)
    trace = common.load_trace(args)
    if args.schedule:
        return schedule.run(args, trace)
    args.policy = args.policy or list(common.POLICIES)
    args.capacity = args.capacity or common.capacities(common.DEFAULT_CAPACITY)
    args.running = args.running or 1
    skipped = report.skipped_line(trace)
    if skipped and args.json:
        print(f"nbkv replay: {skipped}", file=sys.stderr)
    runs = _replay_all(trace, args)
    if args.json:
        print(json.dumps(report.as_json(trace, runs), indent=1))
    else:
        _print_table(trace, runs)
    if args.plot:
        with common.saving_plot(args.plot):
            report.save_plot(args.plot, trace, runs)
    return 0


def _check_extras(args: argparse.Namespace) -> None:
    """Find out before the work, not after it, that its result could not be shown."""
    if not args.json:
        common.need_extra("rich", "the table (not --json)")
    if args.plot:
        common.need_extra("matplotlib", "--plot")
        folder = Path(args.plot).parent
        if not folder.is_dir():
            raise common.CommandError(f"--plot {args.plot}: there is no folder {folder}")


def _replay_all(trace: AnyTrace, args: argparse.Namespace) -> list[ReplayRun]:
    settings = [
        (policy, common.num_capacity_blocks(capacity, trace, args.running))
        for policy in args.policy
        for capacity in args.capacity
    ]
    with common.progress_bar("replaying", trace.num_requests * len(settings)) as (advance, _):
        for policy in args.policy:
            warm_up(trace, policy)
        return [
            replay_trace(trace, policy, capacity, args.running, advance)
            for policy, capacity in settings
        ]


def _print_table(trace: AnyTrace, runs: list[ReplayRun]) -> None:
    console = common.console()
    console.print(report.headline(trace), soft_wrap=True, markup=False)
    console.print(report.as_table(trace, runs))
    notes = (report.ceiling_line(trace), report.skipped_line(trace), report.overflow_line(runs))
    for line in filter(None, notes):
        console.print(line, soft_wrap=True)
