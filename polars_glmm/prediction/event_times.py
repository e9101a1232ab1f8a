"""What is predicted of times to an event: medians, and survival or hazards at times that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import polars as pl

from polars_glmm.columns import named
from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.families.event_quantities import Quantity, event_quantity
from polars_glmm.families.location_scale import Tailed
from polars_glmm.prediction.columns import FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.rows import PHI
from polars_glmm.prediction.scale import ResponseScale

if TYPE_CHECKING:
    from polars_glmm.families.base import Family
    from polars_glmm.typing import Times

QUANTITIES: tuple[str, ...] = get_args(Quantity)


def quantities_of(family: Family) -> tuple[str, ...]:
    """Kinds of prediction that times have beside their mean."""
    return QUANTITIES if family.of_times and isinstance(family, Tailed) else ()


def at_times(frame: FrameT, kind: str, times: Times, name: str) -> tuple[FrameT, str | None]:
    """The frame with a row for every time, where several are asked for, and the column of the times.

    Raises ModelError where times are lacking or of no use, ColumnError for a name that is taken.
    """
    if kind not in QUANTITIES[1:]:
        if times is not None:
            msg = f"times= is of kind='survival', 'hazard' and 'cumulative_hazard', not of kind={kind!r}."
            raise ModelError(msg)
        return frame, None
    if times is None:
        msg = f"kind={kind!r} needs times=: a list of times, or the name of a column of them."
        raise ModelError(msg)
    if isinstance(times, str):
        return frame, times
    values = np.atleast_1d(np.asarray(times, dtype=np.float64))
    if values.ndim != 1 or not values.size or not np.isfinite(values).all() or (values < 0.0).any():
        msg = "times= needs numbers that are not negative, or the name of a column."
        raise ModelError(msg)
    column = f"{name}_time"

    def repeated(lazy: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        refuse_clash(schema, [column], "choose another with name=.")
        every = pl.lit(pl.Series([values.tolist()])).first().alias(column)
        return lazy.with_columns(every).explode(column, empty_as_null=True)

    return apply_plan(frame, "predict", repeated), column


@dataclass(frozen=True, slots=True)
class EventScale(ResponseScale):
    """A quantity of times as a function of the linear predictor, phi and a column of times."""

    quantity: str = "median"
    time: str | None = None

    def require(self, schema: pl.Schema) -> frozenset[str]:
        """The column of the times. Raises ColumnError where it is absent or not numeric."""
        if self.time is None:
            return frozenset()
        if self.time not in schema or not schema[self.time].is_numeric():
            msg = f"times={self.time!r} is no numeric column of the frame."
            raise ColumnError(msg)
        return frozenset({self.time})

    def _expectation(self, eta: pl.Expr, part: int, phi: pl.Expr | None = None) -> pl.Expr:  # noqa: ARG002
        family, quantity = self.expects, self.quantity
        assert isinstance(family, Tailed)

        def of(batch: pl.Series) -> pl.Series:
            rows = batch.struct.unnest()
            at = {one: rows[one].cast(pl.Float64).to_numpy() for one in rows.columns}
            phi = at["phi"] if family.n_parameters > 1 else None
            found = event_quantity(family, quantity, at["eta"], phi, at.get("time"))[part]  # type: ignore[arg-type]
            return pl.Series(batch.name, found, dtype=pl.Float64)

        both = [eta.alias("eta"), pl.col(PHI).alias("phi")]
        if self.time is not None:
            both.append(named.column(self.time).cast(pl.Float64).alias("time"))
        value = pl.struct(both).map_batches(of, return_dtype=pl.Float64, is_elementwise=True).fill_nan(None)
        return pl.when(eta.is_not_null()).then(value)

    def slope(self, eta: pl.Expr) -> pl.Expr:
        return self._expectation(eta, 1)
