"""Lines of the summary beside the tables: deviance and dispersion of a GLM, what is not shown and why, headings."""

from __future__ import annotations

import re
import warnings

import numpy as np
import polars as pl
import pytest

from polars_glmm import FitWarning, datasets
from polars_glmm.inference import sheet
from polars_glmm.inference.cells import width

NUMBERS = re.compile(r"Residual deviance: (\S+) on (\d+) df(?:\s+Dispersion ratio \(Pearson chi2 / df\): (\S+))?")


def shown(text: str) -> tuple[float, int, float | None]:
    """Deviance, degrees of freedom and ratio that a summary prints."""
    found = NUMBERS.search(text)
    assert found is not None
    return float(found[1]), int(found[2]), None if found[3] is None else float(found[3])


def one_way(y: np.ndarray, n: np.ndarray, cell: np.ndarray) -> tuple[float, float, int]:
    """Deviance, Pearson's χ² and df of a binomial GLM of one factor, whose estimates are the shares of its cells."""
    names = np.unique(cell)
    share = np.array([y[cell == name].sum() / n[cell == name].sum() for name in names])
    mu = n * share[np.searchsorted(names, cell)]
    parts = [a * np.log(np.where(a > 0, a, 1.0) / b) for a, b in ((y, mu), (n - y, n - mu))]
    return 2.0 * float(np.sum(parts)), float(np.sum((y - mu) ** 2 / (mu * (1.0 - mu / n)))), len(y) - len(names)


@pytest.mark.parametrize("way", ["trials", "cbind", "share"])
def test_a_binomial_glm_has_the_deviance_and_ratio_of_its_closed_form(way: str) -> None:
    herds = datasets.load("cbpp")
    y, n = (herds[name].to_numpy().astype(float) for name in ("incidence", "size"))
    deviance, chi2, df = one_way(y, n, herds["period"].cast(pl.String).to_numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        fit = {
            "trials": lambda: herds.glmm.fit("incidence ~ period", family="binomial", trials="size"),
            "cbind": lambda: herds.glmm.fit("cbind(incidence, size - incidence) ~ period", family="binomial"),
            "share": lambda: herds.with_columns(share=pl.col("incidence") / pl.col("size")).glmm.fit(
                "share ~ period", family="binomial", trials="size"
            ),
        }[way]()
    printed = shown(str(fit))
    assert printed == (pytest.approx(deviance, abs=0.0051), df, pytest.approx(chi2 / df, rel=5e-4))
    assert f"{printed[0]:.2f} on {df} df" in fit._repr_html_()


def test_a_poisson_glm_has_the_printed_residual_deviance_of_the_grouse_ticks() -> None:
    """4549.4 as in print (R's glm, see differences.md); Pearson's χ² from the means of the years, the estimates."""
    ticks = datasets.load("grouseticks")
    deviance, df, ratio = shown(str(ticks.glmm.fit("TICKS ~ YEAR", family="poisson")))
    mean = pl.col("TICKS").mean().over("YEAR")
    chi2 = ticks.select(((pl.col("TICKS") - mean) ** 2 / mean).sum()).item()
    assert (round(deviance, 1), df) == (4549.4, 400)
    assert ratio == pytest.approx(chi2 / df, rel=5e-4)


def test_frequencies_are_rows_in_deviance_and_ratio() -> None:
    rows = pl.DataFrame({"y": [0, 1, 2, 5, 3, 9], "f": list("aaabbb"), "n": [3, 1, 2, 1, 4, 2]})
    counted = rows.glmm.fit("y ~ f", family="poisson", frequency="n")
    written = rows[np.repeat(np.arange(rows.height), rows["n"])].glmm.fit("y ~ f", family="poisson")
    assert shown(str(counted)) == shown(str(written))


def test_ones_and_zeros_have_no_dispersion_ratio_and_mixed_models_neither_line() -> None:
    rows = pl.DataFrame({"y": [0, 1, 1, 0, 1, 0, 1, 1], "f": list("aaaabbbb")})
    assert shown(str(rows.glmm.fit("y ~ f", family="binomial")))[2] is None
    mixed = datasets.load("cbpp").glmm.fit("incidence ~ period + (1 | herd)", family="binomial", trials="size")
    assert "Residual deviance" not in str(mixed)


def test_residuals_that_are_not_shown_say_why_and_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = datasets.load("sleepstudy")
    lazy = sleep.lazy().glmm.fit("Reaction ~ Days + (1 | Subject)")
    line = "Not shown (the rows are not kept): fit.augment(frame) has them."
    assert line in str(lazy)
    assert line in lazy._repr_html_()
    eager = sleep.glmm.fit("Reaction ~ Days + (1 | Subject)")
    assert "Median" in str(eager)
    monkeypatch.setattr(sheet, "MANY_ROWS", 100)
    assert "Not shown (more than 100 rows): fit.augment(frame) has them." in str(eager)


def test_correlations_that_are_not_shown_say_why_and_where_they_are() -> None:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"y": rng.normal(size=90), "f": [f"level {k % 9}" for k in range(90)]})
    assert "Not shown (9 terms): fit.vcov() has the covariances." in str(frame.glmm.fit("y ~ f"))


def test_what_a_page_is_too_narrow_for_is_named_with_its_call() -> None:
    rng = np.random.default_rng(1)
    levels = ["a", *(f"{'a long label ' * 4}{k}" for k in range(3))]
    frame = pl.DataFrame(
        {"y": rng.normal(size=120), "f": [levels[k % 4] for k in range(120)], "g": [k % 10 for k in range(120)]}
    ).with_columns(y=pl.col("y") + pl.col("g"))
    text = str(frame.glmm.fit("y ~ f + (1 | g)"))
    assert "Not shown for want of width: 95% intervals. fit.fixef() has them." in text


def test_headings_of_correlations_are_legible_and_distinct_in_japanese() -> None:
    rng = np.random.default_rng(4)
    levels = ["対照", "低用量の群", "高用量の群", "short"]
    frame = pl.DataFrame({"反応": rng.normal(size=80), "処置の条件": [levels[k % 4] for k in range(80)]})
    text = str(frame.glmm.fit("反応 ~ 処置の条件"))
    heading = text.split("Correlation of fixed effects:\n")[1].splitlines()[0]
    names = heading.split()
    assert names == ["Intercept", *sorted(set(levels) - {min(levels)})[: len(names) - 1]]
    assert all(width(name) <= sheet.WIDEST_HEADING for name in names)


def test_levels_of_two_factors_alike_keep_the_names_of_their_factors() -> None:
    assert sheet._short_names(["first_factor[T.yes]", "other_factor[T.yes]", "third_factor[T.no]", "x"]) == [
        "first_factor[T.yes]", "other_factor[T.yes]", "no", "x",
    ]  # fmt: skip
