"""A question met with rows that stay with workers: constants learned by queries, rows divided once by their levels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from polars_glmm import progress
from polars_glmm.design.inquired import ApartLearned, Inquired, asked_of, require_groups_fit, settled, trials_of
from polars_glmm.design.recipe import FactorRecipe
from polars_glmm.design.spread.rows import read_part, together
from polars_glmm.errors import ModelError, counted
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_source import EngineSource
from polars_glmm.frames.missing import check_missing, dropped_rows
from polars_glmm.frames.size import row_bytes
from polars_glmm.frames.source import Recount
from polars_glmm.frames.staying import Holders
from polars_glmm.notes import Note
from polars_glmm.spec.model import ModelSpec


def learn_spread(
    spec: ModelSpec, frame: EngineFrame, holders: Holders, *, missing: Literal["drop", "error"] = "drop"
) -> ApartLearned:
    """Recipe and kept rows of a model of no factor, one, or factors nested in one, as `learn` makes of the frame.

    Raises what `learn` raises, ModelError for factors that cross, ResourceError for a level larger than a worker,
    DataChangedError where the frame changes meanwhile.
    """
    check_missing(missing)
    spec = spec.resolve(frozenset(frame.schema.names()))
    source = EngineSource.on(spec, frame)
    found = source.judge(source.answer(source.census()).row(0, named=True))
    dropped = () if found is None else (dropped_rows(found, missing),)
    source = replace(source, tried=trials_of(spec, source))
    with progress.stage("learning"):
        asked = asked_of(spec, source)
    top = _coarsest(asked, source)
    if top is not None:
        remedy = f"That is more than one worker of {holders.name} has: give workers more memory"
        rows = asked.level_rows[top]
        require_groups_fit(asked.recipe, rows, holders.memory, asked.recipe.factors[top], remedy)
    keys = () if top is None else asked.recipe.factors[top].keys
    with progress.stage("dividing"):
        bare = tuple(replace(f, levels=f.levels.clear()) for f in asked.recipe.factors)
        needed = source.count_rows() * row_bytes(spec, frame, most=1 << 62)
        rows_of = holders.spread(source.frame.filter(source.complete), keys, needed)
        kept = rows_of.made(partial(read_part, replace(asked.recipe, factors=bare), asked.facts))
        rows_of.release()
        design, untried = together(asked.recipe, asked.level_rows, Recount(asked.found_again()), kept)
    recipe, design, notes = settled(asked, design)
    if untried:
        what = f"{counted(untried, 'row')} without any trial {'was' if untried == 1 else 'were'} left out."
        dropped = (*dropped, Note("rows_without_trials", what, quiet=True))
    return ApartLearned(recipe, design, (*dropped, *notes), 0 if found is None else found.n)


def _coarsest(asked: Inquired, source: EngineSource) -> int | None:
    """The factor that every other is nested in, None without factors. Raises ModelError where factors cross."""
    factors = asked.recipe.factors
    if not factors:
        return None
    top = int(np.argmin([len(rows) for rows in asked.level_rows]))
    for k, factor in enumerate(factors):
        if k != top and _pairs(factor, factors[top], source) > len(asked.level_rows[k]):
            msg = (
                f"Groups {factor.name!r} and {factors[top].name!r} cross, which couples all rows: only one grouping "
                "factor, or factors nested in it, can be fitted while rows stay with workers. Keep one factor, or let "
                "the rows be read out with control=Control(rows=Rows(stay=False))."
            )
            raise ModelError(msg)
    return top


def _pairs(inner: FactorRecipe, outer: FactorRecipe, source: EngineSource) -> int:
    """How many pairs of levels meet in a row."""
    return source.levels_of(list(dict.fromkeys((*inner.keys, *outer.keys))), "__glmm_count").height
