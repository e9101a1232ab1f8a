"""How a fit is computed, never what it computes: a record of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, NoReturn

from polars_glmm.errors import ModelError


@dataclass(frozen=True, slots=True)
class Search:
    """The outer search over parameters.

    decrement        stop when the Newton decrement ½g'H⁻¹g of the log-likelihood is below this; it is in units of
                     log-likelihood and does not depend on scale or sample size
    max_evaluations  of objective and gradient together
    hessian          False skips the final Hessian: no standard errors, an approximate certificate
    """

    decrement: float = 1e-6
    max_evaluations: int = 1000
    hessian: bool = True

    def __post_init__(self) -> None:
        if not (_is_number(self.decrement) and self.decrement > 0):
            _refuse("Search(decrement", self.decrement, "a number above 0, in units of log-likelihood")
        if not _is_whole(self.max_evaluations, 1):
            _refuse("Search(max_evaluations", self.max_evaluations, "a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Rows:
    """Row blocks: their length, and the threads or processes that work on them.

    threads    0 = one for each core that the process may use, at most 8
    processes  that hold a part of the rows each, this one among them: 1 = none but this, 0 = one for each core, at most
               8, where rows are so many that it pays and threads is 0. Crossed factors couple all rows, which then stay
               in one process
    compress   count equal rows instead of repeating them, where a look at the data says that it pays
    stay       rows of a Dask or Spark frame are fitted by the workers that hold them: True always, False never, None
               where they would not fit in memory here
    """

    block: int = 65536
    threads: int = 0
    compress: bool = True
    processes: int = 0
    stay: bool | None = None

    def __post_init__(self) -> None:
        if not _is_whole(self.block, 1):
            _refuse("Rows(block", self.block, "a whole number of rows, at least 1")
        if not _is_whole(self.threads, 0):
            _refuse("Rows(threads", self.threads, "a whole number, 0 for as many as there are cores")
        if not _is_whole(self.processes, 0):
            _refuse("Rows(processes", self.processes, "a whole number, 0 for as many as there are cores where it pays")
        if self.stay not in (None, True, False):
            _refuse("Rows(stay", self.stay, "True, False or None")


@dataclass(frozen=True, slots=True)
class Memory:
    """Where the rows of a LazyFrame go that do not fit in memory.

    limit   bytes a fit may use; None = half of what the machine or its container has. Rows that would need more are
            read once into a temporary folder, sorted by group, and every pass reads them from there
    spill   the folder in which that one is made; None = the system's place for temporary files
    """

    limit: int | None = None
    spill: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and not _is_whole(self.limit, 0):
            _refuse("Memory(limit", self.limit, "a whole number of bytes, or None")


@dataclass(frozen=True, slots=True)
class Control:
    """All that steers the computation of a fit.

    keep      what a fit keeps of the data: None = "rows" for a DataFrame, "source" for a LazyFrame
    progress  True, False, or None = only for long work at a terminal
    """

    search: Search = field(default_factory=Search)
    rows: Rows = field(default_factory=Rows)
    memory: Memory = field(default_factory=Memory)
    keep: Literal["rows", "source", "none"] | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.keep not in (None, "rows", "source", "none"):
            _refuse("Control(keep", self.keep, "'rows', 'source', 'none' or None")
        for name, kind in (("search", Search), ("rows", Rows), ("memory", Memory)):
            if not isinstance(getattr(self, name), kind):
                _refuse(f"Control({name}", getattr(self, name), f"a {kind.__name__}(…)")


def as_control(control: object) -> Control:
    """The control given, or the usual one. Raises ModelError for anything else."""
    if control is None:
        return Control()
    if isinstance(control, Control):
        return control
    msg = (
        f"control={control!r} is a {type(control).__name__}, not a Control: write "
        "control=Control(search=Search(max_evaluations=500)), with Control and Search from polars_glmm."
    )
    raise ModelError(msg)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _refuse(place: str, value: object, wanted: str) -> NoReturn:
    msg = f"{place}={value!r}) is not possible: give {wanted}."
    raise ModelError(msg)
