"""The columns of many models side by side: design.records for the keys of a frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

from polars_glmm.design.records import Term
from polars_glmm.families.base import Censoring, Rows
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class KeyedFactor:
    """A further grouping factor of many models, beside the one that rows are sorted by.

    place               of it among the factors of the formula
    z (r, n)            the columns of its terms
    codes (n,)          the level of each row, numbered over all models, one model's after the other's
    model_levels (M,)   levels of each model
    """

    name: str
    place: int
    terms: tuple[Term, ...]
    z: Mat
    codes: IntVec
    model_levels: IntVec


@dataclass(frozen=True, slots=True, eq=False)
class KeyedDesign:
    """Rows of M models of the same columns, sorted by model and level; fields as in design.records.Design.

    names, x (p, n)     fixed columns of mu, all of them independent within every model
    group, terms        the grouping factor and its terms; None and () without random effects
    z (r, n)            the columns of its terms, or None without random effects
    model_rows (M,)     rows of each model; model_levels (M,) its levels; level_rows (G,) rows of each level, every
                        model's levels after those of the model before; without random effects one level a model
    others              further grouping factors by falling number of levels, place: that of the first among all;
                        rows with the same levels of all follow one another
    """

    y: Vec
    trials: Vec | None
    frequency: Vec | None
    precision: Vec | None
    offset: Vec | None
    names: tuple[str, ...]
    x: Mat
    group: str | None
    terms: tuple[Term, ...]
    z: Mat | None
    model_rows: IntVec
    model_levels: IntVec
    level_rows: IntVec
    censoring: Censoring | None = None
    others: tuple[KeyedFactor, ...] = ()
    place: int = 0

    @property
    def rows(self) -> Rows:
        """What a density needs besides the linear predictors."""
        return Rows(self.y, self.trials, self.precision, censoring=self.censoring)

    @property
    def n_models(self) -> int:
        return len(self.model_rows)

    def sizes_of(self, keep: BoolVec, rows: BoolVec, levels: BoolVec) -> KeyedDesign:
        """Sizes and frequencies of some models without their columns; rows (n,) and levels (G,) are theirs."""
        return replace(
            self,
            y=self.y[:0],
            trials=None,
            precision=None,
            censoring=None,
            offset=None,
            frequency=None if self.frequency is None else self.frequency[rows],
            x=self.x[:, :0],
            z=None,
            model_rows=self.model_rows[keep],
            model_levels=self.model_levels[keep],
            level_rows=self.level_rows[levels],
        )
