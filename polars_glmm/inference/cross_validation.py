"""Cross-validation: how well a model foretells groups, or rows of known groups, that it was not fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm import progress
from polars_glmm.design.learn import learn
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.fitting.again import data_for
from polars_glmm.inference.resampling import checked_seed, question_of
from polars_glmm.inference.schemas import CROSS_VALIDATION, table
from polars_glmm.likelihood.refits.left_out import Folds, leave_fold_out
from polars_glmm.prediction.parameters import refuse_several

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.records import Design
    from polars_glmm.typing import IntVec


def cross_validate(
    fit: Answer, folds: int | str, group: str | None, rng: np.random.Generator | int | None
) -> pl.DataFrame:
    """A row per fold: `elpd` the log predictive density of its rows, `rmse` of their predicted means (not of labels).

    folds   a number of parts, of the rows or (with `group`) of the levels of a factor; "group:NAME": each level alone
    Constants that columns learn from the data (poly, scale, levels) are those of all rows.
    """
    if fit.recipe.spec.family.response != "category":
        instead = "leave rows out with fit.update(frame=…) and predict the others"
        refuse_several(fit.recipe, "cross_validate()", instead)
    design = learn(fit.call.spec(), data_for(fit, "cross_validate()"), missing=fit.call.missing).design
    seed = checked_seed(1, rng)
    parts, labels = _parts(fit, design, folds, group, seed)
    question = question_of(fit)
    rows = []
    with progress.listening(fit.control.progress), progress.stage("folds", len(labels)):
        for number in range(len(labels)):
            found = leave_fold_out(question, Folds(design, parts), number)
            rows.append((labels[number], found.n, found.elpd, np.sqrt(found.squares / found.n), found.status, seed))
            progress.advance()
    return table(CROSS_VALIDATION, dict(zip(CROSS_VALIDATION, zip(*rows, strict=True), strict=True)))


def _parts(fit: Answer, design: Design, folds: int | str, group: str | None, seed: int) -> tuple[IntVec, list[str]]:
    """The fold of each row, and what the folds are called."""
    alone = isinstance(folds, str)
    if isinstance(folds, str):
        word, _, name = folds.partition(":")
        if word != "group" or not name:
            msg = f"folds={folds!r}: give a number of folds, or 'group:NAME' for each level of a grouping factor alone."
            raise ModelError(msg)
        group = name
    elif isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        msg = f"folds={folds!r}: a whole number of at least 2, or 'group:NAME'."
        raise ModelError(msg)
    if group is None:
        units, n = np.arange(design.n_rows), design.n_rows
    else:
        names = [factor.name for factor in design.factors]
        if group not in names:
            there = enumerate_names(names) if names else "none"
            msg = f"The model has no grouping factor {group!r}.{suggest(group, names)} Its factors: {there}."
            raise ModelError(msg)
        factor = design.factors[names.index(group)]
        if factor.sets is not None:
            msg = f"Rows are in several levels of {group!r}: none can be left out alone. Give a number of folds."
            raise ModelError(msg)
        met, units = np.unique(factor.codes, return_inverse=True)  # a level that relatives bring in may have no rows
        n = len(met)
        if alone:
            levels = next(one for one in fit.recipe.factors if one.name == group).levels
            labels = levels.select(pl.concat_str(pl.all().cast(pl.String), separator=":")).to_series().to_list()
            return units, [labels[k] for k in met]
    assert isinstance(folds, int)
    if folds > n:
        msg = f"folds={folds}: there are {n} {'rows' if group is None else 'levels'} to put into folds."
        raise ModelError(msg)
    order = np.random.default_rng(seed).permutation(n)
    number = np.empty(n, dtype=np.intp)
    number[order] = np.arange(n) % folds
    return number[units], [str(k) for k in range(folds)]
