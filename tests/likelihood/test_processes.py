"""Rows in processes of this machine: the same fit, no guard of scripts, and nobody left behind however a fit ends."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import Control
from polars_glmm.control import Memory, Rows
from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.likelihood.marginal import divided
from polars_glmm.likelihood.rows import processes
from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.likelihood.rows.holder import OverBlocks, added
from polars_glmm.likelihood.rows.processes import Child
from polars_glmm.likelihood.rows.shards import Shards, Together

N = 2000
TWO = Control(rows=Rows(block=200, processes=2), progress=False)
ONE = Control(rows=Rows(block=200, processes=1, threads=1), progress=False)


def data() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    g, x = rng.integers(0, 60, N), rng.normal(size=N)
    eta = 0.2 + 0.5 * x + rng.normal(size=60)[g] + 0.4 * rng.normal(size=60)[g] * x
    return pl.DataFrame({"g": g, "h": 5 * g + rng.integers(0, 5, N), "x": x,
                         "y": (rng.random(N) < 1 / (1 + np.exp(-eta))).astype(int)})  # fmt: skip


DATA = data()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The children that a test starts."""
    made: list[Child] = []

    class Watched(Child):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(processes, "Child", Watched)
    return made


def ended(child: Child) -> bool:
    return child._process.poll() is not None


@pytest.mark.one_in(2)
@pytest.mark.parametrize("formula", ["y ~ x + (1 + x | g)", "y ~ x + (1 | g) + (1 | h)"])
def test_a_fit_by_two_processes_is_the_fit_by_one(formula: str, started: list[Child]) -> None:
    here = polars_glmm.fit(DATA, formula, family="binomial", control=ONE)
    there = polars_glmm.fit(DATA, formula, family="binomial", control=TWO)
    assert len(started) == 1
    assert ended(started[0])
    assert there.loglik == pytest.approx(here.loglik, abs=1e-9)
    assert_allclose(there.fixef()["std_error"], here.fixef()["std_error"], rtol=1e-5)
    assert_allclose(there.ranef()["estimate"], here.ranef()["estimate"], rtol=1e-6, atol=1e-8)
    again = polars_glmm.fit(DATA, formula, family="binomial", control=TWO)
    assert again.loglik == there.loglik


@pytest.mark.slow
def test_rows_on_disk_are_read_by_the_process_that_works_on_them(started: list[Child]) -> None:
    options = {"memory": Memory(limit=1), "progress": False}
    rows = Rows(block=200, threads=1, compress=False)
    here = polars_glmm.fit(DATA.lazy(), "y ~ x + (1 | g)", family="binomial", control=Control(rows=rows, **options))
    two = Rows(block=200, processes=2, compress=False)
    there = polars_glmm.fit(DATA.lazy(), "y ~ x + (1 | g)", family="binomial", control=Control(rows=two, **options))
    assert len(started) == 1
    assert there.loglik == pytest.approx(here.loglik, abs=1e-9)


def test_crossed_factors_stay_in_one_process(started: list[Child]) -> None:
    k = np.arange(N) % 7
    crossed = DATA.with_columns(k=k, y=((pl.Series(k) % 2) * (pl.col("x") > 0)).clip(pl.col("y"), 1))
    one, two = (
        polars_glmm.fit(crossed, "y ~ x + (1 | g) + (1 | k)", family="binomial", control=c) for c in (ONE, TWO)
    )
    assert two.loglik == one.loglik
    assert not started


def test_a_child_that_dies_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Child] = []

    class Mortal(Child):
        def __init__(self) -> None:
            super().__init__()
            self.said = 0
            made.append(self)

        def send(self, thing: object) -> None:
            self.said += 1
            if self.said == 6:
                self._process.kill()
                self._process.wait()
            super().send(thing)

    monkeypatch.setattr(processes, "Child", Mortal)
    with pytest.raises(ResourceError, match=r"ended by signal 9.*processes=1"):
        polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial", control=TWO)
    assert ended(made[0])


def test_an_interrupt_ends_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Child] = []

    class Interrupted(Child):
        def __init__(self) -> None:
            super().__init__()
            self.heard = 0
            made.append(self)

        def receive(self) -> object:
            self.heard += 1
            if self.heard == 5:
                raise KeyboardInterrupt
            return super().receive()

    monkeypatch.setattr(processes, "Child", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial", control=TWO)
    assert ended(made[0])


SCRIPT = textwrap.dedent(
    """
    import sys
    print("top of the script", flush=True)
    import polars as pl
    import polars_glmm
    from polars_glmm import Control
    from polars_glmm.control import Rows
    from polars_glmm.likelihood.rows import processes

    class Told(processes.Child):
        def __init__(self):
            super().__init__()
            print("child", self._process.pid, flush=True)

    processes.Child = Told
    control = Control(rows=Rows(block=200, processes=2), progress=False)
    df = pl.read_parquet(sys.argv[1])
    while True:
        fit = polars_glmm.fit(df, "y ~ x + (1 | g)", family="binomial", control=control)
        print("fitted", flush=True)
        if len(sys.argv) < 3:
            break
    """
)


def run(tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    DATA.write_parquet(tmp_path / "data.parquet")
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "data.parquet"), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_script_needs_no_guard_of_its_main_module(tmp_path: Path) -> None:
    with run(tmp_path) as script:
        assert script.stdout is not None
        said = script.stdout.read()
    assert script.returncode == 0
    assert said.count("top of the script") == 1
    assert said.count("fitted") == 1


@pytest.mark.slow
def test_children_of_a_process_that_was_killed_end_by_themselves(tmp_path: Path) -> None:
    with run(tmp_path, "for ever") as script:
        assert script.stdout is not None
        children = []
        for line in script.stdout:
            if line.startswith("child"):
                children.append(int(line.split()[1]))
            if line.startswith("fitted") or len(children) > 1:
                break
        script.send_signal(signal.SIGKILL)
        script.stdout.read()
    deadline = time.monotonic() + 30
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    assert not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z")


def test_processes_are_a_whole_number() -> None:
    with pytest.raises(ModelError, match="processes"):
        Rows(processes=-1)


def test_few_rows_start_no_process_unasked(started: list[Child]) -> None:
    polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial")
    assert not started


def test_many_rows_start_processes_unasked_unless_threads_are_given(
    started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divided, "_WORTH", 1)
    monkeypatch.setattr(divided, "workers", lambda asked: asked or 2)
    for rows, wanted in ((Rows(block=200), 1), (Rows(block=200, threads=1), 0), (Rows(block=200, processes=1), 0)):
        started.clear()
        polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial", control=Control(rows=rows, progress=False))
        assert len(started) == wanted


class NoStart(Child):
    def __init__(self) -> None:
        msg = "no more processes"
        raise BlockingIOError(msg)


class Stillborn(Child):
    def receive(self) -> object:
        self._process.kill()
        self._process.wait()
        return super().receive()


@pytest.mark.parametrize("child", [NoStart, Stillborn])
def test_where_no_process_can_start_one_does_the_work_unless_more_were_asked_for(
    child: type[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "Child", child)
    monkeypatch.setattr(divided, "_WORTH", 1)
    monkeypatch.setattr(divided, "workers", lambda asked: asked or 2)
    here = polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial", control=ONE)
    unasked = Control(rows=Rows(block=200), progress=False)
    assert polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial", control=unasked).loglik == here.loglik
    with pytest.raises(ResourceError, match=r"processes=1"):
        polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial", control=TWO)


def test_a_worker_starts_none_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.can_start()
    monkeypatch.setenv("POLARS_GLMM_WORKER", "1")
    assert not processes.can_start()
    monkeypatch.delenv("POLARS_GLMM_WORKER")
    monkeypatch.setattr(sys, "executable", "/usr/lib/host-application")
    assert not processes.can_start()


def test_errors_of_a_child_are_raised_as_they_are() -> None:
    with processes.children(1) as (child,):
        child.receive()
        rows = RowBlocks((), None, 0, ())
        child.send(rows)
        shards = Shards(processes.Processes(rows, [child]), Together(0, (), ((), ())))
        for _ in range(2):  # what was said is in step after an error
            with pytest.raises(TypeError, match="unsupported operand"):
                shards.ask(OverBlocks(operator.truediv, (0.0,), added))
    assert ended(child)


def test_rows_of_one_block_are_not_divided(started: list[Child]) -> None:
    control = Control(rows=Rows(processes=3), progress=False)
    polars_glmm.fit(DATA, "y ~ x + (1 | g)", family="binomial", control=control)
    assert not started
