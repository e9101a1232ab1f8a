"""The fit in one row with its conditional focus: the likelihood at the modes, effective parameters, conditional AIC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.fitting.again import rows_of
from polars_glmm.inference.glance import glance
from polars_glmm.likelihood.known.left_out import fixed_of
from polars_glmm.prediction.leverage import leverage_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def conditional_glance(fit: Answer) -> pl.DataFrame:
    """glance() with loglik_conditional, df_effective and caic behind it.

    loglik_conditional is log p(y | b̂), df_effective the sum of the leverages (Hodges & Sargent 2001), and caic
    −2 loglik_conditional + 2 (df_effective + dispersion parameters), for prediction within the groups of the data
    (Vaida & Blanchard 2005). The variances count as known: where some are near zero the criterion favours the larger
    model (Greven & Kneib 2010). Raises ModelError where the rows of the fit are gone.
    """
    found = leverage_of(fit, rows_of(fit, "glance(conditional=True)"))
    effective = float(found.found.value.sum())
    e = fit.estimate
    counted = len(fixed_of(e, fit.recipe.spec.family))  # among the effective parameters
    scale = len(e.constants) + len(e.beta) + len(e.gamma) - counted
    return glance(fit).with_columns(
        loglik_conditional=pl.lit(found.loglik),
        df_effective=pl.lit(effective),
        caic=pl.lit(-2.0 * found.loglik + 2.0 * (effective + scale)),
    )
