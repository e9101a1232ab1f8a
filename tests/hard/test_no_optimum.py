"""Likelihoods without a maximum, and hills that only the approximation has: answers that are meant, or a note.

For `1 + (1 | g)` the rule is exact: along β, σ → ∞ a level with one response tends to a positive probability, a level
with both loses log t. So the likelihood has no maximum if and only if no level has both responses (and σ̂ > 0).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import linprog
from scipy.special import expit, ndtr

import polars_glmm
from polars_glmm import AGQ, Fit
from polars_glmm.control import Control, Memory, Rows
from polars_glmm.families.base import Rows as Responses
from polars_glmm.families.registry import resolve_family
from polars_glmm.likelihood.marginal import hills
from tests.hard.attempt import attempt, codes, names, note, silent

MEAN = {"logit": expit, "probit": ndtr, "cloglog": lambda eta: -np.expm1(-np.exp(eta))}
BINOMIAL: dict[str, Any] = {"family": "binomial"}


def binary(seed: int, groups: int, each: int, sd: float, link: str = "logit", slope: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), each)
    x = rng.normal(size=len(g)).round(1)
    eta = 0.3 + 0.5 * x + sd * rng.normal(size=groups)[g] + slope * rng.normal(size=groups)[g] * x
    return pl.DataFrame({"g": g, "h": rng.integers(0, 8, len(g)), "x": x, "y": rng.binomial(1, MEAN[link](eta))})


def constant(seed: int, groups: int = 18, each: int = 4, ones: int = 7) -> pl.DataFrame:
    """A response that belongs to the level."""
    frame = binary(seed, groups, each, 1.0)
    return frame.with_columns(y=(pl.col("g") < ones).cast(pl.Int64))


def singletons(ones: int = 30, zeros: int = 80) -> pl.DataFrame:
    """One large group far below the others, which have one trial each."""
    y = np.concatenate([[2000], np.ones(ones), np.zeros(zeros)]).astype(int)
    n = np.concatenate([[30_000], np.ones(ones + zeros)]).astype(int)
    return pl.DataFrame({"y": y, "n": n, "g": np.arange(len(y))})


def sd(fit: Fit) -> list[float]:
    return fit.varcorr().filter(pl.col("other_term").is_null())["std_dev"].to_list()


def routes(frame: pl.DataFrame, formula: str, **arguments: Any) -> dict[str, Fit]:
    """The same rows as they are, counted, lazily, on disk, and as one key beside a healthy one."""
    counted = frame.group_by(frame.columns, maintain_order=True).len("times")
    if arguments.get("trials") is None:
        healthy = binary(3, 30, 8, 1.0).select(frame.columns)
    else:
        healthy = pl.DataFrame({"y": [3, 5, 2, 6, 4, 4], "n": [9] * 6, "g": range(6)})
    keys = [frame.with_columns(k=pl.lit("bad")), healthy.with_columns(k=pl.lit("good"))]
    keyed = pl.concat(keys, how="vertical_relaxed")
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
    by_key = attempt_by(keyed, formula, **arguments)
    assert codes(by_key["good"]) <= {"singular"}
    return {
        "rows": attempt(frame, formula, **arguments),
        "counted": attempt(counted, formula, frequency="times", **arguments),
        "lazy": attempt(frame.lazy(), formula, **arguments),
        "disk": attempt(frame.lazy(), formula, control=disk, **arguments),
        "key": by_key["bad"],
    }


def attempt_by(frame: pl.DataFrame, formula: str, **arguments: Any) -> Any:
    with pytest.warns(polars_glmm.FitWarning):
        return polars_glmm.fit(frame, formula, by="k", **arguments)


@pytest.mark.parametrize(
    "link", ["logit", pytest.param("probit", marks=pytest.mark.slow), pytest.param("cloglog", marks=pytest.mark.slow)]
)
def test_there_is_no_maximum_where_no_level_has_both_responses_and_nowhere_else(link: str) -> None:
    seen = set()
    for seed in range(6):
        frame = binary(seed, 6, 3, 8.0, link)
        mixed = frame.group_by("g").agg(pl.col("y").n_unique())["y"].max() == 2
        fit = attempt(frame, "y ~ 1 + (1 | g)", link=link, **BINOMIAL)
        assert ("unbounded" not in codes(fit)) == mixed, seed
        seen.add(mixed)
    assert seen == {True, False}


@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", pytest.param("y ~ x + (x | g)", marks=pytest.mark.slow)])
def test_a_response_that_belongs_to_its_level_is_told_on_every_route(formula: str) -> None:
    found = routes(constant(1), formula, **BINOMIAL)
    for name, fit in found.items():
        names(fit, "unbounded", "g")
        assert fit.varcorr()["std_error"].null_count() == len(fit.varcorr()), name
        assert fit.loglik == pytest.approx(found["rows"].loglik, abs=1e-5), name
        assert [n.text for n in fit.notes] == [n.text for n in found["rows"].notes], name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cumulative", pytest.param("categorical", marks=pytest.mark.slow)])
def test_a_category_that_belongs_to_its_level_is_told_as_a_count_is(family: str) -> None:
    """Thresholds grow with the effects, or all predictors do: P(every row is in its own category) > 0 in the limit."""
    own = np.random.default_rng(7).integers(1, 4, 20)
    frame = pl.DataFrame({"g": np.repeat(np.arange(20), 4), "y": np.repeat(own, 4)})
    mixed = frame.with_columns(y=pl.when(pl.int_range(80) % 9 == 0).then(pl.col("y") % 3 + 1).otherwise("y"))
    keyed = pl.concat([frame.with_columns(k=pl.lit("bad")), mixed.with_columns(k=pl.lit("good"))])
    alone = attempt(frame, "y ~ 1 + (1 | g)", family=family)
    names(alone, "unbounded", "g")
    assert alone.varcorr()["std_error"].null_count() == len(alone.varcorr())
    assert "unbounded" not in codes(attempt(mixed, "y ~ 1 + (1 | g)", family=family))
    by_key = attempt_by(keyed, "y ~ 1 + (1 | g)", family=family)
    assert by_key["bad"].loglik == pytest.approx(alone.loglik, abs=1e-5)
    assert ["unbounded" in codes(by_key[key]) for key in ("bad", "good")] == [True, False]


@pytest.mark.slow
def test_quadrature_has_no_maximum_either() -> None:
    names(attempt(constant(2), "y ~ x + (1 | g)", method=AGQ(nodes=9), **BINOMIAL), "unbounded", "g")


@pytest.mark.slow
def test_only_the_factor_that_runs_away_is_named() -> None:
    fit = attempt(constant(3, groups=20, each=6), "y ~ x + (1 | g) + (1 | h)", **BINOMIAL)
    names(fit, "unbounded", "g", absent=("h",))


def crossed(seed: int, n: int, sd: float, noise: float) -> pl.DataFrame:
    """Two crossed factors; without noise their effects part the rows."""
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, 8, n), rng.integers(0, 7, n), rng.normal(size=n)
    eta = 0.5 * x + sd * (rng.normal(size=8)[g] + rng.normal(size=7)[h]) + noise * rng.logistic(size=n)
    return pl.DataFrame({"g": g, "h": h, "x": x, "y": (eta > 0).astype(int)})


def parted(frame: pl.DataFrame) -> bool:
    """Whether some fixed and random effects put every row on its side of zero: a linear program over all columns."""
    groups = [np.equal.outer(frame[name].to_numpy(), frame[name].unique().to_numpy()) for name in ("g", "h")]
    columns = np.column_stack([np.ones(len(frame)), frame["x"].to_numpy(), *groups])
    signed = columns * (2 * frame["y"].to_numpy() - 1)[:, None]
    margin = np.append(np.zeros(columns.shape[1]), -1.0)
    within = [(-1.0, 1.0)] * columns.shape[1] + [(0.0, 1.0)]
    found = linprog(margin, np.column_stack([-signed, np.ones(len(frame))]), np.zeros(len(frame)), bounds=within)
    return bool(found.x[-1] > 1e-9)


@pytest.mark.slow
def test_crossed_factors_that_part_all_rows_together_have_no_maximum() -> None:
    """The limit along t·(β, Λ) is a probability above zero if and only if [X Z] parts the rows."""
    seen = {}
    for seed, n, spread, noise in ((102, 120, 3.0, 0.0), (103, 60, 3.0, 0.1), (113, 240, 1.0, 0.0),
                                   (105, 240, 1.0, 0.3), (107, 240, 1.0, 0.3)):  # fmt: skip
        frame = crossed(seed, n, spread, noise)
        fit = attempt(frame, "y ~ x + (1 | g) + (1 | h)", **BINOMIAL)
        seen[seed] = "unbounded" in codes(fit)
        assert seen[seed] == parted(frame), seed
        if seen[seed]:
            names(fit, "unbounded", "g", "h")
            assert fit.varcorr()["std_error"].null_count() == 2
    assert set(seen.values()) == {True, False}


@pytest.mark.slow
def test_crossed_factors_that_part_all_rows_are_told_on_every_route() -> None:
    """On every one that several factors have: they are not fitted from disk."""
    frame, model = crossed(103, 60, 3.0, 0.1), "y ~ x + (1 | g) + (1 | h)"
    healthy = crossed(105, 240, 1.0, 0.3)
    keyed = pl.concat([frame.with_columns(k=pl.lit("bad")), healthy.with_columns(k=pl.lit("good"))])
    by_key = attempt_by(keyed, model, **BINOMIAL)
    counted = frame.group_by(frame.columns, maintain_order=True).len("times")
    found = {
        "rows": attempt(frame, model, **BINOMIAL),
        "counted": attempt(counted, model, frequency="times", **BINOMIAL),
        "lazy": attempt(frame.lazy(), model, **BINOMIAL),
        "key": by_key["bad"],
    }
    for name, fit in found.items():
        assert "unbounded" in codes(fit), name
    assert "unbounded" not in codes(by_key["good"])


@pytest.mark.slow
@pytest.mark.parametrize(("frame", "walks"), [(crossed(103, 60, 3.0, 0.1), True), (crossed(7, 300, 8.0, 1.0), False)])
def test_draws_walk_where_modes_part_all_rows_and_nowhere_else(
    frame: pl.DataFrame, walks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[Any]] = {"may_part": [], "changes": []}

    def heard(name: str) -> Any:
        verb = getattr(hills, name)
        return lambda *given: asked[name].append(verb(*given)) or asked[name][-1]

    for name in asked:
        monkeypatch.setattr(hills, name, heard(name))
    assert parted(frame) == walks
    attempt(frame, "y ~ x + (1 | g) + (1 | h)", **BINOMIAL)
    assert asked["may_part"][0] == walks
    assert bool(asked["changes"]) == any(asked["may_part"])


def test_one_row_on_the_other_side_brings_the_maximum_back() -> None:
    frame = constant(4).with_row_index()
    twin = frame.with_columns(y=pl.when(pl.col("index") == 0).then(1 - pl.col("y")).otherwise("y"))
    assert "unbounded" in codes(attempt(frame, "y ~ 1 + (1 | g)", **BINOMIAL))
    assert "unbounded" not in codes(attempt(twin, "y ~ 1 + (1 | g)", **BINOMIAL))


@pytest.mark.slow
def test_the_hill_of_single_trials_is_left_for_the_optimum_that_integration_prefers() -> None:
    """Laplace's highest optimum is at a standard deviation of dozens; quadrature has its only one near 1."""
    found = routes(singletons(), "y ~ 1 + (1 | g)", trials="n", **BINOMIAL)
    exact = attempt(singletons(), "y ~ 1 + (1 | g)", trials="n", method=AGQ(nodes=41), **BINOMIAL)
    for fit in found.values():
        assert 0.3 * sd(exact)[0] < sd(fit)[0] < 1.5 * sd(exact)[0]
        assert fit.loglik == pytest.approx(exact.loglik, abs=2.0)
        assert note(fit, "approximation").text == note(found["rows"], "approximation").text
    silent(exact)


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_start() -> None:
    """Groups that slopes nearly part, with several optima: a larger start finds no higher one that is not told."""
    for seed in range(4):
        frame = binary(seed, 12, 4, 4.0, "probit", slope=4.0)
        arguments = {"link": "probit", **BINOMIAL}
        fit = attempt(frame, "y ~ x + (x | g)", **arguments)
        for size in (5.0, 40.0):
            other = attempt(frame, "y ~ x + (x | g)", start={"sd(g: Intercept)": size, "sd(g: x)": size}, **arguments)
            told = codes(fit) & {"unbounded", "approximation"}
            assert other.loglik < fit.loglik + 1e-3 or told, (seed, size)


@pytest.mark.slow
def test_an_approximation_that_is_far_from_the_integral_is_told() -> None:
    """Poisson levels most of which are all zero: Laplace's log-likelihood is too high by several units."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(60), 4)
    y = np.where(np.repeat(rng.random(60) < 0.8, 4), 0, rng.poisson(8, 240))
    frame = pl.DataFrame({"g": g, "y": y})
    laplace = attempt(frame, "y ~ 1 + (1 | g)", family="poisson")
    exact = attempt(frame, "y ~ 1 + (1 | g)", family="poisson", method=AGQ(nodes=25))
    assert laplace.loglik > exact.loglik + 2.0
    names(laplace, "approximation")
    silent(exact)


@pytest.mark.parametrize(("groups", "each", "size"), [(40, 20, 3.0), (40, 20, 6.0), (150, 3, 2.0), (200, 2, 3.0)])
def test_large_random_effects_that_the_rows_support_are_no_cause_of_a_note(groups: int, each: int, size: float) -> None:
    silent(attempt(binary(3, groups, each, size), "y ~ x + (1 | g)", **BINOMIAL))


@pytest.mark.parametrize("y", [0.0, 3.0, 3000.0])
def test_no_probability_of_a_count_exceeds_one(y: float) -> None:
    """However far the linear predictor, for all sizes: y·eta and (y + φ) log(1 + mu/φ) go on together."""
    family = resolve_family("negative_binomial", "log")
    row = Responses(np.array([y]), None, None)
    with np.errstate(all="ignore"):
        for zeta in (-30.0, -5.0, 0.0, 5.0, 20.0, 60.0):
            for eta in (-800.0, -40.0, 0.0, 40.0, 680.0, 720.0, 1500.0, 1e6):
                density = family.density(row, (np.array([eta]), zeta), 1)
                assert density.f[0] + family.constant(row)[0] <= 1e-9 * (1.0 + y), (zeta, eta)
                here, there = (family.density(row, (np.array([e]), zeta), 0).f[0] for e in (eta - 1.0, eta + 1.0))
                if zeta < eta - 60.0:  # straight there
                    assert density.g[0][0] == pytest.approx((there - here) / 2.0, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_negative_binomial_of_zeros_and_one_large_group_stays_below_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=160), np.zeros(160, dtype=int)
    y[:4] = [3000, 2500, 2800, 3200]
    frame = pl.DataFrame({"g": np.repeat(np.arange(40), 4), "x": x, "y": y})
    fit = attempt(frame, "y ~ x + (1 | g)", family="negative_binomial")
    assert fit.converged
    assert fit.loglik < 0.0


def one_alone() -> pl.DataFrame:
    """A row whose residual variance is its own."""
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(10), 6), np.tile(np.arange(6.0), 10)
    y = 2.0 + 0.5 * x + rng.normal(size=10)[g] + rng.normal(size=60)
    return pl.DataFrame({"g": g, "x": x, "f": np.where(np.arange(60) == 7, "b", "a"), "y": y})


@pytest.mark.parametrize("random", [" + (1 | g)", ""])
def test_a_residual_variance_of_one_row_has_no_bound_by_maximum_likelihood(random: str) -> None:
    """A line through that row, and nothing left of its variance: the density of y rises as 1/phi; REML is bounded."""
    frame, formulas = one_alone(), (f"y ~ x{random}", "phi ~ f")
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
    keyed = pl.concat([frame.with_columns(k=pl.lit(1)), frame.with_columns(k=pl.lit(2), f=pl.Series(["a", "b"] * 30))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", polars_glmm.FitWarning)
        fits = [
            polars_glmm.fit(data, *formulas, method="ml", control=control)
            for data, control in ((frame, None), (frame.lazy(), None), (frame.lazy(), disk))
        ]
        by_key = polars_glmm.fit(keyed, *formulas, method="ml", by="k")
        reml = polars_glmm.fit(frame, *formulas, method="reml")
    for one in (*fits, by_key[1]):
        assert "no_bound" in codes(one)
    assert "no_bound" not in codes(by_key[2]) | codes(reml)
    row = frame.row(7, named=True)
    objective = polars_glmm.objective(frame, *formulas, method="ml")
    at = dict.fromkeys(objective.names, 0.0) | {"Intercept": row["y"] - 0.5 * row["x"], "x": 0.5}
    if not random:
        higher = [objective.loglik(at | {"phi: f[T.b]": size}) for size in (-10.0, -20.0, -40.0)]
        assert np.diff(higher) == pytest.approx([10.0, 20.0])
