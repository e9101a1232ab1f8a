"""A formula of phi, and rows that the model reproduces exactly: one sentence that names them, at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
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


@pytest.mark.parametrize("method", ["laplace", polars_glmm.AGQ(nodes=5)])
@pytest.mark.parametrize("further", [(), ("phi ~ x",)])
@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_heavy_tails_around_what_levels_reproduce_are_refused_in_few_steps(method, further, noise) -> None:
    """Far from its rows Student's density is not concave, and modes must still be found as phi runs to zero."""
    frame = rows("gaussian", "a").with_columns(y=1 + pl.col("x") + 0.3 * pl.col("g") + noise * pl.col("y"))
    few = polars_glmm.Control(search=polars_glmm.Search(max_evaluations=60))
    with pytest.raises(IdentifiabilityError, match="exactly"):
        frame.glmm.fit("y ~ x + (1 | g)", *further, family="student_t", method=method, control=few)
