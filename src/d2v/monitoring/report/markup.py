"""Pieces of HTML. Whatever comes from a run is escaped here and nowhere else."""

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

NOTHING = "—"
"""In a table: there is none."""


class Markup(str):
    """A text that is HTML already."""


def escaped(value: object) -> Markup:
    """Any value as HTML."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def joined(pieces: Iterable[object], between: str = "") -> Markup:
    """Pieces one after the other."""
    return Markup(between.join(map(escaped, pieces)))


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """One element; ``class_`` is its class, and an underscore in a name stands for a hyphen."""
    written = ""
    for name, value in attributes.items():
        if value is True:
            written += f" {name}"
        elif value is not None and value is not False:
            written += f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    return Markup(f"<{tag}{written}>{joined(content)}</{tag}>")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], class_: str | None = None) -> Markup:
    """A table whose first column names its rows; it scrolls by itself where the page is too narrow."""
    lines = []
    for first, *rest in rows:
        cells = [element("td", cell) for cell in rest]
        lines.append(element("tr", element("th", first, scope="row"), *cells))
    names = [element("th", name, scope="col") for name in head]
    whole = element("table", element("thead", element("tr", *names)), element("tbody", *lines), class_=class_)
    return element("div", whole, class_="scroll", tabindex="0")


def chip(index: int, name: str) -> Markup:
    """The name of a run and its colour."""
    return element("span", element("i", class_=f"chip c{index % 8}"), name, class_="run")


def titled(*parts: str) -> str:
    """A title of parts, of which some may be empty."""
    return " · ".join(filter(None, parts))


class Section(NamedTuple):
    """A part of the page."""

    id: str
    title: str
    content: Markup


def data_element(id_: str, values: Any) -> Markup:
    """Values for the page's script; nothing in them can end the element."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" id="{id_}">{text}</script>')


def number(value: float) -> str:
    """A figure as a person writes it: four digits that count."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.3g}"
