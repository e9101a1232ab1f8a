"""Fits put together by hand from published numbers, so that the tables are tested apart from any estimation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from polars_glmm import AGQ, ML, REML, Control, Fit, Gaussian, Laplace, NegativeBinomial, Note, Poisson
from polars_glmm.answer.tally import Fingerprint, GroupSize
from polars_glmm.columns.nodes import Reference
from polars_glmm.likelihood.estimate import Certificate, Estimate, FactorEstimate
from polars_glmm.spec.call import Call

NAN = float("nan")
FAMILIES = {"gaussian": Gaussian(), "poisson": Poisson(), "negative_binomial": NegativeBinomial()}
METHODS = {"ml": ML(), "reml": REML(), "laplace": Laplace(), "agq": AGQ(nodes=9)}


def named(names: Sequence[str]) -> tuple[SimpleNamespace, ...]:
    return tuple(SimpleNamespace(name=name, node=Reference(name.partition("[")[0])) for name in names)


def make_fit(
    terms: Sequence[str],
    beta: Sequence[float],
    vcov: Any,
    *,
    formula: str = "y ~ x",
    family: str = "gaussian",
    method: str = "laplace",
    kept: Sequence[bool] | None = None,
    phi: float | None = None,
    phi_se: float = NAN,
    factors: Sequence[FactorEstimate] = (),
    levels: Sequence[pl.DataFrame] = (),
    covariance_vcov: Any = None,
    loglik: float = -100.0,
    null_loglik: float | None = None,
    null_df: int = 0,
    n_obs: int = 100,
    notes: tuple[Note, ...] = (),
    n_dropped: int = 0,
    moments: tuple[float, ...] = (100.0, 100.0, 5.0, 7.0, 0.0, 0.0),
    **more: Any,
) -> Fit:
    """A Fit of these numbers; covariance_vcov (K, K) belongs to the entries of all vech Σ."""
    beta_, vcov_ = np.array(beta, dtype=float), np.array(vcov, dtype=float)
    sigma = np.concatenate(
        [[c[i, j] for i in range(len(c)) for j in range(i + 1) if i == j or s == "us"]
         for f in factors for c, s in zip(f.covariances, f.structures, strict=True)] or [[]]
    )  # fmt: skip
    report = np.concatenate([beta_, sigma, [] if phi is None else [phi]])
    report_vcov = np.full((len(report), len(report)), NAN)
    p, k = len(beta_), len(sigma)
    report_vcov[:p, :p] = vcov_
    if covariance_vcov is not None:
        report_vcov[p : p + k, p : p + k] = covariance_vcov
        report_vcov[:p, p:] = report_vcov[p:, :p] = 0.0
    if phi is not None:
        report_vcov[-1, :-1] = report_vcov[:-1, -1] = 0.0
        report_vcov[-1, -1] = phi_se**2
    df_model = p + k + (phi is not None)
    numbers: dict[str, Any] = {
        "gamma": np.empty(0),
        "loglik_saturated": None,
        "df_model": df_model,
        "df_resid": n_obs - df_model,
        "singular": False,
        "converged": True,
        "df_satterthwaite": None,
        "vcov_derivative": None,
        "covariance_vcov": None,
    } | more
    estimate = Estimate(
        beta=beta_, vcov_fixed=vcov_, phi=phi, factors=tuple(factors), report=report, report_vcov=report_vcov,
        loglik=loglik, n_obs=n_obs, null_loglik=null_loglik, null_df=null_df, notes=(),
        certificate=Certificate(1e-12, 0.4, exact=True, evaluations=9, row_passes=0.0, seconds={"search": 0.004}),
        **numbers,
    )  # fmt: skip
    keep = tuple(kept) if kept is not None else (True,) * len(terms)
    mu = SimpleNamespace(parameter="mu", columns=named(terms), kept=keep, offset=None)
    recipe = SimpleNamespace(
        spec=SimpleNamespace(formula=formula, family=FAMILIES[family], method=METHODS[method], residual=None),
        predictors=(mu,),
        factors=tuple(
            SimpleNamespace(
                name=f.name,
                keys=tuple(level.columns),
                levels=level,
                terms=tuple(SimpleNamespace(structure=one, columns=()) for one in f.structures),
            )
            for f, level in zip(factors, levels, strict=True)
        ),
    )
    return Fit(
        recipe=_Recipe(**vars(recipe)),  # type: ignore[arg-type]
        estimate=estimate,
        notes=notes,
        n_dropped=n_dropped,
        seconds=0.009,
        control=Control(),
        call=Call((formula,), family=family, method=method),
        groups=tuple(GroupSize(f.name, level.height, 9, 9.0, 9) for f, level in zip(factors, levels, strict=True)),
        fingerprint=Fingerprint(moments),
    )


class _Recipe(SimpleNamespace):
    """The part of a recipe that the tables read."""

    def predictor(self, parameter: str) -> SimpleNamespace | None:
        return next((p for p in self.predictors if p.parameter == parameter), None)

    def coefficients(self, parameter: str) -> tuple[tuple[str, bool], ...]:
        found = self.predictor(parameter)
        assert found is not None
        return tuple((column.name, kept) for column, kept in zip(found.columns, found.kept, strict=True))


def scalar(name: str, variance: float, modes: Sequence[float], sd: float = 1.0) -> FactorEstimate:
    """A random intercept."""
    g = len(modes)
    return FactorEstimate(
        name,
        ("Intercept",),
        (np.array([[variance]]),),
        ("us",),
        np.array([modes], dtype=float),
        np.full((1, 1, g), sd**2),
    )


@pytest.fixture
def build() -> Callable[..., Fit]:
    return make_fit


@pytest.fixture
def pig() -> Fit:
    """Growth of 48 pigs: Stata 17 Mixed-Effects Reference Manual, `mixed weight week || id:` (ML)."""
    modes = np.linspace(-6.7, 6.7, 48)
    return make_fit(
        ["Intercept", "week"],
        [19.35561, 6.209896],
        [[0.356893365120336, -0.00760983400546572], [-0.00760983400546572, 0.00152196680109312]],
        formula="weight ~ week + (1 | id)",
        method="ml",
        factors=[scalar("id", 14.81751, modes.tolist())],
        levels=[pl.DataFrame({"id": range(1, 49)})],
        covariance_vcov=[[3.124226**2]],
        phi=4.383264**0.5,
        phi_se=0.3163348 / (2 * 4.383264**0.5),
        loglik=-1014.92679357826,
        null_loglik=-1251.2505759545,
        null_df=3,
        n_obs=432,
    )


@pytest.fixture
def sleepstudy() -> Fit:
    """Reaction ~ Days + (Days | Subject), REML: lme4 1.1-31; Satterthwaite df from lmerTest 3.1-3."""
    covariance = np.array([[612.089938036242, 9.60433369221589], [9.60433369221589, 35.0716604500447]])
    subjects = pl.DataFrame({"Subject": pl.Series(["308", "309", "310"], dtype=pl.Enum(["308", "309", "310"]))})
    factor = FactorEstimate(
        "Subject",
        ("Intercept", "Days"),
        (covariance,),
        ("us",),
        np.array([[2.2585656, -40.3985802, -38.96024902], [9.198976, -8.619681, -5.448891]]),
        np.tile(np.diag([145.7, 5.3])[:, :, None], (1, 1, 3)),
    )
    return make_fit(
        ["Intercept", "Days"],
        [251.405104848485, 10.4672859595964],
        [[46.5745718265252, -1.45109568529676], [-1.45109568529676, 2.38946330929334]],
        formula="Reaction ~ Days + (Days | Subject)",
        method="reml",
        factors=[factor],
        levels=[subjects],
        covariance_vcov=np.diag([288.0**2, 46.0**2, 14.0**2]),
        phi=25.5918156286718,
        phi_se=1.51,
        df_satterthwaite=np.array([17.0000051947099, 16.9999990263063]),
        loglik=-871.814135979245,
        null_loglik=-946.8318,
        null_df=3,
        n_obs=180,
    )


@pytest.fixture
def ticks() -> Fit:
    """A Poisson model in the shape of grouseticks: `TICKS ~ YEAR + (1 | LOCATION)`, one dropped column."""
    return make_fit(
        ["Intercept", "YEAR[T.96]", "YEAR[T.97]", "twice"],
        [0.6488, 1.1667, -0.9786],
        np.diag([0.184848, 0.1, 0.12]) ** 2,
        formula="TICKS ~ YEAR + twice + (1 | LOCATION)",
        family="poisson",
        kept=[True, True, True, False],
        factors=[scalar("LOCATION", 1.5, [1.24539, 0.92294, -0.93191])],
        levels=[pl.DataFrame({"LOCATION": ["32", "36", "37"]})],
        covariance_vcov=[[0.3**2]],
        notes=(
            Note("dropped_column", "twice is a multiple of YEAR[T.96].", "Leave it out."),
            Note("info", "All well.", quiet=True),
        ),
        n_dropped=2,
    )


@pytest.fixture
def counts() -> Fit:
    """A negative binomial without random effects whose size is 0.9 ± 0.1."""
    return make_fit(
        ["Intercept", "x"], [1.0, 0.5], np.eye(2) * 0.01, family="negative_binomial", method="ml", phi=0.9, phi_se=0.1
    )
