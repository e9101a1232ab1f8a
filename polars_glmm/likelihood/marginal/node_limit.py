"""Models that quadrature cannot do: factors that cross, and nested ones with too many points."""

from __future__ import annotations

from polars_glmm.control import Control
from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.memory import memory_limit, readable

_NUMBER = 8


def refuse_nodes(effects: Effects, rows: RowBlocks, nodes: int, control: Control) -> None:
    """Raise ModelError where factors cross, ResourceError where the points of nested ones need too much memory."""
    names = [factor.name for factor in effects.factors]
    pattern = rows.units[0].pattern if len(names) > 1 else None
    if pattern is None:
        return
    crossing = pattern.crossing()
    if crossing is not None:
        first, second = (names[f] for f in crossing)
        msg = (
            f"AGQ works with one grouping factor or with nested ones: levels of {first!r} stand in several levels of "
            f"{second!r}. Use method='laplace'."
        )
        raise ModelError(msg)
    paths = nodes ** sum(pattern.sizes)
    needed = 2 * _NUMBER * paths * rows.units[0].n_cells * (1 + len(effects.part_of))
    if needed > memory_limit(control.memory.limit):
        msg = (
            f"{nodes} nodes for each of {sum(pattern.sizes)} random effects are {paths:,} points for every row, which "
            f"needs about {readable(needed)}: use fewer, AGQ(nodes={max(2, nodes // 2)}), or method='laplace'."
        )
        raise ResourceError(msg)
