"""ModelSpec: groups=, further formulas, defaults of the method, and what cannot go together."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from polars_glmm.errors import FormulaError, GlmmError, ModelError
from polars_glmm.spec.method import AGQ, ML, REML, Laplace
from polars_glmm.spec.model import ModelSpec


def parse(*formulas: str, **options: Any) -> ModelSpec:
    return ModelSpec.parse(formulas, **options)


@pytest.mark.parametrize(
    ("groups", "understood"),
    [
        ("g", "y ~ x + (1 | g)"),
        (["g"], "y ~ x + (1 | g)"),
        (["g", "h"], "y ~ x + (1 | g) + (1 | h)"),
        (("a", "b"), "y ~ x + (1 | a:b)"),
        ([("a", "b"), "g"], "y ~ x + (1 | a:b) + (1 | g)"),
        ({"g": "1 + x"}, "y ~ x + (1 + x | g)"),
        ({"g": "0 + x", "h": "1"}, "y ~ x + (0 + x | g) + (1 | h)"),
        ({("a", "b"): "x"}, "y ~ x + (x | a:b)"),
        ("a/b", "y ~ x + (1 | a) + (1 | a:b)"),
        ("a:b", "y ~ x + (1 | a:b)"),
        (["a / b"], "y ~ x + (1 | a) + (1 | a:b)"),
        ({"a/b": "x"}, "y ~ x + (x | a) + (x | a:b)"),
        ("the group", "y ~ x + (1 | `the group`)"),
        ("odd/name", "y ~ x + (1 | `odd/name`)"),
        ("odd:name", "y ~ x + (1 | `odd:name`)"),
        (None, "y ~ x"),
        ([], "y ~ x"),
    ],
)
def test_groups_is_shorthand_for_random_terms(groups: Any, understood: str) -> None:
    """A column of exactly that name always wins over nesting."""
    columns = {"y", "x", "g", "h", "a", "b", "the group", "odd/name", "odd:name"}
    spec = parse("y~x", groups=groups).resolve(columns)
    assert spec.formula == understood
    again = ModelSpec.parse(spec.formulas).resolve(columns)
    assert (again.predictors, again.formulas) == (spec.predictors, spec.formulas)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (3, "give a column name"),
        ([3], "names columns by strings"),
        ("", "empty name"),
        ((), "composite key"),
        (("a", 1), "composite key"),
        ("(1|g)", "a bar belongs in the formula"),
        ({"g": "1 | h"}, "holds a bar"),
        ({"g": 1}, "the design is text"),
        ({"g": "1 +"}, "ends where a term is expected"),
        ("a//b", "a name is missing"),
    ],
)
def test_groups_that_name_nothing_raise(groups: Any, message: str) -> None:
    with pytest.raises(GlmmError) as caught:  # the message is checked below
        parse("y ~ x", groups=groups).resolve({"y", "x", "a", "b"})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "groups"),
    [
        ("y ~ (1 | g) + (1 | g)", None),
        ("y ~ (1 | g)", "g"),
        ("y ~ (1 | g)", ["h", "g"]),
        ("y ~ x", ["g", "g"]),
        ("y ~ (1 + x | g) + (x | g)", None),
        ("y ~ (1 | a/b) + (1 | a)", None),
        ("y ~ (1 | a:b)", "b:a"),
        ("y ~ (1 | a)", "a/b"),
    ],
)
def test_a_term_given_twice_raises(formula: str, groups: Any) -> None:
    with pytest.raises(ModelError, match="given twice"):
        parse(formula, groups=groups).resolve({"g", "h", "a", "b"})


@pytest.mark.parametrize(
    ("formulas", "options", "method"),
    [
        (["y ~ x + (1 | g)"], {}, REML()),
        (["y ~ x + (1 | g)"], {"method": "ml"}, ML()),
        (["y ~ x + (1 | g)"], {"link": "log"}, Laplace()),
        (["y ~ x + (1 | g)"], {"method": "laplace"}, Laplace()),
        (["y ~ x + (1 | g)", "phi ~ x"], {}, REML()),
        (["y ~ x", "phi ~ x"], {}, REML()),
        (["y ~ x + (1 | g)", "phi ~ x"], {"method": "laplace"}, Laplace()),
        (["y ~ x + (1 | g)", "phi ~ (1 | g)"], {}, Laplace()),
        (["y ~ x", "phi ~ (1 | g)"], {"method": AGQ(5)}, AGQ(5)),
        (["y ~ x"], {}, REML()),
        (["y ~ x"], {"method": "ml"}, ML()),
        (["y ~ x"], {"method": "laplace"}, ML()),
        (["y ~ x"], {"family": "poisson"}, ML()),
        (["y ~ x"], {"family": "poisson", "groups": "g"}, Laplace()),
        (["y ~ x"], {"family": "poisson", "groups": "a/b"}, Laplace()),
        (["y ~ x"], {"family": "poisson", "method": AGQ(5)}, ML()),
        (["y ~ (x | g)"], {"family": "binomial", "method": AGQ(5)}, AGQ(5)),
        (["y ~ (1 | g) + (0 + x | g)"], {"family": "binomial", "method": "agq"}, AGQ()),
    ],
)
def test_the_method_is_the_one_asked_for_or_the_default(formulas: list[str], options: Any, method: Any) -> None:
    assert parse(*formulas, **options).resolve({"a", "b", "g"}).method == method


@pytest.mark.parametrize(
    ("formulas", "options", "message"),
    [
        ([], {}, "needs a formula"),
        (["~ x"], {}, "has no response"),
        (["1 ~ x"], {}, "names no column"),
        (["y ~ x", "ph ~ 1"], {}, "Did you mean 'phi'?"),
        (["y ~ x", "phi ~ 1", "phi ~ x"], {}, "two formulas"),
        (["y ~ x", "phi ~ x"], {"family": "poisson"}, "no dispersion phi"),
        (["y ~ x", "phi ~ (1 | g)"], {"method": "reml"}, "With random effects in phi a model has no exact"),
        (["y ~ x", "phi ~ (1 | g)"], {"method": "ml"}, "With random effects in phi a model has no exact"),
        (["y ~ x", "phi ~ (1 | g)"], {"method": Laplace("expected")}, "has no expected curvature"),
        (["y ~ (1 |p| g)", "phi ~ (1 |p| h)"], {}, "share the label 'p'"),
        (["y ~ (1 |p| g) + (1 |p| g)"], {}, "given twice"),
        (["y ~ (1 || p | g)"], {}, "(1 |p| g)"),
        (["y ~ (1 | p + q | g)"], {}, "(1 |p| g)"),
        (["y ~ diag(1 + x |p| g)"], {}, "a label for some"),
        (["y ~ x"], {"family": "gaussain"}, "gaussian"),
        (["y ~ x"], {"method": "remle"}, "not known"),
        (["y ~ (1 | g)"], {"family": "poisson", "method": "reml"}, "REML is defined for gaussian"),
        (["y ~ x"], {"family": "poisson", "method": "reml"}, "REML is defined for gaussian"),
        (["y ~ (1 | g)"], {"link": "log", "method": "reml"}, "REML is defined for gaussian"),
        (["y ~ (1 | g)", "phi ~ x"], {"family": "gamma", "method": "reml"}, "and a formula for phi"),
        (["y ~ (1 | g)"], {"family": "poisson", "method": "ml"}, "no exact likelihood"),
        (["y ~ x"], {"family": "poisson", "precision": "w"}, "frequency="),
        (["y ~ x"], {"family": "binomial", "precision": "w"}, "trials="),
        (["y ~ x"], {"family": "negative_binomial", "precision": "w"}, "trials="),
        (["y ~ x"], {"family": "poisson", "trials": "n"}, "belongs to the binomial family"),
        (["cbind(a, b) ~ x"], {"family": "poisson"}, "is a binomial response"),
        (["cbind(a, b) ~ x"], {"family": "binomial", "trials": "n"}, "already says the number of trials"),
        (["cbind(a) ~ x"], {"family": "binomial"}, "needs its argument 'failure'"),
        (["y ~ x"], {"offset": 3}, "names a column by a string"),
    ],
)
def test_what_cannot_go_together_raises_before_data_are_read(formulas: list[str], options: Any, message: str) -> None:
    with pytest.raises((FormulaError, ModelError)) as caught:
        parse(*formulas, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("y~x*f+( 1|g )", "y ~ x * f + (1 | g)"),
        ("log(y) ~ I(x^2) - 1 + (x||g/h)", "log(y) ~ I(x ^ 2) - 1 + (x || g) + (x || g:h)"),
        ("cbind(a,n-a) ~ offset(log(t))+x", "cbind(a, n - a) ~ offset(log(t)) + x"),
        ("a/b ~ -1 + x", "a / b ~ -1 + x"),
        ("y ~ (a + b)^2 - a:b", "y ~ a + b"),
        ("`the y` ~ `an x`:z", "`the y` ~ `an x`:z"),
        ("y ~ x - (a + b)", "y ~ x"),
    ],
)
def test_the_formula_as_understood_means_the_same(written: str, understood: str) -> None:
    family = "binomial" if "cbind" in written else "gaussian"
    first = parse(written, family=family)
    assert first.formula == understood
    second = ModelSpec.parse(first.formulas, family=family)
    assert (second.formula, second.predictors, second.response) == (first.formula, first.predictors, first.response)


def test_columns_are_all_that_the_model_reads_once_each() -> None:
    spec = parse(
        "log(y) ~ x * log(z) + offset(t) + (x + u | g/h)", "phi ~ v + x", precision="w", offset="o", frequency="c"
    )
    assert spec.columns() == ("y", "x", "z", "u", "g", "h", "t", "v", "o", "c", "w")
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301


def test_a_label_between_bars_is_kept_in_the_normal_spelling() -> None:
    spec = parse("y~x+(1|p|g)", "phi~1+us(x|p|g)")
    assert spec.formulas == ("y ~ x + (1 |p| g)", "phi ~ 1 + (x |p| g)")
    assert [(term.label, term.part) for term in spec.random] == [("p", 0), ("p", 1)]
    assert parse(*spec.formulas).predictors == spec.predictors
