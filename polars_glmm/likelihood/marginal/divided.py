"""An engine whose rows are in shards: each all rows of some levels of the coarsest factor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polars_glmm.cores import workers
from polars_glmm.errors import ResourceError
from polars_glmm.likelihood.marginal.engine import RowEngine, blocks_of, row_engine
from polars_glmm.likelihood.marginal.sample import nested, on_levels
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.rows.blocks import RowBlocks, at_hand
from polars_glmm.likelihood.rows.holder import Holder
from polars_glmm.likelihood.rows.processes import Child, Processes, can_start, children
from polars_glmm.likelihood.rows.shards import Shards, Together, cut
from polars_glmm.likelihood.rows.spread import SpreadRows
from polars_glmm.typing import BoolVec

_SEVERAL = 2
_WORTH = 20_000_000
"""Rows times columns from which a fit gains more than processes take to start."""


class Divided(NamedTuple):
    """Rows in shards, and what they are together."""

    shards: list[RowBlocks]
    whole: Together


def divide(model: Model, engine: RowEngine, parts: int) -> Divided:
    """At most `parts` shards of about as many rows each, of a model whose factors are nested."""
    effects = model.effects
    if len(effects.factors) < 2:
        return Divided(*cut(at_hand(engine.marginal.rows), parts))
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
def divided(model: Model) -> Iterator[RowEngine]:
    """The engine for a fit: over shards in processes where that was asked for, or pays; else over rows here."""
    if isinstance(model.stored, SpreadRows):  # they are where they stay
        yield row_engine(model)
        return
    asked = model.control.rows.processes
    count = asked or processes_for(model)
    if count < _SEVERAL or not _divisible(model):
        yield row_engine(model)
        return
    with ExitStack() as stack:
        try:
            helpers = stack.enter_context(children(count - 1))
            engine, made = _waited_for(model, helpers)
        except ResourceError:
            if asked:
                raise
            stack.close()  # a system that starts no processes
            yield row_engine(model)
            return
        if len(made.shards) < _SEVERAL:
            stack.close()
            yield engine
            return
        own, *others = made.shards
        engine = over(engine, Shards(Processes(own, helpers[: len(others)]), made.whole))
        for helper, rows in zip(helpers, others, strict=False):
            helper.send(rows)
        del made, others, own  # their rows are with the helpers now
        yield engine


def _waited_for(model: Model, helpers: list[Child]) -> tuple[RowEngine, Divided]:
    """The engine and its rows in shards, made while the helpers start; when all have."""
    engine = row_engine(model)
    made = divide(model, engine, len(helpers) + 1)
    for helper in helpers:
        helper.receive()
    return engine, made


def processes_for(model: Model) -> int:
    """One for each core where rows are many and the caller is free to start processes; else one."""
    rows = model.control.rows
    if rows.threads or model.design.n_rows * (len(model.x.a) + model.effects.d) < _WORTH or not can_start():
        return 1
    return workers(0)


def _divisible(model: Model) -> bool:
    """Whether there is more than a block, and shards of whole levels share nothing: factors are nested, if several."""
    if model.design.n_rows <= model.control.rows.block:
        return False
    if model.effects.coupled:
        return False
    return len(model.effects.factors) < _SEVERAL or (model.stored is None and nested(model.effects))
