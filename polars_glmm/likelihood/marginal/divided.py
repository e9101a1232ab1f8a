"""An engine whose rows are in shards: each all rows of some levels of the coarsest factor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.marginal.engine import RowEngine, blocks_of
from polars_glmm.likelihood.marginal.sample import nested, on_levels
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.rows.blocks import RowBlocks, at_hand
from polars_glmm.likelihood.rows.holder import Holder
from polars_glmm.likelihood.rows.shards import Together, cut
from polars_glmm.typing import BoolVec


class Divided(NamedTuple):
    """Rows in shards, and what they are together."""

    shards: list[RowBlocks]
    whole: Together


def divide(model: Model, engine: RowEngine, parts: int) -> Divided | None:
    """At most `parts` shards of about as many rows each; None where crossed factors couple all rows."""
    effects = model.effects
    if len(effects.factors) < 2:
        return Divided(*cut(at_hand(engine.marginal.rows), parts))
    if not nested(effects):
        return None
    top = effects.factors[-1]
    rows = np.cumsum(np.bincount(top.codes, minlength=top.n_levels))
    ends = np.unique(np.searchsorted(rows, rows[-1] * np.arange(1, parts + 1) / parts) + 1)
    shards, places, start = [], [], 0
    for end in ends:
        chosen: BoolVec = np.zeros(top.n_levels, dtype=bool)
        chosen[start:end] = True
        part, own = on_levels(model, chosen)
        shards.append(blocks_of(part))
        places.append(own.levels)
        start = int(end)
    n_rows = sum(shard.n_rows for shard in shards)
    return Divided(shards, Together(n_rows, tuple(f.n_levels for f in effects.factors), tuple(places)))


def over(engine: RowEngine, rows: Holder) -> RowEngine:
    """The engine over the same rows where another holds them."""
    return replace(engine, marginal=replace(engine.marginal, rows=rows, threads=1))


@contextmanager
def divided(model: Model, engine: RowEngine) -> Iterator[RowEngine]:  # noqa: ARG001
    """The engine for a fit, over shards in processes of their own where that pays."""
    yield engine
