"""Models that quadrature cannot do: factors that cross, and too many points."""

from __future__ import annotations

from polars_glmm.control import Control
from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.memory import memory_limit, readable

_NUMBER = 8
_LEAST = 1 << 28
"""Bytes that no limit forbids to rows of one factor, which it sends to disk."""


def refuse_nodes(effects: Effects, rows: RowBlocks, nodes: int, control: Control) -> None:
    """Raise ModelError where factors cross, ResourceError where the points of a unit need too much memory.

    Of nested factors each cell has an integrand and its slopes, of one factor each row has, in every predictor.
    """
    names, unit = [factor.name for factor in effects.factors], rows.units[0]
    pattern = unit.pattern if len(names) > 1 else None
    crossing = None if pattern is None else pattern.crossing()
    if crossing is not None:
        first, second = (names[f] for f in crossing)
        msg = (
            f"AGQ works with one grouping factor or with nested ones: levels of {first!r} stand in several levels of "
            f"{second!r}. Use method='laplace'."
        )
        raise ModelError(msg)
    r = sum(factor.r for factor in effects.factors)
    paths, limit = nodes**r, memory_limit(control.memory.limit)
    if pattern is None:
        limit = max(limit, _LEAST)
        needed = _NUMBER * paths * unit.n_rows * (1 + len(effects.moving))
    else:
        needed = 2 * _NUMBER * paths * unit.n_cells * (1 + len(effects.part_of))
    if needed > limit:
        msg = (
            f"{nodes} nodes for each of {r} random effects are {paths:,} points for every row, which "
            f"needs about {readable(needed)}: use fewer, AGQ(nodes={max(2, nodes // 2)}), or method='laplace'."
        )
        raise ResourceError(msg)
