"""predict, augment and with_ranef of rows that an engine holds: a plan there, of the kind of frame that came."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from polars_glmm.errors import ModelError
from polars_glmm.likelihood.estimate import conditional_std_error
from polars_glmm.prediction.columns import refuse_clash, require_columns
from polars_glmm.prediction.effects import chosen
from polars_glmm.prediction.engine_links import mean_on_engine
from polars_glmm.prediction.engine_residuals import residuals_on_engine
from polars_glmm.prediction.engine_rows import EngineRows, engine_rows, joined, readable
from polars_glmm.prediction.rows import phi_inputs, response_inputs
from polars_glmm.prediction.variances import ALONG, ROUNDING

if TYPE_CHECKING:
    from polars_glmm.frames.engine import EngineFrame
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.prediction.predictions import Request

_OUT = "take the rows out first, as in relation.pl() of DuckDB, or scan the file they come from with Polars"


def predict_on_engine(frame: EngineFrame, fitted: Parameters, request: Request) -> Any:
    """`predict` as a plan on the engine. Raises ModelError for what a plan cannot hold."""
    family, of_phi = fitted.recipe.spec.family, request.kind == "phi"
    if request.uncertain or request.random == "integrate":
        what = "random='integrate'" if request.random == "integrate" else "Standard errors and intervals"
        _refuse(f"{what} are computed here, not on {frame.name}")
    part = int(of_phi)
    factors = tuple(factor for factor in chosen(fitted.factors, request.random) if factor.on(part))
    if factors and request.new_levels == "error":
        msg = (
            f"An engine cannot raise an error for a level that the fit has not seen while its query runs: choose "
            f"new_levels='zero' or new_levels='null' for a frame of {frame.name}. fit.unseen(frame) lists such levels."
        )
        raise ModelError(msg)
    if request.kind == "response" and not family.mu_is_mean:
        _refuse(f"The mean of a {family.name} response is computed here, not on {frame.name}")
    if request.kind not in ("response", "link", "mu", "phi"):
        _refuse(f"kind={request.kind!r} is computed here, not on {frame.name}")
    refuse_clash(readable(frame), request.names, "choose another with name=.")
    if of_phi and not fitted.models_phi:
        rows = engine_rows(frame, fitted, (), (), parts=(), verb="predict")
        phi = rows.words.engine.lit(None if fitted.phi is None else float(fitted.phi[0]))
        return rows.with_columns({request.name: phi}, rows.complete)
    rows = engine_rows(frame, fitted, factors, (), parts=(part,), verb="predict")
    eta = rows.fixed(part) + rows.random(part)
    link = {"link": "identity", "phi": "log"}.get(request.kind, family.link.name)
    usable = rows.determined(part)
    usable = usable & rows.seen if request.new_levels == "null" else usable
    value = mean_on_engine(link, eta)
    return rows.with_columns({request.name: _at_limits(rows, eta, value) if part else value}, usable)


def _at_limits(rows: EngineRows, eta: Any, phi: Any) -> Any:
    """phi, infinite or zero in rows at the limit of the family."""
    directions, when = rows.fitted.further_directions("phi"), rows.words.engine.when
    if directions is None:
        return phi
    columns = [rows.expression(node) for node in rows.fitted.fixed("phi").nodes]
    for d in directions.T.tolist():
        terms = [column * weight for column, weight in zip(columns, d, strict=True)]
        along = reduce(add, terms).abs() > ALONG + ROUNDING * reduce(add, [term.abs() for term in terms])
        phi = when(along & (eta > 0.0)).then(np.inf).otherwise(when(along).then(0.0).otherwise(phi))
    return phi


def augment_on_engine(frame: EngineFrame, fitted: Parameters, names: list[str]) -> Any:
    """The columns of `augment` as a plan on the engine; null where a level is not known, since it cannot raise."""
    family = fitted.recipe.spec.family
    if not family.mu_is_mean:
        _refuse(f"The mean of a {family.name} response is computed here, not on {frame.name}")
    if family.is_censored:
        _refuse(f"Residuals of censored responses are computed here, not on {frame.name}")
    if fitted.correlations is not None:
        _refuse(f"Normalized residuals need all rows of a group: they are computed here, not on {frame.name}")
    refuse_clash(readable(frame), names, "set them apart with prefix=.")
    parts = (0, 1) if fitted.models_phi else (0,)
    used = response_inputs(fitted.recipe) | phi_inputs(fitted)
    rows = engine_rows(frame, fitted, fitted.factors, used, parts=parts, verb="augment")
    fixed = rows.fixed(0)
    mu, at_zero = (mean_on_engine(family.link.name, eta) for eta in (fixed + rows.random(0), fixed))
    values = [mu, at_zero, *residuals_on_engine(rows, mu, _phi(rows))]
    usable = rows.determined(0) & rows.seen
    usable = usable & rows.determined(1) if fitted.models_phi else usable
    return rows.with_columns(dict(zip(names, values, strict=True)), usable)


def ranef_on_engine(frame: EngineFrame, fitted: Parameters, names: list[list[str]]) -> Any:
    """The columns of `with_ranef` as a plan on the engine: modes and their SDs of each factor, names by factor."""
    schema, plan = readable(frame), frame.plan
    require_columns(schema, [key for factor in fitted.factors for key in factor.recipe.keys], "with_ranef")
    refuse_clash(schema, [name for own in names for name in own], "set them apart with prefix=.")
    for factor, own in zip(fitted.factors, names, strict=True):
        errors = conditional_std_error(factor.mode_covariance)
        both = [np.asarray(value) for k, mode in enumerate(factor.modes) for value in (mode, errors[k])]
        plan = joined(plan, schema, factor, dict(zip(own, both, strict=True)))
    return plan.select(*schema, *(name for own in names for name in own)).to_native()


def refuse_extras(engine: str, **asked: object) -> None:
    """Raise ModelError for what `augment` adds here only."""
    for name, value in asked.items():
        if value:
            _refuse(f"{name}=True is computed here, not on {engine}")


def _phi(rows: EngineRows) -> Any:
    """phi of a row: the constant, or what its formula says."""
    fitted = rows.fitted
    if fitted.models_phi:
        return (rows.fixed(1) + rows.random(1)).exp()
    return None if fitted.phi is None else float(fitted.phi[0])


def _refuse(what: str) -> NoReturn:
    msg = f"{what}: {_OUT}."
    raise ModelError(msg)
