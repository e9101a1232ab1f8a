"""explain's route is the route taken: frames × controls × models, each fit stopped where its route is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, Memory, Rows
from polars_glmm.design.disk.parts import StoredDesign
from polars_glmm.errors import ResourceError
from polars_glmm.fitting import by_key, choose, flow
from polars_glmm.frames import counted as compress
from polars_glmm.likelihood.model import prepare

AnyFrame = pl.DataFrame | pl.LazyFrame
Model = tuple[str, dict[str, Any]]

MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "gaussian": (("y ~ x + (1 | g)",), {}),
    "gaussian, learned": (("y ~ scale(x) + f + (1 | g)",), {}),
    "gaussian, crossed": (("y ~ x + (1 | g) + (1 | h)",), {}),
    "gaussian, open": (("y ~ bs(x, df=4, extrapolation='na') + (1 | g)",), {}),
    "gaussian, spread": (("y ~ x + (1 | g)", "phi ~ f"), {}),
    "gaussian, spread of a number": (("y ~ x + (1 | g)", "phi ~ x"), {"method": "ml"}),
    "gaussian, spread, approximated": (("y ~ x + (1 | g)", "phi ~ f"), {"method": "laplace"}),
    "gaussian, spread, no groups": (("y ~ x", "phi ~ f"), {}),
    "gaussian, log": (("exp(y) ~ x + (1 | g)",), {"link": "log"}),
    "poisson": (("n ~ x + (1 | g)",), {"family": "poisson"}),
    "poisson, cells": (("n ~ f + (1 | g)",), {"family": "poisson"}),
    "poisson, crossed": (("n ~ x + (1 | g) + (1 | h)",), {"family": "poisson"}),
    "poisson, crossed cells": (("n ~ f + (1 | g) + (1 | h)",), {"family": "poisson"}),
    "poisson, gaps": (("with_gaps ~ f + (1 | g)",), {"family": "poisson", "frequency": "times"}),
    "no groups": (("n ~ x",), {"family": "poisson"}),
    "negative binomial": (("n ~ f + (1 | g)",), {"family": "negative_binomial"}),
    "trials": (("s ~ f + (1 | g)",), {"family": "binomial", "trials": "t"}),
    "some without trials": (("s0 ~ f + (1 | g)",), {"family": "binomial", "trials": "t0"}),
}  # fmt: skip
CONTROLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rows kept": {"keep": "rows"},
    "nothing kept": {"keep": "none"},
    "not counted": {"rows": Rows(compress=False)},
    "little memory": {"memory": Memory(limit=50_000)},
    "little memory, rows kept": {"memory": Memory(limit=50_000), "keep": "rows", "rows": Rows(compress=False)},
}
FRAMES: dict[str, Callable[[pl.DataFrame, Path], AnyFrame]] = {
    "few": lambda rows, _: rows.head(200),
    "many": lambda rows, _: rows,
    "lazy, few": lambda rows, _: rows.head(200).lazy(),
    "lazy": lambda rows, _: rows.lazy(),
    "parquet": lambda _, path: pl.scan_parquet(path),
}


class _KnownError(Exception):
    """Raised where the route of a fit is known, with its kind and the rows of its design."""


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """800 rows: beyond the limits below, which stand in for those of tens of thousands."""
    rng = np.random.default_rng(5)
    n = 800
    f, n_events = rng.integers(0, 3, n), rng.poisson(1.5, n)
    return pl.DataFrame(
        {
            "y": rng.normal(size=n), "x": rng.normal(size=n), "n": n_events, "f": f.astype(str), "g": np.arange(n) % 10,
            "h": np.arange(n) % 8, "times": np.arange(n) % 3, "t": np.full(n, 3), "s": rng.integers(0, 4, n),
            "t0": np.where(np.arange(n) % 40 == 0, 0, 3), "m": (np.arange(n) >= 400).astype(int),
            "s0": np.where(np.arange(n) % 40 == 0, 0, rng.integers(0, 4, n)),
            "with_gaps": pl.Series(n_events).set(pl.Series(np.arange(n) % 90 == 1), None),
        }
    )  # fmt: skip


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, int | None]]:
    """The route of a fit, seen where its work begins: queries, or a design given to an engine."""

    def sums(*_: object) -> NoReturn:
        raise _KnownError("sums", None)

    def engine(design: Any, family: Any, method: Any, control: Any, given: Any, *, by_rows: bool) -> NoReturn:
        if isinstance(design, StoredDesign):
            raise _KnownError("disk", design.n_rows)
        model = prepare(design, family, method, control, by_rows=by_rows)
        raise _KnownError("products" if model.exact or model.few_variances else "rows", design.n_rows)

    monkeypatch.setattr(flow, "fit_summaries", sums)
    monkeypatch.setattr(flow, "estimate", engine)
    monkeypatch.setattr(choose, "MANY_ROWS", (300, 500))
    monkeypatch.setattr(compress, "_FEWEST_ROWS", 300)

    def route(frame: AnyFrame, *formulas: str, **options: Any) -> tuple[str, int | None]:
        try:
            polars_glmm.fit(frame, *formulas, **options)
        except _KnownError as known:
            return known.args[0], known.args[1]
        raise AssertionError

    return route


@pytest.mark.one_in(6)
@pytest.mark.parametrize("model", MODELS)
def test_the_route_that_is_explained_is_taken(
    model: str, rows: pl.DataFrame, tmp_path: Path, taken: Callable[..., tuple[str, int | None]]
) -> None:
    formulas, options = MODELS[model]
    rows.write_parquet(tmp_path / "rows.parquet")
    for frame_name, make in FRAMES.items():
        for control_name, settings in CONTROLS.items():
            frame, control = make(rows, tmp_path / "rows.parquet"), Control(**settings)
            plan = polars_glmm.explain(frame, *formulas, control=control, **options).plan
            where = (model, frame_name, control_name)
            if not plan.fits:
                with pytest.raises(ResourceError, match="only models of one factor can be fitted from disk"):
                    taken(frame, *formulas, control=control, **options)
                continue
            kind, n = taken(frame, *formulas, control=control, **options)
            assert (plan.route, *where) == (kind, *where)
            used = polars_glmm.explain(rows.head(200) if "few" in frame_name else rows, *formulas, **options).frame
            whole = used.filter(part="rows", name="used")["size"].item()
            if kind in ("rows", "disk"):
                assert (plan.cells is not None, *where) == (n != whole, *where)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", MODELS)
def test_a_key_that_is_fitted_alone_takes_the_route_of_its_rows(
    model: str, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, taken: Callable[..., tuple[str, int | None]]
) -> None:
    monkeypatch.setattr(by_key, "FEWEST", 100)  # keys from which they are fitted together
    formulas, options = MODELS[model]
    for settings in CONTROLS.values():
        control = Control(**settings)
        plan = polars_glmm.explain(rows.filter(m=0), *formulas, control=control, **options).plan
        for frame in (rows, rows.lazy()):
            assert taken(frame, *formulas, by="m", control=control, **options)[0] == plan.route


def test_all_routes_are_met(rows: pl.DataFrame, taken: Callable[..., tuple[str, int | None]]) -> None:
    """The matrix above would say little if it were all of one kind."""
    tight = Control(memory=Memory(limit=50_000))
    assert taken(rows, "y ~ x + (1 | g)")[0] == "sums"
    assert taken(rows.head(200), "y ~ x + (1 | g)")[0] == "products"
    assert taken(rows.head(200).lazy(), "y ~ x + (1 | g)", control=Control(keep="rows"))[0] == "products"
    assert taken(rows, "n ~ x + (1 | g)", family="poisson") == ("rows", 800)
    assert taken(rows.lazy(), "n ~ x + (1 | g)", family="poisson", control=tight)[0] == "disk"
    kind, cells = taken(rows, "n ~ f + (1 | g)", family="poisson")
    assert kind == "rows"
    assert cells is not None
    assert cells < 400
