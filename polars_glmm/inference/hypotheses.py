"""Hypotheses about parameters, from strings, mappings and frames to rows of numbers; nothing is executed.

`a - 2*b = 1` is read by the tokens of formulas: a name is the longest run of tokens that spells a parameter of the
fit, the rest is arithmetic. Values carry their gradient along: a nonlinear function has its Jacobian for the delta
method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, brief, counted, enumerate_names, suggest
from polars_glmm.inference.arithmetic import Differentiable, HypothesisReader, normal_form
from polars_glmm.inference.estimable import estimable
from polars_glmm.inference.names import coefficient_names, fixed_terms, variance_parameters
from polars_glmm.inference.term_columns import term_columns
from polars_glmm.typing import BoolVec, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

HypothesesLike: TypeAlias = str | Sequence[str] | Mapping[str, str] | pl.DataFrame
LABEL = "hypothesis"


@dataclass(frozen=True, slots=True, eq=False)
class Hypotheses:
    """m functions of the parameters, each said to be `null`.

    labels (m,)
    rows (m, k + v)     gradients in the kept coefficients and the variance parameters: L where `linear`
    values (m,)         of the functions at the estimates
    null (m,)           what they are compared with
    linear (m,)         constant gradient
    determined (m,)     False where a function of dropped columns is not determined by the data
    n_coefficients      k
    """

    labels: tuple[str, ...]
    rows: Mat
    values: Vec
    null: Vec
    linear: BoolVec
    determined: BoolVec
    n_coefficients: int

    @property
    def of_coefficients(self) -> bool:
        """Whether no variance parameter is in any of them."""
        return not bool((self.rows[:, self.n_coefficients :] != 0.0).any())


def read_hypotheses(fit: Answer, asked: HypothesesLike, rhs: float | Sequence[float] = 0.0) -> Hypotheses:
    """The hypotheses of a fit.

    asked   "Days = 10", "a - 2*b = 0", "exp(a)/b = 1", the name of a coefficient or of a term of the formula (all its
            columns); several of these; a mapping from labels to them; or a frame with a column `hypothesis` and one
            column of weights for each term that is used
    rhs     what those without "=" are compared with: a number, or one for each
    Raises ModelError for names the fit does not have, FormulaError where a string cannot be read.
    """
    names = coefficient_names(fit)
    _, _, kept = fixed_terms(fit)
    variances = variance_parameters(fit)
    values = np.zeros(len(names) + len(variances.names))
    values[: len(names)][kept] = np.concatenate([fit.estimate.beta, fit.estimate.gamma])
    values[len(names) :] = variances.values
    all_names = [*names, *variances.names]
    if isinstance(asked, pl.DataFrame):
        labels, found = _of_frame(asked, names, values)
    else:
        labels, found = _of_texts(_texts(asked), HypothesisReader(all_names, values), term_columns(fit, names))
    given = _null(rhs, found)
    rows = np.array([one.gradient for one in found]).reshape(len(found), len(values))
    determined = estimable(fit, rows[:, : len(names)])
    places = np.concatenate([np.flatnonzero(kept), np.arange(len(names), len(values))])
    return Hypotheses(
        tuple(labels),
        rows[:, places],
        np.array([one.number for one in found]),
        given,
        np.array([one.linear for one in found], dtype=np.bool_),
        determined,
        int(kept.sum()),
    )


class _Found(NamedTuple):
    """One function of the parameters; equation: its null value was written."""

    number: float
    gradient: Vec
    linear: bool
    null: float
    equation: bool


def _texts(asked: object) -> list[tuple[str | None, str]]:
    """Labels, where given, and strings. Raises ModelError for anything else."""
    pairs: list[tuple[str | None, str]]
    if isinstance(asked, str):
        return [(None, asked)]
    if isinstance(asked, Mapping):
        pairs = [(str(label), text) for label, text in asked.items()]
    elif isinstance(asked, Sequence):
        pairs = [(None, text) for text in asked]
    else:
        msg = (
            f"Hypotheses are strings such as 'Days = 10', several of them, a mapping from labels to strings, or a "
            f"frame with a column 'hypothesis', not a {type(asked).__name__}."
        )
        raise ModelError(msg)
    for _, text in pairs:
        if not isinstance(text, str):
            msg = f"A hypothesis is a string such as 'Days = 10', not {brief(repr(text))}."
            raise ModelError(msg)
    if not pairs:
        msg = "There is no hypothesis to test: name a coefficient, or write one such as 'a = b'."
        raise ModelError(msg)
    return pairs


def _of_texts(
    pairs: Sequence[tuple[str | None, str]], reader: HypothesisReader, terms: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[_Found]]:
    labels: list[str] = []
    found: list[_Found] = []
    whole = {normal_form(term): places for term, places in terms.items()}
    for label, text in pairs:
        places = whole.get(normal_form(text), ())
        if places and not reader.knows(text):
            for j in places:
                gradient = np.zeros(len(reader.names))
                gradient[j] = 1.0
                labels.append(reader.names[j] if label is None else f"{label}: {reader.names[j]}")
                found.append(_Found(float(reader.values[j]), gradient, linear=True, null=0.0, equation=False))
            continue
        _suggest_joint(text, whole, reader)
        left, right = reader.read(text)
        labels.append(" ".join(text.split()) if label is None else label)
        found.append(_difference(left, right, text))
    return labels, found


def _suggest_joint(text: str, terms: Mapping[str, Sequence[int]], reader: HypothesisReader) -> None:
    """Raise ModelError for "term = 0" of a term of several columns, which no single equation is about."""
    name = text.partition("=")[0].strip()
    places = terms.get(normal_form(name), ())
    if "=" in text and len(places) > 1 and not reader.knows(name):
        own = enumerate_names([reader.names[j] for j in places])
        msg = (
            f"{name!r} is a term of {len(places)} coefficients ({own}): test({name!r}, joint=True) tests that all of "
            "them are zero, test_terms() each term."
        )
        raise ModelError(msg)


def _difference(left: Differentiable, right: Differentiable | None, text: str) -> _Found:
    """left = right as one function: constants of a linear one, or a constant right side, are its null value."""
    equation = right is not None
    right = Differentiable.constant(0.0, len(left.gradient)) if right is None else right
    whole = left - right
    if not whole.gradient.any() and whole.linear:
        msg = f"The hypothesis {brief(text)!r} has no parameter of the fit in it."
        raise ModelError(msg)
    if whole.linear:
        return _Found(whole.number - whole.offset, whole.gradient, linear=True, null=-whole.offset, equation=equation)
    null = right.number if right.linear and not right.gradient.any() else 0.0
    return _Found(whole.number + null, whole.gradient, linear=False, null=null, equation=equation)


def _of_frame(frame: pl.DataFrame, names: Sequence[str], values: Vec) -> tuple[list[str], list[_Found]]:
    if LABEL not in frame.columns:
        msg = f"A frame of hypotheses has a column {LABEL!r} and one column of weights for each term that is used."
        raise ModelError(msg)
    used = [name for name in frame.columns if name != LABEL]
    unknown = [name for name in used if name not in names]
    if unknown or not used or not frame.height:
        what = f"has a column {unknown[0]!r}, which is no term" if unknown else "is empty"
        near = suggest(unknown[0], names) if unknown else ""
        msg = f"The frame of hypotheses {what}.{near} Terms: {enumerate_names(names)}."
        raise ModelError(msg)
    weights = np.zeros((frame.height, len(values)))
    for name in used:
        if not frame[name].dtype.is_numeric() or frame[name].null_count():
            msg = f"The column {name!r} of the frame of hypotheses must hold a number in every row."
            raise ModelError(msg)
        weights[:, names.index(name)] = frame[name].cast(pl.Float64).to_numpy()
    if not np.isfinite(weights).all() or not weights.any(axis=1).all():
        msg = "Every row of the frame of hypotheses must have finite weights, and one that is not zero."
        raise ModelError(msg)
    found = [_Found(float(row @ values), row, linear=True, null=0.0, equation=False) for row in weights]
    return frame[LABEL].cast(pl.String).fill_null("").to_list(), found


def _null(rhs: float | Sequence[float], found: Sequence[_Found]) -> Vec:
    """What each is compared with. Raises ModelError where it is said twice, or not for each."""
    given = np.asarray(rhs, dtype=np.float64)
    if given.ndim > 1 or (given.ndim == 1 and len(given) != len(found)) or not np.isfinite(given).all():
        msg = f"rhs= is a number, or one for each of the {counted(len(found), 'hypothesis')}."
        raise ModelError(msg.replace("hypothesises", "hypotheses"))
    written = np.array([one.null for one in found])
    equation = np.array([one.equation for one in found], dtype=np.bool_)
    spread = np.broadcast_to(given, written.shape)
    if (equation & (spread != 0.0)).any():
        msg = "A hypothesis says what it is compared with twice: by rhs= and by '='. Leave one of them out."
        raise ModelError(msg)
    return np.asarray(written + spread)
