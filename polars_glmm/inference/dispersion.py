"""The constant dispersion of a family and the correlation of residuals, on their natural scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.schemas import DISPERSION, table
from polars_glmm.inference.varcorr import log_interval, residual_numbers, standard_error

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def dispersion(fit: Answer, *, conf_level: float = 0.95) -> pl.DataFrame:
    """Constant parameters with standard errors and exp(log phi ± z·se/phi), then correlations of residuals.

    None that is absent or has a formula. Intervals of correlations are tanh(atanh ρ ± z·se/(1 − ρ²)), of ranges as
    those of phi.
    """
    z, e = normal_quantile(conf_level), fit.estimate
    rows = []
    for place, (name, value) in enumerate(e.constants.items(), start=len(e.report) - len(e.constants)):
        std_error = standard_error(e.report_vcov, place)
        rows.append((name, value, std_error, *log_interval(value, std_error, z)))
    rows += [one[:5] for one in residual_numbers(e, z)]
    return table(DISPERSION, {name: [row[k] for row in rows] for k, name in enumerate(DISPERSION)})
