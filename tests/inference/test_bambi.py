"""The model that bambi is given is the model of the fit: with bambi, the log density of the same rows is the same."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import gamma

import polars_glmm as pg
from polars_glmm import ModelError
from polars_glmm.families.base import Rows
from tests.streaming.same import quietly

N = 60
BASE, SLOPE, GAMMA, DELTA, PHI = 0.3, 0.4, -0.5, 0.7, 1.3
"""Coefficients of mu, those of zi or of the second category, and phi, at which log densities are compared."""


@cache
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(2)
    x, g = rng.uniform(-1.0, 1.0, N).round(2), np.repeat(np.arange(6), N // 6)
    some, time = rng.random(N) > 0.3, rng.weibull(1.4, N) + 0.05
    return pl.DataFrame(
        {
            "x": x, "g": [f"g{k}" for k in g], "y": x + rng.standard_t(4, N), "count": rng.poisson(np.exp(x + 0.5)),
            "zeros": rng.negative_binomial(2, 0.4, N) * some, "size": np.full(N, 5), "wins": rng.binomial(5, 0.4, N),
            "cost": np.where(some, rng.gamma(2.0, 1.0, N) + 0.01, 0.0), "time": time,
            "event": (rng.random(N) > 0.3).astype(int), "kind": rng.choice(["a", "b", "c"], N),
            "rank": rng.integers(0, 3, N),
        }
    )  # fmt: skip


TERMS, ZI = " ~ x + (1 | g)", "zi ~ x"
MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "gaussian": (("y" + TERMS, "phi ~ x"), {}),
    "t": (("y" + TERMS, "phi ~ x"), {"family": pg.StudentT(df=4.0)}),
    "beta_binomial": (("wins" + TERMS,), {"family": "beta_binomial", "trials": "size"}),
    "exponential": (("surv(time, event)" + TERMS,), {"family": "exponential"}),
    "weibull": (("surv(time, event)" + TERMS,), {"family": "weibull"}),
    "cumulative": (("rank" + TERMS,), {"family": "cumulative"}),
    "categorical": (("kind" + TERMS,), {"family": pg.Categorical(baseline="b")}),
    "zero_inflated_poisson": (("zeros" + TERMS, ZI), {"family": "poisson"}),
    "zero_inflated_negativebinomial": (("zeros" + TERMS, ZI), {"family": "negative_binomial"}),
    "hurdle_poisson": (("zeros" + TERMS, ZI), {"family": "truncated_poisson"}),
    "hurdle_negativebinomial": (("zeros" + TERMS, ZI), {"family": "truncated_negative_binomial"}),
    "hurdle_gamma": (("cost" + TERMS, ZI), {"family": "gamma", "link": "log"}),
    "hurdle_lognormal": (("cost" + TERMS, ZI), {"family": "lognormal"}),
}


@cache
def fitted(model: str) -> Any:
    formulas, options = MODELS[model]
    return quietly(rows(), *formulas, **options)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[Any, Any, dict[str, Any]]]:
    """What bambi is asked for."""
    calls: list[Any] = []
    fake = SimpleNamespace(Model=lambda *given, **more: calls.append((*given, more)), Formula=lambda *parts: parts)
    monkeypatch.setitem(sys.modules, "bambi", fake)  # type: ignore[arg-type]

    def ask(one: Any) -> tuple[Any, Any, dict[str, Any]]:
        one.to_bambi()
        found: tuple[Any, Any, dict[str, Any]] = calls[-1]
        return found

    return ask


@pytest.mark.parametrize("model", MODELS)
def test_families_have_their_names(model: str, asked: Any) -> None:
    formulas, data, more = asked(fitted(model))
    assert more["family"] == model
    if "zi" in MODELS[model][0][-1]:
        assert formulas[1] == "psi ~ x"
        assert more["link"]["psi"] == "logit"
    if model in ("weibull", "exponential"):
        assert formulas == ("censored(time, status_) ~ x + (1 | g)",)
        assert (data["status_"] == np.where(rows()["event"].to_numpy() == 1, "none", "right")).all()
    if model == "categorical":
        assert list(data["kind"].cat.categories) == ["b", "a", "c"]
        assert data["kind"].cat.ordered  # else they would be sorted
        assert "link" not in more
    if model == "cumulative":
        assert data["rank"].cat.ordered
    assert more.get("priors") == ({"nu": 4.0} if model == "t" else None)


@pytest.mark.parametrize(
    ("formulas", "options", "said"),
    [
        (("zeros ~ x + (1 |p| g)", "zi ~ 1 + (1 |p| g)"), {"family": "poisson"}, "without a label"),
        (("cost ~ x + (1 | g)", "zi ~ 1", "phi ~ x"), {"family": "gamma", "link": "log"}, "fit phi as a constant"),
        (("surv(time, event) ~ x + (1 | g)",), {"family": pg.Weibull(metric="ph")}, "metric='aft'"),
        (("surv(time, event) ~ 0 + x + (1 | g)",), {"family": "weibull"}, "with an intercept"),
        (("y ~ x + cs(1 + x | g)",), {"method": "ml"}, "covariance structures"),
        (("rank ~ x + (1 | g)", "disc ~ 0 + x"), {"family": "cumulative"}, "fit disc as a constant"),
        (("zeros ~ x + (1 | g)", "zi ~ 1"), {"family": "negative_binomial1"}, "PyMC itself"),
    ],
)
def test_another_model_is_refused(formulas: tuple[str, ...], options: dict[str, Any], said: str, asked: Any) -> None:
    with pytest.raises(ModelError, match=said):
        asked(quietly(rows(), *formulas, **options))


def _ours(model: str, one: Any) -> np.ndarray:
    """The log density of every row at random effects of zero."""
    family, eta = one.recipe.spec.family, BASE + SLOPE * rows()["x"].to_numpy()
    name = MODELS[model][0][0].partition(" ~ ")[0]
    y = rows()["time" if name.startswith("surv") else name]
    zi = GAMMA + DELTA * rows()["x"].to_numpy()
    at: list[Any] = [eta]
    if model == "categorical":
        numbers, at = y.replace_strict({"b": 0.0, "a": 1.0, "c": 2.0}).to_numpy(), [eta, zi]
    elif model == "cumulative":
        numbers, at = y.to_numpy().astype(float), [SLOPE * rows()["x"].to_numpy(), np.array([[-0.5], [0.9]])]
        cuts = np.column_stack([np.full(N, -np.inf), np.full(N, -0.5), np.full(N, 0.9), np.full(N, np.inf)])
        below = 1.0 / (1.0 + np.exp(at[0][:, None] - cuts))
        return np.log(np.diff(below)[np.arange(N), numbers.astype(int)])
    else:
        numbers = y.to_numpy().astype(float)
        for parameter in family.parameters[1:]:
            shape = np.log(1.0 / PHI if model == "hurdle_gamma" else PHI)
            at.append(zi if parameter.name == "zi" or "phi ~ x" in MODELS[model][0] else shape)
    if model == "weibull":  # bambi's mu is the mean
        at[0] = eta - np.log(gamma(1.0 + 1.0 / PHI))
    trials = rows()["size"].to_numpy().astype(float) if "trials" in MODELS[model][1] else None
    made = Rows(numbers, trials)
    density = np.asarray(family.density(made, tuple(at), 0).f + family.constant(made))
    if name.startswith("surv"):
        return np.where(rows()["event"] == 0, family.log_probability("above", made, tuple(at), 0).f, density)
    return density


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_log_density_is_the_same(model: str) -> None:
    """Of all rows, at coefficients that are given; psi is 1 − zi, and alpha of gamma responses 1/phi."""
    pytest.importorskip("bambi")
    one = fitted(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = one.to_bambi(center_predictors=False)
        made.build()
    inner = made.backend.model
    point = {name: np.zeros_like(value) for name, value in inner.initial_point().items()}
    sign = 1.0 if "phi ~ x" in MODELS[model][0] else -1.0
    given = {
        "Intercept": BASE, "x": SLOPE, "psi_Intercept": sign * GAMMA, "psi_x": sign * DELTA, "sigma_Intercept": GAMMA,
        "sigma_x": DELTA, "alpha_log__": np.log(PHI), "kappa_log__": np.log(PHI), "sigma_log__": np.log(PHI),
    }  # fmt: skip
    for name, value in given.items():
        if name in point:
            point[name] = np.full_like(point[name], value)
    if model == "categorical":
        point["Intercept"], point["x"] = np.array([BASE, GAMMA]), np.array([SLOPE, DELTA])
    if model == "cumulative":
        names = [name for name in point if name.startswith("threshold")]
        assert len(names) == 1
        point[names[0]] = np.array([-0.5, np.log(1.4)])  # ordered: log differences
    found = float(inner.compile_logp(vars=inner.observed_RVs)(point))
    assert found == pytest.approx(_ours(model, one).sum(), rel=1e-6)
