"""A formula of phi, and rows that the model reproduces exactly: one sentence that names them, at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from polars_glmm import IdentifiabilityError


def rows(family: str, exact: str) -> pl.DataFrame:
    """Rows with noise, but for those of one level."""
    rng = np.random.default_rng(0)
    f, g, x, noise = (
        np.repeat(["a", "b", "c"], 60),
        rng.integers(0, 10, 180),
        rng.normal(size=180),
        rng.normal(size=180),
    )
    mean = 1 + 0.5 * x if family == "gaussian" else np.exp(1 + 0.3 * x)
    other = mean + noise if family == "gaussian" else mean * np.exp(0.3 * noise)
    return pl.DataFrame({"y": np.where(f == exact, mean, other), "x": x, "f": f, "g": g})


@pytest.mark.one_in(3)
@pytest.mark.parametrize("family", ["gaussian", "gamma", "inverse_gaussian"])
@pytest.mark.parametrize("formula", ["y ~ x", "y ~ x + (1 | g)"])
@pytest.mark.parametrize(
    ("phi", "exact", "words"),
    [
        ("phi ~ 0 + f", "a", r"the 60 rows with f\[a\] = 1 exactly"),
        ("phi ~ f", "b", r"the 60 rows with f\[T\.b\] = 1 exactly"),
        ("phi ~ f", "a", r"the 60 rows with f\[T\.b\] = 0, f\[T\.c\] = 0 exactly"),
        ("phi ~ f + x", "c", "rows such as those with"),
    ],
)
def test_rows_without_a_dispersion_are_named(family: str, formula: str, phi: str, exact: str, words: str) -> None:
    frame = rows(family, exact)
    link = "identity" if family == "gaussian" else "log"
    options: list[dict[str, Any]] = [{}, {"method": "ml"}] if family == "gaussian" else [{}]
    for data in (frame, frame.lazy()):
        for one in options:
            with pytest.raises(IdentifiabilityError, match=words):
                data.glmm.fit(formula, phi, family=family, link=link, **one)


@pytest.mark.filterwarnings("ignore::polars_glmm.errors.FitWarning")  # nothing varies between groups
def test_a_level_with_little_noise_is_fitted() -> None:
    """Ten thousand times less is no reason to refuse: its phi is found."""
    frame = rows("gaussian", "a")
    noise = np.random.default_rng(1).normal(size=180)
    quiet = frame.with_columns(y=pl.when(f="a").then(pl.col("y") + 1e-4 * pl.Series(noise)).otherwise("y"))
    for formula in ("y ~ x", "y ~ x + (1 | g)"):
        fit = quiet.glmm.fit(formula, "phi ~ 0 + f", method="ml")
        assert fit.converged
        assert np.exp(fit.fixef().filter(parameter="phi")["estimate"][0]) < 3e-4
