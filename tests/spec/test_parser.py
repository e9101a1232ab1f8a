"""The grammar: what a formula may say, how it is spelled back, and where an error points."""

from __future__ import annotations

import pytest

from polars_glmm.errors import FormulaError
from polars_glmm.spec.call import Call
from polars_glmm.spec.parser import parse_formula
from polars_glmm.spec.syntax import Name, quoted, render
from polars_glmm.spec.terms import predictor


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("I(x**2)", "I(x ** 2)"),
        ("I(x^2)", "I(x ^ 2)"),
        ("I((x+1)^2)", "I((x + 1) ^ 2)"),
        ("I(-x*z)", "I(-x * z)"),
        ("I(-(x*z))", "I(-(x * z))"),
        ("I(x**-1)", "I(x ** (-1))"),
        ("I(-x**2)", "I(-x ** 2)"),
        ("I((-x)**2)", "I((-x) ** 2)"),
        ("I(a-(b-c))", "I(a - (b - c))"),
        ("I(a-b-c)", "I(a - b - c)"),
        ("I(a/(b*c))", "I(a / (b * c))"),
        ("I((a**b)**c)", "I((a ** b) ** c)"),
        ("I(a**b**c)", "I(a ** b ** c)"),
        ("I(.5*x)", "I(0.5 * x)"),
        ("I(1e5*x)", "I(100000.0 * x)"),
        ("I(x>3)", "I(x > 3)"),
        ("poly( x,2,raw = TRUE )", "poly(x, 2, raw=TRUE)"),
        ('C(f,contr.treatment("b"))', "C(f, contr.treatment('b'))"),
        ("C(f, contr.sum)", "C(f, contr.sum)"),
        ("bs(x,knots=c(1,-2))", "bs(x, knots=c(1, -2))"),
        ("bs(x,knots=[1,2])", "bs(x, knots=[1, 2])"),
        ("log(`a b`)", "log(`a b`)"),
        ("log(`a`)", "log(a)"),
        ("np.log10( total.x )", "np.log10(total.x)"),
        ("`a b`", "a b"),
    ],
)
def test_a_factor_is_spelled_as_python_would(written: str, spelled: str) -> None:
    assert render(parse_formula(f"y ~ {written}").right) == spelled


@pytest.mark.parametrize(
    ("formula", "terms"),
    [
        ("y ~ x", "1 x"),
        ("y ~ 0 + x*a", "x a x:a"),
        ("y ~ x - 1", "x"),
        ("y ~ -1 + x", "x"),
        ("y ~ x + 0 + 1", "1 x"),
        ("y ~ 0 + 1", "1"),
        ("y ~ a*b*c - a:b", "1 a b c a:c b:c a:b:c"),
        ("y ~ (a + b + c)^2", "1 a b c a:b a:c b:c"),
        ("y ~ (a + b)**9", "1 a b a:b"),
        ("y ~ a/b/c", "1 a a:b a:b:c"),
        ("y ~ (a + b)/c", "1 a b a:b:c"),
        ("y ~ b:a + a:b", "1 b:a"),
        ("y ~ a:b + a", "1 a a:b"),
        ("y ~ x - (a + x)", "1"),
        ("y ~ - x + x", "1 x"),
        ("y ~ -(x + z) + x", "1 x"),
        ("y ~ a %in% b", "1 b b:a"),
        ("y~1", "1"),
        ("y ~ 0", ""),
    ],
)
def test_operators_expand_to_terms_in_order_of_degree(formula: str, terms: str) -> None:
    assert " ".join(term.text for term in predictor(parse_formula(formula), "mu").fixed) == terms


@pytest.mark.parametrize(
    ("bars", "terms"),
    [
        ("(1 | g)", ["(1 | g)"]),
        ("(x | g)", ["(x | g)"]),
        ("(0 + x | g)", ["(0 + x | g)"]),
        ("(x || g)", ["(x || g)"]),
        ("(1 | a/b)", ["(1 | a)", "(1 | a:b)"]),
        ("(1 | a/b/c)", ["(1 | a)", "(1 | a:b)", "(1 | a:b:c)"]),
        ("(1 | a/(b/c))", ["(1 | a)", "(1 | a:b)", "(1 | a:b:c)"]),
        ("(1 | a:b)", ["(1 | a:b)"]),
        ("(1 | a:a)", ["(1 | a)"]),
        ("us(x | g)", ["(x | g)"]),
        ("diag(x | g)", ["(x || g)"]),
        ("diag(x || g)", ["(x || g)"]),
        ("(1 | g) + (0 + x | g) + x", ["(1 | g)", "(0 + x | g)"]),
        ("(1 | `the group`)", ["(1 | `the group`)"]),
        ("(1|total.id)", ["(1 | total.id)"]),
    ],
)
def test_bars_are_random_terms(bars: str, terms: list[str]) -> None:
    assert [term.text for term in predictor(parse_formula(f"y ~ {bars}"), "mu").random] == terms


def test_designs_of_bars_have_an_intercept_unless_it_is_taken_out() -> None:
    random = predictor(parse_formula("y ~ (x | g) + (0 + x | h) + (x - 1 | k)"), "mu").random
    assert [[part.text for part in term.design] for term in random] == [["1", "x"], ["x"], ["x"]]


def test_offsets_are_collected() -> None:
    offsets = predictor(parse_formula("y ~ x + offset(log(t)) + offset(2 * s)"), "mu").offsets
    assert [render(offset) for offset in offsets] == ["log(t)", "2 * s"]


@pytest.mark.parametrize(
    ("formula", "message", "marked"),
    [
        ("", "is empty", None),
        ("   ", "is empty", None),
        ("y", "has no '~'", "y"),
        ("y x", "has no '~'", "y x"),
        ("y ~", "ends where a term is expected", ""),
        ("y ~ x +", "ends where a term is expected", ""),
        ("y ~ x z", "operator is missing before 'z'", "z"),
        ("y ~ x ~ z", "one '~'", "~"),
        ("y ~ (x", "is not closed", "("),
        ("y ~ x)", "closes nothing", ")"),
        ("y ~ ()", "Nothing stands between", "("),
        ("y ~ * x", "A term is expected where '*' stands", "*"),
        ("y ~ .", "'.' for all other columns", "."),
        ("y ~ {x}", "a formula executes no code", "{"),
        ("y ~ x; z", "Character ';'", ";"),
        ("y ~ 'x'", "A string is no term", "'x'"),
        ("y ~ `x", "The quote ` is not closed", "`x"),
        ("y ~ ``", "hold no name", "``"),
        ("y ~ 2*x", "The number 2 is no term", "2"),
        ("y ~ x^z", "exponent of terms is a whole number", "z"),
        ("y ~ x^0", "exponent of terms is a whole number", "0"),
        ("y ~ x > 3", "write it inside I()", ">"),
        ("y ~ I(a:b)", "has no meaning inside a function", ":"),
        ("y ~ log(x | g)", "has no meaning inside a function", "|"),
        ("y ~ lgo(x)", "Did you mean 'log'?", "lgo"),
        ("y ~ log()", "needs its argument 'x'", "log"),
        ("y ~ log(x, 2)", "is one more than log() takes", "2"),
        ("y ~ poly(x, degre=2)", "Did you mean 'degree'?", "degre"),
        ("y ~ poly(degree=2, x)", "follows a named one", "x"),
        ("y ~ poly(x, 2, degree=2)", "is given 'degree' twice", "poly"),
        ("y ~ C(f, sum)", "A contrast is contr.treatment", "sum"),
        ("y ~ C(f, 'sum')", "A contrast is contr.treatment", "'sum'"),
        ("y ~ log(contr.sum(x))", "belongs inside C()", "contr.sum"),
        ("y ~ C(f, contr.sum(1))", "is one more than contr.sum() takes", "1"),
        ("y ~ x + 1 | g", "stands in parentheses", "1 | g"),
        ("y ~ x * (1 | g)", "stands by itself among the terms", "(1 | g)"),
        ("y ~ x - (1 | g)", "cannot be taken out", "(1 | g)"),
        ("y ~ x - offset(z)", "cannot be taken out", "offset(z)"),
        ("y ~ x:offset(z)", "stands by itself among the terms", "offset(z)"),
        ("y ~ log(offset(z))", "is a term of its own", "offset"),
        ("y ~ cbind(a, b)", "stands alone before '~'", "cbind"),
        ("y ~ (0 | g)", "has no column left", "0"),
        ("y ~ (1 | 2)", "A grouping factor is a column", "2"),
        ("y ~ (1 | g + h)", "columns joined by ':' or '/'", "g + h"),
        ("y ~ (1 | factor(g))", "make it one first, instead of factor()", "factor(g)"),
        ("y ~ propto(0 + x | g)", "propto() is not yet available", "propto"),
        ("y ~ mat(0 + x | g)", "mat() needs its smoothness", "mat"),
        ("y ~ gau(x | g)", "columns of coordinates, without an intercept", "gau(x | g)"),
        ("y ~ (1 | 1)", "one column of the same value", "1"),
        ("y ~ dag(1 + x | g)", "'dag' is not a covariance structure. Did you mean 'diag'?", "dag"),
        ("y ~ unstructured(1 + x | g)", "There are us(), diag(), ", "unstructured"),
        ("y ~ dag(1 + x)", "Function 'dag' is not one", "dag"),
        ("y ~ us(x || g)", "us() asks for correlations", "us"),
        ("y ~ x[1]", "operator is missing before '['", "["),
        ("y ~ " + "(" * 70 + "x" + ")" * 70, "parentheses are nested", "("),
        ("y ~ (a+b+c+d+e+f+g+h+i+j+k+l)^12", "expands to more than", None),
    ],
)
def test_an_error_shows_the_text_and_marks_the_place(formula: str, message: str, marked: str | None) -> None:
    with pytest.raises(FormulaError) as caught:
        predictor(parse_formula(formula), "mu")
    error = caught.value
    assert message in str(error)
    if marked is None:
        return
    text, marks = str(error).splitlines()[-2:]
    assert text.strip() == formula
    start = marks.index("^") - 2
    assert formula[start : start + marks.count("^")] == marked
    assert marks.count("^") == max(len(marked), 1)


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ __import__('os').system('touch /nowhere')",
        "y ~ I(__import__('os'))",
        "y ~ eval('1')",
        "y ~ x.__class__()",
        "y ~ (lambda: 1)()",
        "y ~ {open('f')}",
        "y ~ np.load('f')",
        "y ~ np.lib.npyio.load('f')",
        "y ~ I([z for z in x])",
        "y ~ log(x := 3)",
        "y ~ @x",
        "y ~ !x",
        "y ~ f(*x)",
        "y ~ hashed(x)",
        "y ~ Q('x')",
    ],
)
def test_a_formula_executes_nothing(formula: str) -> None:
    with pytest.raises(FormulaError):
        predictor(parse_formula(formula), "mu")


def test_a_formula_is_text() -> None:
    with pytest.raises(FormulaError, match="not int"):
        parse_formula(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    ["a b", "~", "~.", "a`b", "`", "True", "NULL", "pi", ".5x", ".1", "1x", "..", "a\u01c0", "\u02c6", "x.y", "é"],
)
def test_every_name_can_be_written_and_read_back(name: str) -> None:
    """Its own backquotes are doubled, as in SQL; update() knows a dot and a '~' in backquotes from those outside."""
    response, other = quoted(name), quoted(name + ".")
    tree = parse_formula(f"{response} ~ x + {other} + (1 | {response})")
    assert tree.left == Name(name)
    assert render(tree.left, top=False) == response
    made = Call((f"{response} ~ x + {other}",)).changed(f". ~ . - {other}").formulas
    assert made == (f"{response} ~ x + {other} - {other}",)
