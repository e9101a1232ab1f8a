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
    r"\s*[+-]?(?:\d+|\d+[.,]\d*|[.,]\d+|\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?:\.\d{3})+,\d*|inf|infinity)"
    r"(?:e[+-]?\d+)?\s*%?\s*",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_MINUS = "\u2212"
_PARTED = re.compile(r"(?<=\d)[ \u00a0\u2009\u202f'\u2019](?=\d{3}(?!\d))")
"""What parts thousands, beside commas and points."""
_THOUSANDS = re.compile(r"\s*[+\u2212-]?\d{1,3},\d{3}\s*")
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
    """How many different values of a column are numbers, those that are none, and what in numbers a cast does not read.

    swaps    what stands in them, and what to write instead
    spaces   whether some stand between spaces
    either   whether commas may as well part thousands, as in 1,234
    """

    column: str
    dtype: pl.DataType
    n: int
    others: tuple[str, ...]
    swaps: tuple[tuple[str, str], ...]
    spaces: bool
    either: bool = False

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
        swaps = "".join(
            f".str.replace_all({old!r}, {new!r}{', literal=True' if old == '.' else ''})" for old, new in self.swaps
        )
        spaces = ".str.strip_chars()" if self.spaces else ""
        done = [f"makes null of {enumerate_names(self.others, limit=_SHOWN)}"] if self.others else []
        if self.either:
            done.append("takes a comma for a point (where it parts thousands, write .str.replace_all(',', ''))")
        what = f", which {' and '.join(done)}" if done else ""
        return f"Make it numeric: {text}{swaps}{spaces}.cast(pl.Float64, strict=False){what}"


def numbers_in(column: str, dtype: pl.DataType, labels: Iterable[str]) -> NumbersAsText | None:
    """What there is to say of a column of text in which all but a few of the different values are numbers, or None."""
    numbers, others, words = [], [], 0
    for label in labels:
        if _NUMBER.fullmatch(_PARTED.sub("", label.replace(_MINUS, "-"))):
            numbers.append(label)
        else:
            others.append(label)
            words += label.strip().lower() not in _MISSING
    bare = [number.replace("%", "") for number in numbers]
    spaces = any(number != number.strip() for number in bare)
    if len(numbers) < max(2, _FEW * words) or any(map(_CODE.fullmatch, numbers)):
        return None
    return NumbersAsText(column, dtype, len(numbers), tuple(others), _swaps(numbers), spaces, _either(numbers))


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


def _swaps(numbers: list[str]) -> tuple[tuple[str, str], ...]:
    """What a cast does not read, and what to write instead of it; thousands first, since a comma may be a point."""
    parts = {part.group() for number in numbers for part in _PARTED.finditer(number)}
    swaps = [(part, "") for part in sorted(parts)]
    swaps += [(sign, new) for sign, new in ((_MINUS, "-"), ("%", "")) if any(sign in number for number in numbers)]
    commas = [number for number in numbers if "," in number]
    if any("." in number and number.index(".") < number.index(",") for number in commas):
        return (*swaps, (".", ""), (",", "."))
    if any("." in number or number.count(",") > 1 for number in commas):
        return (*swaps, (",", ""))
    return (*swaps, (",", ".")) if commas else tuple(swaps)


def _either(numbers: list[str]) -> bool:
    """Whether every comma has three digits behind it, and no point says what it is."""
    commas = [number for number in numbers if "," in number]
    return bool(commas) and all(map(_THOUSANDS.fullmatch, commas)) and not any("." in number for number in numbers)


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
