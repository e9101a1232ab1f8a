"""The fixed part of a linear predictor met with data: its columns, the independent ones among them, its offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.columns.coding import Column, code_terms, fewest_columns
from polars_glmm.columns.nodes import ONE, Affine, Coded, Node, total
from polars_glmm.errors import ColumnError, enumerate_names
from polars_glmm.families.base import Cuts
from polars_glmm.frames.limits import require_columns
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.spec.syntax import Name, render
from polars_glmm.spec.terms import FixedTerm, PredictorTerms
from polars_glmm.typing import BoolVec, Mat

from .curved import ColumnSpread, lost_to_rounding
from .rank import Judged, independent, judge
from .recipe import PredictorRecipe
from .records import Predictor
from .variables import Variables

_FAR = 4.0
"""Middle of the values of a column, in half their range, beyond which a scale is not counted from zero: standard errors
would keep no more than three digits (measured)."""


class LearnedPredictor(NamedTuple):
    """The recipe with all columns of the formula, and the arrays of those kept."""

    recipe: PredictorRecipe
    predictor: Predictor
    notes: tuple[Note, ...]


def learn_predictor(
    part: PredictorTerms, offset: str | None, variables: Variables, cuts: Cuts | None = None
) -> LearnedPredictor:
    """Columns, rank and offset of one predictor; `offset` names the column of offset=, which belongs to mu."""
    terms, notes = in_reach(part, predictor_columns(part, variables), variables)
    columns = tuple(column for term in terms for column in term)
    x = matrix(columns, variables.table)
    require_finite(x, columns, variables)
    centred = centred_columns(part, terms, variables.table)
    judged = judge(x, centred)
    kept = judged.kept
    names = tuple(column.name for column in columns)
    refuse_equal_names(names)
    if not kept.all():
        rounded = _lost_to_rounding(columns, judged, centred, variables.table)
        notes += dropped_columns(part.parameter, names, kept, rounded)
        names = tuple(name for name, keep in zip(names, kept, strict=True) if keep)
        x = np.ascontiguousarray(x[kept])
    node = offset_node(part, offset, variables)
    values = None if node is None else variables.evaluate(node, "the offset")
    recipe = PredictorRecipe(part.parameter, columns, tuple(kept.tolist()), node, judged.lost)
    return LearnedPredictor(recipe, Predictor(x, names, values, part.parameter, cuts), notes)


def offset_node(part: PredictorTerms, offset: str | None, variables: Variables) -> Node | None:
    """The sum of all offsets of a predictor."""
    asked = [*part.offsets, *([Name(offset)] if part.parameter == "mu" and offset is not None else [])]
    return total(tuple(variables.arithmetic(expression) for expression in asked))


def predictor_columns(part: PredictorTerms, variables: Variables) -> tuple[tuple[Column, ...], ...]:
    """The columns of each fixed term; where other parameters take up the constant, coded beside it and without it."""
    made = learn_columns(part.fixed, variables)
    if not part.absorbed:
        return made
    return tuple(columns if term.factors else () for term, columns in zip(part.fixed, made, strict=True))


def in_reach(
    part: PredictorTerms, terms: tuple[tuple[Column, ...], ...], variables: Variables
) -> tuple[tuple[tuple[Column, ...], ...], tuple[Note, ...]]:
    """The columns of a predictor that scales the others, those far from zero counted from a number among their values.

    exp(ζc) of a column at c ± 1 is no number for large c, and it is the unit of thresholds, coefficients and standard
    deviations: there is none at zero that numbers can say. Elsewhere it is another unit of the same model.
    """
    if not part.scaling:
        return terms, ()
    made, said = [], []
    for term in terms:
        own = []
        for column in term:
            low, high = variables.bounds(column.node, column.name)
            middle, half = 0.5 * (low + high), 0.5 * (high - low)
            if half > 0.0 and abs(middle) > _FAR * half:
                step = 10.0 ** np.floor(np.log10(half))
                centre = float(np.round(middle / step) * step)
                said.append(f"{column.name} = {centre:.15g}")
                own.append(Column(column.name, Affine(column.node, centre, 1.0)))
            else:
                own.append(column)
        made.append(tuple(own))
    if not said:
        return terms, ()
    text = (
        f"The formula of {part.parameter} has columns far from zero: thresholds, coefficients and standard deviations "
        f"are in the unit that the latent variable has at {', '.join(said)}, as at zero it has none."
    )
    return tuple(made), (Note(f"{part.parameter}_unit", text, quiet=True),)


def learn_columns(terms: Sequence[FixedTerm], variables: Variables) -> tuple[tuple[Column, ...], ...]:
    """The columns of each term, all variables in them learned.

    Raises IdentifiabilityError or ResourceError, before they are made, where they are too many.
    """
    known = {render(factor): variables.learn(factor) for term in terms for factor in term.factors}
    sizes = [fewest_columns(term, known) for term in terms]
    if terms:
        require_columns(sum(sizes), variables.count_rows, terms[int(np.argmax(sizes))].text)
    return code_terms(terms, known)


def matrix(columns: Sequence[Column], table: Table) -> Mat:
    """The columns as rows of one C-contiguous array (p, n)."""
    x = np.empty((len(columns), table.n_rows))
    for row, column in zip(x, columns, strict=True):
        row[:] = table.evaluate(column.node)
    return x


def require_finite(x: Mat, columns: Sequence[Column], variables: Variables) -> None:
    """Raise ColumnError for a column that has no value in some row, or whose squares no number can hold."""
    with np.errstate(all="ignore"):
        sizes = np.einsum("pn,pn->p", x, x)
    for j in np.flatnonzero(~np.isfinite(sizes)).tolist():
        variables.evaluate(columns[j].node, columns[j].name)
        raise ColumnError(TOO_LARGE.format(columns[j].name))


TOO_LARGE = "The squares of {} are too large for floating-point numbers: rescale it."


def refuse_equal_names(names: tuple[str, ...]) -> None:
    """Raise ColumnError for two columns of one name."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        msg = f"The formula makes two columns called {enumerate_names(twice)}. Rename the column of that name."
        raise ColumnError(msg)


def _lost_to_rounding(columns: Sequence[Column], judged: Judged, centred: BoolVec, table: Table) -> BoolVec:
    """(p,) columns that are dropped only because their variables are far from zero."""

    def spread_of(variables: Sequence[Node]) -> list[ColumnSpread]:
        values = [np.asarray(table.evaluate(variable)) for variable in variables]
        return [ColumnSpread(float(value.mean()), float(value.std())) for value in values]

    def judge_again(nodes: Sequence[Node]) -> BoolVec:
        again = [Column(column.name, node) for column, node in zip(columns, nodes, strict=True)]
        return independent(matrix(again, table), centred)

    return lost_to_rounding([column.node for column in columns], judged, spread_of, judge_again)


NEAR = "{columns} {differ} from combinations of the columns before in the formula{of} by little more than rounding"
NEAR_IN_PRODUCTS = "Products do not tell the {columns} from combinations of the columns before in the formula{of}"


def dropped_columns(
    parameter: str, names: Sequence[str], kept: BoolVec, rounded: BoolVec, words: str = NEAR
) -> tuple[Note, ...]:
    """The notes about columns that are combinations of others, in truth or (`rounded`) as far as numbers can tell.

    words   what is said of the latter
    """
    of = "" if parameter == "mu" else f" of {parameter}"
    notes = []
    lost = [name for name, keep, near in zip(names, kept, rounded, strict=True) if not keep and not near]
    if lost:
        subject = f"columns {enumerate_names(lost)} are" if len(lost) > 1 else f"column {lost[0]!r} is"
        text = f"The {subject} determined by the columns before in the formula{of}: no estimate."
        advice = "Leave the redundant terms out of the formula; predictions of rows that break the dependence are null."
        notes.append(Note("columns_dropped", text, advice))
    near = [name for name, one in zip(names, rounded, strict=True) if one]
    if near:
        subject = f"columns {enumerate_names(near)}" if len(near) > 1 else f"column {near[0]!r}"
        said = words.format(columns=subject, differ="differ" if len(near) > 1 else "differs", of=of)
        said = f"The {said}" if said.startswith("column") else said
        notes.append(Note("columns_dropped", f"{said}: no estimate.", CENTRE))
    return tuple(notes)


CENTRE = (
    "Powers and products of variables far from zero are nearly alike: use poly(), or centre the variables first, as in "
    "I((x - 2000)^2), which leaves the model the same."
)


def centred_columns(part: PredictorTerms, terms: Sequence[tuple[Column, ...]], table: Table) -> BoolVec:
    """Columns to centre for the rank rule: all but those that make the constant; none where nothing makes it."""
    if part.absorbed:
        return np.ones(sum(map(len, terms)), dtype=np.bool_)
    constant = next((k for k, term in enumerate(terms) if _makes_constant(term, table)), None)
    return np.array(
        [constant is not None and k != constant for k, term in enumerate(terms) for _ in term], dtype=np.bool_
    )


def _makes_constant(term: tuple[Column, ...], table: Table) -> bool:
    """The intercept, or one indicator for every level of a column."""
    nodes: list[Node] = [column.node for column in term]
    if nodes == [ONE]:
        return True
    indicators = [node for node in nodes if isinstance(node, Coded) and node.weights == (1.0,)]
    if not indicators or len(indicators) < len(nodes):
        return False
    return len(indicators) == table.levels(indicators[0].column).n_levels
