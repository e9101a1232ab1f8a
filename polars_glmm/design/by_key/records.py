"""The columns of many models side by side: design.records for the keys of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Term
from polars_glmm.families.base import Censoring, Rows
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec


def starts(counts: IntVec) -> IntVec:
    """First positions of runs of given lengths."""
    out = np.zeros(len(counts), dtype=np.intp)
    np.cumsum(counts[:-1], out=out[1:])
    return out


class KeyedLevels(NamedTuple):
    """Levels of one factor: how many each model has (M,), and the observations of each, model after model (G,)."""

    counts: IntVec
    sizes: IntVec

    def take(self, keep: BoolVec) -> KeyedLevels:
        """Those of some of the models."""
        return KeyedLevels(self.counts[keep], self.sizes[np.repeat(keep, self.counts)])


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

    @property
    def groups(self) -> list[str]:
        """The names of the factors, in the order of elimination."""
        return [] if self.group is None else [self.group, *(one.name for one in self.others)]

    @property
    def codes(self) -> list[IntVec]:
        """The level of each row (n,) of every factor, numbered over all models; in the order of elimination."""
        return [np.repeat(np.arange(len(self.level_rows)), self.level_rows), *(one.codes for one in self.others)]

    @property
    def counts(self) -> list[IntVec]:
        """How many levels of every factor each model has (M,); in the order of elimination."""
        return [self.model_levels, *(one.model_levels for one in self.others)]

    @property
    def in_formula(self) -> list[int]:
        """The factors in the order of the formula, as places in that of elimination."""
        places = [self.place, *(one.place for one in self.others)]
        return sorted(range(len(places)), key=places.__getitem__)

    @property
    def levels(self) -> tuple[KeyedLevels, ...]:
        """The levels of every factor, in the order of the formula."""
        codes, counts = self.codes, self.counts
        sizes = [
            np.bincount(own, self.frequency, int(n.sum())).astype(np.intp) for own, n in zip(codes, counts, strict=True)
        ]
        return tuple(KeyedLevels(counts[f], sizes[f]) for f in self.in_formula)
