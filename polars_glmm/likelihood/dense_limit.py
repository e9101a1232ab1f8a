"""Whether the dense matrix that crossed factors leave fits in memory, asked before it is made."""

from __future__ import annotations

from polars_glmm.control import Control
from polars_glmm.errors import ResourceError
from polars_glmm.likelihood.effects import Effects
from polars_glmm.linalg.elimination import Eliminator
from polars_glmm.memory import memory_limit, readable

_COPIES = 4
"""Matrices of that order held at once: two factors, a stale one that still serves, and room for an inverse."""


def refuse_beyond_memory(solver: Eliminator, effects: Effects, control: Control) -> None:
    """Raise ResourceError where the dense remainder needs more than a fit may use."""
    needed = _COPIES * 8 * solver.dense_entries
    limit = memory_limit(control.memory.limit)
    if needed <= limit:
        return
    sizes = ", ".join(f"'{f.name}' {f.n_levels:,} levels × {f.r}" for f in effects.factors)
    msg = (
        f"The grouping factors are crossed ({sizes}) and leave a dense matrix of order {solver.order:,}: about "
        f"{readable(needed)} of memory, more than the {readable(limit)} a fit may use. A smaller second factor, fewer "
        f"effects per level, or a larger Control(memory=Memory(limit=…)) would help."
    )
    raise ResourceError(msg)
