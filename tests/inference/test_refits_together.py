"""Refits that are made side by side are those made one by one, singular ones too; none of them needs much room."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.design.learn import learn
from polars_glmm.errors import FitWarning
from polars_glmm.inference.resampling import question_of
from polars_glmm.likelihood.many.company import ROOM_AT_ONCE
from polars_glmm.likelihood.refits import refit
from polars_glmm.likelihood.refits.law import Law
from polars_glmm.likelihood.refits.resample import resampled
from polars_glmm.likelihood.refits.together import ROWS_AT_ONCE, fits_together, models_at_once

DRAWS = 12


def crossed(n: int = 90) -> pl.DataFrame:
    """Rows of nine by six levels, unbalanced, with counts and successes."""
    rng = np.random.default_rng(2)
    a, b, x = rng.integers(9, size=n), rng.integers(6, size=n), rng.standard_normal(n)
    eta = 0.5 + 0.4 * x + 0.6 * rng.standard_normal(9)[a] + 0.5 * rng.standard_normal(6)[b]
    trials = rng.integers(3, 12, n)
    return pl.DataFrame(
        {
            "a": a, "b": b, "x": x, "row": np.arange(n), "trials": trials, "exposure": rng.uniform(0.5, 2.0, n),
            "wins": rng.binomial(trials, 1.0 / (1.0 + np.exp(-eta))), "count": rng.poisson(np.exp(eta)),
            "over": rng.negative_binomial(3.0, 3.0 / (3.0 + np.exp(eta))), "size": rng.gamma(4.0, np.exp(eta) / 4.0),
        }
    )  # fmt: skip


SLEEP = datasets.load("sleepstudy").with_columns(day=pl.col.Days.cast(pl.String), w=0.5 + pl.col.Days / 5)
TICKS = datasets.load("grouseticks").filter(pl.col.LOCATION.cast(pl.String).cast(pl.Int64) < 20)

MODELS: dict[str, tuple[pl.DataFrame, str, dict[str, Any]]] = {
    "one factor": (SLEEP, "Reaction ~ Days + (Days | Subject)", {}),
    "nested": (datasets.load("pastes"), "strength ~ 1 + (1 | batch/cask)", {}),
    "nested by maximum likelihood": (datasets.load("pastes"), "strength ~ 1 + (1 | batch/cask)", {"method": "ml"}),
    "crossed": (datasets.load("penicillin"), "diameter ~ 1 + (1 | plate) + (1 | sample)", {}),
    "slopes crossed": (SLEEP, "Reaction ~ Days + (Days | Subject) + (1 | day)", {"precision": "w"}),
    "apart slopes crossed": (SLEEP, "Reaction ~ Days + (Days || Subject) + (1 | day)", {}),
    "three deep": (TICKS, "TICKS ~ YEAR + (1 | LOCATION/BROOD/INDEX)", {"family": "poisson"}),
    "row level over crossed": (
        crossed(), "count ~ x + offset(log(exposure)) + (1 | a) + (1 | b) + (1 | row)", {"family": "poisson"},
    ),
    "successes": (
        crossed(), "wins ~ x + (1 | a) + (1 | b)", {"family": "binomial", "trials": "trials"},
    ),
    "slopes of counts": (crossed(), "count ~ x + (x | a) + (1 | b)", {"family": "poisson"}),
    "overdispersed": (crossed(), "over ~ x + (1 | a) + (1 | b)", {"family": "negative_binomial"}),
    "without overdispersion": (crossed(), "count ~ x + (1 | a)", {"family": "negative_binomial"}),
    "gamma": (crossed(), "size ~ x + (1 | a) + (1 | b)", {"family": "gamma", "link": "log"}),
}  # fmt: skip


def asked(name: str) -> tuple[Any, Any]:
    """The fit of a model, and its design."""
    frame, formula, arguments = MODELS[name]
    fit = quiet(frame, formula, **arguments)
    return fit, learn(fit.call.spec(), frame).design


def quiet(frame: pl.DataFrame, formula: str, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, formula, **arguments)


def same(together: refit.Refitted, alone: refit.Refitted) -> None:
    assert together.status == alone.status
    assert_allclose(together.loglik, alone.loglik, atol=1e-6, rtol=0.0)
    assert_allclose(together.values, alone.values, atol=1e-5, rtol=1e-5)


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The draws that are fitted singly, as they come."""
    seen: list[int] = []
    attempt = refit._Collected.attempt

    def counted(self: Any, place: int, *others: Any) -> None:
        seen.append(place)
        attempt(self, place, *others)

    monkeypatch.setattr(refit._Collected, "attempt", counted)
    return seen


@pytest.mark.one_in(8)
@pytest.mark.parametrize("name", MODELS)
def test_refits_side_by_side_are_those_one_by_one(
    name: str, single: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, design = asked(name)
    law = Law.of(design, fit.spec.family, fit.estimate)
    together = refit.refit_responses(question_of(fit), design, law, 3, range(DRAWS))
    assert len(single) <= DRAWS // 4  # what is out of the ordinary is looked at alone
    monkeypatch.setattr(refit, "fits_together", lambda *_: False)
    same(together, refit.refit_responses(question_of(fit), design, law, 3, range(DRAWS)))
    assert set(range(DRAWS)) <= set(single)


def test_resamples_of_nested_groups_are_fitted_side_by_side(single: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fit, design = asked("nested")

    def refits() -> refit.Refitted:
        return refit.refit_designs(question_of(fit), resampled(design, "batch", 5, range(DRAWS)), DRAWS)

    together = refits()
    assert len(single) <= DRAWS // 4
    monkeypatch.setattr(refit, "fits_together", lambda *_: False)
    same(together, refits())


def test_a_chunk_of_models_does_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, design = asked("crossed")
    law = Law.of(design, fit.spec.family, fit.estimate)
    whole = refit.refit_responses(question_of(fit), design, law, 3, range(DRAWS))
    monkeypatch.setattr(refit, "models_at_once", lambda _: 5)
    same(whole, refit.refit_responses(question_of(fit), design, law, 3, range(DRAWS)))


@pytest.mark.parametrize("n", [50, 400, 3000])
def test_models_at_once_stay_within_their_room(n: int) -> None:
    """A hundred by forty levels: the dense arrays of a model have 40 · (100 + 40) entries at most."""
    rng = np.random.default_rng(0)
    fit, _ = asked("crossed")
    rows = {"diameter": rng.standard_normal(n), "plate": rng.integers(100, size=n), "sample": rng.integers(40, size=n)}
    design = learn(fit.call.spec(), pl.DataFrame(rows)).design
    widths, most = [factor.n_levels for factor in design.factors], models_at_once(design)
    assert fits_together(design, fit.spec)
    assert 1 < most * n <= ROWS_AT_ONCE
    assert most * min(widths) * sum(widths) <= ROOM_AT_ONCE


def test_quadrature_of_nested_factors_is_refitted_one_by_one() -> None:
    frame, formula = crossed().with_columns(c=pl.col("a") // 3), "wins ~ x + (1 | c/a)"
    asked_for: dict[str, Any] = {"family": "binomial", "trials": "trials", "method": polars_glmm.AGQ(nodes=5)}
    fit = quiet(frame, formula, **asked_for)
    design = learn(fit.call.spec(), frame).design
    assert not question_of(fit).together
    law = Law.of(design, fit.spec.family, fit.estimate)
    drawn = refit.refit_responses(question_of(fit), design, law, 1, range(4))
    again = frame.with_columns(wins=pl.Series(law.responses(1, [2])[0].astype(np.int64)))
    assert drawn.loglik[2] == pytest.approx(quiet(again, formula, **asked_for).loglik, abs=1e-6)


def test_crossed_factors_without_the_room_are_fitted_one_by_one() -> None:
    rng, n = np.random.default_rng(0), 5000
    fit, _ = asked("crossed")
    rows = {"diameter": rng.standard_normal(n), "plate": rng.integers(900, size=n), "sample": rng.integers(800, size=n)}
    assert not fits_together(learn(fit.call.spec(), pl.DataFrame(rows)).design, fit.spec)
