"""Models that quadrature cannot do: factors that cross, and nested ones with too many points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from polars_glmm.control import Control
from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.likelihood.rows.holder import Holder
from polars_glmm.memory import memory_limit, readable

_NUMBER = 8


class Meeting(NamedTuple):
    """Two factors that cross, None where none do; the most cells of a unit."""

    crossing: tuple[int, int] | None
    n_cells: int


@dataclass(frozen=True, slots=True)
class Meetings:
    """Which factors cross in rows of several."""

    def of(self, rows: RowBlocks) -> Meeting:
        """Those of some rows."""
        pattern = rows.units[0].pattern
        assert pattern is not None  # several factors have one
        return Meeting(pattern.crossing(), rows.units[0].n_cells)

    def add(self, parts: Sequence[Meeting]) -> Meeting:
        """Of all."""
        crossing = next((part.crossing for part in parts if part.crossing is not None), None)
        return Meeting(crossing, max(part.n_cells for part in parts))


def refuse_nodes(effects: Effects, rows: Holder, nodes: int, control: Control) -> None:
    """Raise ModelError where factors cross, ResourceError where the points of nested ones need too much memory."""
    names = [factor.name for factor in effects.factors]
    if len(names) < 2:
        return
    meeting = rows.ask(Meetings())
    if meeting.crossing is not None:
        first, second = (names[f] for f in meeting.crossing)
        msg = (
            f"AGQ works with one grouping factor or with nested ones: levels of {first!r} stand in several levels of "
            f"{second!r}. Use method='laplace'."
        )
        raise ModelError(msg)
    size = sum(factor.r for factor in effects.factors)
    paths = nodes**size
    needed = 2 * _NUMBER * paths * meeting.n_cells * (1 + len(effects.part_of))
    if needed > memory_limit(control.memory.limit):
        msg = (
            f"{nodes} nodes for each of {size} random effects are {paths:,} points for every row, which "
            f"needs about {readable(needed)}: use fewer, AGQ(nodes={max(2, nodes // 2)}), or method='laplace'."
        )
        raise ResourceError(msg)
