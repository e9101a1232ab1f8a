"""Hypotheses about parameters: what a string says, which rows it makes, and what their tests say."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm, t

from polars_glmm import datasets
from polars_glmm.errors import FormulaError, ModelError
from polars_glmm.inference.hypotheses import read_hypotheses


@pytest.fixture(scope="module")
def sleep() -> Any:
    return datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (Days | Subject)")


@pytest.fixture(scope="module")
def cake() -> Any:
    return datasets.load("cake").glmm.fit("angle ~ recipe * temperature + (1 | recipe:replicate)")


@pytest.fixture(scope="module")
def oddly_named() -> Any:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"y": rng.normal(size=60), "body mass": rng.normal(size=60), "a-b": rng.normal(size=60)})
    return frame.with_columns(diet=pl.Series(rng.choice(["low fat", "x]y", "none"], 60))).glmm.fit(
        "y ~ `body mass` + `a-b` + diet + log(exp(`a-b`) + 2)"
    )


def row(fit: Any, text: str) -> tuple[dict[str, float], float]:
    """Weights by name and the null value of one linear hypothesis."""
    found = read_hypotheses(fit, text)
    assert found.linear.all()
    names = [column.name for column in fit.recipe.predictor("mu").columns]
    weights = dict(zip(names, found.rows[0].tolist(), strict=False))
    return {name: weight for name, weight in weights.items() if weight}, float(found.null[0])


@pytest.mark.parametrize(
    ("text", "weights", "null"),
    [
        ("Days", {"Days": 1.0}, 0.0),
        ("Days = 10", {"Days": 1.0}, 10.0),
        ("Days == 10", {"Days": 1.0}, 10.0),
        ("10 = Days", {"Days": -1.0}, -10.0),
        ("2*Days - Intercept/4 + 1 = 4", {"Days": 2.0, "Intercept": -0.25}, 3.0),
        ("-(Days - 3)*2 = Intercept", {"Days": -2.0, "Intercept": -1.0}, -6.0),
        ("Days*2^3 = 1e1", {"Days": 8.0}, 10.0),
        ("Days = Days/2 + .5", {"Days": 0.5}, 0.5),
        ("exp(0)*Days = sqrt(4)", {"Days": 1.0}, 2.0),
    ],
)
def test_a_string_is_its_arithmetic(sleep: Any, text: str, weights: dict[str, float], null: float) -> None:
    found, value = row(sleep, text)
    assert found == pytest.approx(weights)
    assert value == pytest.approx(null)


def test_names_are_the_longest_run_of_tokens_that_spells_one(cake: Any) -> None:
    interaction = "recipe[T.B]:temperature[T.185]"
    assert row(cake, f"{interaction} = 1")[0] == {interaction: 1.0}
    assert row(cake, "recipe[T.B] - recipe [ T.C ]")[0] == {"recipe[T.B]": 1.0, "recipe[T.C]": -1.0}
    assert row(cake, f"`{interaction}` - recipe[T.B]")[0] == {interaction: 1.0, "recipe[T.B]": -1.0}


def test_names_with_any_signs_stand_in_backquotes(oddly_named: Any) -> None:
    assert row(oddly_named, "`body mass` = `a-b`")[0] == {"body mass": 1.0, "a-b": -1.0}
    assert row(oddly_named, "`diet[T.x]y]` - diet[T.none]")[0] == {"diet[T.x]y]": 1.0, "diet[T.none]": -1.0}
    function = "log(exp(`a-b`) + 2)"
    assert row(oddly_named, f"2*{function}")[0] == {function: 2.0}


def test_the_name_of_a_term_is_all_its_columns(cake: Any) -> None:
    assert cake.test("recipe")["hypothesis"].to_list() == ["recipe[T.B]", "recipe[T.C]"]
    assert cake.test({"r": "recipe"})["hypothesis"].to_list() == ["r: recipe[T.B]", "r: recipe[T.C]"]
    joint = cake.test("recipe:temperature", joint=True)
    assert joint["num_df"].item() == 10


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("Dayz = 1", ModelError, "Did you mean 'Days'"),
        ("Days[T.3]:x", ModelError, "Days\\[T.3\\]:x"),
        ("Days =", FormulaError, "missing"),
        ("Days = 1 = 2", FormulaError, "one '='"),
        ("Days < 2", FormulaError, "alternative="),
        ("(Days", FormulaError, "closing parenthesis"),
        ("Days Intercept", FormulaError, "operator is missing"),
        ("Days/0", FormulaError, "zero"),
        ("Days^Days", FormulaError, "exponent"),
        ("log(0 - Days)", FormulaError, "not a finite number"),
        ("0 = 1", ModelError, "no parameter"),
        ("", FormulaError, "missing"),
        ("Days = {x}", FormulaError, "executes no code"),
        ("__import__('os')", ModelError, "no parameter"),
        ("(" * 100 + "Days" + ")" * 100, FormulaError, "parentheses"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(sleep: Any, text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        sleep.test(text)


def test_other_things_than_strings_are_refused(sleep: Any) -> None:
    for wrong in (3, ["Days", 3], [], {"a": 1.0}):
        with pytest.raises(ModelError, match="hypothes"):
            sleep.test(wrong)
    for frame in (
        pl.DataFrame({"Days": [1.0]}),
        pl.DataFrame({"hypothesis": ["a"], "Dayz": [1.0]}),
        pl.DataFrame({"hypothesis": ["a"], "Days": ["1"]}),
        pl.DataFrame({"hypothesis": ["a"], "Days": [0.0]}),
        pl.DataFrame({"hypothesis": ["a"], "Days": [None]}, schema_overrides={"Days": pl.Float64}),
    ):
        with pytest.raises(ModelError, match="frame of hypotheses"):
            sleep.test(frame)
    with pytest.raises(ModelError, match="twice"):
        sleep.test("Days = 10", rhs=3)
    with pytest.raises(ModelError, match="rhs="):
        sleep.test(["Days", "Intercept"], rhs=[1.0, 2.0, 3.0])


def test_a_contrast_by_hand(cake: Any) -> None:
    found = cake.test("recipe[T.B] - 2*recipe[T.C] = 1").row(0, named=True)
    beta = dict(cake.fixef().select("term", "estimate").iter_rows())
    pair = ["recipe[T.B]", "recipe[T.C]"]
    matrix = cake.vcov().filter(pl.col("term").is_in(pair), pl.col("other_term").is_in(pair))
    weights = np.array([1.0, -2.0])
    variance = weights @ matrix["covariance"].to_numpy().reshape(2, 2) @ weights
    assert found["estimate"] == pytest.approx(beta["recipe[T.B]"] - 2 * beta["recipe[T.C]"] - 1)
    assert found["std_error"] == pytest.approx(np.sqrt(variance))
    assert found["null_value"] == 1.0
    assert found["p_value"] == pytest.approx(2 * t.sf(abs(found["statistic"]), found["df"]))
    half = t.isf(0.025, found["df"]) * found["std_error"]
    assert found["conf_low"] == pytest.approx(found["estimate"] - half)
    assert found["conf_high"] == pytest.approx(found["estimate"] + half)


def test_a_single_coefficient_is_its_row_of_fixef(sleep: Any) -> None:
    for arguments in ({}, {"df": "normal"}, {"df": 11.0}, {"df": "kenward_roger"}, {"conf_level": 0.9}):
        ours = sleep.test(["Intercept", "Days"], **arguments)
        fixef = sleep.fixef(**arguments)
        for column in ("estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high"):
            assert_allclose(ours[column].to_numpy(), fixef[column].to_numpy(), rtol=1e-12)


def test_a_frame_and_rhs_say_the_same_as_strings(cake: Any) -> None:
    frame = pl.DataFrame({"hypothesis": ["one", "two"], "recipe[T.B]": [1, 0], "recipe[T.C]": [-1, 2]})
    strings = {"one": "recipe[T.B] - recipe[T.C] = 1", "two": "2*recipe[T.C] = 3"}
    one, two = cake.test(frame, rhs=[1.0, 3.0]), cake.test(strings)
    assert one.drop("note").rows() == [pytest.approx(row) for row in two.drop("note").rows()]


def test_a_scaled_variable_has_the_same_test() -> None:
    data = datasets.load("sleepstudy")
    hours = data.with_columns(pl.col("Days") * 24.0)
    formula = "Reaction ~ Days + (Days | Subject)"
    one = data.glmm.fit(formula).test("Days = 10").row(0, named=True)
    other = hours.glmm.fit(formula).test("Days*24 = 10").row(0, named=True)
    assert other["estimate"] == pytest.approx(one["estimate"], rel=1e-6)
    assert other["p_value"] == pytest.approx(one["p_value"], rel=1e-5)


def test_one_sided_tests_and_their_intervals(sleep: Any) -> None:
    up, down = (sleep.test("Days = 9", alternative=one).row(0, named=True) for one in ("greater", "less"))
    assert up["p_value"] == pytest.approx(t.sf(up["statistic"], up["df"]))
    assert up["p_value"] + down["p_value"] == pytest.approx(1.0)
    assert up["conf_high"] is None
    assert down["conf_low"] is None
    assert up["conf_low"] == pytest.approx(up["estimate"] - t.isf(0.05, up["df"]) * up["std_error"])
    with pytest.raises(ModelError, match="greater"):
        sleep.test("Days", alternative="larger")


def test_equivalence_is_two_one_sided_tests(sleep: Any) -> None:
    both = sleep.test("Days = 10", equivalence=(-5, 5)).row(0, named=True)
    above = sleep.test("Days = 5", alternative="greater")["p_value"].item()
    below = sleep.test("Days = 15", alternative="less")["p_value"].item()
    assert both["p_equivalence"] == pytest.approx(max(above, below))
    for wrong in ((5, -5), (1,), "ab", (0, float("nan"))):
        with pytest.raises(ModelError, match="equivalence"):
            sleep.test("Days", equivalence=wrong)


def test_a_nonlinear_function_goes_by_the_delta_method(sleep: Any) -> None:
    found = sleep.test("exp(Days/10) = 3").row(0, named=True)
    slope = sleep.fixef().row(1, named=True)
    value = np.exp(slope["estimate"] / 10)
    assert found["estimate"] == pytest.approx(value - 3)
    assert found["std_error"] == pytest.approx(value / 10 * slope["std_error"])
    assert found["df"] == pytest.approx(slope["df"])
    assert found["null_value"] == 3.0
    assert found["note"].startswith("delta_method")


def test_gradients_of_every_function_are_those_of_differences(sleep: Any) -> None:
    text = "exp(Days/9)*sqrt(Intercept)/(1 + Days^2) - log(Intercept) + expit(Days/4) - logit(Days/100)"
    found = read_hypotheses(sleep, text)

    def at(days: float, intercept: float) -> float:
        p = days / 100
        return float(
            np.exp(days / 9) * np.sqrt(intercept) / (1 + days**2) - np.log(intercept) + 1 / (1 + np.exp(-days / 4))
            - np.log(p / (1 - p))
        )  # fmt: skip

    intercept, days = sleep.estimate.beta
    assert found.values[0] == pytest.approx(at(days, intercept))
    slopes = [
        (at(days, intercept + 1e-3) - at(days, intercept - 1e-3)) / 2e-3,
        (at(days + 1e-5, intercept) - at(days - 1e-5, intercept)) / 2e-5,
    ]
    assert_allclose(found.rows[0][:2], slopes, rtol=1e-6)


def test_variance_parameters_are_called_as_in_the_objective(sleep: Any) -> None:
    sd = sleep.test("sd(Subject: Days) = 5").row(0, named=True)
    component = sleep.varcorr().filter(pl.col("term") == "Days", pl.col("other_term").is_null()).row(0, named=True)
    assert sd["estimate"] == pytest.approx(component["std_dev"] - 5)
    assert sd["std_error"] == pytest.approx(component["std_error"] / (2 * component["std_dev"]))
    assert sd["df"] is None
    assert sd["p_value"] == pytest.approx(2 * norm.sf(abs(sd["statistic"])))
    phi = sleep.test("phi").row(0, named=True)
    dispersion = sleep.dispersion().row(0, named=True)
    assert (phi["estimate"], phi["std_error"]) == pytest.approx((dispersion["estimate"], dispersion["std_error"]))
    ratio = sleep.test("sd(Subject:Intercept)^2/(sd(Subject:Intercept)^2 + phi^2)").row(0, named=True)
    assert 0 < ratio["std_error"] < 1
    mixed = sleep.test(["Days", "phi = 25"])
    assert mixed["df"].is_null().to_list() == [False, True]
    assert sleep.test(["Days", "phi = 25"], joint=True)["distribution"].item() == "chi2"


def test_joint_tests_count_what_is_independent(cake: Any) -> None:
    names = ["recipe[T.B]", "recipe[T.C]"]
    both = cake.test(names, joint=True)
    thrice = cake.test([*names, "recipe[T.B] = recipe[T.C]"], joint=True)
    assert thrice["num_df"].item() == 2
    for column in ("statistic", "den_df", "p_value"):
        assert thrice[column].item() == pytest.approx(both[column].item(), rel=1e-8)
    with pytest.raises(ModelError, match="contradict"):
        cake.test(["recipe[T.B] = 1", "recipe[T.B] = 2"], joint=True)
    with pytest.raises(ModelError, match="joint=True"):
        cake.test(names, joint=True, adjust="holm")


def test_an_f_does_not_depend_on_how_its_hypothesis_is_written(cake: Any) -> None:
    one = cake.test(["recipe[T.B]", "recipe[T.C]"], joint=True, df="kenward_roger")
    other = cake.test(["recipe[T.B] + 5*recipe[T.C]", "recipe[T.B] - recipe[T.C]"], joint=True, df="kenward_roger")
    for column in ("statistic", "den_df", "p_value"):
        assert other[column].item() == pytest.approx(one[column].item(), rel=1e-8)


def test_adjusted_tests_are_one_family(cake: Any) -> None:
    pairs = ["recipe[T.B]", "recipe[T.C]", "recipe[T.C] = recipe[T.B]"]
    plain, tukey = cake.test(pairs), cake.test(pairs, adjust="tukey")
    assert tukey["adjust"].to_list() == ["tukey"] * 3
    assert (tukey["p_value"] > plain["p_value"]).all()
    assert (tukey["conf_low"] < plain["conf_low"]).all()
    assert "intervals_unadjusted" in cake.test(pairs, adjust="bh")["note"][0]
    with pytest.raises(ModelError, match="sidak"):
        cake.test(pairs[:2], adjust="tukey")


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_dropped_columns_are_tested_only_where_the_data_determine_it() -> None:
    rng = np.random.default_rng(2)
    frame = pl.DataFrame({"y": rng.normal(size=40), "a": rng.normal(size=40), "b": rng.normal(size=40)})
    fit = frame.with_columns(c=pl.col("a") + pl.col("b")).glmm.fit("y ~ a + b + c")
    found = fit.test(["a", "c", "a + c", "b - a", "b + c"])
    assert found["estimate"].is_null().to_list() == [True, True, False, False, False]
    assert found["std_error"].is_null().to_list() == [True, True, False, False, False]
    assert found["note"][0].startswith("not_estimable")
    # b_a + b_c does not depend on which of the columns was dropped
    other = frame.with_columns(c=pl.col("a") + pl.col("b")).glmm.fit("y ~ c + b + a").test("a + c")
    assert other["estimate"].item() == pytest.approx(found["estimate"][2])
    assert other["p_value"].item() == pytest.approx(found["p_value"][2])
    assert fit.test(["a", "b"], joint=True)["p_value"].item() is None


def test_a_formula_for_phi_has_names_of_its_own() -> None:
    fit = datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (1 | Subject)", "phi ~ Days")
    found = fit.test(["phi: Days", "phi:Days = Days"])
    own = fit.fixef().filter(pl.col("parameter") == "phi", pl.col("term") == "Days")
    assert found["estimate"][0] == pytest.approx(own["estimate"].item())
    assert found["std_error"][0] == pytest.approx(own["std_error"].item())


def test_kenward_and_roger_have_no_answer_for_a_formula_of_phi() -> None:
    fit = datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (1 | Subject)", "phi ~ Days")
    with pytest.raises(ModelError, match="a formula for phi"):
        fit.fixef(df="kenward_roger")


def test_no_rows_are_needed_but_for_kenward_and_roger(sleep: Any) -> None:
    bare = pickle.loads(pickle.dumps(sleep))  # noqa: S301  our own
    assert bare.test(["Days = 10", "phi = 3"]).equals(sleep.test(["Days = 10", "phi = 3"]))
    assert bare.test_terms(type=1).equals(sleep.test_terms(type=1))
    assert bare.test_terms(type=2).equals(sleep.test_terms(type=2))


def test_a_collection_stacks_the_tests_of_its_fits() -> None:
    data = datasets.load("chickweight")
    fits = data.glmm.fit("weight ~ Time + (1 | Chick)", by="Diet")
    found = fits.test(["Time = 8", "Intercept"], adjust="holm")
    assert found.columns[:2] == ["Diet", "hypothesis"]
    for key, fit in fits:
        own = found.filter(pl.col("Diet").cast(pl.String) == str(key)).drop("Diet")
        assert own.equals(fit.test(["Time = 8", "Intercept"], adjust="holm"))
    assert fits.test_terms(type=1).columns[:3] == ["Diet", "parameter", "term"]


def test_a_given_covariance_serves_every_table(sleep: Any) -> None:
    doubled = sleep.vcov().with_columns(pl.col("covariance") * 4)
    found = sleep.test("Days = 10", vcov=doubled).row(0, named=True)
    assert found["std_error"] == pytest.approx(2 * sleep.test("Days = 10")["std_error"].item())
    assert found["df"] is None
    assert sleep.test_terms(vcov=doubled)["distribution"].item() == "chi2"
    for wrong in (doubled.head(2), doubled.drop("covariance"), doubled.with_columns(term=pl.lit("z")), "kr", 3):
        with pytest.raises(ModelError, match="vcov="):
            sleep.fixef(vcov=wrong)
    with pytest.raises(ModelError, match="symmetric"):
        sleep.fixef(vcov=doubled.with_columns(covariance=pl.Series([1.0, 0.1, 0.2, 1.0])))
