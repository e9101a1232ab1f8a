"""Where the search of a nonlinear model begins: values given for its parameters, or those that its form reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.families.arithmetic import ArrayAlgebra
from polars_glmm.families.base import Rows
from polars_glmm.families.curve import Curve
from polars_glmm.likelihood.marginal.starts import constant_level
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.rows.blocks import Block
from polars_glmm.likelihood.rows.holder import Holder, OverBlocks
from polars_glmm.optimize.self_start import self_start
from polars_glmm.typing import Mat, Vec

_ALGEBRA = ArrayAlgebra()


def curve_starts(model: Model, rows: Holder, given: Vec) -> list[Vec]:
    """Search vectors without random effects: coefficients as given (NaN: not), else a constant of each parameter.

    rows   all, or as many as tell enough

    Raises ModelError where a parameter has neither a value nor a form that can be read.
    """
    curve = model.family.curve
    assert curve is not None  # asked of models with one
    m = len(curve.parameters)
    parts = model.parts
    wanted = [k for k in range(m) if np.isnan(given[parts[k].own]).any()]
    data = rows.ask(OverBlocks(_data, (), _together))
    levels = _read(model, curve, data) if wanted else None
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
    at = rows.ask(OverBlocks(_predictors, (x, m), _side_by_side))
    with np.errstate(all="ignore"):
        mu = model.family.mean(np.asarray(curve.value(_ALGEBRA, list(at), data.inputs)) + np.zeros(len(data.y)))
    if not np.isfinite(mu).all():
        msg = f"At the values to begin with the curve {curve.text} is not finite in all rows: give others in start=."
        raise ModelError(msg)
    for part, level in zip(parts[m:], model.family.start_further(data, mu), strict=True):
        x[part.own] = constant_level(part, level)
    return [x]


def _read(model: Model, curve: Curve, data: Rows) -> Vec | None:
    """The parameters of a self-starting form by least squares of all rows, or None of any other curve."""
    if not curve.form:
        return None
    return self_start(
        curve.form,
        model.family.start(data),
        data.inputs,
        lambda at: np.asarray(curve.value(_ALGEBRA, list(at), data.inputs)),
    )


def _data(blocks: Iterable[Block]) -> Rows:
    return _together([block.data for block in blocks])


def _predictors(blocks: Iterable[Block], x: Vec, m: int) -> Mat:
    """The parameters (m, n) in some rows at the coefficients of a search vector, offsets included."""
    return np.concatenate([np.array([_predictor(block, k, x) for k in range(m)]) for block in blocks], axis=1)


def _side_by_side(parts: Sequence[Mat]) -> Mat:
    return np.concatenate(list(parts), axis=1)


def _predictor(block: Block, k: int, x: Vec) -> Vec:
    """A parameter in the rows of a block at the coefficients of a search vector, offset included."""
    part = block.parts[k]
    columns = part.columns
    assert columns is not None  # parameters of a curve have formulas
    eta: Vec = x[part.own] @ columns
    return eta if part.offset is None else eta + part.offset


def _together(parts: Sequence[Rows]) -> Rows:
    inputs = tuple(np.concatenate(one) for one in zip(*(part.inputs for part in parts), strict=True))
    precision = [part.precision for part in parts if part.precision is not None]
    y = np.concatenate([part.y for part in parts])
    return Rows(y, None, np.concatenate(precision) if precision else None, inputs)
