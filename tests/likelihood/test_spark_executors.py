"""Rows that stay with executors of Spark, without Java: files, what is lost and made again, and what is left behind."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm.cluster import spark_executors, thing_files
from polars_glmm.cluster.spark_executors import SparkHolders, SparkThings
from polars_glmm.cluster.thing_files import Digest, read_file, write_file
from polars_glmm.errors import DataChangedError, ModelError, ResourceError
from tests.likelihood.same_fits import same_fits
from tests.likelihood.spark_here import Context, JavaError, Rdd, SparkHere, without_java
from tests.likelihood.test_spread import DATA, HERE, MODELS, STAY, relation, workers

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
FORMULA = "bern ~ x + (1 | g)"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for local files of the executor in this process."""
    without_java(monkeypatch)
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    return tmp_path


def files(disk: Path, kind: str = "*") -> list[Path]:
    return sorted(path for path in disk.rglob(kind) if path.is_file())


@contextmanager
def executors(monkeypatch: pytest.MonkeyPatch, context: Context, parts: int) -> Iterator[None]:
    """Executors behind every frame, as `connected` gives them."""

    @contextmanager
    def held() -> Iterator[SparkHolders]:
        holders = SparkHere(context, parts)
        try:
            yield holders
        finally:
            holders.close()

    with workers(monkeypatch, None), monkeypatch.context() as patch:
        for module in ("choose", "rows"):
            patch.setattr(f"polars_glmm.fitting.{module}.connected", lambda frame: held)
        yield


def lost(disk: Path, context: Context, number: int) -> None:
    """By turns: an executor with its files and what Spark kept there; files alone; nothing."""
    if number % 5 == 2:
        for path in files(disk):
            path.unlink()
    if number % 10 == 2:
        for rdd in context.persisted:
            rdd.kept = {}


@pytest.mark.one_in(12)
@pytest.mark.parametrize("parts", [4, 40])
@pytest.mark.parametrize("model", ["weights", "slopes", "nested", "nested quadrature", "no effects", "spreads"])
def test_what_is_lost_is_made_again_and_nothing_is_left(
    model: str, parts: int, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formulas, options = MODELS[model]
    context = Context()
    context.before = partial(lost, disk, context)
    here = polars_glmm.fit(DATA.lazy(), *formulas, control=HERE, **options)
    with executors(monkeypatch, context, parts):
        there = polars_glmm.fit(relation(), *formulas, control=STAY, **options)
    same_fits(there, here)
    assert context.jobs > 12
    assert not files(disk)
    assert not list(disk.iterdir())
    assert not context.persisted


def test_warm_starts_and_one_file_a_part_stay(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is remembered there are more row passes; kept rows are let go when their shards are made."""
    seen: list[int] = []

    def look(number: int) -> None:
        seen.append(len(files(disk, "*.thing")))

    def forget(number: int) -> None:
        for path in files(disk, "*.memory"):
            path.unlink()

    fits = {}
    for name, before in (("kept", look), ("forgotten", forget)):
        with executors(monkeypatch, Context(before=before), 3):
            fits[name] = polars_glmm.fit(relation(), FORMULA, family="binomial", control=STAY)
    assert fits["kept"].certificate.row_passes < fits["forgotten"].certificate.row_passes
    assert fits["kept"].loglik == pytest.approx(fits["forgotten"].loglik, abs=1e-9)
    assert max(seen) == 6
    assert seen[-1] == 3


def test_other_rows_in_the_place_of_lost_ones_are_noticed(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Rdd.part

    def other(self: Rdd, part: int) -> list[Any]:
        found = plain(self, part)
        return [found[0], *found] if context.jobs > 9 and found and isinstance(found[0], tuple) else found

    def lose(number: int) -> None:
        if number == 10:
            for path in files(disk):
                path.unlink()

    context = Context(before=lose)
    monkeypatch.setattr(Rdd, "part", other)
    with executors(monkeypatch, context, 3), pytest.raises(DataChangedError, match="lost with its executor"):
        polars_glmm.fit(relation(), FORMULA, family="binomial", control=STAY)
    assert not list(disk.iterdir())


def test_an_executor_of_another_version_is_refused_whenever_it_comes(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(number: int) -> None:
        if number == 10:
            monkeypatch.setattr(polars_glmm, "__version__", "9.9")

    with (
        executors(monkeypatch, Context(before=newer), 3),
        pytest.raises(ModelError, match=r"worker \S+ has polars_glmm 9\.9, this process polars_glmm \d"),
    ):
        polars_glmm.fit(relation(), FORMULA, family="binomial", control=STAY)
    assert not list(disk.iterdir())


def test_an_executor_without_the_package_is_refused(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = spark_executors._VERSIONS.replace("'scipy'", "'no_such_package'")
    assert without != spark_executors._VERSIONS
    monkeypatch.setattr(spark_executors, "NAMES", ("polars_glmm", "polars", "numpy", "no_such_package"))
    monkeypatch.setattr(spark_executors, "_VERSIONS", without)
    monkeypatch.setattr(spark_executors, "import_module", lambda name: polars_glmm)
    with pytest.raises(ModelError, match=r"Python of the worker \S+ has no no_such_package .*PYSPARK_PYTHON"):
        SparkHolders(Context())


def test_what_spark_raises_is_an_error_with_a_remedy(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        if number == 9:
            msg = "Python worker exited unexpectedly (crashed)"
            raise JavaError(msg)

    context = Context(before=fail)
    with executors(monkeypatch, context, 3), pytest.raises(ResourceError, match=r"memoryOverhead.*crashed"):
        polars_glmm.fit(relation(), FORMULA, family="binomial", control=STAY)
    assert not list(disk.iterdir())
    assert not context.persisted
    assert not context.tags


def test_a_full_disk_is_said_with_its_place(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, thing: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(thing_files, "write_file", full)
    with executors(monkeypatch, Context(), 3), pytest.raises(ResourceError, match=rf"disk of {disk} on .* is full"):
        polars_glmm.fit(relation(), FORMULA, family="binomial", control=STAY)


def test_what_could_not_be_reached_goes_with_the_next_fit(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(number: int) -> None:
        if stopping:
            msg = "no executor"
            raise JavaError(msg)

    stopping: list[bool] = []
    holders = SparkHere(Context(before=unreachable), 3)
    holders.spread(Rows(DATA), ("g",), 1).made(len)
    stopping.append(True)
    holders.close()
    assert files(disk)
    with executors(monkeypatch, Context(), 3):
        polars_glmm.fit(relation(), FORMULA, family="binomial", control=STAY)
    assert not list(disk.iterdir())


@dataclass
class Rows:
    frame: pl.DataFrame

    def collect(self, name: str) -> Rows:
        return self

    def to_native(self) -> pl.DataFrame:
        return self.frame


@dataclass
class Counter:
    """A thing that remembers how often it was asked."""

    memory: list[int] = field(default_factory=list)


def counts(counter: Counter) -> int:
    counter.memory.append(len(counter.memory))
    return len(counter.memory)


def counter_of(rows: pl.DataFrame) -> Counter:
    return Counter()


def test_things_are_asked_in_order_chosen_and_remember(disk: Path) -> None:
    holders = SparkHere(Context(), 5)
    rows = holders.spread(Rows(DATA), ("h",), 1)
    heights = rows.ask(len)
    assert sum(heights) == DATA.height
    assert rows.made(len).ask(int) == heights
    marks = [height % 2 == 0 for height in heights]
    assert rows.chosen(marks).ask(len) == [height for height in heights if height % 2 == 0]
    things = rows.made(counter_of)
    assert isinstance(things, SparkThings)
    assert [things.ask(counts)[0] for _ in range(3)] == [1, 2, 3]
    assert things.chosen([False, True, False, False, True]).ask(counts) == [4, 4]
    assert things.ask(counts) == [4, 5, 4, 4, 5]
    holders.close()
    assert not list(disk.iterdir())


def test_a_file_gives_back_the_thing_that_was_kept(tmp_path: Path) -> None:
    whole = np.arange(60.0).reshape(4, 15)
    thing = {
        "rows": whole, "columns": np.asfortranarray(whole), "part": whole[:, 3:9], "none": np.empty((3, 0)),
        "number": np.array(2.5), "flags": whole > 7, "texts": np.array(["a", None], dtype=object),
        "reversed": whole[::-1],
        "frame": pl.DataFrame({"g": ["a", None], "k": [1, 2]}), "twice": [whole, whole],
    }  # fmt: skip
    path = tmp_path / "deep" / "0-1.thing"
    write_file(path, thing)
    found = read_file(path)
    assert found["frame"].equals(thing["frame"])
    for name in ("rows", "columns", "part", "none", "number", "flags", "texts", "reversed"):
        assert found[name].dtype == thing[name].dtype
        np.testing.assert_array_equal(found[name], thing[name])
    assert found["twice"][0] is found["twice"][1]
    found["rows"][:] = -1.0  # a view of its own
    np.testing.assert_array_equal(read_file(path)["rows"], whole)
    assert [name.name for name in path.parent.iterdir()] == [path.name]


def test_arrays_are_views_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "0-1.thing"
    write_file(path, [np.ones((3, 1000))[:, 10:900], np.ones(5)])
    for array in read_file(path):
        assert not array.flags.owndata
        assert array.ctypes.data % 64 == 0


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    class Unwritable:
        def __reduce__(self) -> str:
            raise pickle.PicklingError

    path = tmp_path / "0-1.thing"
    write_file(path, 7)
    with pytest.raises(pickle.PicklingError):
        write_file(path, [np.ones(3), Unwritable()])
    assert read_file(path) == 7
    assert [name.name for name in tmp_path.iterdir()] == [path.name]


def test_a_digest_is_that_of_rows_in_any_order() -> None:
    digest = Digest.of(DATA)
    assert Digest.of(DATA.sample(fraction=1.0, shuffle=True, seed=4)) == digest
    moved = pl.col("x") + pl.when(pl.int_range(pl.len()) == 7).then(1e-9).otherwise(0.0)
    assert Digest.of(DATA.with_columns(x=moved)) != digest
    assert Digest.of(DATA[1:]) != digest
