"""Pieces of HTML. Whatever is text stays text: it is escaped here, in one place."""

import json
from collections.abc import Iterable
from html import escape
from typing import Any

_TALL = 20  # rows; a longer table scrolls


def section(title: str, inner: str) -> str:
    """A part of the page with a heading, or nothing where there is nothing to say."""
    return f'<section id="{anchor(title)}"><h2>{escape(title)}</h2>{inner}</section>'


def anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def bullets(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def cells(texts: Iterable[str]) -> str:
    return f"<tr>{''.join(cell(text) for text in texts)}</tr>"


def table(name: str, titles: Iterable[str], body: Iterable[str]) -> str:
    """A table of rows that are HTML already."""
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = list(body)
    sheet = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return scroller(name, sheet, "tall" if len(body) > _TALL else "")


def scroller(name: str, sheet: str, kind: str = "") -> str:
    """Wide tables scroll inside their own region, which the keyboard can reach."""
    label = f'role="region" aria-label="{escape(name)}" tabindex="0"'
    return f'<div class="scroll {kind}" {label}>{sheet}</div>'


def data_block(name: str, value: Any) -> str:
    """JSON that the page's script reads; no string in it can end the block."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'
