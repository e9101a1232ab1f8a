"""Words of other packages are answered; signatures are shown; a fit is a start."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import polars as pl
import pytest

import polars_glmm
from polars_glmm import Fit, FormulaError, ModelError, anova, datasets

SLEEP = datasets.load("sleepstudy")
FORMULA = "Reaction ~ Days + (1 | Subject)"
VERBS = ("fit", "explain", "objective", "products")


@pytest.fixture(scope="module")
def fit() -> Fit:
    return polars_glmm.fit(SLEEP, FORMULA)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("word", "says"), [("nAGQ", r"AGQ\("), ("REML", "'ml'"), ("data", "first argument"), ("na_action", "missing=")]
)
def test_every_verb_that_makes_a_model_answers_a_foreign_argument(verb: str, word: str, says: str) -> None:
    for call in (
        lambda **given: getattr(polars_glmm, verb)(SLEEP, FORMULA, **given),
        lambda **given: getattr(SLEEP.glmm, verb)(FORMULA, **given),
    ):
        with pytest.raises(TypeError, match=says):
            call(**{word: 1})


@pytest.mark.parametrize(("word", "says"), [("ziformula", "'zi ~ 1'"), ("relmat", "known=")])
def test_what_fit_has_by_another_name_is_answered_with_it(word: str, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        polars_glmm.fit(SLEEP, FORMULA, **{word: 1})


@pytest.mark.parametrize(
    ("word", "says"), [("newdata", "first argument"), ("re_form", "random="), ("nope", "no argument")]
)
@pytest.mark.parametrize("verb", ["predict", "augment", "with_ranef", "simulate"])
def test_every_verb_on_a_fit_answers_a_foreign_argument(fit: Fit, verb: str, word: str, says: str) -> None:
    for call in (getattr(fit, verb), lambda frame, **given: getattr(polars_glmm, verb)(frame, fit, **given)):
        with pytest.raises(TypeError, match=says):
            call(SLEEP, **{word: None})
    with pytest.raises(TypeError, match="no argument"):
        anova(fit, **{word: 1})


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("word", "says"),
    [("VarCorr", "varcorr"), ("params", "fixef"), ("resid", "augment"), ("isSingular", "singular"),
     ("logLik", "loglik"),
     ("cooks.distance", "influence"), ("hatvalues", "leverage=True"), ("simulateResiduals", "quantile=True"),
     ("testDispersion", "check"), ("predictInterval", "interval='prediction'"), ("cAIC", "conditional=True"),
     ("conf_int", r"fit\.confint\("), ("ranefs", "ranef"), ("varcor", "varcorr"), ("predict_proba", "predict")],
)  # fmt: skip
def test_a_foreign_attribute_is_answered_on_fits_and_collections(fit: Fit, word: str, says: str) -> None:
    collection = polars_glmm.fit(SLEEP, "Reaction ~ Days", by="Subject")
    for one in (fit, collection):
        assert not hasattr(one, word)
        with pytest.raises(AttributeError, match=says):
            getattr(one, word)


def test_copies_and_pickles_look_for_attributes_in_vain(fit: Fit) -> None:
    assert pickle.loads(pickle.dumps(fit)).loglik == copy.copy(fit).loglik == fit.loglik  # noqa: S301  made here
    assert not hasattr(fit, "_repr_png_")


@pytest.mark.parametrize("verb", VERBS)
def test_the_accessor_shows_the_arguments_of_the_function(verb: str) -> None:
    shown = inspect.signature(getattr(SLEEP.glmm, verb)).parameters
    meant = inspect.signature(getattr(polars_glmm, verb)).parameters
    assert {name: one.default for name, one in shown.items()} == {
        name: one.default for name, one in meant.items() if name != "frame"
    }


@pytest.mark.parametrize("control", [{"maxiter": 10}, "bobyqa", 3, {}])
def test_anything_but_a_control_is_refused_by_name(control: Any) -> None:
    with pytest.raises(ModelError, match=r"control=Control\("):
        polars_glmm.fit(SLEEP, FORMULA, control=control)


def test_a_formula_before_the_frame_is_told_the_order() -> None:
    wrong: Any = FORMULA
    with pytest.raises(ModelError, match="The frame comes first"):
        polars_glmm.fit(wrong, SLEEP)  # type: ignore[call-overload]


def test_a_fit_is_a_start_for_another_model(fit: Fit) -> None:
    wider = "Reaction ~ Days + I(Days^2) + (Days | Subject)"
    cold = polars_glmm.fit(SLEEP, wider)
    assert abs(polars_glmm.fit(SLEEP, wider, start=fit).loglik - cold.loglik) < 1e-6
    assert abs(polars_glmm.fit(SLEEP, FORMULA, start=cold).loglik - fit.loglik) < 1e-6
    assert abs(polars_glmm.fit(SLEEP.lazy(), wider, start=cold).loglik - cold.loglik) < 1e-6


def test_a_fit_with_nothing_in_common_is_no_start(fit: Fit) -> None:
    ticks = datasets.load("grouseticks")
    with pytest.raises(ModelError, match="shares no parameter"):
        polars_glmm.fit(ticks, "TICKS ~ 0 + HEIGHT + (1 | BROOD)", family="poisson", start=fit)


def test_a_random_term_of_groups_can_be_taken_out() -> None:
    full = polars_glmm.fit(SLEEP, "Reaction ~ Days", groups="Subject")
    assert full.update(". ~ . - (1 | Subject)").formula == "Reaction ~ Days"


def test_a_by_key_as_predictor_is_refused_before_fitting() -> None:
    for formula in ("Reaction ~ Days + Subject", FORMULA):
        with pytest.raises((ModelError, FormulaError), match="constant in each model"):
            polars_glmm.fit(SLEEP, formula, by="Subject")


def test_messages_count_one_row_in_the_singular() -> None:
    gone = SLEEP.with_columns(Days=pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("Days"))
    texts = [note.text for note in polars_glmm.fit(gone, FORMULA).notes]
    assert any("1 of 180 rows was left out" in text for text in texts)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("covstruct covariance", r"diag\(x \| g\)"), ("noconstant noint", "0 \\+"), ("ddfm", "satterthwaite"),
        ("dist distribution", "family="), ("technique iterate tolerance nlminb", "Search"), ("irr", "exponentiate"),
        ("n_jobs cores", "threads"), ("intmethod laplace", "AGQ"), ("absorb", r"C\(f\)"), ("na_rm", "missing="),
    ],
)  # fmt: skip
def test_words_of_stata_sas_and_julia_are_answered(words: str, says: str) -> None:
    for word in words.split():
        with pytest.raises(TypeError, match=says):
            polars_glmm.fit(SLEEP, FORMULA, **{word: 1})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("vcov_re re_params", "varcorr"), ("messages", "notes"), ("conditional_modes", "ranef"),
        ("to_pandas", "frames"),
        ("gradient objective", r"polars_glmm\.objective"), ("R2", "'r2'"), ("ICC", "'icc'"), ("ranef_", "'ranef'"),
        ("load pickle", "read_fit"), ("dof", "df_resid"), ("weights", "precision="),
    ],
)  # fmt: skip
def test_attributes_of_other_results_are_answered(fit: Fit, words: str, says: str) -> None:
    for word in words.split():
        with pytest.raises(AttributeError, match=says):
            getattr(fit, word)


@pytest.mark.parametrize("word", ["fast", "ordinal", "shape", "nobody"])
def test_a_word_that_is_no_slip_gets_no_guess(fit: Fit, word: str) -> None:
    with pytest.raises(TypeError) as argument:
        polars_glmm.fit(SLEEP, FORMULA, **{word: 1})
    with pytest.raises(AttributeError) as attribute:
        getattr(fit, word)
    assert "Did you mean" not in f"{argument.value} {attribute.value}"


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("reaction ~ Days", "Did you mean 'Reaction'"), ("Reaction ~ days", "Did you mean 'Days'"),
        ("Reaction ~ Days + (1 | subject)", "Did you mean 'Subject'"), ("Reaction ~ ln(Days)", r"Write log\(x\)"),
        ("Reaction ~ Days + Error(Subject)", r"Write \(1 \| g\)"), ("Reaction ~ categorical(Days)", r"Write C\(x\)"),
        ("lmer(Reaction ~ Days + (1 | Subject))", "A formula is all"), ("Reaction ~ spline(Days)", r"ns\(x"),
        ("Reaction ~ Days (1 | Subject)", r"an operator: Days \+ \(1 \| g\)"),
        ("Reaction ~ " + "+" * 5000, "More than"),
    ],
)  # fmt: skip
def test_slips_in_formulas_are_answered_with_what_was_meant(formula: str, says: str) -> None:
    with pytest.raises(polars_glmm.GlmmError, match=says):
        polars_glmm.fit(SLEEP, formula)
