"""The response: what y is in each row, how many trials it stands for, whether the family can produce it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.nodes import Arithmetic, Coded, Looked, Node, Reference
from polars_glmm.errors import ColumnError, ResponseError, brief, counted, enumerate_names
from polars_glmm.families.base import BETWEEN, CENSORING, SEEN, Censoring, Family, Rows, censoring_of
from polars_glmm.frames.missing import nothing_but_null
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import Name, columns, render
from polars_glmm.typing import BoolVec, Vec

from .categories import categories, category_node, label_of, unordered_node
from .censoring import observed_nodes, read_censoring, refuse_unseen
from .recipe import Recipe, ResponseRecipe
from .variables import Variables

_WHOLE = 1e-7
"""How far a count may lie from a whole number: what one rounding of a ratio leaves, with room for large counts."""


class ResponseColumns(NamedTuple):
    """y (n,), trials (n,) or None, how much of y is seen where that is not all of it, and how they are read."""

    y: Vec
    trials: Vec | None
    recipe: ResponseRecipe
    notes: tuple[Note, ...]
    censoring: Censoring | None = None

    def rows(self, precision: Vec | None) -> Rows:
        """What a density needs of them."""
        return Rows(self.y, self.trials, precision, censoring=self.censoring)


def learn_response(spec: ModelSpec, variables: Variables) -> ResponseColumns:
    """y and trials of every row. Raises ColumnError for an unusable dtype, ResponseError for an unusable value."""
    table, text = variables.table, spec.response.text
    if (seen := spec.response.observation) is not None:
        recipe, notes = observed_recipe(spec, variables)
        y = variables.evaluate(recipe.success, f"response {text}")
        censoring = read_censoring(recipe, seen, y, variables)
        refuse_unseen(recipe.name, set(np.unique(censoring.status).tolist()))
        return ResponseColumns(y, None, recipe, notes, censoring)
    success, notes = success_node(spec, variables)
    y = variables.evaluate(success, f"response {text}")
    recipe = response_recipe(spec, variables, success)
    trials = None
    if spec.response.failure is not None:
        failure = variables.arithmetic(spec.response.failure)
        failures = variables.evaluate(failure, f"response {text}")
        _require_counts(y, text, table, "successes")
        _require_counts(failures, text, table, "failures")
        trials, recipe = y + failures, replace(recipe, trials=Arithmetic("+", success, failure))
    elif spec.trials is not None:
        node = variables.arithmetic(Name(spec.trials))
        trials = variables.evaluate(node, f"trials={spec.trials!r}")
        _require_counts(trials, spec.trials, table, "trials")
        proportion = _is_proportion(y, trials, spec, table)
        recipe = replace(recipe, trials=node, proportion=proportion)
        if proportion:
            y = np.round(y * trials)
            what = f"The response {text} is read as the proportion of successes in {spec.trials!r} trials."
            notes = (*notes, Note("response_proportion", what, quiet=True))
    return ResponseColumns(y, trials, recipe, notes)


def observed_recipe(spec: ModelSpec, variables: Variables) -> tuple[ResponseRecipe, tuple[Note, ...]]:
    """How a response that may be censored is read."""
    made = observed_nodes(spec.response, variables)
    recipe = ResponseRecipe(
        spec.response.text, made.value, status=made.status, upper=made.upper, entry=made.entry
    )
    return recipe, made.notes


def input_nodes(spec: ModelSpec, variables: Variables) -> tuple[Node, ...]:
    """How what the curve of a nonlinear model takes is read. Raises ColumnError for a column that is no number."""
    return tuple(map(variables.arithmetic, spec.inputs))


def read_inputs(nodes: Sequence[Node], spec: ModelSpec, variables: Variables) -> tuple[Vec, ...]:
    """What the curve of a nonlinear model takes, each (n,). Raises ColumnError for a value that is no number."""
    named = zip(nodes, spec.inputs, strict=True)
    made = (variables.evaluate(node, f"{render(one)} of the curve") for node, one in named)
    return tuple(np.ascontiguousarray(np.broadcast_to(one, (variables.table.n_rows,)), np.float64) for one in made)


def response_recipe(spec: ModelSpec, variables: Variables, success: Node) -> ResponseRecipe:
    """How y is read where there are no trials, with what its column holds."""
    name = spec.response.success
    if not isinstance(name, Name):
        return ResponseRecipe(spec.response.text, success)
    labels: tuple[str, ...] | None = None
    if spec.family.unordered:
        labels = spec.family.labels
    elif isinstance(success, Looked):
        labels = tuple(label_of(value) for value in categories(name.name, variables.table))
    if isinstance(success, Coded):
        (second,) = success.levels
        (first,) = (label for label in _labels(name.name, variables.table) if label != second)
        labels = (first, second)
    return ResponseRecipe(spec.response.text, success, dtype=variables.table.dtype(name.name), labels=labels)


def _labels(name: str, table: Table) -> list[str]:
    """The levels of an Enum, or those that occur where it has more than two."""
    dtype = table.dtype(name)
    labels: list[str] = dtype.categories.to_list() if isinstance(dtype, pl.Enum) else []
    return labels if len(labels) == 2 else table.values(name)


def read_response(recipe: Recipe, variables: Variables) -> Rows:
    """Rows by a recipe, without precision. Raises ColumnError, ResponseError for an unusable value."""
    response, spec, table = recipe.response, recipe.spec, variables.table
    text = response.name
    y = variables.evaluate(response.success, f"response {text}")
    if (seen := spec.response.observation) is not None:
        return Rows(y, censoring=read_censoring(response, seen, y, variables))
    if response.trials is None:
        return Rows(y)
    trials = variables.evaluate(response.trials, f"response {text}")
    if spec.trials is None:
        _require_counts(y, text, table, "successes")
        _require_counts(trials - y, text, table, "failures")
        return Rows(y, trials)
    _require_counts(trials, spec.trials, table, "trials")
    if not response.proportion:
        return Rows(y, trials)
    successes = y * trials
    _refuse_no_share(y, trials, (y < 0) | (y > 1) | _between(successes, trials), text, table)
    return Rows(np.round(successes), trials)


def success_node(spec: ModelSpec, variables: Variables) -> tuple[Node, tuple[Note, ...]]:
    """What is on the left of the formula. Raises ColumnError for a dtype that the family cannot use."""
    node = spec.response.success
    if spec.family.unordered:
        return unordered_node(node, variables, spec.family.labels)
    if spec.family.response == "category":
        return category_node(node, variables)
    if not isinstance(node, Name):
        return variables.arithmetic(node), ()
    table, name = variables.table, node.name
    dtype = table.dtype(name)
    if dtype.is_numeric() or dtype == pl.Boolean:
        return Reference(name), ()
    if isinstance(dtype, pl.Enum) and spec.family.takes_trials:
        labels = _labels(name, table)
        if len(labels) == 2:
            what = f"The response {name!r} is {labels[1]!r} (success) or {labels[0]!r}."
            coded = Coded(name, "text", (labels[1],), (1.0,))
            return coded, (Note("response_levels", what, quiet=True),)
        n = counted(len(labels), "level")
        msg = f"response {name!r} has {n} ({enumerate_names(labels)}); a binomial response has two."
        msg += variables.refused(name)
        raise ColumnError(msg)
    if dtype == pl.Null:
        raise ColumnError(nothing_but_null(name))
    if spec.family.takes_trials:
        remedy = f"Make it Boolean, as in pl.col({name!r}) == 'yes', or an Enum of two levels, the second the success."
    else:
        remedy = f"The {spec.family.name} family needs numbers."
    msg = f"response {name!r} is {brief(dtype)}. {variables.refused(name).strip() or remedy}"
    raise ColumnError(msg)


def _is_proportion(y: Vec, trials: Vec, spec: ModelSpec, table: Table) -> bool:
    """Whether y is a share of the trials rather than a number of successes."""
    whole = np.abs(y - np.round(y)) <= _WHOLE
    name = spec.response.text
    if whole.all():
        if y.max(initial=0.0) > 1 or not ((y == 1) & (trials > 1)).any() or all_integers(spec, table):
            return False
        i = int(np.flatnonzero((y == 1) & (trials > 1))[0])
        msg = (
            f"response {name} holds only 0 and 1 while trials={spec.trials!r} is larger (row {table.row(i)}): 1 may be "
            f"one success or all of them. Write cbind({name}, {spec.trials} - {name}) for a number of successes, or "
            "make the column whole numbers."
        )
        raise ResponseError(msg)
    # beyond 1 the column holds numbers of successes, and what is wrong is the value that is not whole
    bad = ~whole if y.max() > 1 else (y < 0) | _between(y * trials, trials)
    _refuse_no_share(y, trials, bad, name, table)
    return True


def _between(successes: Vec, trials: Vec) -> BoolVec:
    """Which numbers of successes are not whole."""
    return np.asarray(np.abs(successes - np.round(successes)) > _WHOLE * np.maximum(1.0, trials))


def _refuse_no_share(y: Vec, trials: Vec, bad: BoolVec, name: str, table: Table) -> None:
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        msg = (
            f"response {name} is {_shown(y[i])} of {trials[i]:g} trials in row {table.row(i)}: neither a number of "
            "successes nor a proportion of the trials."
        )
        raise ResponseError(msg)


def _shown(value: float) -> str:
    """As short as %g, but never a whole number that the value is not."""
    short = f"{value:g}"
    return short if float(short) == value or not float(short).is_integer() else repr(float(value))


def all_integers(spec: ModelSpec, table: Table) -> bool:
    """Whether every column of the response holds whole numbers by its dtype."""
    return all(not table.dtype(column).is_float() for column in columns(spec.response.success))


def _require_counts(values: Vec, name: str, table: Table, what: str) -> None:
    bad = (values < 0) | (np.abs(values - np.round(values)) > _WHOLE * np.maximum(1.0, np.abs(values)))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        value = _shown(values[i])
        msg = f"{name}: the number of {what} is {value} in row {table.row(i)}; it must be whole and not negative."
        raise ResponseError(msg)


def check_support(family: Family, rows: Rows, name: str, table: Table) -> None:
    """Raise ResponseError with an example row where the family cannot produce the response."""
    outside = family.outside_support(rows)
    if not outside.any():
        check_scale(max(float(rows.y.max(initial=0.0)), -float(rows.y.min(initial=0.0))), name)
        if family.discrete:
            _check_counts(rows, name)
        return
    bad = np.flatnonzero(outside)
    y = float(rows.y[bad[0]])
    of = "" if rows.trials is None else f" of {rows.trials[bad[0]]:g} trials"
    msg = (
        f"response {name} is {_shown(y)}{of} in row {table.row(int(bad[0]))} ({len(bad)} such rows, counted from 0), "
        f"which the {family.name} family cannot produce.{_remedy(family, rows, y)}"
    )
    raise ResponseError(msg)


def _remedy(family: Family, rows: Rows, y: float) -> str:
    """What to do with a response that is not of the family."""
    if advice := family.advice(y):
        return advice
    if family.takes_trials:
        if rows.trials is not None:
            return ""
        return " Without trials a binomial response is 0 or 1; name the column of the number of trials in trials=."
    if y > 0.0 and not y.is_integer():
        return (
            " Counts are whole numbers: keep the count itself as the response, and what it was divided by (time, area) "
            "as offset(log(…)) in the formula; for measurements use family='gamma' or 'gaussian'."
        )
    if y < 0.0:
        return " It takes no negative values; family='gaussian' does."
    return " It takes values above 0 only; family='gaussian' takes any."


def check_untried(y: Vec, trials: Vec, name: str, table: Table) -> None:
    """Raise ResponseError for a row that has successes without a trial."""
    bad = np.flatnonzero((trials == 0) & (y != 0))
    if len(bad):
        i = int(bad[0])
        msg = f"response {name} is {_shown(y[i])} of 0 trials in row {table.row(i)}."
        raise ResponseError(msg)


_MOST_COUNTED = 1e12
"""A log density of more is a difference of numbers that double precision does not hold to a digit after the point."""


def _check_counts(rows: Rows, name: str) -> None:
    """Raise ResponseError for counts so large that the likelihood has no digits."""
    largest = max(float(one.max(initial=0.0)) for one in (rows.y, rows.trials) if one is not None)
    if largest > _MOST_COUNTED:
        msg = (
            f"response {name} has counts up to {largest:.1e}, and the log-likelihood of more than {_MOST_COUNTED:.0e} "
            f"has no digits left: count in larger units, or fit log({name}) by family='gaussian'."
        )
        raise ResponseError(msg)


_LARGEST, _SMALLEST = 1e75, 1e-75


def check_scale(largest: float, name: str) -> None:
    """Raise ResponseError where products of a response so large would leave the range of floating-point numbers."""
    if largest > _LARGEST or 0.0 < largest < _SMALLEST:
        msg = f"response {name} is of the size {largest:.0e}, whose squares no number can hold: rescale it."
        raise ResponseError(msg)


def response_arrays(recipe: Recipe, frame: pl.DataFrame) -> Rows:
    """y, trials and precision of the rows of any frame, by the recipe of a fit; NaN where something is missing.

    Raises ColumnError for a frame without the columns they are read from.
    """
    response, spec = recipe.response, recipe.spec
    wanted = {"y": response.success.to_expr()}
    if response.trials is not None:
        wanted["trials"] = response.trials.to_expr()
    if spec.precision is not None:
        wanted["precision"] = Reference(spec.precision).to_expr()
    for field in CENSORING:
        if (node := getattr(response, field)) is not None:
            wanted[field] = node.to_expr()
    needed = frozenset().union(*(node.inputs() for node in response.nodes()))
    needed |= {spec.precision} if spec.precision is not None else set()
    absent = sorted(needed - set(frame.columns))
    if absent:
        msg = f"The frame has no column {enumerate_names(absent)}, which the response of this model needs."
        raise ColumnError(msg)
    taken = frame.select(**wanted)
    arrays = {name: taken[name].cast(pl.Float64).to_numpy() for name in wanted}
    if response.proportion:
        arrays["y"] = np.round(arrays["y"] * arrays["trials"])
    censoring = censoring_of(arrays)
    if censoring is not None and censoring.upper is not None:
        status, upper = censoring.status, np.where(censoring.status == BETWEEN, censoring.upper, arrays["y"])
        censoring = Censoring(np.where((status == BETWEEN) & (upper == arrays["y"]), SEEN, status), upper)
    return Rows(arrays["y"], arrays.get("trials"), arrays.get("precision"), censoring=censoring)
