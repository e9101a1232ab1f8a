"""The residual= argument: which rows' residuals are correlated, and how, as `ar1(time | id)`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from polars_glmm.covariance.correlations import CORRELATIONS, Correlation
from polars_glmm.errors import ModelError, suggest
from polars_glmm.families.base import Family

from .parser import parse_terms
from .syntax import Bar, Binary, Expression, Name, Number, bar, quoted

_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_OTHER_NAMES = {
    "corar1": "ar1", "ar": "ar1", "corcar1": "car1", "ou": "car1", "corcompsymm": "cs", "exchangeable": "cs",
    "corsymm": "us", "un": "us", "unstructured": "us", "corexp": "exp", "corgaus": "gau", "toeplitz": "toep",
    "independence": "", "independent": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResidualTerm:
    """`structure(places | keys)`: residuals of the rows of one group are correlated by their places.

    places   columns: a time, coordinates, or none for cs
    keys     columns of the group; none: all rows are one
    """

    structure: str
    places: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def group(self) -> str:
        return ":".join(self.keys)

    @property
    def correlation(self) -> Correlation:
        """The correlation as an object."""
        return CORRELATIONS[self.structure]

    @property
    def text(self) -> str:
        places = " + ".join(map(quoted, self.places)) or "1"
        return f"{self.structure}({places} | {':'.join(map(quoted, self.keys)) or '1'})"

    @property
    def own_variances(self) -> str | None:
        """The formula of phi that goes with a correlation for each pair of occasions: together a covariance matrix."""
        return f"phi ~ 0 + C({quoted(self.places[0])})" if self.correlation.of == "pair" else None


def read_residual(argument: object) -> ResidualTerm | None:
    """residual= as a term. Raises ModelError for anything but structure(places | group)."""
    if argument is None:
        return None
    if not isinstance(argument, str):
        msg = f"residual= is text such as 'ar1(time | id)', not {type(argument).__name__}."
        raise ModelError(msg)
    call = _CALL.fullmatch(argument)
    if call is None:
        msg = f"residual={argument!r}: write structure(time | group), as in 'ar1(time | id)' or 'cs(1 | id)'."
        raise ModelError(msg)
    structure, inside = call.group(1), call.group(2)
    if structure not in CORRELATIONS:
        meant = _OTHER_NAMES.get(structure.lower())
        near = f" It is {meant}() here." if meant else suggest(structure, CORRELATIONS)
        msg = f"residual= knows no structure {structure!r}.{near} There are {', '.join(CORRELATIONS)}."
        raise ModelError(msg)
    places, keys = _sides(argument, inside)
    kind = CORRELATIONS[structure].kind
    if kind == "any":
        if places:
            msg = f"residual={argument!r}: {structure} knows no order: write {structure}(1 | group)."
            raise ModelError(msg)
    elif not places or (len(places) > 1 and kind != "coordinates"):
        wanted = "coordinates, as in (x + y | group)" if kind == "coordinates" else "one time, as in (time | group)"
        msg = f"residual={argument!r}: {structure} needs {wanted}."
        raise ModelError(msg)
    return ResidualTerm(structure, places, keys)


def _sides(argument: str, inside: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns left and right of the bar."""
    node = parse_terms(inside).right if inside.strip() else Number(1)
    if isinstance(node, Bar) and bar(node.structure) == "|" and not node.label:
        return _columns(argument, node.left, "+"), _columns(argument, node.right, ":")
    return _columns(argument, node, "+"), ()


def _columns(argument: str, node: Expression, joint: str) -> tuple[str, ...]:
    match node:
        case Name(name):
            return (name,)
        case Number(1):
            return ()
        case Binary(operator, left, right) if operator == joint:
            return tuple(dict.fromkeys((*_columns(argument, left, joint), *_columns(argument, right, joint))))
        case Binary("/", left, right) if joint == ":":  # the innermost of nested groups
            return tuple(dict.fromkeys((*_columns(argument, left, joint), *_columns(argument, right, joint))))
    msg = (
        f"residual={argument!r}: before the bar stand columns joined by '+', behind it the columns of the group joined "
        "by ':'; make a column of an expression first."
    )
    raise ModelError(msg)


def refuse_where_independent(residual: ResidualTerm, family: Family, frequency: str | None) -> None:
    """Raise ModelError where residuals cannot be correlated."""
    if not family.linear:
        msg = (
            f"residual={residual.text!r} correlates the residuals of gaussian models with identity link, and "
            f"family={family.name!r} with link {family.link.name!r} has none such. Random effects can stand for it, as "
            "(1 | id)."
        )
        raise ModelError(msg)
    if frequency is not None:
        msg = "residual= needs every row by itself, and a row of frequency= stands for several: write them out."
        raise ModelError(msg)
