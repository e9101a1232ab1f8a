"""The constant dispersion of a family and the correlation of residuals, on their natural scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.schemas import DISPERSION, per_model
from polars_glmm.inference.varcorr import log_interval, residual_numbers, standard_error

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.varcorr import Estimates


def dispersion(fit: Answer, *, conf_level: float = 0.95) -> pl.DataFrame:
    """Constant parameters with standard errors and exp(log phi ± z·se/phi), then correlations of residuals.

    None that is absent or has a formula. Intervals of correlations are tanh(atanh ρ ± z·se/(1 − ρ²)), of ranges as
    those of phi.
    """
    return dispersion_of(fit.estimate, conf_level=conf_level)


def dispersion_of(estimate: Estimates, *, conf_level: float) -> pl.DataFrame:
    """The table of one model, or of many, model after model."""
    z, constants, rows = normal_quantile(conf_level), estimate.constants, []
    for place, (name, value) in enumerate(constants.items(), start=-len(constants)):
        std_error = standard_error(estimate.report_vcov, place)
        rows.append((name, value, std_error, *log_interval(value, std_error, z)))
    rows += [one[:5] for one in residual_numbers(estimate, z)]
    named = [dict(zip(DISPERSION, row, strict=True)) for row in rows]
    return per_model(DISPERSION, named, estimate.beta.shape[:-1])
