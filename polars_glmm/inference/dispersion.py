"""The constant dispersion of a family and the correlation of residuals, on their natural scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.schemas import DISPERSION, table
from polars_glmm.inference.varcorr import log_interval, residual_numbers, standard_error

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Parameter


def dispersion(fit: Answer, *, conf_level: float = 0.95) -> pl.DataFrame:
    """Constant parameters with standard errors and exp(log phi ± z·se/phi), then correlations of residuals.

    None that is absent or has a formula. Between ends of its own, as a power, one has the interval of its predictor,
    transformed. Intervals of correlations are tanh(atanh ρ ± z·se/(1 − ρ²)), of ranges as those of phi.
    """
    z, e = normal_quantile(conf_level), fit.estimate
    rows, bounded = [], {one.name: one for one in fit.spec.family.parameters if one.ends is not None}
    for place, (name, value) in enumerate(e.constants.items(), start=len(e.report) - len(e.constants)):
        std_error = standard_error(e.report_vcov, place)
        rows.append((name, value, std_error, *_interval(bounded.get(name), value, std_error, z)))
    rows += [one[:5] for one in residual_numbers(e, z)]
    return table(DISPERSION, {name: [row[k] for row in rows] for k, name in enumerate(DISPERSION)})


def _interval(bounded: Parameter | None, value: float, std_error: float, z: float) -> tuple[float, float]:
    """On the scale of the logarithm, or of the link of a parameter between ends."""
    if bounded is None or bounded.ends is None:
        return log_interval(value, std_error, z)
    low, high = bounded.ends
    if not (low < value < high and std_error > 0.0):
        return float("nan"), float("nan")
    at = bounded.link.forward(np.array(value))
    margin = z * std_error / bounded.link.value(at, 1)[1]
    first, last = (float(bounded.link.inverse(at + side * margin)) for side in (-1.0, 1.0))
    return first, last
