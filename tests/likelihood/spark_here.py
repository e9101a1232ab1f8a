"""What rows that stay use of Spark, in this process: parts in order, all that travels through bytes, no Java."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from polars_glmm.cluster import spark_executors
from polars_glmm.cluster.spark_executors import SparkHolders
from polars_glmm.frames.staying import Staying


class JavaError(Exception):
    """In the place of what Spark raises."""


@dataclass(eq=False)
class Rdd:
    """Partitions that are computed when they are asked for, and remembered where they are to be kept."""

    context: Context
    n: int
    compute: Callable[[int], Iterable[Any]]
    kept: dict[int, list[Any]] | None = None

    def getNumPartitions(self) -> int:  # Spark's name
        return self.n

    def mapPartitionsWithIndex(self, function: Callable[[int, Iterable[Any]], Iterable[Any]]) -> Rdd:
        travelled = through_bytes(function)
        return Rdd(self.context, self.n, lambda part: travelled(part, iter(self.part(part))))

    def map(self, function: Callable[[Any], Any]) -> Rdd:
        return self.mapPartitionsWithIndex(Each(function))

    def persist(self, level: str) -> Rdd:
        assert level in ("DISK_ONLY", "MEMORY_AND_DISK")
        self.kept = {}
        self.context.persisted.append(self)
        return self

    def unpersist(self) -> None:
        self.kept = None
        self.context.persisted.remove(self)

    def part(self, part: int) -> list[Any]:
        if self.kept is not None and part in self.kept:
            return through_bytes(self.kept[part])
        found = through_bytes(list(self.compute(part)))
        if self.kept is not None:
            self.kept[part] = found
        return found

    def collect(self) -> list[Any]:
        return self.context.runJob(self, iter, range(self.n))


@dataclass(frozen=True)
class Each:
    function: Callable[[Any], Any]

    def __call__(self, part: int, rows: Iterable[Any]) -> Iterator[Any]:
        return map(self.function, rows)


@dataclass(eq=False)
class Context:
    """An application; `before` is told the number of every job."""

    before: Callable[[int], None] = lambda number: None
    defaultParallelism: int = 2  # noqa: N815  # Spark's name
    persisted: list[Rdd] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    jobs: int = 0

    def parallelize(self, rows: Sequence[Any], n: int) -> Rdd:
        return Rdd(self, n, lambda part: [rows[part]])

    def runJob(self, rdd: Rdd, function: Callable[[Iterator[Any]], Iterable[Any]], parts: Sequence[int]) -> list[Any]:
        self.jobs += 1
        self.before(self.jobs)
        travelled = through_bytes(function)
        found = {part: list(travelled(iter(rdd.part(part)))) for part in reversed(parts)}
        return [one for part in parts for one in through_bytes(found[part])]

    def addJobTag(self, tag: str) -> None:
        self.tags.append(tag)

    def removeJobTag(self, tag: str) -> None:
        self.tags.remove(tag)

    def cancelJobsWithTag(self, tag: str) -> None:
        assert tag not in self.tags


class SparkHere(SparkHolders):
    """Executors in this process."""

    def __init__(self, context: Context, n_parts: int) -> None:
        super().__init__(context)
        self._n = n_parts

    def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Staying[pl.DataFrame]:
        assert needed > 0
        frame = rows.collect("polars").to_native()
        which = pl.struct(keys).rank("dense") if keys else pl.int_range(pl.len())
        parts = [frame.filter(which % self._n == k) for k in range(self._n)]
        packed = Rdd(self.context, self._n, lambda part: map(rowed, spark_executors._packed(batched(parts[part]))))
        return self.held(packed, dict(frame.schema))


def batched(frame: pl.DataFrame) -> list[Any]:
    """A part as Spark gives it: in several batches, or in none."""
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches(max_chunksize=17) if frame.height else []


def rowed(batch: Any) -> tuple[bytearray]:
    (value,) = batch.column("rows").to_pylist()
    return (bytearray(value),)


def through_bytes(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))  # noqa: S301  # its own


def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the names of Spark's libraries be found that are asked for."""
    levels = SimpleNamespace(DISK_ONLY="DISK_ONLY", MEMORY_AND_DISK="MEMORY_AND_DISK")
    monkeypatch.setitem(__import__("sys").modules, "pyspark", SimpleNamespace(StorageLevel=levels))
    protocol = SimpleNamespace(Py4JError=JavaError)
    monkeypatch.setitem(__import__("sys").modules, "py4j", SimpleNamespace(protocol=protocol))
    monkeypatch.setitem(__import__("sys").modules, "py4j.protocol", protocol)
