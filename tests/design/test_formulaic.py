"""formulaic is the oracle: the same columns, names, order and numbers for every fixed-effects formula."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from design_oracle import by_expressions, formulaics, formulaics_on, ours, sample_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from intended_differences import DIFFERENCES, Difference
from numpy.testing import assert_allclose

from polars_glmm.errors import GlmmError

FRAME, NEW = sample_frame(0), sample_frame(1, 40)

TERMS = """
1 | x | 0+x | x+z | f | 0+f | x*f | f:g | 0+f:g | f*g*h | x:f | x:f+f | f:x+x | 0+x:f | f/g | f/x | x/f | (x+f)/g
(f+g+h)**2 | (x+z+f)^2 | f*g-f | f*g-1 | b | x*b | 0+b | b*f | e | e:x | 0+e+b | e*f | x %in% f | f %in% g | x + (f - 1)
x - x | f + x - f | x+x | x:x | f:f | (x+z):f | (x+z):(f+g) | -1 + f + g | f + g - 1 | 0 + g + f + x:f | 0 + x:f + z:f
0 + x:f + x | f:g + f | f:g + g | f:g:h | x*f*g | x + +z | x + -z | `x`:`f` | 1 + x + 0 | (x+f+g)**3 - f:g | x/z | f/x/g
f/(x+g) | x:z:w | y | g:f + h | h:(f+g) - h:f | 0 + h/x
""".replace("\n", "|").split("|")
CODINGS = """
C(f) | C(k) | C(f, contr.sum) | C(f, contr.helmert) | C(f, contr.diff) | C(f, contr.poly) | C(h, contr.poly)
C(h, contr.SAS) | C(h, contr.treatment("v")) | C(h, contr.treatment(base="v")) | C(h, contr.helmert(reverse=False))
C(h, contr.helmert(scale=True)) | C(h, contr.helmert(reverse=False, scale=True)) | C(h, contr.diff(backward=False))
C(h, contr.poly(scores=[1,2,4,8])) | C(h, Treatment("v")) | C(h, Treatment(reference="v")) | C(h, Sum)
C(h, levels=["w","v","u","t"]) | C(h, contr.sum):x | 0+C(h, contr.sum) | C(h, contr.sum)*C(f, contr.helmert)
C(k, contr.poly) | C(k, contr.treatment(base=2)) | C(f, Poly) + C(g, Diff) | C(b) | x:C(h, contr.helmert) + g
""".replace("\n", "|").split("|")
FUNCTIONS = """
poly(x,2) | poly(x, degree=3) | poly(x,1) | poly(x,3,raw=True) | poly(x,2):f | poly(x, 5) | bs(x,4) | bs(x, df=5)
bs(x, df=6, degree=2) | bs(x, knots=[-0.5,0.5]) | bs(x, df=5, include_intercept=True) | cr(x, df=4) | cc(x, df=4)
0+bs(x, df=5, include_intercept=True) | bs(x, df=5, include_intercept=True):f | bs(x, degree=1, knots=[0.])
bs(k, df=4) | bs(x, degree=0, knots=[0.,0.3]) | bs(x, df=4, lower_bound=-5, upper_bound=5) | bs(scale(x),4)
bs(x, df=4, lower_bound=-1, upper_bound=1, extrapolation="clip") | cr(x, df=3, constraints="center")
bs(x, df=4, lower_bound=-1, upper_bound=1, extrapolation="zero") | cs(x, df=3, constraints="center")
bs(x, df=4, lower_bound=-1, upper_bound=1, extrapolation="extend") | cc(x, df=3, constraints="center")
cr(x, knots=[-0.5,0.5]) | cr(x, df=4, lower_bound=-1, upper_bound=1) | cc(x, df=4, lower_bound=-1, upper_bound=1)
cr(x, df=4):f | scale(x) | scale(x, center=False) | scale(x, scale=False) | scale(x, ddof=0) | scale(x, center=2)
standardize(x) | center(x) | scale(x):f | log(z) | log2(z)+log10(z)+exp(x)+exp2(x) | I(x**2) | I(x+z) | I(x/z) | I(-x)
np.log(z)+np.sqrt(z)+np.abs(x)+np.log1p(z)+np.expm1(x)+np.sin(x)+np.floor(x)+np.ceil(x) | np.round(x) | I(x**2 - 2*z)
I((x+z)*2) | I(x > 0) | I(x > 0):f | I(x*b) | log(z)**2 | np.log(I(z+1)) | poly(log(z), 2) | scale(log(z))
log(z):f + np.exp(x) | poly(x, 2)*f | I(x**-1 + -z) | I(2 ** x) | np.cos(x) + np.tan(x)
""".replace("\n", "|").split("|")
FORMULAS = [formula.strip() for formula in TERMS + CODINGS + FUNCTIONS if formula.strip()]


def assert_same_design(formula: str) -> None:
    mine, theirs = ours(formula, FRAME), formulaics(formula, FRAME)
    assert mine.names == theirs.names, formula
    if not mine.names:
        return
    assert_allclose(mine.values, theirs.values, rtol=1e-9, atol=1e-11, err_msg=formula)
    assert_allclose(by_expressions(mine.made_by, FRAME), mine.values, rtol=1e-10, atol=1e-12, err_msg=formula)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_makes_formulaics_columns(formula: str) -> None:
    assert_same_design(formula)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("formula", [formula for formula in FORMULAS if "y" not in formula.split() and formula])
def test_a_recipe_on_new_rows_makes_what_formulaics_does(formula: str) -> None:
    """All constants were learned from the first frame: means, knots, polynomial coefficients, levels."""
    mine, theirs = ours(formula, FRAME), formulaics(formula, FRAME)
    inside = NEW.filter(pl.col("x").is_between(FRAME["x"].min(), FRAME["x"].max()), pl.col("k").is_between(0, 5))
    if mine.names:
        assert_allclose(
            by_expressions(mine.made_by, inside), formulaics_on(theirs.made_by, inside), rtol=1e-9, atol=1e-11
        )


ATOMS = st.sampled_from(
    [
        *"xzwfghbek",
        "log(z)",
        "I(x**2)",
        "poly(x, 2)",
        "bs(x, df=4)",
        "C(k)",
        "C(h, contr.sum)",
        "scale(w)",
        "`x`",
        "np.exp(w)",
    ]
)


def _joined(operator: str) -> object:
    return lambda parts: f"{parts[0]} {operator} {parts[1]}"


def _longer(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    choices = [pairs.map(_joined(operator)) for operator in ("+", "+", ":", "*", "-", "/", "%in%")]
    choices += [inner.map(lambda part: f"({part})"), inner.map(lambda part: f"({part})**2")]
    return st.one_of(choices)


SUMS = st.recursive(ATOMS, _longer, max_leaves=4)
GRAMMAR = st.builds(
    lambda front, terms, back: front + terms + back,
    st.sampled_from(["", "", "0 + ", "-1 + ", "1 + "]), SUMS, st.sampled_from(["", "", " - 1", " + 0"]),
)  # fmt: skip


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(GRAMMAR)
@pytest.mark.slow
def test_random_formulas_of_the_grammar_make_formulaics_columns(formula: str) -> None:
    assert_same_design(formula)


def _frame_of_differences() -> pl.DataFrame:
    return FRAME.with_columns(
        pl.Series("unused", ["u", "v"] * 30, dtype=pl.Enum(["u", "never", "v"])),
        pl.lit("same").alias("constant"),
        pl.col("z").alias("d.t"),
    )


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.formula)
def test_the_listed_differences_are_as_described(difference: Difference) -> None:
    frame = _frame_of_differences()
    if difference.ours is None:
        with pytest.raises(GlmmError):
            ours(difference.formula, frame)
    else:
        names = ours(difference.formula, frame).names
        assert [name for name in names if name != "Intercept" or "Intercept" in difference.ours] == difference.ours
    if difference.theirs is None:
        with pytest.raises(Exception):  # noqa: B017  whatever formulaic or pandas raises
            formulaics(difference.formula, frame)
    elif difference.theirs is ...:
        assert formulaics(difference.formula, frame).names
    else:
        assert formulaics(difference.formula, frame).names == difference.theirs


def test_a_hat_is_a_power_of_the_column() -> None:
    """In formulaic it is Python's exclusive or, or an error: that depends on the version of narwhals below it."""
    assert_allclose(ours("I(k^2)", FRAME).values[:, 1], FRAME["k"].to_numpy() ** 2)


def test_columns_kept_span_what_all_columns_span() -> None:
    from polars_glmm.design.learn import learn  # noqa: PLC0415
    from polars_glmm.spec.model import ModelSpec  # noqa: PLC0415

    for formula in (
        "bs(x, 4) + poly(x, 3)",
        "x + z + I(x + z)",
        "cr(x, df=4)",
        "f + C(f, contr.sum)",
        "0 + x + I(2*x) + f",
    ):
        made = learn(ModelSpec.parse((f"y ~ {formula}",)), FRAME)
        every = ours(formula, FRAME).values
        kept = made.design.mu.x.T
        assert kept.shape[1] == np.linalg.matrix_rank(kept) == np.linalg.matrix_rank(every)
        assert any(note.code == "columns_dropped" for note in made.notes)
