"""How objects show themselves in a notebook: small tables, with whatever names hold escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def shape_text(shape: Sequence[int]) -> str:
    """``1x3x64x128``."""
    return "x".join(map(str, shape))


def html_table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML; every text is escaped."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"
