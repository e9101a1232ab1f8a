"""What all charts share: Altair, imported when the first is made, colours for light and dark, and room for labels."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

import polars as pl

from polars_glmm.columns.named import column as named
from polars_glmm.errors import ModelError
from polars_glmm.inference.cells import shorten_all

Chart: TypeAlias = Any
"""An altair.Chart, or several together."""

FIRST, SECOND, QUIET = "#4c78a8", "#f58518", "#8a8a8a"
"""Colours that are seen on white and on black."""
MOST_POINTS = 1000
"""Points of a picture: Altair takes 5,000 rows in all, and nobody sees more."""
MOST_LABELS = 60
"""Levels whose names stand beside their points."""
WIDE, HIGH, STEP = 320, 260, 14
LABEL_CELLS, HEADER_CELLS, LABEL_LIMIT = 40, 20, 300
"""Room of a label and of the heading of a small picture in the cells of a terminal; pixels, of which Vega has 180."""


def altair() -> Any:
    """The package altair. Raises ModelError with what to install where it is not there."""
    try:
        return import_module("altair")
    except ImportError as error:
        msg = "Pictures need the package altair: pip install 'polars-glmm[plot]'."
        raise ModelError(msg) from error


def titled(text: str, note: str = "") -> Any:
    """A title with a remark below it."""
    alt = altair()
    remark = {"subtitle": [note], "subtitleColor": QUIET} if note else {}
    return alt.Title(text, anchor="start", frame="group", **remark)


def some_of(shown: int, n: int, what: str) -> str:
    """`1,000 of 20,000 rows`, empty where all are shown."""
    return f"{shown:,} of {n:,} {what}" if shown < n else ""


def number(field: str, title: str, **scale: Any) -> dict[str, Any]:
    """Arguments of an axis of numbers that need not begin at zero."""
    return {"shorthand": _quantity(field), "title": title, "scale": altair().Scale(zero=False, nice=True, **scale)}


def labels(field: str, order: list[str], title: str | None = None) -> dict[str, Any]:
    """Arguments of an axis of names in a given order, with room for them."""
    alt = altair()
    axis = alt.Axis(labelLimit=LABEL_LIMIT, labelOverlap=False, grid=False)
    return {"shorthand": f"{field}:N", "title": title, "sort": order, "axis": axis}


def shortened(frame: pl.DataFrame, column: str, room: int = LABEL_CELLS) -> pl.DataFrame:
    """The frame with long names of a column cut so that they stay distinct."""
    names = frame[column].drop_nulls().unique(maintain_order=True).to_list()
    short = dict(zip(names, shorten_all(names, room), strict=True))
    return frame.with_columns(named(column).replace(short))


def reference(value: float, *, across: bool = True) -> Chart:
    """A quiet line at a value of y, or of x."""
    alt = altair()
    channel = {"y" if across else "x": alt.datum(value)}
    return alt.Chart().mark_rule(color=QUIET, strokeDash=[4, 3]).encode(**channel)


def text_of(frame: pl.DataFrame, column: str) -> list[str]:
    """The distinct texts of a column in the order in which they come."""
    return frame[column].unique(maintain_order=True).to_list()


def _quantity(field: str) -> str:
    return f"{field}:Q"
