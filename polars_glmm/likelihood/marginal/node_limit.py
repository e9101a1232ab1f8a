"""Models that quadrature cannot do: factors that cross, and too many points."""

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
_LEAST = 1 << 28
"""Bytes that no limit forbids to rows of one factor, which it sends to disk."""


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


def refuse_nodes(effects: Effects, rows: Holder, nodes: int, control: Control, n_rows: int) -> None:
    """Raise ModelError where factors cross, ResourceError where the points of a unit need too much memory.

    Of nested factors each cell has an integrand and its slopes, of one factor each row of a block has, in every
    predictor.
    """
    names, r = [factor.name for factor in effects.factors], sum(factor.r for factor in effects.factors)
    if len(names) < 2:
        needed = _NUMBER * nodes**r * min(n_rows, control.rows.block) * (1 + len(effects.moving))
        _refuse_points(needed, max(memory_limit(control.memory.limit), _LEAST), nodes, r)
        return
    meeting = rows.ask(Meetings())
    if meeting.crossing is not None:
        first, second = (names[f] for f in meeting.crossing)
        msg = (
            f"AGQ works with one grouping factor or with nested ones: levels of {first!r} stand in several levels of "
            f"{second!r}. Use method='laplace'."
        )
        raise ModelError(msg)
    cells = meeting.n_cells * (1 + len(effects.part_of))
    _refuse_points(2 * _NUMBER * nodes**r * cells, memory_limit(control.memory.limit), nodes, r)


def _refuse_points(needed: int, limit: int, nodes: int, r: int) -> None:
    if needed > limit:
        msg = (
            f"{nodes} nodes for each of {r} random effects are {nodes**r:,} points for every row, which "
            f"needs about {readable(needed)}: use fewer, AGQ(nodes={max(2, nodes // 2)}), or method='laplace'."
        )
        raise ResourceError(msg)
