"""mm(): its text and back, what may be missing, and what it refuses before any data."""

from __future__ import annotations

import pytest

from polars_glmm.errors import FormulaError, ModelError
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.terms import RandomTerm


def term(formula: str, **arguments: object) -> RandomTerm:
    (found,) = ModelSpec.parse((formula,), **arguments).random  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    "weights", ["weights=(u, v)", "weights = c(u, v)", "weights = cbind(u, v)", "weights=[u, v]", "weights=(`u`, v)"]
)
def test_all_ways_to_write_weights_are_one_term(weights: str) -> None:
    found = term(f"y ~ x + (1 + x | mm(a, b, {weights}))")
    assert found.text == "(1 + x | mm(a, b, weights=(u, v)))"
    assert (found.group, found.columns) == ("mm(a, b)", ("a", "b", "u", "v"))


@pytest.mark.parametrize(
    "text",
    ["(1 | mm(a, b))", "(1 |p| mm(a, `b c`, weights=(u, `v w`)))", "cs(0 + f | mm(a, b))", "(1 + x || mm(a))",
     "(1 | mm(a, weights=(u)))"],
)  # fmt: skip
def test_the_formula_as_understood_is_read_as_itself(text: str) -> None:
    spec = ModelSpec.parse((f"y ~ x + {text}",))
    assert spec.formulas == (f"y ~ x + {text}",)
    assert ModelSpec.parse(spec.formulas) == spec


def test_a_weight_alone_needs_no_parentheses() -> None:
    assert term("y ~ (1 | mm(a, weights=u))").text == "(1 | mm(a, weights=(u)))"


def test_groups_takes_it_as_a_name() -> None:
    by_name = ModelSpec.parse(("y ~ x",), groups={"mm(a, b, weights=(u, v))": "1 + x", "h/k": "1"}).resolve("axy")
    written = ModelSpec.parse(("y ~ x + (1 + x | mm(a, b, weights=(u, v))) + (1 | h/k)",))
    assert by_name.formulas == written.formulas
    assert by_name.random == written.random
    assert term("y ~ x", groups="mm(a, b)").group == "mm(a, b)"


def test_terms_of_one_mm_are_of_one_factor_and_can_be_taken_out() -> None:
    spec = ModelSpec.parse(("y ~ x + (1 | mm(a, b)) + (0 + x | mm(a, b)) - (1 | mm(a, b))",))
    assert [one.text for one in spec.random] == ["(0 + x | mm(a, b))"]


def test_slots_may_be_missing_where_nothing_else_reads_their_columns() -> None:
    gaps = lambda formula: ModelSpec.parse((formula,)).gaps.slots
    assert gaps("y ~ x + (1 | mm(a, b, weights=(u, v)))") == (("a", "u"), ("b", "v"))
    assert gaps("y ~ u + (1 | mm(a, b, weights=(u, v)))") == (("b", "v"),)
    assert gaps("y ~ x + (1 | a) + (1 | mm(a, b, weights=(u, v)))") == (("b", "v"),)
    assert gaps("y ~ x + (1 | mm(a, b))") == ()


@pytest.mark.parametrize(
    ("formula", "what"),
    [
        ("y ~ mm(a, b)", "a grouping factor"),
        ("y ~ x + mm(a, b):x", "a grouping factor"),
        ("y ~ (1 | mm(a, b):c)", "stands alone on the right"),
        ("y ~ (1 | c/mm(a, b))", "stands alone on the right"),
        ("y ~ I(mm(a, b))", "It is a grouping factor"),
        ("y ~ (1 | mm())", "needs the columns"),
        ("y ~ (1 | mm(a, a))", "the column 'a' twice"),
        ("y ~ (1 | mm(a, b, weights=(u)))", "2 columns and 1 weights"),
        ("y ~ (1 | mm(a, b, weights=(0.5, 0.5)))", "Make them in the frame"),
        ("y ~ (1 | mm(a, b, weights=u + v))", "takes columns"),
        ("y ~ (1 | mm(a, b, weights=(u, v), c))", "behind all its columns"),
        ("y ~ (1 | mm(a, b, scale = FALSE))", "divide them by their sum"),
        ("y ~ (1 | mm(a, b, weight=(u, v)))", "Did you mean 'weights'"),
        ("y ~ (1 | mm(a + b))", "takes columns"),
        ("y ~ (1 | mm(a, b)", "is not closed"),
        ("y ~ (mmc(u, v) | mm(a, b))", "covariate that differs"),
    ],
)
def test_slips_are_named_with_their_place(formula: str, what: str) -> None:
    with pytest.raises(FormulaError, match=what) as error:
        ModelSpec.parse((formula,))
    assert "^" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"method": "agq"}, "quadrature cannot be had"),
        ({"known": {"mm(a, b)": None}}, "Other factors beside it may have one"),
    ],
)
def test_what_needs_rows_in_one_level_is_refused(arguments: dict[str, object], what: str) -> None:
    with pytest.raises(ModelError, match=what):
        ModelSpec.parse(("y ~ x + (1 | mm(a, b))",), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("other", ["mm(b, a)", "mm(a, b, weights=(u, v))"])
def test_one_name_is_one_factor(other: str) -> None:
    with pytest.raises(ModelError, match="Write mm\\(\\) alike in both"):
        ModelSpec.parse((f"y ~ (1 | mm(a, b)) + (0 + x | {other})",))
