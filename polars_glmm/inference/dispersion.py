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
    """Constant parameters with standard errors and exp(log phi ± z·se/phi); none that is absent or has a formula."""
    z, e = normal_quantile(conf_level), fit.estimate
    rows: dict[str, list[object]] = {name: [] for name in DISPERSION}
    for place, (name, value) in enumerate(e.constants.items(), start=len(e.report) - len(e.constants)):
        std_error = standard_error(e.report_vcov, place)
        low, high = log_interval(value, std_error, z)
        row = {"parameter": name, "estimate": value, "std_error": std_error, "conf_low": low, "conf_high": high}
        for column, one in row.items():
            rows[column].append(one)
    return table(DISPERSION, rows)
