"""How a fit is computed, never what it computes: a record of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


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


@dataclass(frozen=True, slots=True)
class Rows:
    """Row blocks: their length, and the threads that work on them.

    threads    0 = one for each core that the process may use, at most 8
    compress   count equal rows instead of repeating them, where a look at the data says that it pays
    """

    block: int = 65536
    threads: int = 0
    compress: bool = True


@dataclass(frozen=True, slots=True)
class Memory:
    """Where the rows of a LazyFrame go that do not fit in memory.

    limit   bytes a fit may use; None = half of what the machine or its container has. Rows that would need more are
            read once into a temporary folder, sorted by group, and every pass reads them from there
    spill   the folder in which that one is made; None = the system's place for temporary files
    """

    limit: int | None = None
    spill: str | None = None


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
