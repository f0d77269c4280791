"""``nbkv replay --schedule``: a scheduler at work on a trace, with a model that takes time."""

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass

from nbkv.commands import common
from nbkv.replay import schedule_report
from nbkv.replay.arrivals import Arrivals
from nbkv.replay.reading import AnyTrace
from nbkv.replay.report import headline, skipped_line
from nbkv.replay.schedule import ScheduleRun, simulate, warm_up
from nbkv.replay.simulation import Setting
from nbkv.replay.token_traces import TokenTrace

DEFAULT_CAPACITY = "10%"
DEFAULT_POLICY = "lru"
DEFAULT_RUNNING = 256


@dataclass(frozen=True)
class Option:
    """An option that only a schedule takes, and what it is when it is not given."""

    name: str
    default: str
    metavar: str
    help: str

    @property
    def field(self) -> str:
        """Its attribute of the parsed arguments."""
        return self.name.removeprefix("--").replace("-", "_")


OPTIONS = (
    Option("--max-tokens", "2048", "N", "new tokens of a step at most, prompts and decodes"),
    Option("--watermark", "1%", "SIZE", "blocks, or percent of them, that admission leaves usable"),
    Option("--step-time", "8", "MS", "milliseconds that every step takes"),
    Option("--prefill-rate", "25000", "N", "tokens of prompts a second, on top of that"),
    Option("--decode-rate", "12500", "N", "tokens of decoding sequences a second, on top of that"),
    Option("--load", "1", "X", "requests arrive X times as fast as in the trace"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--schedule`` and what belongs to it."""
    group = parser.add_argument_group(
        "scheduling",
        "--schedule runs a scheduler on the trace instead: requests arrive when they did, a"
        " model that only takes time computes them, and the report says how long they waited.",
    )
    group.add_argument("--schedule", action="store_true", help="simulate a scheduler")
    types = {"--max-tokens": common.count, "--watermark": watermark, "--step-time": duration}
    for option in OPTIONS:
        group.add_argument(
            option.name,
            type=types.get(option.name, positive),
            metavar=option.metavar,
            help=f"{option.help} (default: {option.default.replace('%', '%%')})",
        )


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = duration(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def duration(text: str) -> float:
    """Parse a number of at least 0."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, written like 12.5")
    return float(text)


def watermark(text: str) -> common.Capacity:
    """Parse ``--watermark``: a percentage up to 100%, a count, or 0."""
    if text == "0":
        return 0
    size = common.capacity(text)
    if size is None or (not isinstance(size, int) and size > 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a count or a percentage up to 100%")
    return size


def check_absent(args: argparse.Namespace) -> None:
    """Refuse options of a schedule where there is none."""
    for option in OPTIONS:
        if getattr(args, option.field) is not None:
            raise common.CommandError(f"{option.name}: only --schedule takes it")


def run(args: argparse.Namespace, trace: AnyTrace) -> int:
    """Simulate and report."""
    _fill_in(args)
    if isinstance(trace, TokenTrace):
        trace = trace.replayed(trace.block_size, outputs=True)
    runs = _simulate_all(trace, args)
    notes = [skipped_line(trace), schedule_report.refused_line(runs)]
    if args.json:
        for line in filter(None, notes):
            print(f"nbkv replay: {line}", file=sys.stderr)
        print(json.dumps(schedule_report.as_json(trace, args.load, runs), indent=1))
    else:
        console = common.console()
        console.print(headline(trace), soft_wrap=True, markup=False)
        console.print(schedule_report.as_table(runs))
        for line in filter(None, notes):
            console.print(line, soft_wrap=True)
    if args.plot:
        with common.saving_plot(args.plot):
            schedule_report.save_plot(args.plot, trace, runs)
    return 0


def _fill_in(args: argparse.Namespace) -> None:
    """Give every option that is not given its default."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    defaults = parser.parse_args([word for o in OPTIONS for word in (o.name, o.default)])
    for option in OPTIONS:
        if getattr(args, option.field) is None:
            setattr(args, option.field, getattr(defaults, option.field))
    args.running = args.running or DEFAULT_RUNNING
    if args.max_tokens < args.running:
        raise common.CommandError(
            f"--max-tokens {args.max_tokens}: fewer than --running {args.running}, and each may"
            " need one in a step"
        )


def _simulate_all(trace: AnyTrace, args: argparse.Namespace) -> list[ScheduleRun]:
    arrivals = Arrivals(trace, args.load)
    settings = [
        _setting(args, policy, common.num_capacity_blocks(capacity, trace, args.running))
        for policy in args.policy or common.policies(DEFAULT_POLICY)
        for capacity in args.capacity or common.capacities(DEFAULT_CAPACITY)
    ]
    shortest = int((arrivals.prompt_lengths + arrivals.output_lengths).min()) - 1
    for setting in settings:
        room = setting.capacity * trace.block_size
        if shortest > room:
            raise common.CommandError(
                f"--capacity: the shortest request has {shortest + 1:,} tokens, and"
                f" {room + 1:,} fit into {setting.capacity:,} x {trace.block_size}"
            )
    with common.progress_bar("scheduling", len(arrivals) * len(settings)) as (advance, _):
        for setting in settings:
            warm_up(setting.policy)
        try:
            return [simulate(arrivals, trace.block_size, setting, advance) for setting in settings]
        except MemoryError as error:
            raise common.CommandError(f"--running {args.running}: {error}") from error


def _setting(args: argparse.Namespace, policy: str, capacity: int) -> Setting:
    left = args.watermark
    num_left = left if isinstance(left, int) else math.ceil(left * capacity)
    if num_left > capacity:
        raise common.CommandError(
            f"--watermark {left}: more than the {capacity:,} blocks there are"
        )
    return Setting(
        policy=policy,
        capacity=capacity,
        running=args.running,
        max_tokens=args.max_tokens,
        watermark=num_left,
        step_seconds=args.step_time / 1000,
        prefill_rate=args.prefill_rate,
        decode_rate=args.decode_rate,
    )
