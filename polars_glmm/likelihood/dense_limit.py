"""Whether the dense matrix that crossed factors leave fits in memory, asked before it is made."""

from __future__ import annotations

from polars_glmm.control import Control
from polars_glmm.errors import ResourceError, brief, counted
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.linalg.coupled import CoupledLevels
from polars_glmm.linalg.elimination import Eliminator
from polars_glmm.memory import memory_limit, readable

_HELD = {"products": 3, "laplace": 4}
"""Matrices of that order that are factorised or about to be, at once: the best place of a search, the one it tries and
the one before; a Laplace approximation has one more, stale, that still serves to find modes. Counted in fits."""
_INVERSE = 1
"""Room for an inverse."""
_NUMBER, _SPARSE_NUMBER = 8, 12
"""Bytes of an entry, and of one of a sparse product with its place."""


def dense_bytes(entries: int, *, exact: bool, gathered: bool) -> int:
    """Bytes that dense matrices of so many entries take at the worst moment of a fit.

    exact      of a gaussian model from cross-products, not of a Laplace approximation
    gathered   they are made as sparse products, which are full, and then copied (linalg.passing_rows)
    """
    held = _HELD["products" if exact else "laplace"] + _INVERSE
    return entries * (held * _NUMBER + (_SPARSE_NUMBER if gathered else 0))


def refuse_beyond_memory(solver: Eliminator, effects: Effects, control: Control) -> None:
    """Raise ResourceError where the dense remainder needs more than a fit may use."""
    needed = dense_bytes(solver.dense_entries, exact=True, gathered=False)  # at the least
    limit = memory_limit(control.memory.limit)
    if needed <= limit:
        return
    sizes = ", ".join(
        f"{brief(f.name)!r} {counted(f.n_levels, 'level', grouped=True)} × {f.r}" for f in effects.factors[:5]
    )
    if isinstance(solver, CoupledLevels):
        why = "known= couples" if any(f.prior is not None for f in effects.factors) else "Rows in several levels couple"
        msg = (
            f"{why} all levels ({sizes}): a dense matrix of order {solver.order:,} needs about "
            f"{readable(needed)} of memory, more than the {readable(limit)} a fit may use. Fewer levels, fewer effects "
            "per level, or a larger Control(memory=Memory(limit=…)) would help."
        )
        raise ResourceError(msg)
    msg = (
        f"The grouping factors are crossed ({sizes}) and leave a dense matrix of order {solver.order:,}: "
        f"about {readable(needed)} of memory, more than the {readable(limit)} a fit may use. A smaller second factor, "
        f"fewer effects per level, or a larger Control(memory=Memory(limit=…)) would help."
    )
    raise ResourceError(msg)
