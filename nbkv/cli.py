"""The ``nbkv`` command: replay, bench, warmup, inspect."""

import argparse
import os
import sys
from collections.abc import Sequence

from nbkv.commands import bench, inspect, replay, warmup
from nbkv.commands.common import CommandError, MissingExtraError
from nbkv.errors import KVCacheError
from nbkv.replay import TraceError

FAILED = 1
USAGE = 2  # argparse's own code, for bad data too
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="nbkv", description="A paged KV-cache engine for transformer inference."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (replay, bench, warmup, inspect):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; errors the user can mend end without a traceback.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; the process's own when omitted.

    Returns
    -------
    int
        0 when done, 1 when a package is missing or a target is, 2 for bad data or usage.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        from nbkv import __version__

        print(f"nbkv {__version__}")
        return 0
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return USAGE
    try:
        code = int(args.run(args))
        sys.stdout.flush()  # a closed pipe shows here, not in the interpreter's last breath
        return code
    except (TraceError, CommandError, KVCacheError) as error:
        print(f"nbkv: {error}", file=sys.stderr)
        return FAILED if isinstance(error, MissingExtraError) else USAGE
    except BrokenPipeError:
        # The reader has left (`| head`); what was not written is of no use to anybody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("nbkv: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
