"""The programs in the pages about other engines, run as they stand."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["port", "nano-vllm", "shadow", "vllm"])
def test_programs_print_what_their_comments_say(page):
    text = (DOCS / f"{page}.md").read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.M)
    assert expected
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(program, page, "exec"), {"__name__": page})
    printed = output.getvalue().splitlines()
    assert len(printed) == len(expected)
    for line, comment in zip(printed, expected, strict=True):
        assert comment.startswith(line) or comment.endswith(": " + line)
