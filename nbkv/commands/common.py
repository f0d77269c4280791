"""What the subcommands share: option values, trace loading, progress bars."""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

from nbkv.config import EvictionPolicy
from nbkv.replay.reading import AnyTrace, read_trace
from nbkv.replay.token_traces import DEFAULT_BLOCK_SIZE, TokenTrace
from nbkv.replay.traces import MAX_BLOCK_SIZE
from nbkv.replay.workload import NUM_REQUESTS, chat_workload

if TYPE_CHECKING:
    from rich.console import Console

POLICIES = tuple(policy.value for policy in EvictionPolicy)
DEFAULT_CAPACITY = "1%,5%,10%,25%,50%"
PIPE_WIDTH = 110  # columns where no terminal tells its own
UNLIMITED = "unlimited"
_MAX_COUNT = 2**31 - 1

Advance = Callable[[int], None]
#: A share of a trace's distinct blocks, a count, or None for a cache that never evicts.
Capacity = Fraction | int | None


class CommandError(Exception):
    """Something the user can mend; shown without a traceback."""


class MissingExtraError(CommandError):
    """A package of an extra is not installed."""


def need_extra(package: str, purpose: str) -> None:
    """Raise `MissingExtraError` unless ``package`` can be imported."""
    try:
        importlib.import_module(package)
    except ImportError:
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed. Install it with:"
            "\n  pip install 'nbkv[cli]'"
        ) from None


def policies(text: str) -> list[str]:
    """Parse ``--policy``: names joined by commas."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in POLICIES:
            raise argparse.ArgumentTypeError(
                f"unknown policy {name!r}; choose from {', '.join(POLICIES)}"
            )
    return list(dict.fromkeys(names))


def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    digits = re.fullmatch(r"\d{1,10}", text.strip(), re.ASCII)
    value = int(digits[0]) if digits else 0
    if not 1 <= value <= _MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MAX_COUNT:,}")
    return value


def block_size(text: str) -> int:
    """Parse ``--block-size``."""
    size = count(text)
    if size > MAX_BLOCK_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number up to {MAX_BLOCK_SIZE:,}")
    return size


def capacities(text: str) -> list[Capacity]:
    """Parse ``--capacity``: percentages, counts and ``unlimited``."""
    return [capacity(part.strip()) for part in text.split(",")]


def capacity(text: str) -> Capacity:
    """Parse one capacity: a percentage, as a fraction, a count, or ``unlimited``."""
    if text == UNLIMITED:
        return None
    if not text.endswith("%"):
        return count(text)
    number = re.fullmatch(r"\d{1,6}(\.\d{1,12})?", text[:-1].strip(), re.ASCII)
    # A Fraction, so that 7 % of 100 blocks is 7: floats round down to 6 in some cases.
    share = Fraction(number[0]) / 100 if number else Fraction(0)
    if not 0 < share <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0% and up to 10000%")
    return share


def num_capacity_blocks(size: Capacity, trace: AnyTrace, running: int = 1) -> int:
    """Turn a capacity into blocks: a share is rounded down, to 1 block at least."""
    if size is None:
        return trace.unlimited_blocks(running)
    if isinstance(size, int):
        return size
    return max(1, int(size * trace.num_unique))


def add_trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Add TRACE and the options of the workload that stands in for it."""
    parser.add_argument(
        "trace",
        nargs="?",
        metavar="TRACE",
        help="JSONL or JSONL.gz in the Mooncake format, or with token ids (default: a built-in"
        " chat workload)",
    )
    parser.add_argument(
        "--block-size",
        type=block_size,
        metavar="TOKENS",
        help=f"of a trace of token ids (default: {DEFAULT_BLOCK_SIZE})",
    )
    parser.add_argument(
        "--outputs",
        action="store_true",
        help="replay the outputs of a trace of token ids too, as parts of their sequences",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the built-in workload (default: %(default)s)"
    )
    parser.add_argument(
        "--requests", type=count, metavar="N", help="take the first N requests only"
    )


@contextmanager
def saving_plot(path: str) -> Iterator[None]:
    """Let a plot that cannot be saved be something the user can mend."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise CommandError(f"--plot {path}: {error}") from error


def seed(text: str) -> int:
    """Parse ``--seed``: a whole number."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of up to 18 digits")
    return int(text)


def load_trace(args: argparse.Namespace) -> AnyTrace:
    """Read TRACE, or generate the built-in workload."""
    trace: AnyTrace
    if args.trace is None:
        trace = chat_workload(args.requests or NUM_REQUESTS, args.seed)
    else:
        trace = _read_file(args)
        if args.requests:
            trace = trace.head(args.requests)
            if trace.total_tokens == 0:
                raise CommandError(f"--requests {args.requests}: not one token in them")
    if isinstance(trace, TokenTrace):
        return trace.replayed(args.block_size or DEFAULT_BLOCK_SIZE, args.outputs)
    for option, value in (("--block-size", args.block_size), ("--outputs", args.outputs)):
        if value:
            raise CommandError(f"{option}: only traces of token ids take it")
    return trace


def _read_file(args: argparse.Namespace) -> AnyTrace:
    """Read TRACE, with a bar."""
    with progress_bar("reading", 1) as (advance, set_total):
        seen = 0

        def report(num_read: int, size: int) -> None:
            nonlocal seen
            set_total(size)
            advance(num_read - seen)
            seen = num_read

        return read_trace(args.trace, report)


def console() -> "Console":
    """Open rich's console on stdout, as wide as the terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[tuple[Advance, Advance]]:
    """Show a bar on stderr while something runs, where stderr is a terminal and rich is there.

    Parameters
    ----------
    what : str
        Stands before the bar.
    total : int
        Steps to come.

    Yields
    ------
    (advance, set_total)
        Two callables of one int.
    """
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        shown = False
    else:
        shown = sys.stderr.isatty()
    if not shown:
        yield _ignore, _ignore
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield (
            lambda steps: progress.advance(task, steps),
            lambda steps: progress.update(task, total=steps),
        )


def _ignore(_: int) -> None:
    """Stand in for a bar."""
