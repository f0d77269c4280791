"""Plant a bug in a module's source and build it under another name."""

import itertools
import linecache
import sys
import types
from collections.abc import Iterable, Sequence

_numbers = itertools.count()


def mutate(source: str, changes: Iterable[tuple[str, str]]) -> str:
    """Return source text with strings replaced, each of which must occur exactly once.

    Raises
    ------
    ValueError
        When one occurs never or several times: the mutant would not be the one that is meant.
    """
    for old, new in changes:
        found = source.count(old)
        if found != 1:
            raise ValueError(f"{old!r} occurs {found} times")
        source = source.replace(old, new)
    return source


def load_mutant(
    module: types.ModuleType,
    *changes: tuple[str, str],
    users: Sequence[types.ModuleType] = (),
) -> types.ModuleType:
    """Execute a module's source, mutated, as a module of its own.

    Parameters
    ----------
    module : module
        An imported module whose file can be read; it stays as it is.
    *changes : tuple of str
        Pairs of old and new text, as for `mutate`.
    users : sequence of module
        Modules that take names from it or from each other, the first one first: executed anew,
        so that they take the mutant's.

    Returns
    -------
    module
        The last of them, or the mutant itself. Named after the original with a number, and in
        ``sys.modules``; numba finds its source.
    """
    outer = {name: sys.modules[name] for name in (module.__name__, *(u.__name__ for u in users))}
    try:
        mutant = sys.modules[module.__name__] = _load(module, changes)
        for user in users:
            mutant = sys.modules[user.__name__] = _load(user, ())
    finally:
        sys.modules.update(outer)
    return mutant


def _load(module: types.ModuleType, changes: Iterable[tuple[str, str]]) -> types.ModuleType:
    assert module.__file__ is not None
    with open(module.__file__, encoding="utf-8") as file:
        source = mutate(file.read(), changes)
    name = f"{module.__name__}_mutant_{next(_numbers)}"
    file_name = f"<{name}>"
    mutant = types.ModuleType(name)
    mutant.__file__ = file_name
    mutant.__package__ = module.__package__
    linecache.cache[file_name] = (len(source), None, source.splitlines(True), file_name)
    sys.modules[name] = mutant
    exec(compile(source, file_name, "exec"), mutant.__dict__)
    return mutant
