"""Columns of text whose values are numbers: told, because each value of text has an effect of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import polars as pl

from polars_glmm.errors import IdentifiabilityError, enumerate_names
from polars_glmm.frames.levels import is_label
from polars_glmm.notes import Note
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import Name, quoted

from .recipe import Categorical, Recipe

_NUMBER = re.compile(
    r"\s*[+-]?(?:\d+|\d+[.,]\d*|[.,]\d+|\d{1,3}(?:,\d{3})+(?:\.\d*)?|inf|infinity)(?:e[+-]?\d+)?\s*", re.IGNORECASE
)
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_CODE = re.compile(r"\s*0\d+\s*")
"""A whole number written with a zero before it is a code, as those of towns."""
_MISSING = frozenset({"", "na", "n/a", "#n/a", "n.a.", "nan", "null", "missing", ".", "..", "-", "--", "?", "*"})
"""What programs and people write where a number is missing, in lower case."""
_FEW_CODES = 10
"""Whole numbers up to which a column may well hold the numbers of classes."""
_FEW = 5
"""Numbers for each word that is no known sign of a missing value: fewer, and the column is one of words."""
_SHOWN = 3


class NumbersAsText(NamedTuple):
    """How many different values of a column are numbers, those that are none, and what a comma in numbers stands for.

    comma    what to write instead of it, or None where there is none
    spaces   whether some numbers stand between spaces, which a cast does not read
    """

    column: str
    dtype: pl.DataType
    n: int
    others: tuple[str, ...]
    comma: str | None
    spaces: bool

    @property
    def what(self) -> str:
        """What the column holds, as the end of a sentence about it."""
        every = f"all of its {self.n} different values are numbers"
        if not self.others:
            return every
        among = f"all but {len(self.others)} of its {self.n + len(self.others)} different values are numbers"
        return f"{among} (not {enumerate_names(self.others, limit=_SHOWN)})"

    @property
    def remedy(self) -> str:
        """How it becomes a column of numbers."""
        text = f"pl.col({self.column!r})" + ("" if self.dtype == pl.String else ".cast(pl.String)")
        comma = "" if self.comma is None else f".str.replace_all(',', {self.comma!r})"
        spaces = ".str.strip_chars()" if self.spaces else ""
        null = f", which makes null of {enumerate_names(self.others, limit=_SHOWN)}" if self.others else ""
        return f"Make it numeric: {text}{spaces}{comma}.cast(pl.Float64, strict=False){null}"


def numbers_in(column: str, dtype: pl.DataType, labels: Iterable[str]) -> NumbersAsText | None:
    """What there is to say of a column of text in which all but a few of the different values are numbers, or None."""
    numbers, others, words = [], [], 0
    for label in labels:
        if _NUMBER.fullmatch(label):
            numbers.append(label)
        else:
            others.append(label)
            words += label.strip().lower() not in _MISSING
    spaces = any(number != number.strip() for number in numbers)
    if len(numbers) < max(2, _FEW * words) or any(map(_CODE.fullmatch, numbers)):
        return None
    return NumbersAsText(column, dtype, len(numbers), tuple(others), _comma(numbers), spaces)


def text_columns(spec: ModelSpec, categoricals: Mapping[str, Categorical]) -> list[NumbersAsText]:
    """Predictors that are numbers as text, but for those that may be codes and those that C() calls labels."""
    if not any(is_label(one.dtype) for one in categoricals.values()):
        return []
    terms = [term for part in spec.predictors for term in part.fixed]
    terms += [term for random in spec.random for term in random.design]
    plain = {factor.name for term in terms for factor in term.factors if isinstance(factor, Name)}
    found = []
    for name, one in categoricals.items():
        if name in plain and is_label(one.dtype) and not _codes(one):
            found.append(numbers_in(name, one.dtype, one.levels))
    return [one for one in found if one is not None]


def text_notes(spec: ModelSpec, categoricals: Mapping[str, Categorical]) -> tuple[Note, ...]:
    """A note for every predictor that is numbers as text."""
    return tuple(
        Note(
            "numbers_as_text",
            f"{_sentence(one)}.",
            f"{one.remedy}. Where the values are labels, C({quoted(one.column)}) says so.",
        )
        for one in text_columns(spec, categoricals)
    )


@contextmanager
def blaming_text(recipe: Recipe) -> Iterator[None]:
    """Where a model is not identifiable and has numbers as text, these are the reason that is given."""
    try:
        yield
    except IdentifiabilityError as error:
        found = text_columns(recipe.spec, recipe.categoricals)
        if not found:
            raise
        msg = f"{', '.join(map(_sentence, found))}, and so the data do not determine the model. {found[0].remedy}."
        raise IdentifiabilityError(msg) from error


def refused(column: str, dtype: pl.DataType, labels: Iterable[str]) -> str:
    """The end of an error about a column that must be numeric: that it is numbers as text, if so."""
    found = numbers_in(column, dtype, labels) if is_label(dtype) else None
    return "" if found is None else f" It is text, and {found.what}. {found.remedy}."


def _comma(numbers: list[str]) -> str | None:
    """What stands for a comma: nothing where it parts thousands, else a point."""
    commas = [number for number in numbers if "," in number]
    if not commas:
        return None
    return "" if any("." in number or number.count(",") > 1 for number in commas) else "."


def _sentence(one: NumbersAsText) -> str:
    own = "each value has an effect of its own"
    return f"column {one.column!r} is text ({_named(one.dtype)}), although {one.what}: {own}"


def _named(dtype: pl.DataType) -> str:
    """String, Categorical or Enum, without its categories."""
    return type(dtype).__name__


def _codes(one: Categorical) -> bool:
    """Whether the levels, all numbers, may be those of classes."""
    pattern = _NUMBER if isinstance(one.dtype, pl.Enum) else _WHOLE  # an Enum's values were listed by someone
    return len(one.levels) <= _FEW_CODES and all(map(pattern.fullmatch, one.levels))
