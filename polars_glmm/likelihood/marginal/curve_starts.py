"""Where the search of a nonlinear model begins: values given for its parameters, or those that its form reads."""

from __future__ import annotations

import numpy as np

from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.families.base import Rows
from polars_glmm.families.curve import ArrayAlgebra, Curve
from polars_glmm.likelihood.marginal.starts import constant_level
from polars_glmm.likelihood.model import Model
from polars_glmm.optimize.self_start import self_start
from polars_glmm.typing import Vec

_ALGEBRA = ArrayAlgebra()


def curve_starts(model: Model, given: Vec) -> list[Vec]:
    """Search vectors without random effects: coefficients as given (NaN: not), else a constant of each parameter.

    Raises ModelError where a parameter has neither a value nor a form that can be read.
    """
    curve = model.family.curve
    assert curve is not None  # asked of models with one
    m = len(curve.parameters)
    parts = model.parts
    wanted = [k for k in range(m) if np.isnan(given[parts[k].own]).any()]
    levels = _read(model, curve) if wanted else None
    if wanted and levels is None:
        names = [curve.parameters[k] for k in wanted]
        example = ", ".join(f"{name!r}: …" for name in names)
        msg = (
            f"The search needs to begin somewhere: give {enumerate_names(names)} a value, start={{{example}}}, or "
            f"write the curve as a self-starting form such as SSlogis()."
        )
        raise ModelError(msg)
    x = np.zeros(parts[-1].own.stop)
    for k, part in enumerate(parts[:m]):
        x[part.own] = given[part.own] if levels is None or k not in wanted else constant_level(part, levels[k])
    at = [_constant(model, k, x) for k in range(m)]
    rows = _all_rows(model)
    with np.errstate(all="ignore"):
        mu = model.family.mean(np.asarray(curve.value(_ALGEBRA, at, rows.inputs)) + np.zeros(len(rows.y)))
    if not np.isfinite(mu).all():
        msg = f"At the values to begin with the curve {curve.text} is not finite in all rows: give others in start=."
        raise ModelError(msg)
    for part, level in zip(parts[m:], model.family.start_further(rows, mu), strict=True):
        x[part.own] = constant_level(part, level)
    return [x]


def _read(model: Model, curve: Curve) -> Vec | None:
    """The parameters of a self-starting form by least squares of all rows, or None of any other curve."""
    if not curve.form:
        return None
    rows = _all_rows(model)
    eta = model.family.start(rows)
    return self_start(curve.form, eta, rows.inputs, lambda at: curve.value(_ALGEBRA, list(at), rows.inputs))


def _constant(model: Model, k: int, x: Vec) -> Vec:
    """A parameter in every row at the coefficients of a search vector."""
    columns = [model.bases[k].columns(piece.rows) for piece in model.pieces()]
    return np.asarray(x[model.parts[k].own] @ np.concatenate(columns, axis=1))


def _all_rows(model: Model) -> Rows:
    pieces = [piece.data for piece in model.pieces()]
    inputs = tuple(np.concatenate(one) for one in zip(*(piece.inputs for piece in pieces), strict=True))
    precision = None if pieces[0].precision is None else np.concatenate([one.precision for one in pieces])
    return Rows(np.concatenate([one.y for one in pieces]), None, precision, inputs)
