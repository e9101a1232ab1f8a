"""Models side by side by an information criterion, with Akaike weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.answer.criteria import aicc
from polars_glmm.errors import ModelError, suggest
from polars_glmm.inference.compare import check_comparable_criteria
from polars_glmm.inference.schemas import COMPARE, table

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

CRITERIA = ("aicc", "aic", "bic")


def compare_fits(fits: Mapping[str, Answer], by: str = "aicc") -> pl.DataFrame:
    """The fits from the best to the worst; weight = exp(−delta/2) of all of them (Burnham & Anderson 2002, §2.9).

    Raises ModelError for fits of other data, or REML fits with different fixed effects.
    """
    if by not in CRITERIA:
        msg = f"by={by!r} is not known.{suggest(str(by), CRITERIA)} Use 'aicc', 'aic' or 'bic'."
        raise ModelError(msg)
    check_comparable_criteria(tuple(fits.values()))
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "formula": fit.formula,
            "df_model": fit.estimate.df_model,
            "loglik": fit.loglik,
            "aic": fit.aic,
            "aicc": aicc(fit.loglik, fit.estimate.df_model, fit.n_obs),
            "bic": fit.bic,
            "n_obs": fit.n_obs,
            "note": ", ".join(note.code for note in fit.notes if not note.quiet) or None,
        }
        for name, fit in fits.items()
    ]
    without = [row["name"] for row in rows if np.isnan(row[by])]
    if without:
        msg = f"{without[0]} has no {by}: it has nearly as many parameters as observations. Compare by='aic'."
        raise ModelError(msg)
    rows.sort(key=lambda row: float(row[by]))
    delta = np.array([row[by] - rows[0][by] for row in rows])
    weight = np.exp(-0.5 * delta)
    weight /= weight.sum()
    columns = {name: [row.get(name) for row in rows] for name in COMPARE}
    return table(COMPARE, columns | {"delta": delta, "weight": weight, "cumulative": np.cumsum(weight)})
