"""A random part of the groups: its optimum, scaled, is where a search over many rows starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Design, Predictor
from polars_glmm.design.selection import rows_of
from polars_glmm.families.base import Censoring, joined_censoring
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.rows.blocks import Block
from polars_glmm.likelihood.rows.sampled import chosen_levels, share_of
from polars_glmm.likelihood.rows.spread import SpreadRows
from polars_glmm.likelihood.rows.store import Stored
from polars_glmm.typing import BoolVec, IntVec, Mat

_MANY_ROWS = 50_000


class Sample(NamedTuple):
    """The model on some of the groups, and how many times more rows there are in all."""

    model: Model
    scale: float


def subsample(model: Model) -> Sample | None:
    """The model on random levels of its coarsest factor, where every other is nested in it; None where rows are few.

    About 20,000 rows, at least 400 levels. With crossed factors a part of the levels is another kind of model.
    """
    factors = model.effects.factors
    n = model.design.n_rows
    if n < _MANY_ROWS or not factors:
        return None
    top = factors[-1]
    if isinstance(model.stored, SpreadRows):
        few = model.stored.few
        return None if few is None else Sample(replace(model, stored=few), n / few.shards.n_rows)
    if model.effects.coupled or not nested(model.effects):
        return None
    share = share_of(n, top.n_levels)
    if share is None:
        return None
    chosen = chosen_levels(top.n_levels, share)
    if model.stored is not None:
        return _from_disk(model, model.stored, chosen)
    part, places = on_levels(model, chosen)
    return Sample(part, n / len(places.rows))


def nested(effects: Effects) -> bool:
    """Whether every factor is nested in the last, the coarsest."""
    top = effects.factors[-1]
    return all(_nested(f.codes, top.codes, f.n_levels) for f in effects.factors[:-1])


class Places(NamedTuple):
    """Where a part of the rows stands among all: its rows, and its levels of every factor."""

    rows: IntVec
    levels: tuple[IntVec, ...]


def on_levels(model: Model, chosen: BoolVec) -> tuple[Model, Places]:
    """The model, whose rows are in memory, on marked levels of the coarsest factor."""
    factors = model.effects.factors
    keep: BoolVec = chosen[factors[-1].codes]
    rows = np.flatnonzero(keep)
    small = rows_of(replace(model.held_in_memory(), factors=()), rows)  # the model's own maps of factors follow
    maps, levels = [], []
    for f in factors:
        present, codes = np.unique(f.codes[keep], return_inverse=True)
        maps.append(replace(f, codes=codes.astype(np.intp), n_levels=len(present)))
        levels.append(present)
    columns = model.effects.columns
    columns = None if columns is None else np.take(columns, rows, axis=1)
    effects = replace(model.effects, factors=tuple(maps), columns=columns)
    bases = tuple(replace(basis, x=one.x) for basis, one in zip(model.bases, small.predictors, strict=True))
    return replace(model, design=small, bases=bases, effects=effects), Places(rows, tuple(levels))


def _from_disk(model: Model, stored: Stored, chosen: BoolVec) -> Sample:
    """The model on the chosen levels, its rows in memory."""
    rows = stored.rows(effects=True)
    kept: list[Block] = []
    masks: list[BoolVec] = []
    codes: list[IntVec] = []
    for i, (own,) in enumerate(rows.levels):
        if not chosen[own].any():
            continue
        (block,) = rows.units[i].blocks
        kept.append(block)
        masks.append(np.repeat(chosen[own], block.counts))
        codes.append(np.repeat(np.flatnonzero(chosen[own]) + own.start, block.counts[chosen[own]]))

    def joined(part: Callable[[Block], Mat | None]) -> Mat | None:
        parts = [part(block) for block in kept]
        if parts[0] is None:
            return None
        return np.concatenate([p[..., mask] for p, mask in zip(parts, masks, strict=True) if p is not None], axis=-1)

    def heads(part: Block) -> Mat:
        return np.array(part.data.inputs).reshape(-1, len(part.data.y))

    y = joined(lambda b: b.data.y)
    assert y is not None  # every block has responses
    made, predictors = [], []
    formulas = [k for k, part in enumerate(model.parts) if not part.constant]
    for k, one in zip(formulas, model.design.predictors, strict=True):
        columns = joined(lambda b, k=k: b.parts[k].columns)  # type: ignore[misc]  # the loop's own k
        assert columns is not None  # there is a formula
        made.append(columns)
        offset = None if one.cuts else joined(lambda b, k=k: b.parts[k].offset)  # type: ignore[misc]
        predictors.append(Predictor(columns, one.names, offset, one.parameter, one.cuts))
    small = Design(
        y=y,
        trials=joined(lambda b: b.data.trials),
        frequency=joined(lambda b: b.frequency),
        precision=joined(lambda b: b.data.precision),
        mu=predictors[0],
        further=tuple(predictors[1:]),
        factors=(),
        censoring=_censoring(kept, masks),
        inputs=tuple(np.concatenate([heads(b)[:, mask] for b, mask in zip(kept, masks, strict=True)], axis=1)),
    )
    present, places = np.unique(np.concatenate(codes), return_inverse=True)
    top = replace(model.effects.factors[0], codes=places.reshape(-1).astype(np.intp), n_levels=len(present))
    effects = replace(model.effects, factors=(top,), columns=joined(lambda b: b.z))
    bases = tuple(basis.holding(columns) for basis, columns in zip(model.bases, made, strict=True))
    part = replace(model, design=small, bases=bases, effects=effects, stored=None, by_rows=True)
    return Sample(part, rows.n_rows / len(y))


def _censoring(blocks: Sequence[Block], masks: Sequence[BoolVec]) -> Censoring | None:
    """How much is seen of the responses of the chosen rows, or None where of all."""
    both = [(b.data.censoring, mask) for b, mask in zip(blocks, masks, strict=True)]
    parts = [known.each(lambda v, m=mask: v[m]) for known, mask in both if known is not None]  # type: ignore[misc]
    return joined_censoring(parts) if parts else None


def _nested(inner: IntVec, outer: IntVec, n_levels: int) -> bool:
    """Whether every level of `inner` lies in one level of `outer`."""
    first = np.empty(n_levels, dtype=outer.dtype)
    first[inner] = outer
    return bool((first[inner] == outer).all())
