"""Shards of rows that stay with workers: made there, once, in the basis used for computing, and asked there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from polars_glmm import progress
from polars_glmm.design.apart import Filling
from polars_glmm.design.records import Design
from polars_glmm.design.selection import design_of
from polars_glmm.design.spread.rows import KeptRows, SpreadDesign
from polars_glmm.frames.staying import Staying
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.effects import Effects, WorkingBasis
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.likelihood.rows.apart_bases import bases_apart, effects_of
from polars_glmm.likelihood.rows.blocks import cut_rows
from polars_glmm.likelihood.rows.sampled import chosen_of_part, share_of
from polars_glmm.likelihood.rows.shards import Asking, Shard, Shards, Together
from polars_glmm.linalg.threads import one_blas_thread

_MANY_ROWS = 10_000_000
"""Rows from which a round over all takes longer than several over few: 0.1 µs a row and core, 0.3 s an empty job."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardMaker:
    """How kept rows become a shard; sent to where they are.

    effects    of all rows, without codes and columns;  working: how their columns are made of the distinct ones
    parts_of   the linear predictors of the model from the bases of those with a formula
    share      of the levels of the coarsest factor that are taken
    """

    filling: Filling
    bases: tuple[Basis, ...]
    effects: Effects
    working: WorkingBasis | None
    distinct: tuple[int, ...]
    parts_of: Callable[[tuple[Basis, ...]], tuple[Part, ...]]
    block_rows: int
    share: float = 1.0

    def __call__(self, kept: KeptRows) -> Shard | None:
        """The shard of some rows, None where no level is taken."""
        with one_blas_thread():
            design = kept.design(self.filling)
            if self.share < 1.0:
                top = design.factors[self.effects.factors[-1].place]
                design = design_of(design, chosen_of_part(top.n_levels, design.n_rows, self.share)[top.codes])
            if not design.n_rows:
                return None
            bases = tuple(replace(basis, x=one.x) for basis, one in zip(self.bases, design.predictors, strict=True))
            return Shard(cut_rows(design, self.parts_of(bases), self._effects(design), self.block_rows))

    def _effects(self, design: Design) -> Effects:
        columns = None
        if self.working is not None:
            z = [column for factor in design.factors for column in factor.z]
            columns = self.working.made([z[k] for k in self.distinct], design.n_rows)
        maps = tuple(
            replace(f, codes=design.factors[f.place].codes.astype(np.intp), n_levels=design.factors[f.place].n_levels)
            for f in self.effects.factors
        )
        return replace(self.effects, factors=maps, columns=columns)


@dataclass(frozen=True, slots=True, eq=False)
class SpreadRows:
    """A model's rows in shards that stay with workers, and the bases they are in (without columns).

    few   the same of a part of the levels, or None: where a search begins
    """

    bases: tuple[Basis, ...]
    effects: Effects
    shards: Shards
    few: SpreadRows | None = None

    def rows(self, *, effects: bool) -> Shards:
        """Who answers for the rows, for the model with its random effects or without."""
        return self.shards if effects else self.shards.uncoupled()


@dataclass(frozen=True, slots=True, eq=False)
class ToWorkers:
    """The carrier of shards that stay where they are."""

    shards: Staying[Shard]

    def ask(self, question: Asking) -> list[Any]:
        """One answer a shard."""
        return self.shards.ask(partial(_answered, question))


def _answered(question: Asking, shard: Shard) -> Any:
    with one_blas_thread():
        return shard.answer(question)


def spread(
    design: SpreadDesign,
    block_rows: int,
    parts_of: Callable[[tuple[Basis, ...]], tuple[Part, ...]],
    held: Collection[str] = (),
) -> SpreadRows:
    """The rows of a design in shards, made where its parts are, which let go what they were kept as.

    held   names of parameters that stay where they are
    """
    _, bases = bases_apart(design, held)
    effects, working, distinct = effects_of(design)
    maker = ShardMaker(design.filling, bases, effects, working, tuple(distinct), parts_of, block_rows)
    with progress.stage("dividing"):
        made = design.kept.made(maker)
        few = _few(design, maker)
    design.kept.release()
    places = tuple(tuple(own[f.place] for f in effects.factors) for own in design.places)
    whole = Together(design.n_rows, tuple(f.n_levels for f in effects.factors), places)
    few_rows = None if few is None else SpreadRows(bases, effects, few)
    return SpreadRows(bases, effects, Shards(ToWorkers(cast("Staying[Shard]", made)), whole), few_rows)


def _few(design: SpreadDesign, maker: ShardMaker) -> Shards | None:
    """Shards of a part of the levels, where rows are many."""
    factors = maker.effects.factors
    share = share_of(design.n_rows, factors[-1].n_levels) if factors and design.n_rows >= _MANY_ROWS else None
    if share is None:
        return None
    made = design.kept.made(replace(maker, share=share))
    sizes = made.ask(_n_rows)
    if not any(sizes):
        return None
    shards = made.chosen([size > 0 for size in sizes])
    whole = Together(sum(sizes), tuple(f.n_levels for f in factors), ())
    return Shards(ToWorkers(cast("Staying[Shard]", shards)), whole)


def _n_rows(shard: Shard | None) -> int:
    return 0 if shard is None else shard.n_rows
