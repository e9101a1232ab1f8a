"""One way to fit in the tests of hard cases: nothing may escape but the one FitWarning, and no table may hold a NaN."""

from __future__ import annotations

import re
import warnings
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest

import polars_glmm
from polars_glmm import Fit, FitWarning, GlmmError
from polars_glmm.notes import Note


def attempt(frame: pl.DataFrame | pl.LazyFrame, *formulas: str, **arguments: Any) -> Fit:
    """The fit, after what every fit owes: one FitWarning if a note is loud and none else, no other warning, no NaN."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = polars_glmm.fit(frame, *formulas, **arguments)
        text = str(fit) + fit._repr_html_()
        tables = [fit.fixef(), fit.varcorr(), fit.dispersion(), fit.ranef(), fit.vcov(full=True), fit.glance()]
    foreign = [f"{w.category.__name__}: {w.message}" for w in caught if w.category is not FitWarning]
    assert not foreign
    loud = [note for note in fit.notes if not note.quiet]
    assert len(caught) == bool(loud)
    for note in loud:
        assert note.text in str(caught[0].message)
        assert unwrapped(note.text) in unwrapped(text)
    for table in tables:
        assert not any(table.select(cs.float().is_nan().any()).row(0)), table
    return fit


def unwrapped(text: str) -> str:
    """The text without its line breaks and indentation, and without HTML's spelling of signs."""
    for sign, letter in {"&lt;": "<", "&gt;": ">", "&#x27;": "'", "&quot;": '"', "&amp;": "&"}.items():
        text = text.replace(sign, letter)
    return re.sub(r"\s+", "", text)


def codes(fit: Fit) -> set[str]:
    return {note.code for note in fit.notes}


def note(fit: Fit, code: str) -> Note:
    """The one note with this code."""
    found = [note for note in fit.notes if note.code == code]
    assert len(found) == 1, f"{code!r} among {sorted(codes(fit))}"
    return found[0]


def names(fit: Fit, code: str, *words: str, absent: tuple[str, ...] = ()) -> None:
    """The one note with this code names these words between quotes or brackets, and none of the absent ones."""
    text = note(fit, code).text
    for word in words:
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text), f"{word!r} is not in {text!r}"
    for word in absent:
        assert not re.search(rf"['(]{re.escape(word)}['|)]", text), f"{word!r} is in {text!r}"


def silent(fit: Fit) -> None:
    """A fit without any doubt."""
    assert not fit.notes
    assert fit.converged
    assert not fit.singular


def refused(kind: type[GlmmError], *words: str) -> Any:
    """A context in which this error is raised, its message one that holds all these words in this order."""
    pattern = "(?s)" + ".*".join(re.escape(word) for word in words)
    return pytest.raises(kind, match=pattern)


def fixed(fit: Fit, term: str = "Intercept", column: str = "estimate") -> Any:
    """One number of the table of fixed effects."""
    return fit.fixef().filter(pl.col("term") == term)[column].item()


def variance(fit: Fit, group: str, term: str = "Intercept", column: str = "estimate") -> Any:
    """One number of a variance row."""
    table = fit.varcorr()
    return table.filter(pl.col("group") == group, pl.col("term") == term, pl.col("other_term").is_null())[column].item()


def correlation(fit: Fit, group: str, term: str, other: str) -> Any:
    pair = [term, other]
    table = fit.varcorr().filter(pl.col("group") == group, pl.col("term").is_in(pair), pl.col("other_term").is_in(pair))
    return table["correlation"].item()
