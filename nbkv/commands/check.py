"""``nbkv check``: audit a saved cache, and repair what can be repaired."""

import argparse

from nbkv.cache import PagedKVCache
from nbkv.commands.common import CommandError
from nbkv.commands.inspect import describe
from nbkv.snapshot_reading import Snapshot, fill_arena, read_file

INTACT = 0
VIOLATED = 1


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "check",
        help="audit a saved cache",
        description="Audit a file that PagedKVCache.save wrote: every equation, link, index entry"
        " and table. Ends with 0 when it is intact, 1 when its content contradicts itself, 2 when"
        " it cannot be read.",
    )
    parser.add_argument("file", metavar="FILE", help="the file")
    parser.add_argument(
        "--repair", metavar="OUT", help="write a repaired copy, and say what was changed"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, audit, and say what is in it."""
    try:
        parts = read_file(args.file)
    except OSError as error:
        raise CommandError(f"{args.file}: {error.strerror or error}") from error
    cache, violation = _open(parts)
    if violation is None:
        print(f"{args.file}: intact")
    else:
        print(f"{args.file}: {violation}")
    if args.repair is not None:
        print(cache.repair())
        try:
            cache.save(args.repair)
        except OSError as error:
            raise CommandError(f"--repair {args.repair}: {error.strerror or error}") from error
        print(f"{args.repair}: written")
    if violation is None or args.repair is not None:
        for line in describe(cache):
            print(f"- {line}")
        return INTACT
    return VIOLATED


def _open(parts: Snapshot) -> tuple[PagedKVCache, str | None]:
    """Make a cache of a file's content as it is, and audit it before anything else."""
    cache = PagedKVCache(parts.config)
    fill_arena(parts, cache.writable_arena())
    return cache, cache.find_violation()
