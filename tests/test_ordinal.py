"""Ordered categories from frame to answer: responses, routes, thresholds, what is predicted, drawn and said."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import Control, Cumulative, Memory, Rows
from polars_glmm.errors import ColumnError, FormulaError, ModelError, ResponseError

LABELS = ("low", "mid", "high", "top")
FORMULA = "y ~ x + f + (1 | g)"


@cache
def frame(n: int = 400, seed: int = 5) -> pl.DataFrame:
    """Four categories in 20 groups, and a column `two` of two of them."""
    rng = np.random.default_rng(seed)
    g, x, f = rng.integers(0, 20, n), rng.standard_normal(n).round(1), rng.integers(0, 3, n)
    eta = 0.8 * x + 0.5 * (f == 1) - 0.4 * (f == 2) + 0.9 * rng.standard_normal(20)[g]
    y = (eta[None] + rng.logistic(size=n) > np.array([-1.0, 0.4, 1.8])[:, None]).sum(0)
    return pl.DataFrame(
        {"y": [LABELS[k] for k in y], "x": x, "f": [f"f{k}" for k in f], "g": [f"g{k}" for k in g], "number": y}
    ).with_columns(pl.col("y").cast(pl.Enum(LABELS)), two=pl.col("number") > 1)


@cache
def fitted(*formulas: str, **named: Any) -> Any:
    return polars_glmm.fit(frame(), *formulas, family="cumulative", **named)


def test_every_route_gives_the_same_fit():
    whole = fitted(FORMULA)
    coarse = frame().with_columns(pl.col("x").round(0))
    counted = coarse.group_by("y", "x", "f", "g").len("n").sample(fraction=1.0, shuffle=True, seed=1)
    uncounted = Control(rows=Rows(compress=False))
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
    assert frame().lazy().glmm.explain(FORMULA, family="cumulative", control=disk).plan.route == "disk"
    plain = polars_glmm.fit(coarse, FORMULA, family="ordinal", control=uncounted)
    for other in (
        polars_glmm.fit(frame().lazy(), FORMULA, family="cumulative"),
        polars_glmm.fit(frame().lazy(), FORMULA, family="cumulative", control=disk),
        polars_glmm.fit(frame(), FORMULA, family="cumulative", control=uncounted),
    ):
        assert other.loglik == pytest.approx(whole.loglik, abs=1e-9)
        assert_allclose(other.fixef()["estimate"], whole.fixef()["estimate"], rtol=1e-6)
        assert_allclose(other.fixef()["std_error"], whole.fixef()["std_error"], rtol=1e-4)
    for other in (
        polars_glmm.fit(coarse, FORMULA, family="cumulative"),
        polars_glmm.fit(counted, FORMULA, family="cumulative", frequency="n"),
    ):
        assert other.loglik == pytest.approx(plain.loglik, abs=1e-9)
        assert_allclose(other.fixef()["estimate"], plain.fixef()["estimate"], rtol=1e-6)


def test_fits_by_key_are_those_of_each_key():
    both = pl.concat([frame().with_columns(k=pl.lit("a")), frame(300, 9).with_columns(k=pl.lit("b"))])
    made = polars_glmm.fit(both, FORMULA, family="cumulative", by="k")
    for key, rows in (("a", frame()), ("b", frame(300, 9))):
        alone = polars_glmm.fit(rows, FORMULA, family="cumulative")
        own = made.fixef().filter(k=key)
        assert own["parameter"].to_list() == ["mu"] * 3 + ["thresholds"] * 3
        assert_allclose(own["estimate"], alone.fixef()["estimate"], rtol=1e-6)
        told = both.glmm.predict(made).filter(k=key)
        assert_allclose(told["prediction_mid"], rows.glmm.predict(alone)["prediction_mid"], rtol=1e-6)
    with pytest.raises(ModelError, match="kind='class' is of one fit"):
        both.glmm.predict(made, kind="class")


def test_two_categories_are_a_binomial_model():
    ordinal = polars_glmm.fit(frame(), "two ~ x + f + (1 | g)", family="cumulative", link="probit")
    binomial = polars_glmm.fit(frame(), "two ~ x + f + (1 | g)", family="binomial", link="probit")
    assert ordinal.loglik == pytest.approx(binomial.loglik, abs=1e-8)
    ours, theirs = ordinal.fixef(), binomial.fixef()
    assert_allclose(ours["estimate"][:3], theirs["estimate"][1:], rtol=1e-5)
    assert ours["term"][3] == "false|true"
    assert ours["estimate"][3] == pytest.approx(-theirs["estimate"][0], rel=1e-5)
    assert_allclose(ours["std_error"][:3], theirs["std_error"][1:], rtol=1e-4)


def test_the_intercept_is_the_thresholds_and_the_coding_stays():
    terms = ["x", "f[T.f1]", "f[T.f2]"]
    for formula in (FORMULA, "y ~ 0 + x + f + (1 | g)"):
        table = fitted(formula).fixef()
        assert table.filter(parameter="mu")["term"].to_list() == terms
        assert table.filter(parameter="thresholds")["term"].to_list() == ["low|mid", "mid|high", "high|top"]
        assert fitted(formula).loglik == pytest.approx(fitted(FORMULA).loglik, abs=1e-9)
    constant = frame().with_columns(one=pl.lit(1.0))
    with pytest.warns(polars_glmm.FitWarning, match="'one' is determined"):
        made = polars_glmm.fit(constant, "y ~ x + one + (1 | g)", family="cumulative")
    assert made.fixef().filter(term="one")["estimate"].to_list() == [None]


def logits(rows: pl.DataFrame, labels: tuple[str, ...] = LABELS) -> np.ndarray:
    shares = np.cumsum([rows.filter(pl.col("y") == label).height for label in labels])[:-1] / rows.height
    return np.log(shares / (1.0 - shares))


def test_thresholds_of_each_group_are_its_cumulative_shares():
    """Nominal effects without anything else are saturated: α_k(f) is the logit of the share up to k."""
    made = fitted("y ~ 1", "thresholds ~ f")
    table = made.fixef()
    assert table["term"].to_list()[:4] == ["low|mid", "mid|high", "high|top", "low|mid:f[T.f1]"]
    estimate = table["estimate"].to_numpy().reshape(3, 3)
    own = [logits(rows) for rows in (frame().filter(f=label) for label in ("f0", "f1", "f2"))]
    assert_allclose(estimate[0], own[0], atol=1e-6)
    assert_allclose(estimate[1], own[1] - own[0], atol=1e-6)
    assert_allclose(estimate[2], own[2] - own[0], atol=1e-6)
    told = frame().glmm.predict(made, kind="cumulative")
    assert_allclose(told.filter(f="f2")["prediction_mid"][0], 1.0 / (1.0 + np.exp(-own[2][1])), rtol=1e-6)


def test_scale_effects_reproduce_two_groups_of_three_categories():
    rows = frame().filter(pl.col("f") != "f2", pl.col("y") != "top").with_columns(pl.col("y").cast(pl.Enum(LABELS[:3])))
    made = polars_glmm.fit(rows, "y ~ f", "disc ~ f", family="cumulative")
    first, second = (logits(rows.filter(f=label), LABELS[:3]) for label in ("f0", "f1"))
    disc = (second[1] - second[0]) / (first[1] - first[0])
    expected = {"mu": first[0] - second[0] / disc, "disc": np.log(disc)}
    table = made.fixef()
    for parameter, value in expected.items():
        assert table.filter(parameter=parameter)["estimate"].to_list() == pytest.approx([value], rel=1e-5)
    assert_allclose(table.filter(parameter="thresholds")["estimate"], first, rtol=1e-5)
    p = rows.glmm.predict(made).filter(f="f1")
    assert_allclose(p["prediction_low"][0], 1.0 / (1.0 + np.exp(-second[0])), rtol=1e-5)


def test_equidistant_and_symmetric_thresholds_are_what_they_say():
    flexible = fitted(FORMULA)
    for spacing, names in (("equidistant", ["low|mid", "spacing"]), ("symmetric", ["central", "spacing.1"])):
        made = polars_glmm.fit(frame(), FORMULA, family=Cumulative(thresholds=spacing))
        table = made.fixef().filter(parameter="thresholds")
        assert table["term"].to_list() == names
        assert flexible.loglik - 3.0 < made.loglik <= flexible.loglik + 1e-9
        j = Cumulative(thresholds=spacing).jacobian(4)
        held = dict(zip(["low|mid", "mid|high", "high|top"], j @ table["estimate"].to_numpy(), strict=True))
        there = fitted(FORMULA, fixed=Frozen({f"thresholds: {name}": value for name, value in held.items()}))
        assert there.loglik == pytest.approx(made.loglik, abs=1e-7)
    three = frame().filter(pl.col("y") != "top").with_columns(pl.col("y").cast(pl.Enum(LABELS[:3])))
    same = [
        polars_glmm.fit(three, "y ~ x", family=Cumulative(thresholds=s)).loglik for s in ("flexible", "equidistant")
    ]
    assert same[0] == pytest.approx(same[1], abs=1e-8)


class Frozen(dict[str, float]):
    """A mapping that can be the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def test_thresholds_are_started_from_and_held_by_name():
    whole = fitted(FORMULA)
    again = polars_glmm.fit(frame(), FORMULA, family="cumulative", start=whole)
    assert again.loglik == pytest.approx(whole.loglik, abs=1e-9)
    held = polars_glmm.fit(frame(), FORMULA, family="cumulative", fixed={"thresholds: mid|high": 0.5, "x": 1.0})
    table = dict(held.fixef().select("term", "estimate").iter_rows())
    assert (table["mid|high"], table["x"]) == (0.5, 1.0)
    assert held.fixef().filter(term="mid|high")["std_error"].to_list() == [None]
    assert held.glance()["df_model"].item() == whole.glance()["df_model"].item() - 2
    assert held.loglik < whole.loglik
    objective = polars_glmm.objective(frame(), FORMULA, family="cumulative")
    at = dict.fromkeys(objective.names, 0.3) | {"thresholds: low|mid": -1.0, "thresholds: high|top": 2.0}
    slopes, h = objective.gradient(at), 1e-5
    for name, slope in zip(objective.names, slopes, strict=True):
        up, down = (objective.loglik(at | {name: at[name] + s}) for s in (h, -h))
        assert slope == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-5)


def test_quadrature_agrees_with_itself_and_crossed_factors_are_fitted():
    nine = polars_glmm.fit(frame(), FORMULA, family="cumulative", method=polars_glmm.AGQ(nodes=9))
    more = polars_glmm.fit(frame(), FORMULA, family="cumulative", method=polars_glmm.AGQ(nodes=25))
    assert nine.loglik == pytest.approx(more.loglik, abs=1e-4)
    assert fitted(FORMULA).loglik == pytest.approx(more.loglik, abs=0.5)
    crossed = fitted("y ~ x + (x | g) + (1 | f)", link="cloglog")
    assert crossed.varcorr()["group"].unique().sort().to_list() == ["f", "g"]


@pytest.mark.parametrize("kind", ["response", "cumulative", "mean", "link"])
@pytest.mark.parametrize("formulas", [(FORMULA,), ("y ~ x + (1 | g)", "thresholds ~ f"), (FORMULA, "disc ~ x")])
def test_standard_errors_are_those_of_the_delta_method(kind, formulas):
    """Every column moved by its coefficients, one at a time, against the covariance matrix of all of them."""
    made, rows = fitted(*formulas), frame().head(6)
    told = rows.glmm.predict(made, kind=kind, random="none", std_error=True)
    names = [name for name in told.columns if name.endswith("_std_error")]
    table = made.fixef()
    labels = [t if p == "mu" else f"{p}: {t}" for p, t in table.select("parameter", "term").iter_rows()]
    vcov = made.vcov()["covariance"].to_numpy().reshape(len(labels), len(labels))
    values = table["estimate"].to_numpy()
    h, slopes = 1e-5, []
    for k in range(len(values)):
        ends = [by_hand(made, rows, kind, values + s * h * (np.arange(len(values)) == k)) for s in (1, -1)]
        slopes.append((ends[0] - ends[1]) / (2 * h))
    g = np.array(slopes)
    expected = np.sqrt(np.einsum("pmn,pq,qmn->mn", g, vcov, g))
    assert_allclose(told.select(names).to_numpy().T, expected, rtol=1e-5, atol=1e-9)
    assert_allclose(
        told.select(name.removesuffix("_std_error") for name in names).to_numpy().T,
        by_hand(made, rows, kind, values), rtol=1e-9, atol=1e-12,
    )  # fmt: skip


def by_hand(made: Any, rows: pl.DataFrame, kind: str, values: np.ndarray) -> np.ndarray:
    """Predictions from coefficients in the order of fixef(), written out for the models above."""
    table = made.fixef()
    x = rows["x"].to_numpy()
    f = {f"f[T.{k}]": (rows["f"] == k).to_numpy().astype(float) for k in ("f1", "f2")}
    columns = {"x": x, "Intercept": np.ones_like(x), **f}
    eta, delta, alpha = np.zeros_like(x), np.zeros_like(x), np.zeros((3, len(x)))
    cuts = ["low|mid", "mid|high", "high|top"]
    for (parameter, term), value in zip(table.select("parameter", "term").iter_rows(), values, strict=True):
        if parameter == "thresholds":
            cut, _, column = term.partition(":")
            alpha[cuts.index(cut)] += value * columns[column or "Intercept"]
        elif parameter == "disc":
            delta += value * columns[term]
        else:
            eta += value * columns[term]
    if kind == "link":
        return eta[None]
    cumulative = 1.0 / (1.0 + np.exp(-(alpha - eta) * np.exp(delta)))
    if kind == "cumulative":
        return cumulative
    whole = np.concatenate([np.zeros((1, len(x))), cumulative, np.ones((1, len(x)))])
    p = np.diff(whole, axis=0)
    return p if kind == "response" else (p * np.arange(1, 5)[:, None]).sum(0)[None]


def test_kinds_of_predictions_belong_together():
    made, rows = fitted(FORMULA), frame()
    p = rows.glmm.predict(made, interval="confidence")
    each = p.select(f"prediction_{label}" for label in LABELS).to_numpy()
    assert_allclose(each.sum(1), 1.0, rtol=1e-12)
    for label in LABELS:
        low, high = p[f"prediction_{label}_low"], p[f"prediction_{label}_high"]
        assert ((low > 0.0) & (low < p[f"prediction_{label}"]) & (p[f"prediction_{label}"] < high) & (high < 1.0)).all()
    chosen = rows.glmm.predict(made, kind="class")["prediction"]
    assert chosen.dtype == rows["y"].dtype
    assert chosen.to_physical().to_list() == each.argmax(1).tolist()
    lazy = rows.lazy().glmm.predict(made, kind="class").collect()
    assert lazy["prediction"].to_list() == chosen.to_list()
    missing = rows.head(3).with_columns(x=pl.when(pl.col("x") == rows["x"][0]).then(None).otherwise("x"))
    assert missing.glmm.predict(made)["prediction_low"].null_count() == (rows["x"].head(3) == rows["x"][0]).sum()
    for named, words in (
        ({"kind": "phi"}, "use 'response', 'link', 'class', 'cumulative' or 'mean'"),
        ({"interval": "prediction"}, "the probability of every category"),
        ({"random": "integrate", "kind": "mean"}, "random='integrate'"),
        ({"kind": "class", "std_error": True}, "no standard error"),
    ):
        with pytest.raises(ModelError, match=words):
            rows.glmm.predict(made, **named)


def test_residuals_are_on_the_scale_of_probability():
    made, rows = fitted(FORMULA), frame()
    shown, p = rows.glmm.augment(made), rows.glmm.predict(made).select(f"prediction_{label}" for label in LABELS)
    own = p.to_numpy()[np.arange(rows.height), rows["number"].to_numpy()]
    assert_allclose(shown["fitted"], own, rtol=1e-12)
    first = p.row(0)
    y = rows["number"][0]
    assert shown["resid"][0] == pytest.approx(sum(first[:y]) - sum(first[y + 1 :]))
    assert shown["resid_deviance"].abs()[0] == pytest.approx(np.sqrt(-2.0 * np.log(own[0])))
    assert abs(shown["resid"].mean()) < 0.05
    assert 0.7 < shown["resid_pearson"].std() < 1.1


def test_draws_have_the_dtype_of_the_response_and_the_law_of_the_model():
    rows = frame()
    drawn = rows.glmm.simulate(fitted(FORMULA), n=2, rng=1)
    assert drawn["sim_1"].dtype == rows["y"].dtype
    assert drawn["sim_1"].to_list() != drawn["sim_2"].to_list()
    again = fitted(FORMULA).update(frame=drawn.with_columns(y="sim_1"))
    assert again.converged
    for dtype, column in ((pl.Int8, "number"), (pl.Boolean, "two")):
        typed = rows.with_columns(pl.col(column).cast(dtype))
        made = polars_glmm.fit(typed, f"{column} ~ x + (1 | g)", family="cumulative")
        assert typed.glmm.simulate(made, rng=2)["sim_1"].dtype == dtype
        assert typed.glmm.predict(made, kind="class")["prediction"].dtype == dtype
    many = pl.concat([rows.head(1)] * 4000)
    at = many.glmm.simulate(fitted(FORMULA), rng=3, random="conditional")
    p = rows.head(1).glmm.predict(fitted(FORMULA))
    for label in LABELS:
        assert (at["sim_1"] == label).mean() == pytest.approx(p[f"prediction_{label}"].item(), abs=0.03)


def test_a_response_says_its_categories_or_is_refused():
    rows = frame()
    integers = polars_glmm.fit(rows, "number ~ x + (1 | g)", family="cumulative")
    assert any("are categories in their order: '0', '1', '2' and '3'" in note.text for note in integers.notes)
    assert integers.fixef().filter(parameter="thresholds")["term"].to_list() == ["0|1", "1|2", "2|3"]
    for dtype in (pl.String, pl.Categorical):
        with pytest.raises(ColumnError, match=r"order of its categories is not known.*pl\.Enum"):
            polars_glmm.fit(rows.with_columns(pl.col("y").cast(dtype)), "y ~ x", family="cumulative")
    with pytest.raises(ColumnError, match="Make it an Enum"):
        polars_glmm.fit(rows.with_columns(pl.col("number").cast(pl.Float64)), "number ~ x", family="cumulative")
    for source in (rows, rows.lazy()):
        with pytest.raises(ResponseError, match="no row in the category 'mid'"):
            polars_glmm.fit(source.filter(pl.col("y") != "mid"), "y ~ x + (1 | g)", family="cumulative")
    with pytest.raises(ResponseError, match="one category only"):
        polars_glmm.fit(rows.filter(pl.col("number") == 1), "number ~ x", family="cumulative")
    with pytest.raises(ColumnError, match="is computed"):
        polars_glmm.fit(rows, "number + 1 ~ x", family="cumulative")


def test_formulas_that_thresholds_cannot_have_are_refused():
    for formulas, words in (
        (("y ~ x + (1 | g)", "thresholds ~ x"), "x stands in the first formula and in that of the thresholds"),
        (("y ~ x", "thresholds ~ f + (1 | g)"), "thresholds takes no random effects"),
        (("y ~ x", "thresholds ~ offset(x)"), "Thresholds take no offset"),
        (("y ~ x", "disc ~ (1 | g)"), "disc takes no random effects"),
    ):
        with pytest.raises(ModelError, match=words):
            polars_glmm.fit(frame(), *formulas, family="cumulative")
    with pytest.raises(FormulaError, match="no dispersion phi"):
        polars_glmm.fit(frame(), "y ~ x", "phi ~ x", family="cumulative")
    with pytest.raises(ModelError, match="no link 'log'"):
        polars_glmm.fit(frame(), "y ~ x", family="cumulative", link="log")


def test_what_is_of_numbers_says_so():
    made, rows = fitted(FORMULA), frame()
    for ask in (
        lambda: rows.glmm.distribution(made) if hasattr(rows.glmm, "distribution") else made.distribution(rows),
        lambda: made.check("zero_inflation"),
    ):
        with pytest.raises(ModelError, match="numbers"):
            ask()
    means = made.marginal_means("f", scale="link")
    assert means["estimate"][1] - means["estimate"][0] == pytest.approx(
        made.fixef().filter(term="f[T.f1]")["estimate"].item(), rel=1e-9
    )


def test_pages_name_thresholds_and_the_model_comes_back_from_a_file(tmp_path):
    made = fitted(FORMULA, "disc ~ x")
    text = str(made)
    assert "Thresholds:" in text
    assert "low|mid" in text
    assert "Fixed effects of log disc:" in text
    assert "high|top" in made._repr_html_()
    explained = polars_glmm.explain(frame(), FORMULA, "disc ~ x", family="cumulative")
    assert "low|mid" in str(explained) or "thresholds" in str(explained)
    made.write(tmp_path / "fit.glmm")
    back = polars_glmm.read_fit(tmp_path / "fit.glmm")
    assert back.fixef().equals(made.fixef())
    assert frame().glmm.predict(back).equals(frame().glmm.predict(made))
    spaced = polars_glmm.fit(frame(), FORMULA, family=Cumulative("probit", thresholds="equidistant"))
    spaced.write(tmp_path / "spaced.glmm")
    assert polars_glmm.read_fit(tmp_path / "spaced.glmm").spec.family == spaced.spec.family


def test_tables_know_thresholds():
    made = fitted(FORMULA)
    assert made.confint()["term"].to_list()[-3:] == ["low|mid", "mid|high", "high|top"]
    profiled = made.confint(method="profile").filter(term="mid|high")
    wald = made.confint().filter(term="mid|high")
    assert profiled["conf_low"].item() == pytest.approx(wald["conf_low"].item(), abs=0.2)
    tested = made.test("thresholds: mid|high = thresholds: low|mid")
    assert tested["p_value"].item() < 1e-6
    smaller = fitted("y ~ x + (1 | g)")
    assert polars_glmm.anova(smaller, made)["df"][1] == 2
    drawn = made.bootstrap(n=4, rng=3)
    assert drawn.height >= 4
    assert made.icc()["icc"].item() == pytest.approx(
        made.varcorr()["estimate"][0] / (made.varcorr()["estimate"][0] + np.pi**2 / 3), rel=1e-9
    )


def test_large_effects_that_separate_are_said():
    rows = frame().with_columns(z=(pl.col("number") == 3).cast(pl.Float64))
    with pytest.warns(polars_glmm.FitWarning):
        made = polars_glmm.fit(rows, "y ~ x + z + (1 | g)", family="cumulative")
    assert any("z" in note.text for note in made.notes)


def test_pairs_of_links_mirror_each_other():
    """cloglog of the categories in reverse order is loglog."""
    backwards = frame().with_columns(pl.col("y").cast(pl.String).cast(pl.Enum(LABELS[::-1])))
    one = polars_glmm.fit(frame(), FORMULA, family="cumulative", link="cloglog")
    other = polars_glmm.fit(backwards, FORMULA, family="cumulative", link="loglog")
    assert one.loglik == pytest.approx(other.loglik, abs=1e-8)
    assert_allclose(one.fixef()["estimate"][:3], -other.fixef()["estimate"][:3].to_numpy(), rtol=1e-5)
    pairs = list(itertools.pairwise(LABELS[::-1]))
    assert other.fixef()["term"].to_list()[3:] == [f"{a}|{b}" for a, b in pairs]


def test_robust_errors_of_two_categories_are_those_of_a_binomial_model():
    """CR0, which adjusts nothing: slopes of each cluster's likelihood in thresholds as in an intercept."""
    both = [polars_glmm.fit(frame(), "two ~ x + (1 | g)", family=family) for family in ("cumulative", "binomial")]
    errors = [dict(fit.fixef(vcov=polars_glmm.CR("g", "CR0")).select("term", "std_error").iter_rows()) for fit in both]
    assert errors[0]["x"] == pytest.approx(errors[1]["x"], rel=1e-4)
    assert errors[0]["false|true"] == pytest.approx(errors[1]["Intercept"], rel=1e-4)
