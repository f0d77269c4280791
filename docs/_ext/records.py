"""The ``record`` directive: a record's fields as a table, from the source that defines it.

What a field means stands behind it in `nbkv.layout`, as a comment, where whoever changes the
field sees it. This reads the comments back, so that the page cannot say anything else.
"""

import inspect
import io
import re
import tokenize
from typing import Any

import numpy as np
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from nbkv import layout

_FIELD = re.compile(r'\("(\w+)",')


def find_definition(name: str) -> tuple[str, list[str]]:
    """Find the text above a constant, and the lines that define it."""
    lines = inspect.getsource(layout).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
    end = next(
        i for i in range(start, len(lines)) if lines[i].startswith((")", "]")) or "])" in lines[i]
    )
    above = []
    for line in reversed(lines[:start]):
        if not line.startswith("#"):
            break
        above.append(line[1:].removeprefix(" "))
    return "\n".join(reversed(above)), lines[start : end + 1]


def find_comments(lines: list[str]) -> dict[str, str]:
    """Map each field of a record to the comment behind it."""
    comments = {}
    source = io.StringIO("\n".join(lines))
    names: list[str] = []
    for token in tokenize.generate_tokens(source.readline):
        if token.type == tokenize.COMMENT:
            comments.update(dict.fromkeys(names, token.string[1:].strip()))
        elif token.type == tokenize.NL:
            names = []
        elif token.type == tokenize.OP and token.string == "(":
            names += _FIELD.findall(token.line[token.start[1] :])[:1]
    return comments


def find_header_groups() -> list[tuple[str, list[str]]]:
    """Split the header's fields at the comments that stand between them."""
    groups: list[tuple[str, list[str]]] = [("What the arena is.", [])]
    for line in find_definition("HEADER_FIELDS")[1][1:-1]:
        text = line.strip()
        if text.startswith("#"):
            groups.append((text[1:].strip(), []))
        elif text.startswith('"'):
            groups[-1][1].append(text.split('"')[1])
        else:
            groups.append(
                (
                    "Byte offsets of each section, one pair of fields a section.",
                    ["*_start", "*_end"],
                )
            )
    return groups


class RecordDirective(SphinxDirective):
    """Render ``.. record:: NAME``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        name = self.arguments[0]
        if name == "SECTIONS":
            text = ", ".join(layout.SECTIONS)
            return [nodes.paragraph("", "", nodes.literal(text, text))]
        dtype: np.dtype[Any] = getattr(layout, name)
        if name == "HEADER_DTYPE":
            rows = [[", ".join(fields), meaning] for meaning, fields in find_header_groups()]
            return [self.make_size(name, dtype), self.make_table(["fields", "meaning"], rows)]
        above, lines = find_definition(name)
        comments = find_comments(lines)
        rows = []
        for field in dtype.names or ():
            kind, offset = (dtype.fields or {})[field][:2]
            text = str(kind) if kind.shape else kind.str[1:]
            rows.append([field, text, str(offset), comments.get(field, "")])
        made: list[nodes.Node] = [self.make_size(name, dtype)]
        if above:
            made.append(nodes.literal_block(above, above, language="none"))
        return [*made, self.make_table(["field", "type", "offset", "meaning"], rows)]

    def make_size(self, name: str, dtype: "np.dtype[Any]") -> nodes.Node:
        """Say how long a row is."""
        text = f"nbkv.layout.{name}"
        return nodes.paragraph(
            "", "", nodes.literal(text, text), nodes.Text(f": {dtype.itemsize} bytes a row.")
        )

    def make_table(self, titles: list[str], rows: list[list[str]]) -> nodes.Node:
        """Lay text out in a table whose first column is code."""
        table, group = nodes.table(), nodes.tgroup(cols=len(titles))
        table += group
        group.extend(nodes.colspec(colwidth=40 if title == "meaning" else 12) for title in titles)
        head, body = nodes.thead(), nodes.tbody()
        group.extend([head, body])
        head += self.make_row([nodes.Text(title) for title in titles])
        for first, *others in rows:
            body += self.make_row([nodes.literal(first, first), *map(nodes.Text, others)])
        return table

    def make_row(self, cells: list[Any]) -> nodes.Node:
        """Wrap cells into a row."""
        row = nodes.row()
        row.extend(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells)
        return row


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("record", RecordDirective)
    return {"parallel_read_safe": True}
