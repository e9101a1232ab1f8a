"""`report`: fits and collections as one table, in the format that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polars_glmm.errors import ModelError, counted, enumerate_names, suggest
from polars_glmm.foreign import answered
from polars_glmm.reports import writers
from polars_glmm.reports.table import STARS, Section, Style, build
from polars_glmm.result.collection import FitCollection
from polars_glmm.result.fitted import Fit

if TYPE_CHECKING:
    from polars_glmm.reports.table import Reported
    from polars_glmm.reports.writers import ReportFormat

_WRITERS: dict[str, Any] = {
    "frame": lambda report: report.frame,
    "text": writers.text,
    "markdown": writers.markdown,
    "html": writers.html,
    "latex": writers.latex,
    "great_tables": writers.great_tables,
}


@answered
def report(
    fits: Fit | FitCollection | Sequence[Fit] | Mapping[str, Fit],
    names: Sequence[str] | None = None,
    format: ReportFormat = "frame",  # noqa: A002  what it is called everywhere
    *,
    stat: str | None = "({std_error})",
    stars: bool | Mapping[str, float] = False,
    exponentiate: bool = False,
    rows: Sequence[Section] = ("fixed", "random", "fit"),
    term_labels: Mapping[str, str] | None = None,
    conf_level: float = 0.95,
) -> Any:
    """Fits side by side: a column for each, rows for fixed effects, random effects and measures of fit.

    Parameters
    ----------
    fits
        One fit, several, a mapping from names to fits, or a collection: a column for each key that has a fit.
    names
        What the columns are called; else model_1, model_2 …, or the keys.
    format
        "frame" (columns section, term, quantity and one of text for each model), "text", "markdown", "html", "latex"
        (with booktabs), or "great_tables" for a `GT` to style further (extra `report`).
    stat
        The line below each estimate: text with names of columns of `fixef()` in braces, such as
        "[{conf_low}, {conf_high}]" or "p = {p_value}"; None for no such line.
    stars
        True marks p-values below 0.05, 0.01 and 0.001; a mapping has marks of one's own, {"*": 0.1}.
    exponentiate
        Fixed effects and ends of intervals as exp: ratios of odds, rates or means.
    rows
        The sections, in their order.
    term_labels
        What terms are called, by the name that the frame shows.

    Raises
    ------
    ModelError
        For arguments that do not go together, and where great_tables is asked for and not installed.
    """
    if format not in _WRITERS:
        msg = f"format={format!r} is none.{suggest(str(format), _WRITERS)} There are {enumerate_names([*_WRITERS])}."
        raise ModelError(msg)
    chosen = STARS if stars is True else {} if stars is False else stars
    style = Style(stat, chosen, exponentiate, conf_level)
    return _WRITERS[format](build(_named(fits, names), style, tuple(rows), term_labels or {}))


def _named(fits: Any, names: Sequence[str] | None) -> Mapping[str, Reported]:
    """Fits by the names of their columns."""
    given: list[tuple[str, Any]]
    if isinstance(fits, Fit):
        given = [("model_1", fits)]
    elif isinstance(fits, FitCollection):
        given = [(", ".join(map(str, key)) if isinstance(key, tuple) else str(key), fit) for key, fit in fits]
    elif isinstance(fits, Mapping):
        given = list(fits.items())
    else:
        given = [(f"model_{k}", fit) for k, fit in enumerate(fits, start=1)]
    for _, fit in given:
        if not isinstance(fit, Fit):
            raise ModelError(f"report() takes fits; one of these is a {type(fit).__name__}.")
    if names is not None:
        if len(names) != len(given):
            raise ModelError(f"names= has {counted(len(names), 'name')} for {counted(len(given), 'fit')}.")
        given = [(name, fit) for name, (_, fit) in zip(names, given, strict=True)]
    if len({name for name, _ in given}) < len(given):
        raise ModelError("Each column of a report has a name of its own: give names= that differ.")
    return dict(given)
