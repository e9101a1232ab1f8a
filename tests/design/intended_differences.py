"""Where this package and formulaic differ on purpose, each with its reason. Everything else is equal.

ours / theirs   column names; None where the formula is refused; ... where it is accepted, whatever comes of it
"""

from __future__ import annotations

from types import EllipsisType
from typing import NamedTuple


class Difference(NamedTuple):
    formula: str
    ours: list[str] | None
    theirs: list[str] | EllipsisType | None
    reason: str


DIFFERENCES = (
    Difference(
        "C(e)",
        ["Intercept", "C(e)[T.mid]", "C(e)[T.hi]"],
        ["Intercept", "C(e)[T.lo]", "C(e)[T.mid]"],
        "An Enum has an order of its own; formulaic keeps it for `e` and loses it inside C().",
    ),
    Difference(
        "unused",
        ["Intercept", "unused[T.v]"],
        ["Intercept", "unused[T.never]", "unused[T.v]"],
        "Declared levels that do not occur make no column of zeros.",
    ),
    Difference(
        "constant",
        None,
        ["Intercept"],
        "A factor with one level cannot be told from the intercept; formulaic lets it vanish without a word.",
    ),
    Difference(
        "log(`z`)", ["Intercept", "log(z)"], ["Intercept", "log(`z`)"], "Backquotes only where a name needs them."
    ),
    Difference(
        "log(d.t)", ["Intercept", "log(d.t)"], None, "Names with dots, as in R; Python would read an attribute of `d`."
    ),
    Difference("abs(x)", ["Intercept", "abs(x)"], None, "Common functions have their plain names, as in R."),
    Difference("sqrt(z)", ["Intercept", "sqrt(z)"], None, "Common functions have their plain names, as in R."),
    Difference(
        "ns(x, df=3)",
        [f"ns(x, df=3)[{i}]" for i in (1, 2, 3)],
        None,
        "R's natural splines; formulaic has none of that name.",
    ),
    Difference(
        "cr(x, df=2)",
        [f"cr(x, df=2)[{i}]" for i in (1, 2)],
        None,
        "Two knots make a straight line; formulaic fails on them.",
    ),
    Difference("(0 + x)", ["x"], ["Intercept", "x"], "Parentheses do not change what `0 +` means, as in R."),
    Difference(
        "(1 + x)*g",
        ["Intercept", "x", "g[T.q]", "x:g[T.q]"],
        None,
        "1 is the empty product: `1:g` is `g`, as in R; formulaic takes it for a second scaling of `g`.",
    ),
    Difference("2:x", None, ["Intercept", "x"], "A number is no factor of a term; arithmetic stands in I()."),
    Difference(".", None, ..., "All other columns is a different model for every frame; here the columns are named."),
    Difference("{x + 1}", None, ["Intercept", "x + 1"], "A formula executes no code."),
    Difference("x.abs()", None, ["Intercept", "x.abs()"], "A formula executes no code: no methods of columns."),
    Difference("lag(x)", None, ["Intercept", "lag(x)"], "The order of rows has no meaning in a model of rows."),
    Difference("C(round(x))", None, None, "C() takes a column, so that an unseen level of new data can be named."),
)
