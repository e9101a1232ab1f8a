"""Names that Polars reads as patterns, marks of order that are false, keys of every kind: the answers stay the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest

import polars_glmm
from polars_glmm import Control, Memory
from polars_glmm.design.sums import queries as sum_queries
from polars_glmm.errors import ColumnError
from polars_glmm.plot.effects import effect_frame
from polars_glmm.result.pictures import shrinkage_frame
from tests.sources.kinds import rows
from tests.streaming.same import quietly

PACKAGE = Path(polars_glmm.__file__).parent
DISK = Control(memory=Memory(limit=20_000))
Frame = pl.DataFrame | pl.LazyFrame
ROUTES: dict[str, tuple[Callable[[pl.DataFrame], Frame], Control]] = {
    "eager": (lambda data: data, Control()),
    "lazy": (lambda data: data.lazy(), Control()),
    "disk": (lambda data: data.lazy(), DISK),
}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("y ~ x + f + (x | g) + (1 | h)", {"precision": "w", "frequency": "trials"}),
    ("share ~ scale(x) * f + (1 | g:h)", {"family": "binomial", "trials": "trials"}),
    ("count ~ bs(x, df=4) + C(h) + (1 | g)", {"family": "poisson", "offset": "w"}),
    ("y ~ x + (1 | g)", {"by": "key"}),
]


def answers(data: pl.DataFrame, route: str, formula: str, arguments: Mapping[str, Any]) -> list[float]:
    """A number from every verb that takes a frame."""
    change, control = ROUTES[route]
    frame = change(data)
    asked = arguments if "by" in arguments else {**arguments, "control": control}
    fit = quietly(frame, formula, **asked)
    found = [float(fit.glance()["loglik"].sum())]
    for verb in (fit.predict, fit.augment, fit.with_ranef):
        made = verb(frame).lazy().collect()
        assert made.columns[: data.width] == data.columns
        found += [float(made.to_series(k).drop_nans().sum()) for k in range(data.width, made.width)]
    str(fit)
    if "by" in arguments:
        return [*found, float(fit.ranef()["estimate"].sum()), fit.status().height]
    found.append(float(fit.simulate(frame, rng=1).lazy().collect()["sim_1"].sum()))
    found += [float(fit.coef(group.group).width) for group in fit.groups]
    assert polars_glmm.explain(frame, formula, **asked).frame.height
    found.append(float(len(polars_glmm.objective(frame, formula, **arguments).names)))
    if fit.family == "gaussian":
        first = polars_glmm.products(data.head(150), formula, **arguments)
        both = first + polars_glmm.products(change(data.tail(-150)), like=first)
        found.append(both.fit().loglik)
    return found


def renamed(formula: str, arguments: Mapping[str, Any], old: str, new: str) -> tuple[str, dict[str, Any]]:
    text = re.sub(rf"\b{old}\b(?![(=])", lambda _: f"`{new}`", formula)
    return text, {k: new if v == old else v for k, v in arguments.items()}


NAMES = ["*", "^.*$", "^[xyfgh]$", "two\nlines"]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("formula", "arguments"), MODELS, ids=str)
def test_a_column_is_meant_by_its_name_alone(name: str, formula: str, arguments: dict[str, Any]) -> None:
    data = rows(300)
    want = answers(data, "eager", formula, arguments)
    columns = [c for c in data.columns if renamed(formula, arguments, c, "?") != (formula, arguments)]
    for k, column in enumerate([*columns[NAMES.index(name) :: 3], "unused"]):  # with the other names the others
        route = list(ROUTES)[k % 3]
        if column == "unused":
            odd, asked = data.with_columns(pl.lit(5).alias(name)), (formula, arguments)
        else:
            odd, asked = data.rename({column: name}), renamed(formula, arguments, column, name)
        np.testing.assert_allclose(answers(odd, route, *asked), want, rtol=1e-5, atol=1e-5)


ASKED: dict[str, Callable[[Any, pl.DataFrame, Callable[[str], str]], Any]] = {
    "robust": lambda fit, _, name: fit.fixef(vcov=polars_glmm.CR(name("g"), type="CR1")),
    "means": lambda fit, _, name: fit.marginal_means(name("f"), at={name("x"): [0, 1]}, contrast="pairwise"),
    "means as in the rows": lambda fit, _, name: fit.marginal_means(name("f"), weights="proportional"),
    "averages": lambda fit, _, name: fit.predictions(by=name("f")),
    "comparisons": lambda fit, _, name: fit.comparisons(variables=name("x"), by=name("f")),
    "slopes": lambda fit, rows, name: fit.slopes(rows, name("x"), average=False),
    "check": lambda fit, _, name: fit.check("autocorrelation", n=3, rng=1, time=name("t")),
    "influence": lambda fit, _, name: fit.influence(name("g"), method="one_step"),
    "folds": lambda fit, _, name: fit.cross_validate(2, group=name("g"), rng=1),
    "draws": lambda fit, rows, name: fit.predictive(rows, 2, 1),
    "bootstrap": lambda fit, _, name: fit.bootstrap(2, 1),
    "score": lambda fit, rows, name: fit.score(rows.with_columns(pl.lit("new").alias(name("g")))),
    "unseen": lambda fit, rows, name: fit.unseen(rows.with_columns(pl.lit("new").alias(name("g")))),
    "jointly": lambda fit, rows, name: fit.predict(rows, std_error=True, uncertainty="joint"),
    "leverage": lambda fit, rows, name: fit.augment(rows, leverage=True),
    "distribution": lambda fit, rows, name: fit.distribution(rows.head(9), [0.0], average=True, by=name("f")),
    "terms": lambda fit, _, name: fit.test_terms(method="lrt"),
    "lines": lambda fit, rows, name: effect_frame(fit, name("x"), rows, name("f")),
    "shrinkage": lambda fit, rows, name: shrinkage_frame(fit, rows, name("g")),
}  # fmt: skip


@pytest.mark.one_in(2)
@pytest.mark.parametrize("route", ["eager", "lazy"])
def test_names_that_are_patterns_of_each_other(route: str) -> None:
    """A column `^x$` beside a column x; many a method of a Series asks a frame for its name as well."""
    plain = rows(300).select("y", "x", "f", pl.format("g{}", "g").alias("g"), t=pl.int_range(pl.len()))
    plain = plain.with_columns(pl.when(pl.col("t") % 29 == 3).then(None).otherwise(pl.col(c)).alias(c) for c in "xfg")
    odd = pl.concat([plain.rename(lambda name: f"^{name}$"), plain.select(pl.all().reverse())], how="horizontal")
    text = "{0} ~ {1} + {2} + (1 + {1} | {3})"
    change = ROUTES[route][0]
    fits = [
        quietly(change(frame), text.format(*(f"`{name(c)}`" for c in "yxfg")))
        for frame, name in ((plain, str), (odd, "^{}$".format))
    ]
    for label, ask in ASKED.items():
        made = [ask(fits[0], plain, str), ask(fits[1], odd, "^{}$".format)]
        given = [name for c in plain.columns for name in (c, f"^{c}$")]
        of_rows = set(plain.columns) <= {*made[0].columns}
        want, found = ((one.select(~cs.by_name(*given, require_all=False)) if of_rows else one) for one in made)
        assert found.width == want.width, label
        numbers = [one.select(cs.numeric()).to_numpy().astype(float) for one in (found, want)]
        np.testing.assert_allclose(*numbers, rtol=1e-6, atol=1e-8, err_msg=label)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("formula", "arguments"), MODELS, ids=str)
def test_a_false_mark_of_order_changes_nothing(route: str, formula: str, arguments: dict[str, Any]) -> None:
    data = rows(300)
    marked = data.with_columns(pl.all().set_sorted())
    np.testing.assert_allclose(
        answers(marked, route, formula, arguments), answers(data, "eager", formula, arguments), rtol=1e-5, atol=1e-5
    )


def test_a_level_that_comes_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = sum_queries.SumQueries.sums

    def doubled(queries: Any, *args: Any) -> sum_queries.Answers:
        found = original(queries, *args)
        return found._replace(factors={f: pl.concat([frame, frame.head(1)]) for f, frame in found.factors.items()})

    monkeypatch.setattr(sum_queries.SumQueries, "sums", doubled)
    with pytest.raises(ColumnError, match="16 levels, of which 15 are different"):
        polars_glmm.fit(rows().lazy(), "y ~ x + (1 | g)")


INTERNAL = {"sums", "factor.code", "factor.level_names", "self.mode(j)", "self.code"}
"""What pl.col may take besides literals and constants: names that this package made."""

OF_TABLES = ("score.py", "bootstrap.py", "levels.py", "estimates.py", "parameters.py")
"""Files whose pl.col(name) is of a table that this package made."""


@pytest.mark.slow
def test_no_expression_reads_a_users_name_as_a_pattern() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "named.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pl.col", "self.engine.col", "engine.col"):
                for given in node.args:
                    text = ast.unparse(given)
                    made_here = isinstance(given, ast.Constant | ast.JoinedStr) or text.isupper() or text in INTERNAL
                    modes = path.name == "simulations.py" and text.startswith("[factor.mode(j)")
                    ours = text == "name" and path.name in OF_TABLES
                    narwhals = path.name == "operators.py" and ast.unparse(node.func) == "self.engine.col"
                    assert made_here or modes or ours or narwhals, f"{path.name}:{node.lineno}: pl.col({text})"


# keys ----------------------------------------------------------------------------------------------------------------


def keyed() -> pl.DataFrame:
    """Keys of which a field may be null, and the same as text."""
    a, b = pl.col("g") // 5, pl.col("g") % 5
    inner = pl.when(b == 2).then(None).otherwise(b)
    return rows().with_columns(
        nested=pl.struct(a=a, b=inner), flat=pl.concat_str(a, inner.cast(pl.String).fill_null("null"), separator=","),
        hole=pl.when(pl.col("g") == 3).then(float("nan")).otherwise(pl.col("g").cast(pl.Float64)),
    )  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("response", "family"), [("y", "gaussian"), ("count", "poisson")])
def test_a_field_that_is_null_is_a_value_of_its_key(route: str, response: str, family: str) -> None:
    change, control = ROUTES[route]
    data = keyed()
    want = quietly(data, f"{response} ~ x + (1 | flat)", family=family)
    fit = quietly(change(data), f"{response} ~ x + (1 | nested)", family=family, control=control)
    assert fit.loglik == pytest.approx(want.loglik, rel=1e-9)
    assert fit.ranef()["level"].str.strip_chars("{}").sort().to_list() == want.ranef()["level"].sort().to_list()
    assert fit.predict(data)["prediction"].null_count() == 0


def test_a_field_that_is_null_is_a_value_of_a_key_of_models() -> None:
    data = keyed()
    one, other = (quietly(frame, "y ~ x", by=by) for frame, by in ((data, "flat"), (data.lazy(), "nested")))
    assert len(one) == len(other) == data["flat"].n_unique()
    assert other.glance()["loglik"].sum() == pytest.approx(one.glance()["loglik"].sum())
    parts = [polars_glmm.products(part, "y ~ x + (1 | nested)") for part in (data.head(100), data.tail(-100))]
    assert (parts[0] + parts[1]).fit().loglik == pytest.approx(quietly(data, "y ~ x + (1 | flat)").loglik)


@pytest.mark.parametrize("route", ["eager", "lazy"])
def test_nan_is_no_level_of_a_group_nor_a_key_of_models(route: str) -> None:
    data, change = keyed(), ROUTES[route][0]
    gone = data["hole"].is_nan().sum()
    assert quietly(change(data), "y ~ x + (1 | hole)").n_dropped == gone
    fits = quietly(change(data), "y ~ x", by="hole")
    assert fits.n_unkeyed == gone
    assert fits.fixef()["hole"].is_not_nan().all()


TABLES = ("fixef", "varcorr", "dispersion", "ranef", "glance", "status")


@pytest.mark.parametrize("lazy", [False, True])
def test_a_key_named_as_a_column_of_the_tables_is_refused_at_the_call(lazy: bool) -> None:
    data = rows()
    fits = quietly(data, "y ~ x + (1 | g)", by="key")
    names = {name for table in TABLES for name in getattr(fits, table)().columns} - {"key"}
    assert {"group", "status", "term", "level", "code"} <= names
    for name in names:
        frame = data.rename({"key": name})
        with pytest.raises(ColumnError, match="Rename the key"):
            polars_glmm.fit(frame.lazy() if lazy else frame, "y ~ x + (1 | g)", by=name)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_null_key_is_a_missing_value(lazy: bool) -> None:
    data = rows().with_columns(key=pl.when(pl.int_range(pl.len()) % 7 == 3).then(None).otherwise("key"))
    frame = data.lazy() if lazy else data
    with pytest.raises(ColumnError, match=r"57 rows have a missing value in 'key' \(the first is row 3,"):
        polars_glmm.fit(frame, "y ~ x", by=["key", "f"], missing="error")
    assert quietly(frame, "y ~ x", by="key").n_unkeyed == data["key"].null_count()
    assert len(quietly(data.drop_nulls("key"), "y ~ x", by="key", missing="error")) == data["key"].n_unique() - 1


# parts without rows --------------------------------------------------------------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize("formula", ["y ~ x", "y ~ x + f + (x | g)", "y ~ x + (1 | g) + (1 | h) + (1 | g:h)"])
@pytest.mark.parametrize("none", [pl.DataFrame.clear, lambda data: data.with_columns(x=pl.lit(None, pl.Float64))])
def test_an_empty_part_adds_nothing(formula: str, none: Callable[[pl.DataFrame], pl.DataFrame], tmp_path: Path) -> None:
    data = rows().with_columns(pl.col("y") + 1e6)
    whole = polars_glmm.products(data, formula)
    empty = polars_glmm.products(none(data), like=whole)
    assert (empty.n_obs, empty.n_dropped) == (0, none(data).height)
    empty.write_parquet(tmp_path / "empty.parquet")
    for part in (empty, polars_glmm.read_products(tmp_path / "empty.parquet")):
        for both in (whole + part, part + whole, part + part + whole):
            assert both.n_obs == whole.n_obs
            assert both.fit().loglik == pytest.approx(whole.fit().loglik, abs=1e-8)
        with pytest.raises(ColumnError, match="no rows"):
            part.fit()


def test_the_first_part_may_be_empty_where_nothing_is_learned_from_rows() -> None:
    data = rows()
    first = polars_glmm.products(data.clear(), "y ~ x + f + (1 | g)", levels={"f": ["a", "b", "c"]})
    both = first + polars_glmm.products(data, like=first)
    assert both.fit().loglik == pytest.approx(quietly(data, "y ~ x + f + (1 | g)").loglik, rel=1e-9)
    with pytest.raises(ColumnError, match="no rows"):
        polars_glmm.products(data.clear(), "y ~ x + f + (1 | g)")
    with pytest.raises(ColumnError, match="missing value"):
        polars_glmm.products(data.with_columns(x=pl.lit(None, pl.Float64)), like=first, missing="error")
