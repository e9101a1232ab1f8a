"""Studies with known sampling variances: metafor 3.8-1, rma(y, v, method), predict() and blup() of it.

Standard errors of τ² are those of rma.mv(y, v, random = ~ 1 | s, cvvc = TRUE), by the observed information.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm

STUDIES = pl.DataFrame(
    {"study": range(6), "y": [0.10, 0.45, -0.12, 0.63, 0.22, 0.90], "v": [0.02, 0.05, 0.03, 0.10, 0.01, 0.08]}
).with_columns(w=1.0 / pl.col("v"))
METAFOR: dict[str, dict[str, Any]] = {
    "ml": {
        "tau2": 0.04235422815, "error": 0.059165448, "mean": 0.27740639184, "se": 0.11548195165,
        "loglik": -1.67920225313, "interval": (-0.18512147751, 0.73993426118),
        "blup": [0.1569027625, 0.3565589028, 0.0447753291, 0.3823125145, 0.2309649963, 0.4929238457],
        "of_blup": [0.1222989996, 0.1638267821, 0.1409037759, 0.1906138360, 0.0926092948, 0.1827405536],
    },
    "reml": {
        "tau2": 0.06954265386, "error": 0.079852179, "mean": 0.29552050143, "se": 0.13516454945,
        "loglik": -1.94281367623 - 0.5 * np.log(6.0),  # metafor adds ½ log|X'X|
        "interval": (-0.28527774392, 0.87631874677),
        "blup": [0.14367091950, 0.38538728915, 0.00522887988, 0.43271660791, 0.22949434018, 0.57662497196],
        "of_blup": [0.1282352921, 0.1796748691, 0.1503929665, 0.2176546686, 0.0950345473, 0.2059886536],
    },
}  # fmt: skip


@pytest.mark.parametrize("method", METAFOR)
def test_a_meta_analysis_is_that_of_metafor(method: str) -> None:
    expected = METAFOR[method]
    fit = polars_glmm.fit(STUDIES, "y ~ 1 + (1 | study)", precision="w", fixed={"phi": 1.0}, method=method)
    tau2, mean = fit.varcorr().row(0, named=True), fit.fixef(df="normal").row(0, named=True)
    assert fit.loglik == pytest.approx(expected["loglik"], abs=1e-9)
    assert tau2["estimate"] == pytest.approx(expected["tau2"], rel=1e-6)
    assert tau2["std_error"] == pytest.approx(expected["error"], rel=1e-4)
    assert_allclose([mean["estimate"], mean["std_error"]], [expected["mean"], expected["se"]], rtol=1e-6)
    found = fit.predict(STUDIES, std_error=True)
    assert_allclose(found["prediction"], expected["blup"], rtol=1e-5)
    assert_allclose(found["prediction_std_error"], expected["of_blup"], rtol=1e-5)
    new = fit.predict(
        STUDIES[:1].with_columns(study=99), new_levels="zero", interval="confidence", df="normal"
    )
    assert_allclose(new.select("prediction_low", "prediction_high").row(0), expected["interval"], rtol=1e-6)
