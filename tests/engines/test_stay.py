"""Rows that stay with the workers of a Dask cluster: the fit of the rows in memory, whatever happens to workers."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

import polars_glmm
from polars_glmm.cluster import dask_workers
from polars_glmm.cluster.dask_workers import DaskHolders, DaskThings
from polars_glmm.errors import ModelError, ResourceError
from tests.engines.staying import DATA, HERE, STAY, assert_same_fit, before_rounds

pytestmark = pytest.mark.skipif(
    "dask" not in os.environ.get("POLARS_GLMM_ENGINES", "").split(), reason="Dask was not asked for"
)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = importlib.import_module("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
        distributed.Client(cluster) as there,
    ):
        yield there


@pytest.fixture
def frame(client: Any, tmp_path: Path) -> Any:
    DATA.write_parquet(tmp_path / "rows.parquet")
    read = importlib.import_module("dask.dataframe").read_parquet
    return read(str(tmp_path / "rows.parquet")).repartition(npartitions=3)


def nothing_left(client: Any) -> bool:
    """Whether the scheduler and the workers forget everything, which they do a moment after they are told."""
    until = time.monotonic() + 20
    while client.futures or any(client.run(lambda dask_worker: len(dask_worker.data)).values()):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("c ~ scale(x) + (1 | g)", {"family": "poisson"}),
        ("b ~ x + (1 | g)", {"family": "binomial", "method": "agq"}),
        ("o ~ x + (1 | g)", {"family": "negative_binomial"}),
        ("b ~ x + (1 + x | g) + (1 | h)", {"family": "binomial"}),
        ("c ~ x", {"family": "poisson"}),
    ],
)
def test_rows_that_stay_give_the_fit_of_rows_in_memory(
    formula: str, options: dict[str, Any], frame: Any, client: Any
) -> None:
    assert_same_fit(frame, formula, options)
    assert nothing_left(client)


def test_a_worker_that_dies_between_two_rounds_changes_nothing(
    frame: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead: list[int] = []

    def kill(things: DaskThings[Any], number: int) -> None:
        if number == 12:
            dead.append(next(iter(client.run(os.getpid).values())))
            os.kill(dead[0], signal.SIGKILL)

    here = polars_glmm.fit(DATA, "c ~ x + (1 | g)", family="poisson", control=HERE)
    rounds = before_rounds(monkeypatch, DaskThings, kill)
    there = polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)
    assert dead
    assert len(rounds) > 13
    assert there.loglik == pytest.approx(here.loglik, abs=1e-8)
    client.wait_for_workers(2)
    assert nothing_left(client)


def test_rounds_that_run_twice_change_nothing(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, times = DaskThings.ask, [0]

    def twice(self: DaskThings[Any], question: Any) -> list[Any]:
        times[0] += 1
        if times[0] % 3 == 0:
            plain(self, question)
        return plain(self, question)

    here = polars_glmm.fit(DATA, "o ~ x + (1 | g)", family="negative_binomial", control=HERE)
    monkeypatch.setattr(DaskThings, "ask", twice)
    there = polars_glmm.fit(frame, "o ~ x + (1 | g)", family="negative_binomial", control=STAY)
    assert times[0] > 6
    assert there.loglik == pytest.approx(here.loglik, abs=1e-8)


def test_a_part_that_workers_die_of_is_an_error_with_a_remedy(client: Any) -> None:
    of = importlib.import_module("distributed").KilledWorker
    killed = of("a task", SimpleNamespace(address="tcp://somewhere"), 3)
    with pytest.raises(ResourceError, match=r"lost with its worker.*more memory"), DaskHolders(client).watched():
        raise killed


def test_a_cluster_that_has_lost_its_workers_is_not_waited_for(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_workers, "_LOOK", 0.1)
    monkeypatch.setattr(dask_workers, "_PATIENCE", 0.3)
    holders, never = DaskHolders(client), client.submit(time.sleep, 3, pure=False)
    holders.client = SimpleNamespace(scheduler_info=lambda n_workers: {"workers": {}})
    with pytest.raises(ResourceError, match=r"no worker for 0 seconds.*Start workers"):
        holders.settle([never])


def test_a_key_larger_than_a_worker_is_refused(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DaskHolders, "memory", 1000)
    with pytest.raises(ResourceError, match=r"rows at level g\d+.*one worker of Dask"):
        polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)


def test_workers_of_another_version_or_without_the_package_are_refused(
    frame: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(polars_glmm, "__version__", "0.0.1")
        with pytest.raises(ModelError, match=r"worker tcp://.* has polars_glmm .*, this process polars_glmm 0\.0\.1"):
            polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)
    monkeypatch.setattr(dask_workers, "_VERSIONS", "__import__('no_package_of_this_name')")
    with pytest.raises(ModelError, match="cannot import"):
        polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)
    assert nothing_left(client)


def test_workers_know_how_large_shards_are(frame: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Dask counts as memory in use is at least the numbers of the rows: of each y, x and a code."""
    managed: list[int] = []

    def look(things: DaskThings[Any], number: int) -> None:
        if number == 8:
            managed.extend(client.run(lambda dask_worker: dask_worker.state.nbytes).values())

    before_rounds(monkeypatch, DaskThings, look)
    fit = polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)
    assert 16 * fit.n_obs < sum(managed) < 400 * fit.n_obs


def test_an_error_ends_with_nothing_left(frame: Any, client: Any) -> None:
    with pytest.raises(ModelError, match="cross"):
        polars_glmm.fit(frame, "c ~ x + (1 | g) + (1 | b)", family="poisson", control=STAY)
    assert nothing_left(client)


def test_levels_that_know_each_other_are_not_divided(frame: Any, client: Any) -> None:
    related = pl.DataFrame({"level": ["g1", "g2"], "other_level": ["g2", "g2"], "value": [0.5, 1.0]})
    with pytest.raises(ModelError, match="known= couples the levels of 'g'"):
        polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", known={"g": related}, control=STAY)
    assert nothing_left(client)


def test_rows_in_several_levels_are_not_divided(frame: Any, client: Any) -> None:
    with pytest.raises(ModelError, match=r"rows are in several levels of 'mm\(g, b\)'"):
        polars_glmm.fit(frame, "c ~ x + (1 | mm(g, b))", family="poisson", control=STAY)
    assert nothing_left(client)


def test_explain_says_that_rows_stay(frame: Any) -> None:
    said = polars_glmm.explain(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)
    assert said.plan.route == "workers"
    assert "rows stay with the workers of Dask" in str(said)
