"""Executors of Spark that hold the parts of a frame: things are files on their disks, questions and answers bytes.

A small RDD with one row a part stays in memory where the part's file was written, so that tasks are sent there. An
executor that dies takes both along; making the row again makes the file again from the rows, which Spark keeps on its
disks, or makes again from the frame. A task that was sent elsewhere says that it has no file, and its part is asked
again where the rows are.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from io import BytesIO
from typing import Any, TypeVar, cast
from uuid import uuid4

import polars as pl

from polars_glmm.cluster.thing_files import NAMES, Answered, Digest, Step, Work, clear, in_order, other_versions
from polars_glmm.errors import DataChangedError, ModelError, ResourceError
from polars_glmm.frames.engine import EngineFrame, rows_of_part
from polars_glmm.frames.staying import Staying
from polars_glmm.memory import memory_limit

A = TypeVar("A")
Thing_co = TypeVar("Thing_co", covariant=True)

_PART = 1 << 28
"""Bytes of a part, about, where there are more than one a core: what is shuffled and prepared at once."""
_EACH = 4
"""Tasks for every core when all executors are to be reached, which nothing but their number makes likely."""
_KEPT = 16
"""Fits that are over and whose files are still looked for, on executors that were not reached when they ended."""
_VERSIONS = (
    "(__import__('socket').gethostname(), {name: __import__(name).__version__ if "
    f"__import__('importlib.util').util.find_spec(name) else None for name in {NAMES}}})"
)
"""Asked by `eval`, so that a worker without this package can say so."""
_CHANGED = (
    "A part of the rows was lost with its executor, and Spark gave other rows when it was made again. Write the frame "
    "to a table or a file before it is fitted."
)
_ended: dict[str, None] = {}
"""Names of the last fits that are over."""


class SparkThings(Staying[Thing_co]):
    """One thing for each part: its rows, which Spark keeps, or after some steps a file on an executor's disk."""

    def __init__(self, holders: SparkHolders, steps: tuple[Step, ...], parts: Sequence[int]) -> None:
        self._holders, self._steps, self._parts = holders, steps, parts

    def ask(self, question: Callable[[Thing_co], A]) -> list[A]:
        """One answer a thing, one job of as many tasks."""
        return self._holders.answers(self._steps, question, self._parts)

    def made(self, make: Callable[[Thing_co], A]) -> Staying[A]:
        """New things, each from the one that it is made of."""
        steps = (*self._steps, self._holders.step(make))
        self._holders.answers(steps, None, self._parts)
        return SparkThings(self._holders, steps, self._parts)

    def chosen(self, marks: Sequence[bool]) -> Staying[Thing_co]:
        """Some of them."""
        return SparkThings(self._holders, self._steps, [p for p, mark in zip(self._parts, marks, strict=True) if mark])

    def release(self) -> None:
        """Let the next task that meets their files remove them; rows stay, to make again what is lost."""
        if self._steps:
            self._holders.released.add(self._steps[-1].number)


class SparkHolders:
    """The executors of a Spark application, and what they hold of one fit."""

    name = "Spark"

    def __init__(self, context: Any) -> None:
        self.context, self.released = context, set[int]()
        self.n_parts, self._n_steps, self._run = 0, 0, uuid4().hex
        self._schema: dict[str, pl.DataType] = {}
        self._rows: Any = None
        self._places: Any = None
        self._digests: dict[int, Digest] = {}
        self._versions = {name: str(import_module(name).__version__) for name in NAMES}
        self._require_same_versions()

    @property
    def memory(self) -> int | None:
        """Bytes that the smallest executor may use."""
        return int(min(self._everywhere(_memory)))

    def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Staying[pl.DataFrame]:
        """The rows of a lazy frame of narwhals in parts by keys, shuffled by Spark; the frame's own without keys."""
        parts = max(self.context.defaultParallelism, -(-needed // _PART))
        native = rows.to_native()
        native = native.repartition(parts, *map(_quoted, keys)) if keys else native.coalesce(parts)
        return self.held(native.mapInArrow(_packed, "rows binary").rdd, dict(EngineFrame.of(rows).schema))

    def held(self, packed: Any, schema: dict[str, pl.DataType]) -> Staying[pl.DataFrame]:
        """The rows of an RDD as `_packed` makes it."""
        self._rows, self._schema = packed.persist(_level("DISK_ONLY")), schema
        self.n_parts = self._rows.getNumPartitions()
        return SparkThings(self, (), range(self.n_parts))

    def step(self, make: Callable[[Any], Any]) -> Step:
        """A new step."""
        self._n_steps += 1
        return Step(self._n_steps, pickle.dumps(make, protocol=5))

    def answers(self, steps: tuple[Step, ...], question: Callable[[Any], A] | None, parts: Sequence[int]) -> list[A]:
        """What parts answer, in their order: from their files, or from their rows where these are not found."""
        work = self._work(steps, None if question is None else pickle.dumps(question, protocol=5))
        with self._watched():
            if self._places is None and steps:
                self._places = self._from_rows(work).persist(_level("MEMORY_AND_DISK"))
                return self._settled(self.context.runJob(self._places, iter, list(parts)), parts)
            found: list[Answered] = []
            if steps:
                found = self.context.runJob(self._places, partial(_from_files, work), list(parts))
                found = [one for one in found if one.kind != "absent"]
            if absent := sorted(set(parts) - {one.part for one in found}):
                found += self.context.runJob(self._from_rows(work), iter, absent)
        return self._settled(found, parts)

    def close(self) -> None:
        """Let everything go; what is on executors that are not reached goes with the next fit, or with them."""
        _ended[self._run] = None
        for name in list(_ended)[:-_KEPT]:
            del _ended[name]
        with suppress(Exception):  # an application that was stopped took all of it along
            self.context.cancelJobsWithTag(self._run)
            for rdd in (self._places, self._rows):
                if rdd is not None:
                    rdd.unpersist()
            if self._rows is not None:
                self._everywhere(partial(_cleared, tuple(_ended)))

    def _from_rows(self, work: Work) -> Any:
        return self._rows.mapPartitionsWithIndex(partial(_from_rows, work, self._schema))

    def _work(self, steps: tuple[Step, ...], question: bytes | None) -> Work:
        ended = frozenset(_ended) - {self._run}
        return Work(self._run, tuple(self._versions.items()), steps, question, frozenset(self.released), ended)

    def _settled(self, found: Sequence[Answered], parts: Sequence[int]) -> list[Any]:
        """Answers in order. Raises the first error, and DataChangedError where a part was made from other rows."""
        found = in_order(found, parts)
        for one in found:
            if one.kind == "error":
                raise pickle.loads(one.body)  # noqa: S301  # written by this package on a worker
            if one.digest is not None and self._digests.setdefault(one.part, one.digest) != one.digest:
                raise DataChangedError(_CHANGED)
        return [pickle.loads(one.body) for one in found]  # noqa: S301  # written by this package on a worker

    def _everywhere(self, function: Callable[[Any], A]) -> list[A]:
        """The answers of so many tasks that every executor has some."""
        n = _EACH * self.context.defaultParallelism
        with self._watched():
            asked = self.context.parallelize([_VERSIONS] * n, n).map(function)
            return cast("list[A]", self.context.runJob(asked, iter, list(range(n))))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """ResourceError for what Spark raises when a task fails again and again; jobs can be found by their tag."""
        from py4j.protocol import Py4JError  # noqa: PLC0415  for Spark frames only

        self.context.addJobTag(self._run)
        try:
            yield
        except Py4JError as error:
            said = str(getattr(error, "java_exception", error)).strip()
            msg = (
                "A part of the rows was lost with its executor and could not be made again. Give executors more memory "
                f"(spark.executor.memoryOverhead is what Python has), or add some, and fit again. Spark says: {said}"
            )
            raise ResourceError(msg) from error
        finally:
            self.context.removeJobTag(self._run)

    def _require_same_versions(self) -> None:
        for place, found in self._everywhere(eval):
            missing = [f"{name} {self._versions[name]}" for name in NAMES if found[name] is None]
            if missing:
                msg = (
                    f"The Python of the worker {place} has no {', '.join(missing)}: install them there (PYSPARK_PYTHON "
                    "names the Python of workers), or let the rows be read out with Control(rows=Rows(stay=False))."
                )
                raise ModelError(msg)
            if found != self._versions:
                raise ModelError(other_versions(place, found, self._versions))


def spark_context(frame: EngineFrame) -> Any | None:
    """The application that works on a Spark frame; None for other frames, and where it is behind Spark Connect."""
    if str(frame.plan.implementation.value) != "pyspark":
        return None
    return frame.plan.to_native().sparkSession.sparkContext


def _level(name: str) -> Any:
    from pyspark import StorageLevel  # noqa: PLC0415  for Spark frames only

    return getattr(StorageLevel, name)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _packed(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches of Arrow, each as one row of bytes."""
    for batch in batches:
        written = BytesIO()
        pl.DataFrame(batch).write_ipc_stream(written)
        yield type(batch).from_pydict({"rows": [written.getvalue()]})


def _from_rows(work: Work, schema: dict[str, pl.DataType], part: int, packed: Iterable[Any]) -> Iterator[Answered]:
    """What a part answers that has its rows at hand."""
    batches = [bytes(row[0]) for row in packed]  # to the end: Spark replaces a worker that leaves something

    def rows() -> pl.DataFrame:
        if not batches:
            return pl.DataFrame(schema=schema)
        return rows_of_part(pl.concat(pl.read_ipc_stream(BytesIO(batch)) for batch in batches), schema)

    yield work.done(part, rows)


def _from_files(work: Work, made: Iterable[Answered]) -> Iterator[Answered]:
    """What a part answers whose file is here, if it is; which rows the file was made of."""
    for before in list(made):
        yield before if before.kind == "error" else work.done(before.part)._replace(digest=before.digest)


def _memory(_: object) -> int:
    """Bytes that a worker may use: what Spark allows its Python, or what the machine or its container gives."""
    allowed = os.environ.get("PYSPARK_EXECUTOR_MEMORY_MB")
    return int(allowed) << 20 if allowed else memory_limit(None)


def _cleared(runs: Sequence[str], _: object) -> None:
    for run in runs:
        clear(run)
