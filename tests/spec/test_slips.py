"""Slips of the hand in a formula are answered with what was meant."""

from __future__ import annotations

import pytest

from polars_glmm.errors import FormulaError
from polars_glmm.spec.model import ModelSpec

MEANT = {
    "y x + (1 | g)": "write 'y ~ x + (1 | g)'",
    "total.fruits size": "write 'total.fruits ~ size'",
    "1 + x": "write 'response ~ 1 + x'",
    "y = x + (1 | g)": "write it here",
    "y \u223c x": "'~'",
    "y \uff5e x": "'~'",
    "y ~ x + (1 \uff5c g)": "'|'",
    "y ~ x \u2013 1": "'-'",
    "y ~ x \u2212 1": "'-'",
    "y ~ x \u00d7 z": "'*'",
    "y ~ \uff081 | g)": "'('",
    "y ~ C(f, levels=[\u201ca\u201d])": "'\"'",
    "y ~ \u2018x\u2019": '"\'"',
    "y ~ x\u200b + z": "invisible",
    "y ~ x + (1 g)": "(1 | g)",
    "y ~ z + x|g": "write (x | g)",
    "y ~ days of sleep": "`days of sleep`",
    "y ~ x + ar1(g)": "ar1(0 + time | g)",
    "y ~ relevel(f, ref='b')": "contr.treatment",
}


@pytest.mark.parametrize("formula", MEANT)
def test_a_slip_is_answered_with_what_was_meant(formula: str) -> None:
    with pytest.raises(FormulaError) as caught:
        ModelSpec.parse((formula,))
    assert MEANT[formula] in str(caught.value).splitlines()[0]


def test_only_the_term_without_parentheses_is_marked() -> None:
    with pytest.raises(FormulaError) as caught:
        ModelSpec.parse(("y ~ z + x|g + w",))
    assert caught.value.text[caught.value.start : caught.value.stop] == "x|g"


def test_a_no_break_space_is_a_space() -> None:
    assert ModelSpec.parse(("y\u00a0~ x",)).formula == "y ~ x"


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("y ~ x + z - x", "y ~ z"),
        ("y ~ x - x + (x | g)", "y ~ 1 + (x | g)"),
        ("y ~ 0 + x*z - x", "y ~ 0 + z + x:z"),
        ("y ~ x + offset(w) - x", "y ~ 1 + offset(w)"),
        ("y ~ x + (1 | g) + (1 | h) - (1 | g)", "y ~ x + (1 | h)"),
        ("y ~ x + (1 | a/b) - (1 | a/b)", "y ~ x"),
        ("y ~ x - 1", "y ~ x - 1"),
    ],
)
def test_what_is_taken_out_is_not_in_the_formula_as_understood(written: str, understood: str) -> None:
    spec = ModelSpec.parse((written,))
    assert spec.formula == understood
    again = ModelSpec.parse((understood,))
    assert {t.key for t in again.mu.fixed} == {t.key for t in spec.mu.fixed}
    assert [t.key for t in again.mu.random] == [t.key for t in spec.mu.random]


def test_a_random_term_that_is_not_there_cannot_be_taken_out() -> None:
    with pytest.raises(FormulaError, match=r"there is \(x \| g\)"):
        ModelSpec.parse(("y ~ x + (x | g) - (1 | g)",))


@pytest.mark.parametrize(
    ("given", "said"),
    [(["y ~ x", "zi ~ 1"], "not in a list: fit('y ~ x', 'zi ~ 1')"), (None, "not NoneType"), (3, "not int")],
)
def test_what_is_no_text_is_no_formula(given, said):
    with pytest.raises(FormulaError) as error:
        ModelSpec.parse((given,))
    assert said in str(error.value)
