"""The constant dispersion of a family and the correlation of residuals, on their natural scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.schemas import DISPERSION, per_model
from polars_glmm.inference.varcorr import log_interval, residual_numbers, standard_error

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Family, Parameter
    from polars_glmm.inference.varcorr import Estimates


def dispersion(fit: Answer, *, conf_level: float = 0.95) -> pl.DataFrame:
    """Constant parameters with standard errors and exp(log phi ± z·se/phi), then correlations of residuals.

    None that is absent or has a formula. Between ends of its own, as a power, one has the interval of its predictor,
    transformed. Intervals of correlations are tanh(atanh ρ ± z·se/(1 − ρ²)), of ranges as those of phi.
    """
    return dispersion_of(fit.estimate, fit.spec.family, conf_level=conf_level)


def dispersion_of(estimate: Estimates, family: Family, *, conf_level: float) -> pl.DataFrame:
    """The table of one model, or of many, model after model."""
    z, constants, rows = normal_quantile(conf_level), estimate.constants, []
    bounded = {one.name: one for one in family.parameters if one.ends is not None}
    for place, (name, value) in enumerate(constants.items(), start=-len(constants)):
        std_error = standard_error(estimate.report_vcov, place)
        rows.append((name, value, std_error, *_interval(bounded.get(name), value, std_error, z)))
    rows += [one[:5] for one in residual_numbers(estimate, z)]
    named = [dict(zip(DISPERSION, row, strict=True)) for row in rows]
    return per_model(DISPERSION, named, estimate.beta.shape[:-1])


def _interval(bounded: Parameter | None, value: Any, std_error: Any, z: float) -> tuple[Any, Any]:
    """On the scale of the logarithm, or of the link of a parameter between ends."""
    if bounded is None or bounded.ends is None:
        return log_interval(value, std_error, z)
    low, high = bounded.ends
    with np.errstate(all="ignore"):
        known = (low < value) & (value < high) & (std_error > 0.0)
        at = bounded.link.forward(np.asarray(value))
        margin = z * std_error / bounded.link.value(at, 1)[1]
        first, last = (np.where(known, bounded.link.inverse(at + side * margin), np.nan)[()] for side in (-1.0, 1.0))
    return first, last
