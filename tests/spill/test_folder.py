"""The folder of a spill is gone after a return, an error, an interrupt; after a kill the next fit removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import spill
from polars_glmm.control import Control, Memory, Rows
from polars_glmm.design.reader import Reader
from polars_glmm.errors import GlmmError, ResourceError
from polars_glmm.likelihood.marginal.value import Marginal
from polars_glmm.spill import PREFIX, SpillFile, spilling

RNG = np.random.default_rng(3)
LEVEL = RNG.integers(0, 20, 300)
COUNT = RNG.poisson(np.exp(0.5 + RNG.normal(size=20))[LEVEL])
DATA = pl.DataFrame({"y": COUNT, "x": RNG.normal(size=300), "g": LEVEL})
FULL = Path("/dev/full")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")


def fit(folder: Path, formula: str = "y ~ x + (1 | g)", family: str = "poisson") -> object:
    control = Control(memory=Memory(limit=1, spill=str(folder)), rows=Rows(compress=False))
    return polars_glmm.fit(DATA.lazy(), formula, family=family, control=control)


def spills(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{PREFIX}*"))


def test_nothing_is_left_after_a_fit(tmp_path: Path) -> None:
    fit(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_made_where_it_is_missing(tmp_path: Path) -> None:
    fit(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(GlmmError):
        fit(tmp_path, "y ~ log(x) + (1 | g)")
    with pytest.raises(GlmmError):
        fit(tmp_path, family="binomial")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("place", "method"), [(Reader, "read"), (Marginal, "evaluate"), (SpillFile, "append")])
def test_nothing_is_left_after_an_interrupt(
    place: type, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def interrupted(*_: object, **__: object) -> None:
        seen.extend(spills(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(place, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    assert len(seen) == 1
    assert not list(tmp_path.iterdir())


CHILD = """
import sys, time
from polars_glmm.spill import spilling
with spilling(sys.argv[1]) as own:
    own.create("rows").append(memoryview(b"x" * 1000))
    print("ready", flush=True)
    time.sleep(60)
"""


def child(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a spill."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.wait(20)
    assert process.stdout is not None
    process.stdout.close()


@posix
def test_a_killed_process_leaves_one_folder_which_the_next_fit_removes(tmp_path: Path) -> None:
    process = child(tmp_path)
    end(process, signal.SIGKILL)
    (left,) = spills(tmp_path)
    assert left.startswith(f"{PREFIX}{process.pid}-")
    fit(tmp_path)
    assert not list(tmp_path.iterdir())


@posix
def test_folders_of_living_processes_stay(tmp_path: Path) -> None:
    process = child(tmp_path)
    (own,) = spills(tmp_path)
    fit(tmp_path)
    assert spills(tmp_path) == [own]
    end(process, signal.SIGINT)
    assert not spills(tmp_path)


def test_a_folder_without_lock_is_left_alone_while_it_is_new(tmp_path: Path) -> None:
    new, old = tmp_path / f"{PREFIX}1-1-new", tmp_path / f"{PREFIX}1-1-old"
    new.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    spill.sweep(tmp_path)
    assert spills(tmp_path) == [new.name]


def test_two_spills_of_one_process_do_not_meet(tmp_path: Path) -> None:
    with spilling(str(tmp_path)) as outer:
        fit(tmp_path)
        assert spills(tmp_path) == [outer.folder.name]


@pytest.mark.skipif(not FULL.exists(), reason="a device that is always full")
def test_a_full_disk_names_folder_bytes_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = spill.Spill.create

    def full(self: spill.Spill, name: str) -> SpillFile:
        file = create(self, name)
        file._file.close()
        file._file = FULL.open("wb", buffering=0)
        return file

    monkeypatch.setattr(spill.Spill, "create", full)
    with pytest.raises(ResourceError) as caught:
        fit(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "needs 7.0 KiB there" in message  # code, y and x of 300 rows
    assert "Memory(spill=" in message
    assert not list(tmp_path.iterdir())


def test_a_disk_that_will_be_full_is_refused_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ResourceError, match=r"needs 7\.0 KiB there .* has room for 100 bytes"):
        fit(tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResourceError, match=r"No temporary files can be written to .*file"):
        fit(tmp_path / "file")


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    parts = [np.arange(k, k + 50.0) for k in range(5)]
    with spilling(str(tmp_path)) as own:
        file = own.create("numbers")
        starts = [file.append(memoryview(part).cast("B")) for part in parts]
        found = [np.empty(20), np.empty(30)]
        for part, start in zip(parts, starts, strict=True):
            file.read_into([memoryview(v).cast("B") for v in found], start)
            np.testing.assert_array_equal(np.concatenate(found), part)
        with pytest.raises(OSError, match="cut short"):
            file.read_into([memoryview(np.empty(51)).cast("B")], starts[-1])


MEASURED = """
import sys
import numpy as np, polars as pl, polars_glmm
from polars_glmm.control import Control, Memory
frame = pl.scan_parquet(sys.argv[1])
control = Control(memory=Memory(limit=int(sys.argv[2]), spill=sys.argv[3]))
print(polars_glmm.fit(frame, "y ~ x + z + (1 | g)", family="binomial", control=control).loglik)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the high-water mark is read from /proc")
@pytest.mark.slow
def test_memory_stays_low(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = 3_000_000
    g, x, z = rng.integers(0, n // 100, n), rng.normal(size=n), rng.normal(size=n)
    y = rng.random(n) < 1 / (1 + np.exp(-x - rng.normal(size=n // 100)[g]))
    pl.DataFrame({"y": y, "x": x, "z": z, "g": g}).write_parquet(tmp_path / "rows.parquet")

    def peak(limit: int) -> tuple[float, float]:
        """MiB at most in use (ru_maxrss of a child would count its parent), and the log-likelihood."""
        arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "rows.parquet"), str(limit), str(tmp_path)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        loglik, used = done.stdout.split()
        return float(used), float(loglik)

    (memory, here), (disk, there) = peak(10**10), peak(5 * 10**7)
    assert there == pytest.approx(here, rel=1e-11)
    assert disk < memory - 100, (disk, memory)
