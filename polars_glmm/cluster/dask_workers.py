"""Workers of a Dask cluster that hold the parts of a frame: things are futures, questions and answers bytes.

A thing that was lost with its worker is made again by Dask from the graph that it came from, so that nothing else knows
of it: what is made is a function of the rows, and a shard that remembers nothing starts anew.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, TypeVar, cast

import polars as pl

from polars_glmm.cluster.thing_files import NAMES, other_versions, size_of
from polars_glmm.errors import GlmmError, ModelError, ResourceError
from polars_glmm.frames.engine import EngineFrame, rows_of_part
from polars_glmm.frames.staying import Staying
from polars_glmm.memory import readable

A = TypeVar("A")
Thing_co = TypeVar("Thing_co", covariant=True)

_PART = 1 << 28
"""Bytes of a part, about, where there are more than one a thread: what is shuffled and prepared at once."""
_LOOK, _PATIENCE = 5.0, 60.0
"""Seconds after which workers are counted while an answer is waited for, and for which there may be none."""
_VERSIONS = f"{{name: __import__(name).__version__ for name in {NAMES}}}"
"""Asked by `eval`, so that a worker without this package can say so."""


class DaskThings(Staying[Thing_co]):
    """One thing for each part, as a future that stays on the worker which made it while that worker lives."""

    def __init__(self, holders: DaskHolders, futures: Sequence[Any]) -> None:
        self._holders, self._futures = holders, tuple(futures)
        holders.made.append(self)
        holders.settle(self._futures)
        where = holders.client.who_has(list(self._futures))
        self._homes = [list(where.get(future.key, ())) or None for future in self._futures]

    def ask(self, question: Callable[[Thing_co], A]) -> list[A]:
        """One answer a thing, one round of tasks."""
        asked = self._submit(_answered, question)
        try:
            with self._holders.watched():
                self._holders.settle(asked)
                bodies = self._holders.client.gather(asked)
        finally:
            for future in asked:
                future.release()
        answers = [pickle.loads(body) for body in bodies]  # noqa: S301  # written by this package on a worker
        for fine, answer in answers:
            if not fine:
                raise answer
        return [answer for _, answer in answers]

    def made(self, make: Callable[[Thing_co], A]) -> Staying[A]:
        """New things, each by the worker of its own."""
        return DaskThings(self._holders, self._submit(_made, make))

    def chosen(self, marks: Sequence[bool]) -> Staying[Thing_co]:
        """Some of them."""
        return DaskThings(self._holders, [f for f, mark in zip(self._futures, marks, strict=True) if mark])

    def release(self) -> None:
        """Let the workers forget them, but for how they are made."""
        for future in self._futures:
            future.release()

    def _submit(self, function: Callable[..., Any], work: Callable[..., Any]) -> list[Any]:
        body, submit = pickle.dumps(work, protocol=5), self._holders.client.submit
        return [
            submit(function, body, future, pure=False, workers=home, allow_other_workers=home is not None)
            for future, home in zip(self._futures, self._homes, strict=True)
        ]


class DaskHolders:
    """The workers that a client of a Dask cluster is connected to."""

    name = "Dask"

    def __init__(self, client: Any) -> None:
        self.client, self.made = client, list[DaskThings[Any]]()
        self._workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
        if not self._workers:
            msg = "The Dask cluster has no workers: start some, or wait for them with client.wait_for_workers(1)."
            raise ResourceError(msg)
        self._require_same_versions()

    @property
    def memory(self) -> int | None:
        """Bytes that the smallest worker may use."""
        limits = [int(worker["memory_limit"]) for worker in self._workers.values() if worker["memory_limit"]]
        return min(limits) if limits else None

    def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Staying[pl.DataFrame]:
        """The rows of a lazy frame of narwhals in parts by keys, shuffled by Dask; the frame's own without keys."""
        from dask import delayed  # noqa: PLC0415  for Dask frames only

        limits = [int(worker["memory_limit"] or 0) for worker in self._workers.values()]
        if all(limits) and needed > sum(limits):
            msg = (
                f"The rows need about {readable(needed)} of memory, more than the {readable(sum(limits))} that the "
                f"{len(limits)} workers have together: add workers, or use fewer columns or rows."
            )
            raise ResourceError(msg)
        frame = EngineFrame.of(rows)
        native = rows.to_native()
        threads = sum(int(worker["nthreads"]) for worker in self._workers.values())
        if keys:
            native = native.shuffle(on=list(keys), npartitions=max(threads, -(-needed // _PART)))
        schema = pickle.dumps(dict(frame.schema), protocol=5)
        taken = delayed(_taken, pure=False)
        return DaskThings(self, self.client.compute([taken(schema, part) for part in native.to_delayed()]))

    def settle(self, futures: Sequence[Any]) -> None:
        """Wait until things are made; raise what making one of them raised."""
        from distributed import wait  # noqa: PLC0415  for Dask frames only

        alone = 0.0
        with self.watched():
            while not any(future.status == "error" for future in futures):
                with suppress(TimeoutError):
                    wait(list(futures), timeout=_LOOK)
                    break
                alone = 0.0 if self.client.scheduler_info(n_workers=-1)["workers"] else alone + _LOOK
                if alone >= _PATIENCE:
                    msg = (
                        f"The Dask cluster has had no worker for {alone:.0f} seconds, and the parts of the rows went "
                        "with the last one. Start workers, with more memory if that was why they died, and fit again."
                    )
                    raise ResourceError(msg)
            for future in futures:
                if future.status not in ("finished", "pending"):
                    future.result()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """ResourceError for what Dask raises when a part cannot be kept alive."""
        from distributed import KilledWorker  # noqa: PLC0415  for Dask frames only
        from distributed.client import FutureCancelledError, FuturesCancelledError  # noqa: PLC0415
        from distributed.comm import CommClosedError  # noqa: PLC0415

        try:
            yield
        except GlmmError:
            raise
        except (KilledWorker, CommClosedError, FutureCancelledError, FuturesCancelledError, TimeoutError) as error:
            msg = (
                f"A part of the rows was lost with its worker and could not be made again ({type(error).__name__}: "
                f"{error}). Give workers more memory, or add some, and fit again."
            )
            raise ResourceError(msg) from error

    def close(self) -> None:
        """Let everything go."""
        for things in self.made:
            things.release()
        self.made.clear()

    def _require_same_versions(self) -> None:
        here = {name: str(import_module(name).__version__) for name in NAMES}
        try:
            there = self.client.run(eval, _VERSIONS)
        except ImportError as error:
            msg = (
                f"The workers of the Dask cluster cannot import what rows are worked on with ({error}): install "
                f"{', '.join(f'{name} {version}' for name, version in here.items())} there."
            )
            raise ModelError(msg) from error
        for address, found in there.items():
            if found != here:
                raise ModelError(other_versions(address, found, here))


def dask_client(frame: EngineFrame) -> Any | None:
    """The client whose cluster works on a Dask frame; None for other frames, and where there is no cluster."""
    if frame.name != DaskHolders.name:
        return None
    try:
        from distributed import get_client  # noqa: PLC0415  for Dask frames only
    except ImportError:
        return None
    try:
        return get_client()
    except ValueError:
        return None


def _taken(schema: bytes, part: Any) -> pl.DataFrame:
    return _measured(rows_of_part(part, pickle.loads(schema)))  # noqa: S301  # written by this package


def _made(make: bytes, thing: Any) -> Any:
    return _measured(pickle.loads(make)(thing))  # noqa: S301  # written by this package


def _measured(thing: A) -> A:
    """A thing whose bytes the worker can tell, to know what memory is left; of others Dask sees the shell."""
    from dask.sizeof import sizeof  # noqa: PLC0415  for Dask frames only

    if type(thing).__module__.partition(".")[0] in ("polars_glmm", "polars"):
        sizeof.register(type(thing), pl.DataFrame.estimated_size if isinstance(thing, pl.DataFrame) else size_of)
    return thing


def _answered(question: bytes, thing: Any) -> bytes:
    """Whether there is an answer, and the answer or the error; the same for every worker that is asked."""
    asked = cast("Callable[[Any], Any]", pickle.loads(question))  # noqa: S301  # written by this package
    try:
        return pickle.dumps((True, asked(thing)), protocol=5)
    except Exception as error:  # noqa: BLE001  # raised again where it was asked
        return pickle.dumps((False, error), protocol=5)
