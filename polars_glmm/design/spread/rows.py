"""The rows of a model in parts that stay where they are, each all rows of some levels, and what they tell together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns as columns_named
from polars_glmm.design.apart import ONES, Apart, ColumnMoments, Filling, RecordLayout, Tally, head_of, narrowed
from polars_glmm.design.distinct import DistinctColumns, shape_of
from polars_glmm.design.inquired import in_code_order
from polars_glmm.design.keys import KeyCoder
from polars_glmm.design.reader import Reader
from polars_glmm.design.recipe import Recipe
from polars_glmm.design.records import Design
from polars_glmm.errors import ColumnError, DataChangedError, ResponseError
from polars_glmm.frames.facts import Facts
from polars_glmm.frames.source import Recount, Source
from polars_glmm.frames.staying import Staying
from polars_glmm.typing import CodeVec, IntVec, Mat, Vec

_CHANGED = "The frame gave other rows when it was divided. Write it to a table or a file before it is fitted."


class PartSums(NamedTuple):
    """What the rows of a part tell: sums by the levels that are there, and which these are.

    rows, obs   by factor of the formula: rows and observations of each level
    """

    layout: RecordLayout
    tally: Tally
    moments: ColumnMoments
    levels: tuple[pl.DataFrame, ...]
    rows: tuple[IntVec, ...]
    obs: tuple[Vec, ...]


@dataclass(frozen=True, slots=True, eq=False)
class KeptRows:
    """The rows of some levels as they are kept: what a design holds besides columns, and every distinct column once.

    codes       by factor of the formula, in the levels that are here
    sums        what is asked of them first, None where the part has no row in use
    n_untried   rows without trials, which are left out
    recounted   what facts are sums of, over these rows
    """

    head: dict[str, Vec]
    distinct: Mat
    codes: tuple[CodeVec, ...]
    sums: PartSums | None
    n_untried: int
    recounted: tuple[float, ...] = ()

    def taken(self, places: tuple[int, ...]) -> Mat:
        """Distinct columns by place, (k, n)."""
        out = np.empty((len(places), self.distinct.shape[1]))
        for row, place in zip(out, places, strict=True):
            row[:] = 1.0 if place == ONES else self.distinct[place]
        return out

    def design(self, filling: Filling) -> Design:
        """The design of these rows, its levels numbered from 0."""
        assert self.sums is not None  # there are rows
        made = filling.filled(self.head, self.codes, self.taken)
        sizes = zip(made.factors, self.sums.rows, strict=True)
        return replace(made, factors=tuple(replace(f, n_levels=len(rows)) for f, rows in sizes))


@dataclass(frozen=True, slots=True, eq=False)
class SpreadDesign(Apart):
    """A design whose rows are kept in parts of whole levels.

    places   per part and factor of the formula the places of its levels among all
    """

    kept: Staying[KeptRows]
    places: tuple[tuple[IntVec, ...], ...]

    def triangle(self, places: tuple[int, ...], shift: Vec, scale: Vec) -> Mat:
        """R of some distinct columns, from those of the parts."""
        parts = self.kept.ask(partial(_triangle, places, shift, scale))
        return np.asarray(np.linalg.qr(np.concatenate(parts), mode="r"))


def _triangle(places: tuple[int, ...], shift: Vec, scale: Vec, kept: KeptRows) -> Mat:
    return narrowed(np.empty((0, len(places))), kept.taken(places), shift, scale)


def read_part(recipe: Recipe, facts: Facts, rows: pl.DataFrame) -> KeptRows:
    """The rows of a part as they are kept. Raises ColumnError, ResponseError for what cannot be the model's."""
    if not rows.height:
        return _nothing(0)
    source = replace(Source.of(recipe.spec, rows.lazy()), tried=recipe.response.trials, facts=facts)
    factors = [
        replace(f, levels=in_code_order(rows.select(columns_named(f.keys)).unique(), f.keys)) for f in recipe.factors
    ]
    reader = Reader(replace(recipe, factors=tuple(factors)))
    try:
        design = reader.read(rows)
    except (ColumnError, ResponseError) as error:
        msg = f"{error} (Rows are counted within one part of the frame, which has no order.)"
        raise type(error)(msg) from error
    if design is None:
        return _nothing(reader.n_untried)
    codes, levels, counts, obs = [], [], [], []
    for f, own in zip(factors, design.factors, strict=True):
        present, here = np.unique(own.codes, return_inverse=True)  # rows without weight may have been all of a level
        codes.append(here.reshape(-1).astype(np.int32))
        levels.append(f.levels[present.astype(np.uint32)])
        counts.append(np.bincount(codes[-1], minlength=len(present)))
        obs.append(np.bincount(codes[-1], design.frequency, len(present)).astype(np.float64, copy=False))
    both = zip(design.factors, codes, counts, strict=True)
    design = replace(design, factors=tuple(replace(f, codes=c, n_levels=len(rows)) for f, c, rows in both))
    columns, head = DistinctColumns(recipe), head_of(design)
    distinct = columns.of(design)
    sums = PartSums(
        columns.layout(tuple(head)),
        Tally.of(design),
        ColumnMoments.of(distinct),
        tuple(levels),
        tuple(counts),
        tuple(obs),
    )
    return KeptRows(head, distinct, tuple(codes), sums, reader.n_untried, source.recounted(rows))


def _nothing(n_untried: int) -> KeptRows:
    return KeptRows({}, np.empty((0, 0)), (), None, n_untried)


def sums_of(kept: KeptRows) -> tuple[PartSums | None, int, tuple[float, ...]]:
    """What the rows of a part tell, how many of them have no trials, and what facts are sums of."""
    return kept.sums, kept.n_untried, kept.recounted


def together(
    recipe: Recipe, level_rows: Sequence[IntVec], facts: Recount, kept: Staying[KeptRows]
) -> tuple[SpreadDesign, int]:
    """The design of all parts, with all columns of the formulas, and its rows without trials.

    level_rows   rows of every level by factor, as they were counted before the rows were divided
    facts        what was learned before, to be found again
    Raises DataChangedError where the parts hold others, or share a level.
    """
    told = kept.ask(sums_of)
    there = [sums is not None for sums, _, _ in told]
    parts = [sums for sums, _, _ in told if sums is not None]
    if not parts:
        raise DataChangedError(_CHANGED)
    for sums, _, recounted in told:
        if sums is not None:
            facts.found(recounted)
    facts.refuse_changed()
    coders = [KeyCoder(factor) for factor in recipe.factors]
    places = tuple(
        tuple(
            coder.codes(dict(zip(f.keys, own.select(columns_named(f.keys)), strict=True))).astype(np.intp)
            for coder, f, own in zip(coders, recipe.factors, part.levels, strict=True)
        )
        for part in parts
    )
    for k, rows in enumerate(level_rows):
        found = _scattered([part.rows[k].astype(np.float64) for part in parts], [own[k] for own in places], len(rows))
        if sum(len(own[k]) for own in places) != len(rows) or not np.array_equal(found, rows):
            raise DataChangedError(_CHANGED)
    obs = tuple(
        _scattered([part.obs[k] for part in parts], [own[k] for own in places], len(rows))
        for k, rows in enumerate(level_rows)
    )
    moments = parts[0].moments
    for part in parts[1:]:
        moments = moments + part.moments
    tally = _tally([part.tally for part in parts], [own[0] for own in places if own], level_rows)
    chosen = kept if all(there) else kept.chosen(there)
    design = SpreadDesign(
        shape_of(recipe), parts[0].layout, tally, moments, chosen, places, more_obs=obs[1:]
    )
    return design, sum(untried for _, untried, _ in told)


def _scattered(parts: Sequence[Vec], places: Sequence[IntVec], n: int) -> Vec:
    """Values by the levels of parts, (n,) by all levels."""
    out = np.zeros(n)
    for part, own in zip(parts, places, strict=True):
        out[own] += part
    return out


def _tally(parts: Sequence[Tally], places: Sequence[IntVec], level_rows: Sequence[IntVec]) -> Tally:
    """The sums of all parts, whose levels are of their own."""
    if level_rows:
        n = len(level_rows[0])
        parts = [
            replace(
                part,
                level_rows=_scattered([part.level_rows.astype(np.float64)], [own], n).astype(np.intp),
                level_obs=_scattered([part.level_obs], [own], n),
                level_w=_scattered([part.level_w], [own], n),
                level_wy=_scattered([part.level_wy], [own], n),
            )
            for part, own in zip(parts, places, strict=True)
        ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
