"""What tests of rows that stay with the workers of a cluster share: the rows, the settings, and what is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, Fit
from polars_glmm.control import Rows

N = 4000
STAY = Control(rows=Rows(stay=True, compress=False), progress=False)
HERE = Control(rows=Rows(compress=False), progress=False)


def _made() -> pl.DataFrame:
    rng = np.random.default_rng(8)
    g, x = rng.integers(0, 60, N), rng.normal(size=N) + 10
    h = g * 3 + rng.integers(0, 3, N)
    eta = 0.3 * (x - 10) + 0.7 * rng.normal(size=60)[g] + 0.4 * rng.normal(size=180)[h]
    frame = pl.DataFrame(
        {
            "g": [f"g{k}" for k in g],
            "h": h,
            "x": x,
            "c": rng.poisson(np.exp(eta)),
            "o": rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.5, N)),
            "b": (rng.random(N) < 1 / (1 + np.exp(-eta))).astype(int),
        }
    )
    k = pl.int_range(N)
    return frame.with_columns(
        g=pl.when(k % 811 == 3).then(None).otherwise("g"), x=pl.when(k % 400 == 7).then(float("nan")).otherwise("x")
    )


DATA = _made()


def assert_same_fit(frame: Any, formula: str, options: dict[str, Any]) -> None:
    """The fit of rows that stay is that of the rows in memory."""
    here = polars_glmm.fit(DATA, formula, control=HERE, **options)
    there: Fit = polars_glmm.fit(frame, formula, control=STAY, **options)
    assert there.loglik == pytest.approx(here.loglik, abs=1e-8)
    assert (there.n_obs, there.n_dropped, there.groups) == (here.n_obs, here.n_dropped, here.groups)
    for table, columns in (("fixef", ("estimate", "std_error")), ("varcorr", ("estimate",)), ("ranef", ("estimate",))):
        for name in columns:
            got, want = getattr(there, table)()[name], getattr(here, table)()[name]
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def before_rounds(
    monkeypatch: pytest.MonkeyPatch, things: type[Any], work: Callable[[Any, int], object]
) -> list[int]:
    """Do something before every round that things of a class are asked, with its number; the rounds that there were."""
    rounds: list[int] = []
    plain = things.ask

    def ask(self: Any, question: Any) -> list[Any]:
        rounds.append(len(rounds))
        work(self, rounds[-1])
        return list(plain(self, question))

    monkeypatch.setattr(things, "ask", ask)
    return rounds
