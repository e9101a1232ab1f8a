"""Columns and dtypes of every table a fit answers with: one definition each, the same for all models.

A table built through `table` has its schema even when it has no rows, so that `pl.concat` over fits always works.
Polars prints the first and the last four columns of a wide frame: what a table is about stands there, also with a key
of by= in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, prod
from typing import Any, TypeAlias

import numpy as np
import polars as pl

Schema: TypeAlias = Mapping[str, Any]

_TEXT, _REAL, _WHOLE, _TRUTH = pl.String(), pl.Float64(), pl.Int64(), pl.Boolean()

CORE: Schema = {  # of every table of estimates, whatever made them
    "estimate": _REAL,
    "std_error": _REAL,
    "statistic": _REAL,
    "df": _REAL,
    "p_value": _REAL,
    "conf_low": _REAL,
    "conf_high": _REAL,
}
FIXEF: Schema = {"parameter": _TEXT, "term": _TEXT, **CORE}
TEST: Schema = {"hypothesis": _TEXT, **CORE, "adjust": _TEXT, "null_value": _REAL, "note": _TEXT}
EQUIVALENCE: Schema = {**TEST, "p_equivalence": _REAL}
JOINT: Schema = {
    "num_df": _WHOLE,
    "den_df": _REAL,
    "statistic": _REAL,
    "distribution": _TEXT,
    "p_value": _REAL,
}
JOINT_TEST: Schema = {"hypothesis": _TEXT, **JOINT, "df_method": _TEXT, "note": _TEXT}
_OF_TERM: Schema = {
    "parameter": _TEXT, "term": _TEXT, "type": _WHOLE, "distribution": _TEXT, "df_method": _TEXT, "note": _TEXT,
}  # fmt: skip
TERMS: Schema = {**_OF_TERM, **{name: dtype for name, dtype in JOINT.items() if name != "distribution"}}
"""The numbers last: of ten columns Polars prints the first four and the last four."""
TERMS_BOOTSTRAP: Schema = {
    **_OF_TERM, "n_draws": _WHOLE, "n_failed": _WHOLE, "seed": _WHOLE,
    **{name: dtype for name, dtype in TERMS.items() if name not in _OF_TERM},
}  # fmt: skip
VARCORR: Schema = {
    "group": _TEXT,
    "term": _TEXT,
    "other_term": _TEXT,
    "parameter": _TEXT,
    "other_parameter": _TEXT,
    "conf_low": _REAL,
    "conf_high": _REAL,
    "correlation_low": _REAL,
    "correlation_high": _REAL,
    "estimate": _REAL,
    "std_error": _REAL,
    "std_dev": _REAL,
    "correlation": _REAL,
}
DISPERSION: Schema = {
    "parameter": _TEXT,
    "estimate": _REAL,
    "std_error": _REAL,
    "conf_low": _REAL,
    "conf_high": _REAL,
}
RANEF: Schema = {
    "parameter": _TEXT,
    "group": _TEXT,
    "level": _TEXT,
    "term": _TEXT,
    "estimate": _REAL,
    "std_error": _REAL,
}
VCOV: Schema = {
    "parameter": _TEXT,
    "term": _TEXT,
    "other_parameter": _TEXT,
    "other_term": _TEXT,
    "covariance": _REAL,
}
GROUP_SIZES = pl.Struct({"group": _TEXT, "n_levels": _WHOLE, "smallest": _WHOLE, "largest": _WHOLE})
GLANCE: Schema = {
    "formula": _TEXT,
    "loglik": _REAL,
    "aic": _REAL,
    "bic": _REAL,
    "aicc": _REAL,
    "deviance": _REAL,
    "deviance_residual": _REAL,
    "dispersion": _REAL,
    "df_model": _WHOLE,
    "df_resid": _WHOLE,
    "family": _TEXT,
    "link": _TEXT,
    "method": _TEXT,
    "reml": _TRUTH,
    "groups": pl.List(GROUP_SIZES),
    "seconds": _REAL,
    "n_dropped": _WHOLE,
    "n_obs": _WHOLE,
    "converged": _TRUTH,
    "singular": _TRUTH,
}
DIAGNOSE: Schema = {"code": _TEXT, "kind": _TEXT, "text": _TEXT, "advice": _TEXT, "value": _REAL}
ANOVA: Schema = {
    "model": _TEXT,
    "df_model": _WHOLE,
    "loglik": _REAL,
    "aic": _REAL,
    "bic": _REAL,
    "deviance": _REAL,
    "chisq": _REAL,
    "df": _WHOLE,
    "p_value": _REAL,
    "distribution": _TEXT,
}
_NATURAL: Schema = {
    "group": _TEXT,
    "term": _TEXT,
    "other_term": _TEXT,
    "quantity": _TEXT,
    "parameter": _TEXT,
}
CONFINT: Schema = {
    **_NATURAL,
    "method": _TEXT,
    "criterion": _TEXT,
    "conf_level": _REAL,
    "n_draws": _WHOLE,
    "status": _TEXT,
    "estimate": _REAL,
    "std_error": _REAL,
    "conf_low": _REAL,
    "conf_high": _REAL,
}
PROFILE: Schema = {
    **_NATURAL,
    "conditional": pl.List(pl.Struct({"name": _TEXT, "value": _REAL})),
    "criterion": _TEXT,
    "value": _REAL,
    "zeta": _REAL,
    "deviance": _REAL,
}
R2: Schema = {
    "method": _TEXT,
    "var_fixed": _REAL,
    "var_random": _REAL,
    "var_residual": _REAL,
    "r2_marginal": _REAL,
    "r2_conditional": _REAL,
    "icc": _REAL,
    "icc_unadjusted": _REAL,
}
ICC: Schema = {
    "group": _TEXT,
    "n_levels": _WHOLE,
    "variance": _REAL,
    "icc": _REAL,
    "mean_size": _REAL,
    "design_effect": _REAL,
    "method": _TEXT,
}
REPCA: Schema = {
    "group": _TEXT,
    "component": _WHOLE,
    "std_dev": _REAL,
    "std_dev_relative": _REAL,
    "proportion": _REAL,
    "cumulative": _REAL,
    "loading": pl.List(pl.Struct({"term": _TEXT, "value": _REAL})),
}
RLRT: Schema = {
    "group": _TEXT,
    "term": _TEXT,
    "statistic": _REAL,
    "p_value": _REAL,
    "mc_error": _REAL,
    "chibar_p": _REAL,
    "n_draws": _WHOLE,
    "method": _TEXT,
    "seed": _WHOLE,
}
COMPARE: Schema = {
    "name": _TEXT,
    "formula": _TEXT,
    "df_model": _WHOLE,
    "loglik": _REAL,
    "aic": _REAL,
    "aicc": _REAL,
    "bic": _REAL,
    "delta": _REAL,
    "weight": _REAL,
    "cumulative": _REAL,
    "n_obs": _WHOLE,
    "note": _TEXT,
}
POOL: Schema = {
    **FIXEF,
    "within": _REAL,
    "between": _REAL,
    "total": _REAL,
    "riv": _REAL,
    "fmi": _REAL,
    "n_imputations": _WHOLE,
}
POOL_TEST: Schema = {
    "hypothesis": _TEXT, "method": _TEXT, "num_df": _WHOLE, "den_df": _REAL, "statistic": _REAL, "p_value": _REAL,
    "riv": _REAL, "n_imputations": _WHOLE,
}  # fmt: skip
AVERAGE: Schema = {**FIXEF, "weight": _REAL, "n_models": _WHOLE, "kind": _TEXT}
CROSS_VALIDATION: Schema = {
    "fold": _TEXT,
    "n_obs": _WHOLE,
    "elpd": _REAL,
    "rmse": _REAL,
    "status": _TEXT,
    "seed": _WHOLE,
}
BOOTSTRAP: Schema = {"draw": _WHOLE, **_NATURAL, "value": _REAL, "status": _TEXT, "seed": _WHOLE}
POSTERIOR: Schema = {
    "draw": _WHOLE, "group": _TEXT, "level": _TEXT, "term": _TEXT, "other_term": _TEXT, "quantity": _TEXT,
    "parameter": _TEXT, "value": _REAL, "seed": _WHOLE,
}  # fmt: skip
STATUS_NOTES = pl.List(pl.Struct({"code": _TEXT, "text": _TEXT}))
STATUS: Schema = {"status": _TEXT, "code": _TEXT, "text": _TEXT, "notes": STATUS_NOTES}


def table(schema: Schema, columns: Mapping[str, Sequence[Any] | Any]) -> pl.DataFrame:
    """The frame of `columns` in the order and dtypes of `schema`; NaN, which is no answer, becomes null."""
    return pl.DataFrame(
        [
            _real(name, columns[name]) if dtype == _REAL else pl.Series(name, columns[name], dtype=dtype)
            for name, dtype in schema.items()
        ]
    )


def per_model(schema: Schema, rows: Sequence[Mapping[str, Any]], models: tuple[int, ...] = ()) -> pl.DataFrame:
    """The same rows of every model, model after model.

    rows     one mapping per row of a model, whose values are those of all, or arrays over the models
    models   () for one, (M,) for many
    """
    if not rows or not models:
        return table(schema, {name: [row.get(name) for row in rows] for name in schema})
    n = prod(models)

    def column(name: str, dtype: Any) -> Any:
        values: list[Any] = [row.get(name) for row in rows]
        if dtype == _REAL:
            values = [np.nan if one is None else one for one in values]
        elif not any(isinstance(one, np.ndarray) for one in values):
            return pl.Series(values, dtype=dtype)[np.tile(np.arange(len(values)), n)]
        return np.stack([np.broadcast_to(one, models) for one in values], axis=-1).reshape(-1)

    return table(schema, {name: column(name, dtype) for name, dtype in schema.items()})


def _real(name: str, values: Sequence[Any] | Any) -> pl.Series:
    """A Float64 column without NaN; Series.fill_nan would be a query per column, slower than the rest of the table."""
    if isinstance(values, np.ndarray):
        return pl.Series(name, values, dtype=pl.Float64, nan_to_null=True)
    return pl.Series(name, [None if value is None or isnan(value) else value for value in values], dtype=pl.Float64)
