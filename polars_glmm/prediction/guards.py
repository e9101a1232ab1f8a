"""Levels that the fit has not seen: found inside the query, reported when it is collected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.columns import named
from polars_glmm.columns.named import as_found
from polars_glmm.errors import UnknownLevelError, enumerate_names

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Categorical


_SHOWN = 5
"""Unseen levels that a message names."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question asked of every row, and what to say where the answer is yes.

    unseen    Boolean expression: this row holds a level the fit does not know
    columns   the columns that make the level
    known     what the fit knows, in words
    remedy    what the user can do
    """

    unseen: pl.Expr
    columns: tuple[str, ...]
    known: str
    remedy: str

    def error(self, levels: pl.DataFrame) -> UnknownLevelError:
        """The error for the unseen levels found: one row each, the columns in order."""
        names = [":".join(str(part) for part in row) for row in levels.head(_SHOWN).iter_rows()]
        where = "column" if len(self.columns) == 1 else "columns"
        has = "has" if len(self.columns) == 1 else "have"
        what = "level" if levels.height == 1 else "levels"
        # how many more there are is not known: this is one batch of the rows
        more = ", …" if levels.height > _SHOWN else ""
        msg = (
            f"{where} {enumerate_names(self.columns)} {has} {what} {enumerate_names(names)}{more}, "
            f"which the model has not seen (it knows {self.known}). {self.remedy}"
        )
        return UnknownLevelError(msg)


def guarded(value: pl.Expr, checks: Sequence[Check]) -> pl.Expr:
    """`value` (Boolean) passed through one function that raises UnknownLevelError where a check says so.

    The value itself runs through the function, so no optimisation that keeps it can lose the guard; elementwise, so a
    streaming engine may call it with any batch of rows. The prediction depends on the value, hence on the guard.
    """
    if not checks:
        return value
    fields = [value.alias("value")]
    for i, check in enumerate(checks):
        fields.append(check.unseen.alias(f"unseen_{i}"))
        fields += [named.column(column).alias(f"level_{i}_{j}") for j, column in enumerate(check.columns)]

    def raise_unseen(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        for i, check in enumerate(checks):
            if rows[f"unseen_{i}"].any():
                shown = [f"level_{i}_{j}" for j in range(len(check.columns))]
                raise check.error(rows.filter(pl.col(f"unseen_{i}")).select(shown).unique(maintain_order=True))
        return rows["value"]

    return pl.struct(fields).map_batches(raise_unseen, return_dtype=pl.Boolean, is_elementwise=True)


def fixed_level_checks(categoricals: Iterable[Categorical], missing: pl.Expr) -> list[Check]:
    """Checks for categorical variables of formulas: their unseen levels have no coefficient, so they always raise."""
    return [
        Check(
            unseen=~missing & ~is_known(factor),
            columns=(factor.column,),
            known=enumerate_names(factor.levels),
            remedy="A fixed effect of an unseen level cannot be predicted: drop these rows, or fit again with them.",
        )
        for factor in categoricals
    ]


def is_known(factor: Categorical) -> pl.Expr:
    """Boolean: the column holds a level that the recipe knows, compared as the recipe's nodes compare it."""
    column = as_found(factor.column)
    if factor.dtype.is_numeric():
        values = pl.Series(factor.levels).cast(factor.dtype).cast(pl.Float64)
        return column.cast(pl.Float64).is_in(values.to_list())
    return column.cast(pl.String).is_in(list(factor.levels))
