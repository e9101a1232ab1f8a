"""Rows in shards that answer for themselves give the fit of the rows together."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control
from polars_glmm.control import Memory, Rows
from polars_glmm.likelihood.marginal import fit as fitting
from polars_glmm.likelihood.marginal.divided import divide, over
from polars_glmm.likelihood.marginal.engine import RowEngine, row_engine
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.rows.shards import Asking, AtHand, Shard, Shards
from tests.likelihood.same_fits import same_fits

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
N = 900


def data() -> pl.DataFrame:
    rng = np.random.default_rng(11)
    g, x = rng.integers(0, 40, N), rng.normal(size=N)
    f = rng.choice(["a", "b", "c"], N)
    u = rng.normal(size=(40, 2)) @ np.array([[0.7, 0.2], [0.0, 0.4]])
    inner = g * 3 + rng.integers(0, 3, N)
    v = 0.5 * rng.normal(size=120)
    eta = 0.3 + 0.5 * x + 0.4 * (f == "b") + u[g, 0] + u[g, 1] * x
    return pl.DataFrame(
        {
            "g": g,
            "h": inner,
            "x": x,
            "f": f,
            "k": rng.integers(0, 2, N),
            "t": rng.integers(3, 6, N),
            "bern": (rng.random(N) < 1 / (1 + np.exp(-eta - v[inner]))).astype(int),
            "count": rng.poisson(np.exp(0.5 * eta) * rng.gamma(2.0, 0.5, N)),
            "plain": rng.poisson(np.exp(0.4 + 0.3 * x)),
            "real": eta + v[inner] + np.exp(0.2 * x) * rng.normal(size=N),
            "positive": np.exp(0.3 * eta) * rng.gamma(4.0, 0.25, N),
        }
    ).with_columns(good=(pl.col("bern") * pl.col("t")).clip(0, 5), copy=pl.col("bern") * (pl.col("f") == "c"))


DATA = data()
MODELS: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "slopes": (("bern ~ x + f + (1 + x | g)",), {"family": "binomial"}),
    "quadrature": (("bern ~ x + (1 | g)",), {"family": "binomial", "method": "agq"}),
    "no effects": (("bern ~ x + f",), {"family": "binomial"}),
    "separated": (("bern ~ x + copy + (1 | g)",), {"family": "binomial"}),
    "size": (("count ~ x + (1 | g)",), {"family": "negative_binomial"}),
    "size by formula": (("count ~ x + (1 | g)", "phi ~ x"), {"family": "negative_binomial"}),
    "no overdispersion": (("plain ~ x + (1 | g)", "phi ~ x"), {"family": "negative_binomial"}),
    "not concave": (("positive ~ x + (1 + x || g)",), {"family": "gamma", "link": "inverse"}),
    "restricted": (("real ~ x + (1 | g)", "phi ~ x"), {"family": "gaussian", "method": "reml"}),
    "effects on phi": (("real ~ x + (1 |p| g)", "phi ~ 1 + (1 |p| g)"), {"family": "gaussian", "method": "laplace"}),
    "expected": (("positive ~ x + (1 | g)",), {"family": "gamma", "link": "log",
                                               "method": polars_glmm.Laplace(curvature="expected")}),
    "nested": (("bern ~ x + (1 + x | g) + (1 | h)",), {"family": "binomial"}),
    "nested, counted": (("bern ~ k + (1 | g) + (1 | h)",), {"family": "binomial"}),
    "counted": (("bern ~ k + (1 | g)",), {"family": "binomial"}),
    "one bound": (("bern ~ x + (1 | g)",), {"family": "binomial", "fixed": {"x": 0.4}}),
}  # fmt: skip


@contextmanager
def in_shards(model: Model, engine: RowEngine, parts: int) -> Iterator[RowEngine]:
    made = divide(model, engine, parts)
    yield over(engine, Shards(Pickling([Shard(rows) for rows in made.shards]), made.whole))


class Pickling(AtHand):
    """Shards whose questions and answers pass through bytes, as they do between processes."""

    def ask(self, question: Asking) -> list[object]:
        return [through_bytes(one) for one in super().ask(through_bytes(question))]


def through_bytes(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))  # noqa: S301  # its own


@contextmanager
def sharded(monkeypatch: pytest.MonkeyPatch, parts: int) -> Iterator[list[int]]:
    seen: list[int] = []

    @contextmanager
    def divided(model: Model) -> Iterator[RowEngine]:
        with in_shards(model, row_engine(model), parts) as there:
            assert isinstance(there.marginal.rows, Shards)
            seen.append(len(there.marginal.rows.whole.places))
            yield there

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "divided", divided)
        yield seen


@pytest.mark.one_in(16)
@pytest.mark.parametrize("parts", [1, 3, 7])
@pytest.mark.parametrize("model", list(MODELS))
def test_a_fit_of_shards_is_the_fit_of_the_rows_together(
    model: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    formulas, options = MODELS[model]
    control = Control(rows=Rows(block=60, threads=1), progress=False)
    here = polars_glmm.fit(DATA, *formulas, control=control, **options)
    with sharded(monkeypatch, parts) as seen:
        there = polars_glmm.fit(DATA, *formulas, control=control, **options)
    assert seen
    assert 1 <= max(seen) <= parts
    same_fits(there, here)
    work = [fit.estimate.certificate.row_passes for fit in (there, here)]
    assert work[0] == pytest.approx(work[1], rel=0.05)  # modes are where they were left


def test_shards_on_disk_are_the_rows_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    formulas, options = MODELS["slopes"]
    control = Control(memory=Memory(limit=1), rows=Rows(block=60, threads=1, compress=False), progress=False)
    here = polars_glmm.fit(DATA.lazy(), *formulas, control=control, **options)
    with sharded(monkeypatch, 3) as seen:
        there = polars_glmm.fit(DATA.lazy(), *formulas, control=control, **options)
    assert seen == [3]
    same_fits(there, here)


class Forgetful(AtHand):
    """Every third question meets shards that remember nothing: new workers."""

    def __init__(self, shards: list[Shard], rows: list[object]) -> None:
        super().__init__(shards)
        self.rows, self.asked = rows, 0

    def ask(self, question: Asking) -> list[object]:
        self.asked += 1
        if self.asked % 3 == 0:
            self._shards = tuple(Shard(rows) for rows in self.rows)
        first = super().ask(question)
        if self.asked % 4 == 0:  # a task that ran twice
            return super().ask(question)
        return first


@pytest.mark.parametrize("model", ["slopes", "size", "nested"])
def test_shards_that_forget_and_questions_asked_twice_change_nothing(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    formulas, options = MODELS[model]
    here = polars_glmm.fit(DATA, *formulas, **options)

    @contextmanager
    def divided(model: Model) -> Iterator[RowEngine]:
        engine = row_engine(model)
        made = divide(model, engine, 3)
        yield over(engine, Shards(Forgetful([Shard(rows) for rows in made.shards], made.shards), made.whole))

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "divided", divided)
        there = polars_glmm.fit(DATA, *formulas, **options)
    same_fits(there, here)
