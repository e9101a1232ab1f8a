"""Text and HTML: what a reader must find there, and the width of the page."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from polars_glmm import Fit, Note
from polars_glmm.inference import numbers
from polars_glmm.likelihood.estimate import FactorEstimate


@pytest.mark.parametrize("fixture", ["pig", "sleepstudy", "ticks", "counts"])
def test_no_line_is_wider_than_the_page(fixture: str, request: pytest.FixtureRequest) -> None:
    text = str(request.getfixturevalue(fixture))
    assert max(map(len, text.splitlines())) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


def test_long_names_and_many_terms_still_fit(build: Callable[..., Fit]) -> None:
    names = ["Intercept", *(f"a_rather_long_covariate_name[T.level {k}]:another_long_one[T.b]" for k in range(99))]
    r = 9
    factor = FactorEstimate(
        "school:classroom:teacher", tuple(f"slope_of_covariate_{k}" for k in range(r)), (np.eye(r),), ("us",),
        np.zeros((r, 3)), np.ones((r, r, 3)),
    )  # fmt: skip
    fit = build(
        names, np.linspace(-1e6, 1e6, 100), np.eye(100), factors=[factor], levels=[pl.DataFrame({"s": [1, 2, 3]})],
        formula="y ~ " + " + ".join(names), family="poisson", notes=(Note("long", "word " * 60),),
    )  # fmt: skip
    lines = str(fit).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("… 41 more" in line for line in lines)


def test_pig_reads_like_stata(pig: Fit) -> None:
    text = str(pig)
    for words in (
        "Linear mixed model",
        "Method: maximum likelihood",
        "Formula: weight ~ week + (1 | id)",
        "Observations: 432",
        "Log-likelihood: -1014.9268",
        "chi2(1) = 25337.4",
        "chibar2(01) = 472.65, p < 0.0001",
        "14.8175",
        "3.1242",
        "Residual",
        "[95% conf.",
    ):
        assert words in text


def test_notes_and_dropped_rows_are_in_plain_sight(ticks: Fit, counts: Fit) -> None:
    text = str(ticks)
    assert "(2 dropped)" in text
    assert " - twice is a multiple of YEAR[T.96]. Leave it out." in text
    assert "P>|z|" in text
    assert "a larger phi is less dispersed" in " ".join(str(counts).split())


def test_an_early_stop_is_said(build: Callable[..., Fit]) -> None:
    assert "did not converge" in str(build(["Intercept"], [1.0], [[1.0]], converged=False))


class _Reader(HTMLParser):
    """Collects text and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_well_formed_and_escaped(build: Callable[..., Fit], pig: Fit) -> None:
    evil = "<script>alert('x & y')</script>"
    fit = build(["Intercept", evil], [1.0, 2.0], np.eye(2), formula=f"y ~ {evil}", notes=(Note("n", evil),), phi=1.0)
    page = fit._repr_html_()
    assert "<script" not in page
    reader = _Reader()
    reader.feed(page)
    assert not reader.open
    assert reader.text.count(evil) >= 2
    assert "472.65" in pig._repr_html_()


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([251.405104, 10.467286], ["251.405", "10.467"]),
        ([0.64881, -1.0, None], ["0.64881", "-1.00000", ""]),
        ([612.1, 0.03268, 654.94], ["612.100000", "0.032680", "654.940000"]),
        ([1.5e-6, 2.5], ["1.5e-06", "2.5"]),
        ([0.0, 0.0], ["0.0", "0.0"]),
        ([1e9, 2.0], ["1e+09", "2"]),
        ([1e-9, 1.0], ["1e-09", "1"]),
        ([float("inf"), 3.0], ["inf", "3.0000"]),
    ],
)
def test_columns_of_numbers_are_readable(values: list[float | None], texts: list[str]) -> None:
    assert numbers.real_column(values) == texts


def test_small_p_values_are_bounded() -> None:
    assert [numbers.p_value(p) for p in (0.03125, 1e-9, None)] == ["0.0312", "<0.0001", ""]
    assert [numbers.p_statement(p) for p in (0.5, 0.0)] == ["p = 0.5000", "p < 0.0001"]
