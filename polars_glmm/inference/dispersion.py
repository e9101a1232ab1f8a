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
    """phi with standard error and exp(log phi ± z·se/phi), unless phi has a formula; then correlations of residuals.

    Intervals of correlations are tanh(atanh ρ ± z·se/(1 − ρ²)), of ranges as those of phi.
    """
    z = normal_quantile(conf_level)
    phi, rows = fit.estimate.phi, []
    if phi is not None:
        std_error = standard_error(fit.estimate.report_vcov, -1)
        rows.append(("phi", phi, std_error, *log_interval(phi, std_error, z)))
    rows += [one[:5] for one in residual_numbers(fit.estimate, z)]
    return table(DISPERSION, {name: [row[k] for row in rows] for k, name in enumerate(DISPERSION)})
