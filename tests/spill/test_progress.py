"""What is shown of long work, to whom, and that nothing stays of it."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import progress
from polars_glmm.control import Control, Memory, Rows


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds, a tenth for every look."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def shown(text: str) -> str:
    """What a terminal shows after a text."""
    line = ""
    for part in text.split("\r")[1:]:
        line = part.removeprefix("\x1b[K")
    return line


def test_stages_nest_and_count() -> None:
    terminal = Terminal()
    line = progress.Line(terminal, 0.0, Clock())
    line.begin("fitting", None)
    line.advance(3)
    line.begin("pass", 4)
    line.advance(2)
    assert shown(terminal.getvalue()) == "fitting 3 · pass [############............]  50%  0:00"
    line.end()
    line.advance(1)
    assert shown(terminal.getvalue()) == "fitting 4  0:00"
    line.wipe()
    assert shown(terminal.getvalue()) == ""


def test_short_work_shows_nothing() -> None:
    terminal = Terminal()
    line = progress.Line(terminal, 2.0, Clock())
    line.begin("reading", 10)
    for _ in range(10):
        line.advance(1)
    line.end()
    line.wipe()
    assert terminal.getvalue() == ""


def test_long_work_shows_itself() -> None:
    terminal = Terminal()
    line = progress.Line(terminal, 2.0, Clock())
    line.begin("reading", 100)
    for _ in range(50):
        line.advance(1)
    assert "reading [" in shown(terminal.getvalue())
    assert shown(terminal.getvalue()).endswith("0:05")


@pytest.mark.parametrize(
    ("asked", "terminal", "heard"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_who_hears(asked: bool | None, terminal: bool, heard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.listening(asked), progress.stage("work", 2):
        progress.advance()
    assert ("work" in stream.getvalue()) == heard
    assert shown(stream.getvalue()) == ""


def test_nothing_stays_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    with pytest.raises(KeyboardInterrupt), progress.listening(True), progress.stage("work"):
        raise KeyboardInterrupt
    assert "work" in stream.getvalue()
    assert shown(stream.getvalue()) == ""
    progress.advance()
    assert shown(stream.getvalue()) == ""


def test_a_call_within_a_call_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    monkeypatch.setattr(progress, "_REFRESH", 0.0)
    with progress.listening(True), progress.stage("models", 2):
        with progress.listening(True), progress.stage("fitting"):
            progress.advance()
        progress.advance()
        assert "models [############............]  50%" in shown(stream.getvalue())
    assert "· fitting" in stream.getvalue()


def test_no_standard_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys, "stderr", None)
    with progress.listening(True), progress.stage("work"):
        progress.advance()


def test_a_closed_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    stream.close()
    with progress.listening(True), progress.stage("work"):
        progress.advance()


@pytest.mark.parametrize("limit", [1, None], ids=["disk", "memory"])
def test_a_fit_tells_its_stages_and_is_quiet_by_default(
    limit: int | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    g = rng.integers(0, 20, 300)
    y = rng.poisson(np.exp(0.5 + rng.normal(size=20))[g])
    data = pl.DataFrame({"y": y, "x": rng.normal(size=300), "g": g})
    memory = Memory(limit=limit)

    def fit(asked: bool | None) -> str:
        control = Control(memory=memory, progress=asked, rows=Rows(block=20, compress=False))
        polars_glmm.fit(data.lazy(), "y ~ x + (1 | g)", family="poisson", control=control)
        caught = capfd.readouterr()
        assert caught.out == ""
        return caught.err

    assert fit(None) == ""
    monkeypatch.setattr(progress, "_REFRESH", 0.0)
    seen = fit(True)
    assert shown(seen) == ""
    stages = ["learning", "reading [", "sorting [", "pass ["] if limit else ["fitting", "pass ["]
    assert not [stage for stage in stages if stage not in seen]
