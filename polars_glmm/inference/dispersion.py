"""The constant dispersion of a family on its natural scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.schemas import DISPERSION, table
from polars_glmm.inference.varcorr import log_interval, standard_error

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

def dispersion(fit: Answer, *, conf_level: float = 0.95) -> pl.DataFrame:
    """phi with standard error and exp(log phi ± z·se/phi); no rows without phi, or where phi has a formula."""
    z = normal_quantile(conf_level)
    phi = fit.estimate.phi
    if phi is None:
        return table(DISPERSION, {name: [] for name in DISPERSION})
    std_error = standard_error(fit.estimate.report_vcov, -1)
    low, high = log_interval(phi, std_error, z)
    row = {"parameter": "phi", "estimate": phi, "std_error": std_error, "conf_low": low, "conf_high": high}
    return table(DISPERSION, {name: [value] for name, value in row.items()})
