"""Rows in parts that stay with workers: the fit of the rows together, whoever the workers are."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control
from polars_glmm.control import Memory, Rows
from polars_glmm.errors import ColumnError, DataChangedError, ModelError, ResourceError, ResponseError
from polars_glmm.frames.staying import AtOnce
from polars_glmm.likelihood.marginal import sample
from polars_glmm.likelihood.rows import sampled, spread
from tests.likelihood.same_fits import same_fits

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
N = 900
STAY = Control(rows=Rows(block=60, stay=True, compress=False), progress=False)
HERE = Control(rows=Rows(block=60, threads=1, compress=False), progress=False)


def data() -> pl.DataFrame:
    rng = np.random.default_rng(12)
    g, x = rng.integers(0, 30, N), rng.normal(size=N) + 20
    f = rng.choice(["a", "it's", "c"], N)
    inner = g * 3 + rng.integers(0, 3, N)
    u = rng.normal(size=(30, 2)) @ np.array([[0.7, 0.2], [0.0, 0.4]])
    eta = 0.3 + 0.5 * (x - 20) + 0.4 * (f == "c") + u[g, 0] + u[g, 1] * (x - 20) + 0.5 * rng.normal(size=90)[inner]
    trials = rng.integers(0, 6, N)
    frame = pl.DataFrame(
        {
            "g": [f"g{k}" for k in g],
            "h": inner,
            "x": x,
            "f": f,
            "t": trials,
            "w": rng.integers(0, 3, N),
            "bern": (rng.random(N) < 1 / (1 + np.exp(-eta))).astype(int),
            "good": rng.binomial(trials, 1 / (1 + np.exp(-eta))),
            "count": rng.poisson(np.exp(0.5 * eta) * rng.gamma(2.0, 0.5, N)),
            "grade": rng.integers(1, 4, N),
            "real": eta + np.exp(0.2 * (x - 20)) * rng.normal(size=N),
        }
    )
    gone = pl.int_range(N)
    return frame.with_columns(
        g=pl.when(gone % 211 == 3).then(None).otherwise("g"), x=pl.when(gone % 97 == 5).then(None).otherwise("x")
    )


DATA = data()
MODELS: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "slopes": (("bern ~ scale(x) + f + (1 + x | g)",), {"family": "binomial"}),
    "nested": (("bern ~ x + (1 + x | g) + (1 | h)",), {"family": "binomial"}),
    "size": (("count ~ x + (1 | g)",), {"family": "negative_binomial"}),
    "quadrature": (("bern ~ x + (1 | g)",), {"family": "binomial", "method": "agq"}),
    "nested quadrature": (("bern ~ x + (1 | g) + (1 | h)",), {"family": "binomial", "method": polars_glmm.AGQ(5)}),
    "trials": (("good ~ x + (1 | g)",), {"family": "binomial", "trials": "t"}),
    "weights": (("count ~ x + (1 | g)",), {"family": "poisson", "frequency": "w"}),
    "held": (("bern ~ x + f + (1 | g)",), {"family": "binomial", "fixed": {"x": 0.4}}),
    "redundant": (("count ~ x + I(2 * x) + offset(x / 10) + (1 | g)",), {"family": "poisson"}),
    "no effects": (("bern ~ x + f",), {"family": "binomial"}),
    "size by formula": (("count ~ x + (1 | g)", "phi ~ f"), {"family": "negative_binomial"}),
    "grades": (("grade ~ x + (1 | g)",), {"family": "cumulative"}),
    "zeros": (("count ~ x + (1 | g)", "zi ~ f"), {"family": "poisson"}),
    "spreads": (("real ~ x + (1 | g)", "phi ~ x"), {}),
}


class Travelling(AtOnce[Any]):
    """Things in this process, asked as if they were elsewhere: all that is said passes through bytes."""

    def ask(self, question: Callable[[Any], Any]) -> list[Any]:
        return [through_bytes(answer) for answer in super().ask(through_bytes(question))]

    def made(self, make: Callable[[Any], Any]) -> Travelling:
        return Travelling(tuple(map(through_bytes(make), self.things)))

    def chosen(self, marks: Sequence[bool]) -> Travelling:
        return Travelling(tuple(thing for thing, mark in zip(self.things, marks, strict=True) if mark))


def through_bytes(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))  # noqa: S301  # its own


class Nearby:
    """Workers in this process: parts by the order of their keys, so that with many parts some are empty."""

    name = "this test"

    def __init__(self, parts: int, memory: int | None = None) -> None:
        self.parts, self.memory = parts, memory

    def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Travelling:
        assert needed > 0
        frame = rows.collect("polars").to_native()
        which = pl.struct(keys).rank("dense") if keys else pl.int_range(pl.len())
        return Travelling(tuple(frame.filter(which % self.parts == k) for k in range(self.parts)))


@contextmanager
def workers(monkeypatch: pytest.MonkeyPatch, holders: Any) -> Iterator[None]:
    @contextmanager
    def held() -> Iterator[Any]:
        yield holders

    with monkeypatch.context() as patch:
        for module in ("choose", "rows"):
            patch.setattr(f"polars_glmm.fitting.{module}.connected", lambda frame: held)
        yield


def relation(frame: pl.DataFrame = DATA) -> Any:
    return duckdb.connect().from_arrow(frame.to_arrow())


@pytest.mark.one_in(20)
@pytest.mark.parametrize("parts", [1, 3, 40])
@pytest.mark.parametrize("model", list(MODELS))
def test_rows_that_stay_give_the_fit_of_the_rows_together(
    model: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    formulas, options = MODELS[model]
    here = polars_glmm.fit(DATA.lazy(), *formulas, control=HERE, **options)
    with workers(monkeypatch, Nearby(parts)):
        there = polars_glmm.fit(relation(), *formulas, control=STAY, **options)
    same_fits(there, here)
    there.update(control=HERE)  # the source is read out as any other, and its sums are those of the fit


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("model", "parts"), [("nested", 4), ("slopes", 3), ("slopes", 40), ("size", 3)])
def test_a_search_begins_on_a_part_of_the_levels_where_they_stay(
    model: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same optimum with fewer questions to all rows; of some parts no level is taken."""
    formulas, options = MODELS[model]
    here = polars_glmm.fit(DATA.lazy(), *formulas, control=HERE, **options)
    seen: list[Any] = []
    plain = spread._few

    def few(design: Any, maker: Any) -> Any:
        seen.append(plain(design, maker))
        return seen[-1]

    monkeypatch.setattr(spread, "_few", few)
    for module, name, value in ((spread, "_MANY_ROWS", 1), (sample, "_MANY_ROWS", 1), (sampled, "_ROWS", 300)):
        monkeypatch.setattr(module, name, value)
    with workers(monkeypatch, Nearby(parts)):
        there = polars_glmm.fit(relation(), *formulas, control=STAY, **options)
    assert there.loglik == pytest.approx(here.loglik, abs=1e-8)
    assert (there.n_obs, there.groups, there.converged) == (here.n_obs, here.groups, here.converged)
    np.testing.assert_allclose(there.fixef()["estimate"], here.fixef()["estimate"], rtol=1e-5)
    assert 0 < seen[0].n_rows < 600


def test_a_level_larger_than_a_worker_is_refused_before_rows_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unasked(Nearby):
        def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Travelling:
            raise AssertionError

    most = DATA.drop_nulls()["g"].value_counts(sort=True)["g"][0]
    with (
        workers(monkeypatch, Unasked(3, memory=1000)),
        pytest.raises(ResourceError, match=rf"rows at level {most}.*one worker of this test has.*group by something"),
    ):
        polars_glmm.fit(relation(), "bern ~ x + (1 | g)", family="binomial", control=STAY)


def test_factors_that_cross_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with workers(monkeypatch, Nearby(3)), pytest.raises(ModelError, match=r"'g' and 'f' cross.*stay=False"):
        polars_glmm.fit(relation(), "bern ~ x + (1 | g) + (1 | f)", family="binomial", control=STAY)


def test_parts_that_share_a_level_or_lost_rows_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Split(Nearby):
        def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Travelling:
            return super().spread(rows, (), needed)

    class Lossy(Nearby):
        def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Travelling:
            first, *others = super().spread(rows, keys, needed).things
            return Travelling((first[1:], *others))

    for holders in (Split(2), Lossy(2)):
        with workers(monkeypatch, holders), pytest.raises(DataChangedError, match="other rows"):
            polars_glmm.fit(relation(), "bern ~ x + (1 | g)", family="binomial", control=STAY)


def test_errors_of_rows_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = DATA.with_columns(bern=pl.when(pl.int_range(N) == 7).then(3).otherwise("bern"))
    with workers(monkeypatch, Nearby(3)):
        with pytest.raises(ResponseError, match=r"within one part"):
            polars_glmm.fit(relation(wrong), "bern ~ x + (1 | g)", family="binomial", control=STAY)
        with pytest.raises(ColumnError, match="missing"):
            polars_glmm.fit(relation(), "bern ~ x + (1 | g)", family="binomial", missing="error", control=STAY)


@pytest.mark.parametrize(
    ("formula", "options", "control", "why"),
    [
        ("bern ~ x + (1 | g)", {"family": "binomial"}, STAY, "a cluster are needed"),
        ("bern ~ x + (1 | g)", {"family": "binomial"}, Control(rows=Rows(stay=True), keep="rows"), "keep='rows'"),
    ],
)
def test_where_rows_cannot_stay_the_reason_is_given(
    formula: str, options: dict[str, Any], control: Control, why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        polars_glmm.fit(relation(), formula, control=control, **options)


@pytest.mark.parametrize(
    ("formula", "options", "why"),
    [
        ("cens(real, lower=0) ~ x + (1 | g)", {}, "censored"),
        ("real ~ x + (1 | g)", {"residual": "ar1(h | g)"}, "correlated"),
    ],
)
def test_models_whose_rows_must_be_in_one_place_are_refused(
    formula: str, options: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workers(monkeypatch, Nearby(3)), pytest.raises(ModelError, match=rf"cannot stay.*{why}"):
        polars_glmm.fit(relation(), formula, control=STAY, **options)


def test_rows_stay_unasked_only_where_memory_does_not_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(compress=False)
    with workers(monkeypatch, Nearby(3)):
        for limit, route in ((1, "workers"), (None, "rows")):
            control = Control(memory=Memory(limit=limit), rows=rows, progress=False)
            plan = polars_glmm.explain(relation(), "bern ~ x + (1 | g)", family="binomial", control=control)
            assert plan.plan.route == route
            assert ("stay with the workers" in str(plan)) == (route == "workers")


def test_whether_rows_stay_is_yes_no_or_nothing() -> None:
    with pytest.raises(ModelError, match=r"Rows\(stay='yes'\)"):
        Rows(stay="yes")  # type: ignore[arg-type]
