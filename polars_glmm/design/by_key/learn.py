"""One question met with the data of many keys at once: rows chosen, columns made, levels coded in a single pass.

Only what is the same for a key alone as for all of them together is learned here. A key where it is not (a level that
it lacks, a column that depends on the others) is left out, and a question whose columns are learned from the rows
(poly, scale …) is not batchable at all: those are learned key by key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.design.by_key.factors import LevelledFactor, by_size, taken
from polars_glmm.design.by_key.pairing import names_by_model, pairings_by_model
from polars_glmm.design.by_key.records import KeyedDesign, KeyedLevels, starts
from polars_glmm.design.factors import learn_factors
from polars_glmm.design.learn import Weights, part, require_weights
from polars_glmm.design.predictors import centred_columns, learn_columns, matrix, offset_node, refuse_equal_names
from polars_glmm.design.rank import TOLERANCE
from polars_glmm.design.recipe import PredictorRecipe, Recipe
from polars_glmm.design.response import ResponseColumns, check_support, learn_response
from polars_glmm.design.text_numbers import text_notes
from polars_glmm.design.variables import Variables
from polars_glmm.errors import counted
from polars_glmm.families.base import LEFT, RIGHT, only_phi
from polars_glmm.frames.missing import Incomplete, dropped_rows
from polars_glmm.frames.table import Table, collect, incomplete
from polars_glmm.notes import Note
from polars_glmm.spec.functions import SIGNATURES
from polars_glmm.spec.members import shared
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.response import Response
from polars_glmm.spec.syntax import COMPARISONS, Binary, Expression, FunctionCall, Name, Unary
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

_COMFORTABLE = 2e-6
"""Smallest eigenvalue of the cross-product of unit columns above which design.rank keeps all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Dropped:
    """Rows of each model that were left out: with missing values (and in which columns), without any trial; (M,)."""

    n_rows: IntVec
    missing: IntVec
    where: dict[str, BoolVec]
    untried: IntVec

    def notes(self, k: int) -> tuple[Note, ...]:
        """The notes of model k, as design.learn words them."""
        found: tuple[Note, ...] = ()
        if self.missing[k]:
            names = tuple(name for name, marks in self.where.items() if marks[k])
            found += (dropped_rows(Incomplete(int(self.missing[k]), int(self.n_rows[k]), 0, names, ()), "drop"),)
        if self.untried[k]:
            n = int(self.untried[k])
            what = f"{counted(n, 'row')} without any trial {'was' if n == 1 else 'were'} left out."
            found += (Note("rows_without_trials", what, quiet=True),)
        return found

    def take(self, keep: BoolVec) -> Dropped:
        where = {name: marks[keep] for name, marks in self.where.items()}
        return Dropped(self.n_rows[keep], self.missing[keep], where, self.untried[keep])


class Paired(NamedTuple):
    """Names (q,) and values (M, q) of design.pairing."""

    names: tuple[str, ...]
    values: Mat

    def of(self, k: int) -> dict[str, float]:
        """Those of model k that there are."""
        return {name: v for name, v in zip(self.names, self.values[k].tolist(), strict=True) if v == v}  # noqa: PLR0124


@dataclass(frozen=True, slots=True, eq=False)
class KeyedFacts:
    """What is known of M of the keys besides their rows.

    keys (M,)       numbers of the keys that are here
    recipe          common to all; its factors hold the levels of all models one after the other, in code order
    levels          of every factor, in the order of the formula
    notes           common to all, after those of `dropped`
    moments (M, 5)  sums of answer.tally.Fingerprint;  paired: its pairings
    kept (n,)       rows of the frame that some model uses, or None for all
    """

    keys: IntVec
    recipe: Recipe
    levels: tuple[KeyedLevels, ...]
    notes: tuple[Note, ...]
    dropped: Dropped
    moments: Mat
    kept: BoolVec | None
    paired: Paired

    def take(self, keep: BoolVec) -> KeyedFacts:
        """Some of the models, in the same order."""
        factors = tuple(
            replace(factor, levels=factor.levels.filter(pl.Series(np.repeat(keep, own.counts))))
            for factor, own in zip(self.recipe.factors, self.levels, strict=True)
        )
        return replace(
            self,
            keys=self.keys[keep],
            recipe=replace(self.recipe, factors=factors),
            levels=tuple(own.take(keep) for own in self.levels),
            dropped=self.dropped.take(keep),
            moments=self.moments[keep],
            paired=self.paired._replace(values=self.paired.values[keep]),
        )

    def renumbered(self, keys: IntVec, places: IntVec, n: int) -> KeyedFacts:
        """The same for a part of a frame of n rows: its keys are `keys` of the whole, its rows stand at `places`."""
        kept = np.ones(len(places), dtype=np.bool_) if self.kept is None else self.kept
        whole = np.zeros(n, dtype=np.bool_)
        whole[places[kept]] = True
        return replace(self, keys=keys[self.keys], kept=whole)


class KeyedLearned(NamedTuple):
    """What M of the keys taught, and their rows, sorted by model and by the levels of all factors."""

    facts: KeyedFacts
    design: KeyedDesign


def batchable(spec: ModelSpec, dtypes: pl.Schema) -> bool:
    """Whether the columns of a question are the same for a key alone as for all keys together."""
    if spec.residual is not None or spec.inputs or len(spec.predictors) > 1 or not only_phi(spec.family):
        return False
    if not spec.mu.random or shared(spec.mu.random):
        return False
    success = spec.response.success
    if isinstance(success, Name):
        dtype = dtypes.get(success.name)
        if isinstance(dtype, pl.Enum) and len(dtype.categories) != 2:
            return False
    if spec.trials is not None and any(dtypes.get(name, pl.Int64()).is_float() for name in spec.response.columns()):
        return False  # a proportion or a count: every key decides for itself
    if spec.trials is not None and not isinstance(success, Name):
        return False  # whole numbers by their values, not by the dtypes of their columns
    terms = (*spec.mu.fixed, *(term for random in spec.mu.random for term in random.design))
    others = [*_measured(spec.response), *spec.mu.offsets]
    return not any(map(_learns, [*(factor for term in terms for factor in term.factors), *others]))


def _measured(response: Response) -> Iterator[Expression]:
    """What a response is read from, events and other statuses apart: comparisons say the same of every key."""
    seen = response.observation
    yield from (one for one in response.expressions() if seen is None or one is not seen.status)


def _learns(node: Expression) -> bool:
    """Whether a factor takes constants from the rows, levels of categorical variables apart."""
    match node:
        case FunctionCall():
            arguments = [value for _, value in node.arguments]
            return SIGNATURES[node.function].kind == "learned" or any(map(_learns, arguments))
        case Binary(operator, left, right):
            return operator in COMPARISONS or _learns(left) or _learns(right)
        case Unary(operand=operand):
            return _learns(operand)
        case _:
            return False


def learn_by_key(
    spec: ModelSpec, frame: pl.DataFrame, code: IntVec, n_keys: int, *, missing: Literal["drop", "error"] = "drop"
) -> KeyedLearned | None:
    """Recipe and design of a batchable question for the rows of keys 0 … n_keys − 1; None if no key is usual.

    code (n,) numbers the key of each row. Raises the error of some key where design.learn would raise for that key.
    """
    table = collect(frame, spec.columns())
    n = table.n_rows
    rest = _usable(spec, table, code, n_keys, missing)
    table, code, usual, weights, response = rest.table, rest.code, rest.usual, rest.weights, rest.response
    variables = rest.variables
    check_support(spec.family, response.rows(weights.precision), response.recipe.name, table)
    terms = learn_columns(spec.mu.fixed, variables)
    columns = tuple(column for term in terms for column in term)
    names = tuple(column.name for column in columns)
    refuse_equal_names(names)
    x = matrix(columns, table)
    node = offset_node(spec.mu, spec.offset, variables)
    offset = None if node is None else variables.evaluate(node, "the offset")
    factors = by_size(learn_factors(spec.mu.random, variables), code)
    usual &= _has_all_levels(variables, code, n_keys)
    order, model_rows, present = _sorted(factors, code, usual)
    if not len(order):
        return None
    fine = _independent(taken(x, order), centred_columns(spec.mu, terms, table), model_rows)
    if not fine.all():
        usual = usual.copy()
        usual[present[~fine]] = False
        order, model_rows, present = _sorted(factors, code, usual)
        if not len(order):
            return None

    def take(v: Mat | None) -> Mat | None:
        return None if v is None else taken(v, order)

    own = [factor.of(order, code, present) for factor in factors]
    lead, *others = own
    design = KeyedDesign(
        y=taken(response.y, order), trials=take(response.trials), frequency=take(weights.frequency),
        precision=take(weights.precision), offset=take(offset), names=names, x=taken(x, order),
        group=lead.name, terms=lead.terms, z=lead.z, model_rows=model_rows, model_levels=lead.model_levels,
        level_rows=np.bincount(lead.codes),
        censoring=None if response.censoring is None else response.censoring.each(lambda v: taken(v, order)),
        others=tuple(others), place=lead.place,
    )  # fmt: skip
    recipe = Recipe(
        spec=spec,
        response=response.recipe,
        predictors=(PredictorRecipe("mu", columns, (True,) * len(columns), node),),
        factors=tuple(factors[f].recipe(table, code, present) for f in design.in_formula),
        categoricals=variables.categoricals,
    )
    dropped = rest.dropped.take(_mask(present, n_keys))
    kept = None if table.rows is None else _mask(table.rows, n)
    said = [note for f in design.in_formula for note in factors[f].learned.notes]
    notes = (*response.notes, *text_notes(spec, variables.categoricals), *said)
    paired = Paired(names_by_model(design), pairings_by_model(design))
    facts = KeyedFacts(present, recipe, design.levels, notes, dropped, _moments(design), kept, paired)
    return KeyedLearned(facts, design)


class _Usable(NamedTuple):
    """The rows that models use, the key of each, the keys that may go on, and what was read and dropped."""

    table: Table
    code: IntVec
    usual: BoolVec
    weights: Weights
    variables: Variables
    response: ResponseColumns
    dropped: Dropped


def _usable(spec: ModelSpec, table: Table, code: IntVec, n_keys: int, missing: str) -> _Usable:
    """Rows without missing values, with weight and with trials, as design.learn chooses them."""
    count = np.bincount(code, minlength=n_keys)
    mask, where = incomplete(table, spec.gaps)
    usual = count > 0
    lost, marks = np.zeros(n_keys, dtype=np.intp), {}
    if mask is not None:
        lost = np.bincount(code[mask], minlength=n_keys)
        marks = {name: _keys_missing(table, name, mask, code, n_keys) for name in where}
        usual &= (lost < count) if missing == "drop" else (lost == 0)
        table, code = table.keep(~mask), code[~mask]
    weights, used = require_weights(spec, table)
    table, weights = part(table, weights, used)
    code = code[used]
    variables = Variables(table, weights.frequency)
    response = learn_response(spec, variables)
    untried = np.zeros(n_keys, dtype=np.intp)
    if response.trials is not None and not response.trials.all():
        tried = response.trials > 0
        untried = np.bincount(code[~tried], minlength=n_keys)
        table, weights = part(table, weights, tried)
        code = code[tried]
        variables = Variables(table, weights.frequency)
        response = learn_response(spec, variables)
    usual &= np.bincount(code, minlength=n_keys) > 0
    if response.censoring is not None:  # keys without an event have an error of their own
        for blind in (RIGHT, LEFT):
            usual &= np.bincount(code[response.censoring.status != blind], minlength=n_keys) > 0
    return _Usable(table, code, usual, weights, variables, response, Dropped(count, lost, marks, untried))


def _mask(places: IntVec, n: int) -> BoolVec:
    out = np.zeros(n, dtype=np.bool_)
    out[places] = True
    return out


def _keys_missing(table: Table, name: str, mask: BoolVec, code: IntVec, n_keys: int) -> BoolVec:
    """Keys with a missing value in one column, in rows that are left out."""
    series = table.series[name]
    gap = series.is_null()
    own = (gap | series.is_nan().fill_null(value=False) if series.dtype.is_float() else gap).to_numpy() & mask
    return np.bincount(code[own], minlength=n_keys) > 0


def _has_all_levels(variables: Variables, code: IntVec, n_keys: int) -> BoolVec:
    """Keys in which every categorical variable takes all its levels."""
    fine = np.ones(n_keys, dtype=np.bool_)
    for name, categorical in variables.categoricals.items():
        n = len(categorical.levels)
        pairs = np.bincount(code * n + variables.table.levels(name).codes, minlength=n_keys * n)
        fine &= (pairs.reshape(n_keys, n) > 0).all(1)
    return fine


def _sorted(factors: Sequence[LevelledFactor], code: IntVec, usual: BoolVec) -> tuple[IntVec, IntVec, IntVec]:
    """Rows of usual keys sorted by key and by the levels of all factors; rows of each of these keys; the keys."""
    codes = [one.levels.codes for one in factors]
    if len(codes) > 1:
        order = np.lexsort(codes[::-1])
    else:
        in_order = bool((codes[0][1:] >= codes[0][:-1]).all())
        order = np.arange(len(code)) if in_order else np.argsort(codes[0], kind="stable")
    own = usual[code[order]]
    if not own.all():
        order = order[own]
    rows = np.bincount(code[order], minlength=len(usual))
    present = np.flatnonzero(rows)
    return order, rows[present], present


def _independent(x: Mat, centred: BoolVec, model_rows: IntVec) -> BoolVec:
    """Models in which design.rank would keep all columns without a second thought."""
    p = len(x)
    first = starts(model_rows)
    if not p:
        return np.ones(len(model_rows), dtype=np.bool_)
    unit, fine = np.empty_like(x), np.ones(len(model_rows), dtype=np.bool_)
    for j, column in enumerate(x):
        if not centred[j] and bool((column == 1.0).all()):
            unit[j] = np.repeat(1.0 / np.sqrt(model_rows), model_rows)
            continue
        length = np.sqrt(np.add.reduceat(column * column, first))
        own = column
        if centred[j]:
            own = column - np.repeat(np.add.reduceat(column, first) / model_rows, model_rows)
        left = np.sqrt(np.add.reduceat(own * own, first))
        fine &= left > 10.0 * TOLERANCE * length
        unit[j] = own / np.repeat(np.where(left > 0.0, left, 1.0), model_rows)
    cross = np.empty((p, p, len(model_rows)))
    for i in range(p):
        for j in range(i + 1):
            cross[i, j] = cross[j, i] = np.add.reduceat(unit[i] * unit[j], first)
    return fine & (np.linalg.eigvalsh(cross.transpose(2, 0, 1))[:, 0] > _COMFORTABLE)


def _moments(design: KeyedDesign) -> Mat:
    """Σf and Σf · (y, y², trials, precision) of each model, (M, 5)."""
    first = starts(design.model_rows)
    f = design.frequency

    def total(v: Vec | None) -> Vec:
        if v is None:
            return np.zeros(design.n_models)
        return np.asarray(np.add.reduceat(v if f is None else f * v, first), dtype=float)

    n_obs = design.model_rows.astype(float) if f is None else np.floor(np.add.reduceat(f, first))
    return np.column_stack([n_obs, total(design.y), total(design.y**2), total(design.trials), total(design.precision)])
