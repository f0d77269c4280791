"""The code of the documentation: every page's Python runs, and prints what it says."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/scheduler.md",
    "docs/schedule-simulation.md",
    "docs/running-ahead.md",
    "docs/prefix-caching.md",
    "docs/hashing.md",
    "docs/adapters.md",
    "docs/page-tables.md",
    "docs/testing.md",
    "docs/pools.md",
)


def read_code(page: str) -> str:
    """Join a page's Python, with empty lines for the rest so that line numbers stay."""
    kept, inside = [], False
    for line in (ROOT / page).read_text().splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        kept.append("" if fence or not inside else line)
    return "\n".join(kept)


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_prints_what_its_comments_say(page: str) -> None:
    lines = read_code(page).splitlines()
    seen = []

    def check(*values: object) -> None:
        number = sys._getframe(1).f_lineno
        said = " ".join(map(str, values))
        comment = lines[number - 1].partition("  # ")[2]
        # Of a line in a loop the comment says the values one after the other.
        allowed = re.split(r", then |: ", comment)
        assert not comment or said in allowed, f"{page}:{number} prints {said}"
        seen.append(number)

    exec(compile("\n".join(lines), page, "exec"), {"print": check, "__name__": "page"})
    expected = {i + 1 for i, line in enumerate(lines) if line.lstrip().startswith("print(")}
    assert expected <= set(seen) | {i for i in expected if "error" in lines[i - 1]}
