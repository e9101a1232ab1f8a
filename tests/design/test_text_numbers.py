"""Numbers that arrive as text are named, on every route; codes, keys and what C() marks are left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, Memory
from polars_glmm.design.text_numbers import numbers_in
from polars_glmm.errors import ColumnError, IdentifiabilityError

N = 400


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """`x` is a number to one decimal, once "NA"; the same as other kinds of text; `u` a number of its own each row."""
    rng = np.random.default_rng(8)
    x, g = rng.normal(size=N).round(1), rng.integers(0, 20, N)
    text = ["NA" if i == 5 else str(v) for i, v in enumerate(x)]
    half = np.arange(N) % 2
    return pl.DataFrame(
        {
            "y": 0.5 * x + rng.normal(size=20)[g] + rng.normal(size=N),
            "n": rng.poisson(np.exp(0.3 * x)),
            "x": text,
            "code": (g % 4).astype(str),
            "key": (10 * g).astype(str),
            "m": half,
            "u": rng.normal(size=N).astype(str),
        }
    ).with_columns(
        category=pl.col("x").cast(pl.Categorical),
        enum=pl.col("x").cast(pl.Enum(sorted(set(text)))),
        comma=pl.col("x").str.replace(".", ",", literal=True),
        spaced=pl.lit(" ") + pl.col("x"),
    )


Route = Callable[[pl.DataFrame, str], Any]
ROUTES: dict[str, Route] = {
    "eager": lambda f, x: f.glmm.fit(f"y ~ {x} + (1 | key)"),
    "lazy": lambda f, x: f.lazy().glmm.fit(f"y ~ {x} + (1 | key)"),
    "poisson": lambda f, x: f.glmm.fit(f"n ~ {x} + (1 | key)", family="poisson"),
    "disk": lambda f, x: f.lazy().glmm.fit(
        f"n ~ {x} + (1 | key)", family="poisson", control=Control(memory=Memory(limit=10_000))
    ),
    "by": lambda f, x: f.glmm.fit(f"y ~ {x} + (1 | key)", by="m")[1],
    "products": lambda f, x: polars_glmm.products(f, f"y ~ {x} + (1 | key)"),
    "products, fitted": lambda f, x: polars_glmm.products(f, f"y ~ {x} + (1 | key)").fit(),
    "explain": lambda f, x: f.lazy().glmm.explain(f"y ~ {x} + (1 | key)"),
    "slope": lambda f, x: f.lazy().glmm.explain(f"y ~ 1 + ({x} | key)"),
    "interaction": lambda f, x: f.glmm.explain(f"n ~ m + m:{x} + (1 | key)", family="poisson"),
}


def told(answer: Any) -> list[str]:
    return [note.text for note in answer.notes if note.code == "numbers_as_text"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("route", ROUTES)
def test_numbers_that_came_as_text_are_named_on_every_route(frame: pl.DataFrame, route: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", polars_glmm.FitWarning)
        (text,) = told(ROUTES[route](frame, "x"))
        assert text.startswith("column 'x' is text (String)")
        assert "'NA'" in text
        assert not told(ROUTES[route](frame, "code"))


@pytest.mark.parametrize(
    ("column", "dtype"), [("category", "Categorical"), ("enum", "Enum"), ("comma", "String"), ("spaced", "String")]
)
def test_the_remedy_makes_the_numbers(frame: pl.DataFrame, column: str, dtype: str) -> None:
    (note,) = frame.glmm.explain(f"n ~ {column} + (1 | key)", family="poisson").notes
    assert f"column {column!r} is text ({dtype})" in note.text
    remedy = note.advice.removeprefix("Make it numeric: ").partition(", which")[0]
    made = frame.select(eval(remedy, {"pl": pl}))[column]  # noqa: S307  the advice is Python, and is what is tested
    assert made.equals(frame["x"].cast(pl.Float64, strict=False).alias(column))


def test_labels_that_are_meant_get_no_note(frame: pl.DataFrame) -> None:
    for term in ("C(x)", "code", "m"):
        assert not told(frame.glmm.explain(f"n ~ {term} + (1 | key)", family="poisson"))


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["1", "2", "NA"], True),
        (["-1.5e3", "2", ".5", "7."], True),
        (["1,234.5", "12", "n/a", ""], True),
        ([str(k) for k in range(60)], True),
        ([*(str(k) for k in range(30)), "<0.1", "trace"], True),
        (["1", "2", "3+"], False),
        (["01", "02", "NA"], False),
        (["1.2.3", "1.2.4"], False),
        (["2024-01-05", "2024-01-06"], False),
        (["a", "b", "NA"], False),
        (["1", "NA"], False),
    ],
)
def test_what_counts_as_numbers(labels: list[str], numbers: bool) -> None:
    assert (numbers_in("x", pl.String(), labels) is not None) == numbers


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("x ~ m + (1 | key)", {}),
        ("x ~ m + (1 | key)", {"family": "binomial"}),
        ("enum ~ m + (1 | key)", {"family": "binomial"}),
        ("n ~ exp(x) + (1 | key)", {"family": "poisson"}),
        ("y ~ scale(category) + (1 | key)", {}),
        ("y ~ m + (1 | key)", {"offset": "x"}),
        ("y ~ m + (1 | key)", {"precision": "x"}),
    ],
)
def test_where_only_a_number_will_do_the_refusal_says_so(
    frame: pl.DataFrame, formula: str, options: dict[str, Any], lazy: bool
) -> None:
    data = frame.lazy() if lazy else frame
    with pytest.raises(ColumnError, match=r"It is text, and all but 1 of its \d+ different values are numbers"):
        data.glmm.fit(formula, **options)


@pytest.mark.parametrize("route", ["eager", "lazy", "by", "products, fitted"])
@pytest.mark.parametrize("rows", [80, N])
def test_a_value_for_each_row_is_refused_as_text_not_as_a_copy(frame: pl.DataFrame, route: str, rows: int) -> None:
    with pytest.raises(IdentifiabilityError, match=r"'u'.* text.* numbers.*Make it numeric") as caught:
        ROUTES[route](frame.head(rows), "u")
    assert "copy" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (["\u22121.5", "2.5", "-0.5"], [-1.5, 2.5, -0.5]),
        (["1 234", "5 678", "99"], [1234.0, 5678.0, 99.0]),
        (["1\u00a0234,5", "7,5"], [1234.5, 7.5]),
        (["1'234.5", "2.0"], [1234.5, 2.0]),
        (["1.234,5", "2,5", "1.234.567,8"], [1234.5, 2.5, 1234567.8]),
        (["1,234.5", "2.5"], [1234.5, 2.5]),
        (["12.5%", "3 %", "100%"], [12.5, 3.0, 100.0]),
        (["\u22121,5 ", " 2,5"], [-1.5, 2.5]),
        (["1e5", "2E-3", "+1.5"], [1e5, 2e-3, 1.5]),
    ],
)
def test_the_remedy_makes_every_number_that_is_one(text: list[str], numbers: list[float]) -> None:
    """A cast alone makes null of a minus sign that is no hyphen, so that negative numbers alone would be missing."""
    found = numbers_in("x", pl.String(), text)
    assert found is not None
    assert not found.others
    expression = found.remedy.removeprefix("Make it numeric: ").partition(", which")[0]
    made = pl.DataFrame({"x": text}).select(eval(expression, {"pl": pl}))["x"]  # noqa: S307  what users are told to write
    assert made.to_list() == numbers


def test_a_comma_before_three_digits_may_be_either() -> None:
    found = numbers_in("x", pl.String(), ["1,234", "5,678", "\u22125,678"])
    assert found is not None
    assert found.remedy.endswith("comma for a point (where it parts thousands, write .str.replace_all(',', ''))")
    for other in (["1,234", "5,67"], ["1,234", "5.5"]):
        found = numbers_in("x", pl.String(), other)
        assert found is not None
        assert "parts thousands" not in found.remedy
    assert numbers_in("x", pl.String(), ["1 2", "3 4"]) is None
