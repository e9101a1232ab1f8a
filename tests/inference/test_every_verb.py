"""Every verb answers every kind of model, or refuses with an error that says what to do instead.

Kinds and verbs are lists: a new kind of model is a line in KINDS, a new verb one in VERBS, and the law is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm as pg
from polars_glmm import GlmmError
from tests.streaming.same import quietly

GROUPS, EACH = 9, 8


@cache
def rows() -> pl.DataFrame:
    """Responses of every kind over one grouping factor, with its effects in each."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(GROUPS), EACH)
    t, n = np.tile(np.arange(EACH), GROUPS), GROUPS * EACH
    x, f = rng.standard_normal(n).round(2), np.array(["a", "b", "c"])[np.arange(n) % 3]
    eta = 0.3 + 0.5 * x + 0.8 * rng.standard_normal(GROUPS)[g]
    latent = np.stack([np.zeros(n), eta, -0.2 - eta]) + rng.gumbel(size=(3, n))
    count = rng.poisson(np.exp(eta + 0.5)) * (rng.random(n) > 0.25)
    time, seen_until = rng.weibull(1.5, n) * np.exp(0.5 * eta), rng.uniform(0.5, 4.0, n)
    return pl.DataFrame(
        {
            "g": [f"g{k}" for k in g], "h": [f"g{(k + i) % GROUPS}" for i, k in enumerate(g)], "t": t, "x": x, "f": f,
            "y": eta + 0.7 * rng.standard_normal(n), "count": rng.poisson(np.exp(eta)), "zeros": count,
            "amount": count * np.round(np.exp(0.3 * x), 3),
            "kind": np.array(["no", "may", "yes"])[latent.argmax(0)],
            "rank": np.digitize(eta + rng.logistic(size=n), [-0.5, 0.8]),
            "time": np.minimum(time, seen_until), "event": (time <= seen_until).astype(int),
            "curve": (8.0 + eta) / (1.0 + np.exp((3.0 - t) / 1.2)) + 0.3 * rng.standard_normal(n),
        }
    )  # fmt: skip


def related() -> pl.DataFrame:
    """Three families, and a parent without rows."""
    near = [(i, j) for i in range(GROUPS) for j in range(i + 1) if i // 3 == j // 3]
    pairs = [(f"g{i}", f"g{j}", 1.0 if i == j else 0.5) for i, j in near]
    pairs.append(("g0", "parent", 0.5))
    return pl.DataFrame(pairs, schema=["level", "other_level", "value"], orient="row")


TERMS = " ~ x + f + (1 | g)"
KINDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "gaussian": (("y" + TERMS,), {}),
    "known": (("y" + TERMS,), {"known": {"g": related()}}),
    "known counts": (("count" + TERMS,), {"known": {"g": related()}, "family": "poisson"}),
    "categorical": (("kind ~ x + f + (1 |p| g)",), {"family": "categorical"}),
    "cumulative": (("rank" + TERMS,), {"family": "cumulative"}),
    "zero-inflated": (("zeros" + TERMS, "zi ~ 1"), {"family": "poisson"}),
    "zero-inflated by group": (("zeros" + TERMS, "zi ~ 1 + (1 | g)"), {"family": "poisson"}),
    "zero-inflated with a dispersion": (("zeros" + TERMS, "zi ~ x"), {"family": "negative_binomial"}),
    "tweedie": (("amount" + TERMS,), {"family": pg.Tweedie(power=1.5)}),
    "hurdle": (("zeros" + TERMS, "zi ~ x"), {"family": "truncated_poisson"}),
    "hurdle of sizes": (("zeros" + TERMS, "zi ~ x"), {"family": "truncated_negative_binomial"}),
    "student_t": (("y" + TERMS,), {"family": pg.StudentT(df=None)}),
    "survival": (("surv(time, event)" + TERMS,), {"family": "weibull"}),
    "nonlinear": (("curve ~ SSlogis(t, Asym, xmid, scal)", "Asym ~ 1 + (1 | g)"), {}),
    "residual": (("y" + TERMS,), {"residual": "ar1(t | g)"}),
    "residual beside known": (("y ~ x + f + (1 | g)",), {"residual": "ar1(t | g)", "known": {"g": related()}}),
    "members": (("y ~ x + f + (1 | mm(g, h))",), {}),
    "members of counts": (("count ~ x + f + (1 | mm(g, h))",), {"family": "poisson"}),
}


@cache
def fitted(kind: str) -> Any:
    formulas, options = KINDS[kind]
    return quietly(rows(), *formulas, **options)


def new() -> pl.DataFrame:
    return rows().head(4).with_columns(g=pl.lit("new"))


Verb = Callable[[Any, pl.DataFrame], Any]
VERBS: dict[str, Verb] = {
    **{f"fixef {df}": lambda fit, _, df=df: fit.fixef(df=df) for df in (None, "satterthwaite", "kenward_roger", 9.0)},
    **{f"fixef {kind}": lambda fit, _, kind=kind: fit.fixef(vcov=kind) for kind in ("CR0", "CR1", "CR2", "CR3")},
    "varcorr": lambda fit, _: fit.varcorr(),
    "dispersion": lambda fit, _: fit.dispersion(),
    "ranef": lambda fit, _: fit.ranef("g"),
    "coef": lambda fit, _: fit.coef("g"),
    "glance": lambda fit, _: fit.glance(conditional=True),
    "vcov": lambda fit, _: fit.vcov(full=True),
    "diagnose": lambda fit, _: fit.diagnose(),
    "test": lambda fit, _: fit.test("x"),
    "test jointly": lambda fit, _: fit.test("f", joint=True),
    **{f"test terms {k}": lambda fit, _, k=k: fit.test_terms(k) for k in (1, 2, 3)},
    "test terms by ratio": lambda fit, _: fit.test_terms(method="lrt"),
    "test terms by bootstrap": lambda fit, _: fit.test_terms(method="bootstrap", n=2, rng=1),
    "anova": lambda fit, _: pg.anova(fit.update(". ~ . - f"), fit),
    "confint": lambda fit, _: fit.confint(),
    "confint by profile": lambda fit, _: fit.confint("profile", which=["random"]),
    "profile": lambda fit, _: fit.profile("random", points=3),
    "bootstrap": lambda fit, _: fit.bootstrap(2, 1).drop("value"),
    "bootstrap groups": lambda fit, _: fit.bootstrap(2, 1, kind="cluster").drop("value"),
    "grid": lambda fit, _: pg.grid(fit, f="levels"),
    "means": lambda fit, _: fit.marginal_means("f"),
    "means of the link": lambda fit, _: fit.marginal_means("f", scale="link"),
    "means over groups": lambda fit, _: fit.marginal_means("f", random="integrate"),
    "contrasts": lambda fit, _: fit.marginal_means("f", contrast="pairwise", adjust="tukey"),
    **{f"predictions {r}": lambda fit, _, r=r: fit.predictions(random=r) for r in ("none", "all", "integrate")},
    "predictions by row": lambda fit, df: fit.predictions(df, average=False),
    "predictions of the link": lambda fit, _: fit.predictions(scale="link"),
    "comparisons": lambda fit, _: fit.comparisons(variables="f", comparison="ratio"),
    "slopes": lambda fit, _: fit.slopes(variables="x"),
    "slopes by row": lambda fit, df: fit.slopes(df, "x", average=False),
    **{
        f"predict {kind}": lambda fit, df, kind=kind: fit.predict(df, kind=kind, std_error=kind != "class")
        for kind in ("response", "link", "mu", "phi", "zi", "zero", "class", "cumulative", "mean", "median")
    },
    "predict jointly": lambda fit, df: fit.predict(df, std_error=True, uncertainty="joint"),
    "predict with limits": lambda fit, df: fit.predict(df, interval="confidence"),
    "predict responses": lambda fit, df: fit.predict(df, interval="prediction"),
    "predict over groups": lambda fit, df: fit.predict(df, random="integrate", std_error=True),
    "predict new groups": lambda fit, _: fit.predict(new(), new_levels="zero", interval="prediction"),
    "simulate": lambda fit, df: fit.simulate(pl.concat([df, new()]), 2, 1),
    "augment": lambda fit, df: fit.augment(df),
    **{
        f"quantile residuals {g}": lambda fit, df, g=g: fit.augment(df, quantile=True, given=g, rng=1)
        for g in ("modes", "zero", "integrate")
    },
    "leverage": lambda fit, df: fit.augment(df, leverage=True),
    "check": lambda fit, _: fit.check(n=9, rng=1),
    "check modes": lambda fit, _: fit.check("ranef_normality", n=9, rng=1),
    "check time": lambda fit, _: fit.check("autocorrelation", n=9, rng=1, time="t"),
    **{f"influence {m}": lambda fit, _, m=m: fit.influence(method=m) for m in ("exact", "one_step", "case")},
    "influence on terms": lambda fit, _: fit.influence_terms(),
    "integrals": lambda fit, _: fit.laplace_error(),
    "integrals of levels": lambda fit, _: fit.laplace_error(per="level"),
    "integrals by draws": lambda fit, _: fit.laplace_error("importance", n=200, rng=1),
    "r2": lambda fit, _: fit.r2(),
    "icc": lambda fit, _: fit.icc(),
    "repca": lambda fit, _: fit.repca(),
    "rlrt": lambda fit, _: pg.rlrt(fit, n=50, rng=1),
    "folds of rows": lambda fit, _: fit.cross_validate(3, rng=1),
    "folds of groups": lambda fit, _: fit.cross_validate(3, group="g", rng=1),
    "pool": lambda fit, _: pg.pool([fit, fit]),
    "pool variances": lambda fit, _: pg.pool([fit, fit], which="random"),
    "pooled test": lambda fit, _: pg.pool_test([fit, fit], ["f"]),
    "posterior": lambda fit, _: fit.posterior(2, 1),
    "posterior of coefficients": lambda fit, _: fit.posterior(2, 1, include="beta"),
    **{f"predictive {r}": lambda fit, df, r=r: fit.predictive(df, 2, 1, random=r) for r in ("all", "new", "none")},
    "to bambi": lambda fit, _: fit.to_bambi(),
    "score": lambda fit, df: fit.score(df),
    "score new groups": lambda fit, df: fit.score(df.with_columns(g="n" + pl.col("g"))),
    "with_ranef": lambda fit, df: fit.with_ranef(df),
    "unseen": lambda fit, _: fit.unseen(new()),
    "to_sql": lambda fit, _: fit.to_sql("t"),
    "distribution": lambda fit, df: fit.distribution(df.head(2), [0, 1]),
    "counts": lambda fit, df: fit.count_table(df),
    "report": lambda fit, _: fit.report("markdown"),
    "update": lambda fit, df: fit.update(frame=df),
    "drift": lambda fit, _: pg.drift(fit, fit),
    "summary": lambda fit, _: fit.summary(),
    "html": lambda fit, _: fit._repr_html_(),
    **{f"plot.{name}": lambda fit, _, name=name: getattr(fit.plot, name)() for name in (
        "caterpillar", "qq_ranef", "forest", "residuals", "shrinkage", "counts", "mixture")},
    "plot.effects": lambda fit, _: fit.plot.effects("f"),
    "plot.trajectories": lambda fit, _: fit.plot.trajectories("x"),
}  # fmt: skip

REMEDY = re.compile(
    r"\w\(|\w=|[Uu]se |[Nn]ame |[Ff]it |[Dd]rop |[Ll]eave |pip install|needs? |Its (columns|factors)|it has|no columns"
)
"""What an error does who refuses: it calls a verb or an argument by name, or says what there is."""

OF_ROWS = ("glance", "leverage", "check", "influence exact", "influence case", "influence on terms", "predict jointly")
OF_DRAWS = ("posterior", "posterior of coefficients", "predictive all", "predictive new", "predictive none")
OF_MEANS = tuple(
    verb
    for verb in VERBS
    if verb.startswith(("means", "contrasts", "predictions", "comparisons", "slopes", "predict over groups"))
)
"""Of kinds whose mean, or whose probabilities, several numbers decide on."""
ROBUST = tuple(f"fixef {kind}" for kind in ("CR0", "CR1", "CR2", "CR3"))
ANSWERED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("zero-inflated", "zero-inflated by group", "hurdle", "survival"), OF_MEANS),
    "zero-inflated with a dispersion": (*OF_MEANS, *OF_DRAWS, *ROBUST, "predict jointly"),
    "hurdle of sizes": (*OF_MEANS, *OF_DRAWS),
    "tweedie": (*OF_DRAWS, *ROBUST, "predict jointly", "r2", "icc"),
    "student_t": (*OF_DRAWS, "r2", "icc"),
    "categorical": (*OF_MEANS, *OF_DRAWS, "icc", "r2", "predict jointly"),
    "cumulative": (*OF_MEANS, *OF_DRAWS, "predict jointly"),
    "nonlinear": (*ROBUST, *(verb for verb in OF_ROWS if verb != "predict jointly")),
    "residual": (*OF_ROWS, *OF_DRAWS, *ROBUST, "influence one_step", "score", "score new groups", "integrals"),
    "residual beside known": (*OF_ROWS, *OF_DRAWS, "score", "integrals"),
    "members": (*OF_ROWS, *OF_DRAWS, "score", "score new groups", "integrals"),
    "members of counts": (*OF_ROWS, *OF_DRAWS, "score", "score new groups", "integrals by draws"),
}
"""What a kind has an answer to, and may not refuse."""


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.one_in(131)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_verb_answers_or_says_what_to_do(kind: str, verb: str) -> None:
    """An answer has no NaN, which is no answer, and its probabilities and errors are in their ranges."""
    try:
        found = VERBS[verb](fitted(kind), rows())
    except GlmmError as error:
        if verb in ANSWERED.get(kind, ()):
            pytest.fail(f"refused: {error}")
        if not REMEDY.search(str(error).replace("mm(g, h)", "")):
            pytest.fail(f"no remedy: {error}")
        return
    if isinstance(found, pl.DataFrame):
        for name in found.columns:
            if found.schema[name].is_float():
                assert not found[name].is_nan().any(), name
        for name in ("std_error", "prediction_std_error"):
            if name in found.columns:
                assert (found[name].drop_nulls() >= 0.0).all()
        if "p_value" in found.columns:
            assert found["p_value"].drop_nulls().is_between(0.0, 1.0).all()
