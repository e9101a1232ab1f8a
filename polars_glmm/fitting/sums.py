"""A gaussian fit from a lazy frame: moments by aggregation queries, everything else from them; no row is collected."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from polars_glmm import progress
from polars_glmm.answer.record import Answer
from polars_glmm.answer.tally import Fingerprint, GroupSize, Reading
from polars_glmm.design.pairing import about, pairings_of_sums
from polars_glmm.design.reader import terms_of
from polars_glmm.design.response import check_scale
from polars_glmm.design.sums.independent import settle
from polars_glmm.design.sums.outline import factors_of, outline
from polars_glmm.design.sums.places import columns_of, places
from polars_glmm.design.sums.summarise import summarise
from polars_glmm.design.text_numbers import blaming_text
from polars_glmm.errors import ConvergenceError, IdentifiabilityError
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_source import open_source
from polars_glmm.frames.size import room_for
from polars_glmm.frames.source import Source
from polars_glmm.likelihood.build import estimate_summaries
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.optimum.notes import digits_text
from polars_glmm.likelihood.products.from_moments import MomentDesign, product_model
from polars_glmm.memory import memory_limit
from polars_glmm.notes import Note
from polars_glmm.spec.members import shared
from polars_glmm.spec.syntax import FunctionCall, Text

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.design.sums.moments import Moments
    from polars_glmm.likelihood.estimate import Estimate
    from polars_glmm.likelihood.products.engine import ProductModel
    from polars_glmm.spec.call import Call
    from polars_glmm.spec.model import ModelSpec
    from polars_glmm.typing import BoolVec


class Obstacle(NamedTuple):
    """Why a model is not fitted from sums alone; text is empty where nobody would have expected it."""

    text: str


def obstacle(spec: ModelSpec, call: Call) -> Obstacle | None:
    """What keeps a model from being fitted by aggregation queries, or None."""
    family = spec.family
    if not family.linear or len(spec.predictors) > 1:
        return Obstacle("")
    if spec.residual is not None:
        return Obstacle(f"residual={spec.residual.text!r} needs the rows of each group in their order")
    if spec.relations:
        return Obstacle(f"known= relates the levels of {spec.relations[0][0]!r}, and sums by group keep them apart")
    if name := shared(spec.random):
        return Obstacle(f"rows are in several levels of {name!r}, which sums by group keep apart")
    if call.fixed:
        return Obstacle("fixed= holds parameters, which sums by group cannot express")
    if any(_nowhere(factor) for factor in factors_of(spec)):
        return Obstacle("extrapolation='na' leaves values open, which sums by group cannot express")
    return None


FEW_DIGITS, _TOO_FEW = 1e-6, 1e-10
"""Share of the response's sum of squares left by a model below which rows tell more of it than differences of sums,
and below which these tell next to nothing."""


_NEARLY_ALIKE = 1e-8
"""Squared remainder of a unit column after the columns before it of which sums leave too few digits."""


def residual_share(numbers: Estimate, moments: Moments) -> float:
    """The residual part of the response's sum of squares about the centre of the sums: their digits, spent."""
    if numbers.phi is None or any(factor.modes.size >= numbers.n_obs for factor in numbers.factors):
        return 1.0  # where each row has an effect, what phi leaves is no remainder
    weight, second, mean = moments.total.weight[0], moments.second[-1, -1], moments.total.mean[-1, 0]
    total = float(second + weight * mean**2)
    return float(numbers.phi**2 * weight / total) if total > 0.0 else 1.0


def require_digits(share: float) -> None:
    """Raise IdentifiabilityError where sums hold next to nothing of what the model leaves of the response."""
    if share < _TOO_FEW:
        raise IdentifiabilityError(digits_text(share))


def collected_note(found: Obstacle | None) -> tuple[Note, ...]:
    """A note where a lazy frame was collected although its model has exact sums."""
    if found is None or not found.text:
        return ()
    what = f"The rows in use were collected: {found.text}."
    return (Note("rows_collected", what, quiet=True),)


def fit_summaries(frame: pl.LazyFrame | EngineFrame, call: Call, control: Control) -> Answer | Obstacle:
    """The fit of a gaussian model; its data are `frame`, which later questions may read again.

    An Obstacle where sums hold too few digits of what the model leaves of the response.
    """
    began = perf_counter()
    spec = call.spec().resolve(frozenset(frame.collect_schema().names()))
    with progress.stage("reading"):
        source = open_source(spec, frame)
        summary = summarise(outline(spec, source), source, call.missing)
        recipe, notes, closest = settle(summary.recipe, summary.moments, source)
    if closest < _NEARLY_ALIKE and rows_fit(spec, frame, control):
        return Obstacle("some columns are so nearly alike that sums lose what tells them apart")
    try:
        with blaming_text(recipe):
            numbers = estimate_moments(recipe, summary.moments, control, Given(call.start or {}))
    except (IdentifiabilityError, ConvergenceError):
        if not rows_fit(spec, frame, control):
            raise
        return Obstacle("from sums alone no answer was reached")
    share = residual_share(numbers, summary.moments)
    if share < FEW_DIGITS and rows_fit(spec, frame, control):
        return Obstacle("the model leaves so little of the response that differences of sums lose its digits")
    require_digits(share)
    return Answer(
        recipe=recipe,
        estimate=numbers,
        notes=(*summary.notes, *notes, *numbers.notes),
        n_dropped=summary.n_dropped,
        seconds=perf_counter() - began,
        control=control,
        call=call,
        groups=sizes_of(recipe, summary.moments),
        fingerprint=fingerprint_of(summary.moments, recipe),
    )


def rows_fit(spec: ModelSpec, frame: pl.LazyFrame | EngineFrame, control: Control) -> bool:
    """Whether the rows of a frame may be collected."""
    limit = memory_limit(control.memory.limit)
    return room_for(spec, frame, limit).needed <= limit


def estimate_moments(recipe: Recipe, moments: Moments, control: Control, given: Given) -> Estimate:
    """The numbers of a model whose columns to keep are settled."""
    mu = recipe.predictor("mu")
    names = tuple(column.name for column, keep in zip(mu.columns, mu.kept, strict=True) if keep)
    return estimate_summaries(moments_model(recipe, moments, control, given.fixed), names, given)


def moments_model(
    recipe: Recipe, moments: Moments, control: Control, fixed: Mapping[str, float] | None = None
) -> ProductModel:
    """The model of these sums, ready for computing; `fixed` effects among its names are taken from the response."""
    held = fixed or {}
    mean_square = moments.second[-1, -1] / moments.total.weight[0] + moments.mean[-1] ** 2
    check_scale(float(np.sqrt(max(mean_square, 0.0))), recipe.response.name)
    places_of, random = places(columns_of(recipe), recipe)
    mu = recipe.predictor("mu")
    named = {column.name: int(at) for column, keep, at in zip(mu.columns, mu.kept, places_of, strict=True) if keep}
    free = {name: at for name, at in named.items() if name not in held}
    design = MomentDesign(
        tuple(free),
        np.array(list(free.values()), dtype=np.intp),
        tuple((f.name, terms_of(f.terms), own) for f, own in zip(recipe.factors, random, strict=True)),
        tuple((at, held[name]) for name, at in named.items() if name in held),
    )
    spec = recipe.spec
    return product_model(design, moments, spec.family, spec.method, control)


def read_summary(spec: ModelSpec, frame: pl.LazyFrame, missing: str) -> Reading:
    """What a source that is read again holds."""
    source = Source.of(spec, frame)
    found = summarise(outline(spec, source), source, missing)
    return fingerprint_of(found.moments, found.recipe), sizes_of(found.recipe, found.moments)


def rows_in_use(fit: Answer, frame: pl.DataFrame) -> BoolVec | None:
    """(n,) which rows of a frame the model uses, None for all."""
    source = Source.of(fit.spec, frame.lazy())
    if not fit.n_dropped and source.weight() is None:
        return None
    used = frame.select(source.in_use.fill_null(value=False)).to_series()
    return None if used.all() else used.to_numpy()


def sizes_of(recipe: Recipe, moments: Moments) -> tuple[GroupSize, ...]:
    """One record per factor, in the order of the formula."""
    return tuple(
        GroupSize(factor.name, part.n_levels, int(part.count.min()), float(part.count.mean()), int(part.count.max()))
        for factor, part in zip(recipe.factors, moments.factors, strict=True)
    )


def fingerprint_of(moments: Moments, recipe: Recipe) -> Fingerprint:
    """The sums that `data.fingerprint` takes of a design."""
    y, y_squared, precision = moments.checks
    sums = (float(moments.n_obs), y, y_squared, 0.0, precision)
    return Fingerprint(sums, pairings_of_sums(moments, recipe), about(recipe))


def _nowhere(node: object) -> bool:
    """Whether a formula asks for columns that are null where the data are not."""
    if isinstance(node, FunctionCall):
        if any(keyword == "extrapolation" and value == Text("na") for keyword, value in node.arguments):
            return True
        return any(_nowhere(value) for _, value in node.arguments)
    return any(_nowhere(getattr(node, name)) for name in ("left", "right", "operand") if hasattr(node, name))
