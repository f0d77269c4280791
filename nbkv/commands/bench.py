"""``nbkv bench``: what nbkv promises and what this machine measures, as a table."""

import argparse
import importlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from nbkv.bench import OPTIONAL, SUBJECTS, Measurement, measure
from nbkv.commands import common

if TYPE_CHECKING:
    from rich.table import Table


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "bench",
        help="measure this machine against the targets",
        description="Measure what nbkv promises: best of many rounds, hot (repeated) and cold"
        " (caches flushed before the call). Run it on a quiet machine.",
    )
    common.add_trace_arguments(parser)
    parser.add_argument(
        "--only",
        type=subjects,
        default=",".join(name for name in SUBJECTS if name not in OPTIONAL),
        metavar="SUBJECTS",
        help=f"subjects, joined by commas (default: %(default)s); also: {', '.join(OPTIONAL)}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def subjects(text: str) -> list[str]:
    """Parse ``--only``."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SUBJECTS:
            raise argparse.ArgumentTypeError(
                f"unknown subject {name!r}; choose from {', '.join(SUBJECTS)}"
            )
    return list(dict.fromkeys(names))


def need_integration(name: str) -> None:
    """Raise `MissingExtraError` unless what a subject measures can be imported."""
    try:
        importlib.import_module(f"nbkv.integrations.{name}")
    except ImportError as error:
        raise common.MissingExtraError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Measure and report."""
    if not args.json:
        common.need_extra("rich", "the table (not --json)")
    for name in args.only:
        if name in OPTIONAL:
            need_integration(name)
    trace = common.load_trace(args)
    results: list[Measurement] = []
    with common.progress_bar("measuring", 0) as (advance, set_total):
        set_total(len(args.only))
        for subject in args.only:
            results += measure([subject], trace)
            advance(1)
    if args.json:
        rows = [asdict(result) | {"met": result.met} for result in results]
        print(json.dumps(rows, indent=1))
    else:
        common.console().print(as_table(results))
    return 0


def as_table(results: list[Measurement]) -> "Table":
    """Lay measurements out as a rich table, a rule between subjects."""
    from rich.table import Table

    table = Table(title="Best of many rounds")
    table.add_column("measurement", no_wrap=True)
    for heading in ("target", "measured"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("")
    for result, following in zip(results, [*results[1:], None], strict=True):
        sign = ">=" if result.at_least else "<="
        target = "" if result.limit is None else f"{sign} {result.limit:g}"
        verdict = {None: "", True: "met", False: "missed"}[result.met]
        ends = following is not None and following.subject != result.subject
        table.add_row(
            result.name, target, f"{result.value:.3g}", result.unit, verdict, end_section=ends
        )
    return table
