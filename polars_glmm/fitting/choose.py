"""The one place that decides how a model gets from its frame to its likelihood: asked by `fit`, and by `explain`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl

from polars_glmm.cluster.connected import connected, unconnected
from polars_glmm.columns.named import column
from polars_glmm.design.learn import Learned, learn
from polars_glmm.errors import GlmmError, ModelError, ResourceError, enumerate_names
from polars_glmm.fitting.sums import Obstacle, obstacle
from polars_glmm.frames.counted import Compressed, compress
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_cells import compress_engine
from polars_glmm.frames.size import count_rows, room_for
from polars_glmm.likelihood.optimum.vanishing import MOST_VALUES
from polars_glmm.memory import memory_limit, readable
from polars_glmm.spec.members import shared

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.spec.call import Call
    from polars_glmm.spec.model import ModelSpec

Kind = Literal["sums", "products", "rows", "disk", "workers"]
MANY_ROWS = (30_000, 200_000)
"""Rows of a DataFrame from which queries are quicker than arrays: with one grouping factor, with several."""


class Counted(NamedTuple):
    """Equal rows counted, and the recipe and design of what is left."""

    compressed: Compressed
    learned: Learned


class Route(NamedTuple):
    """The way from a frame to the likelihood.

    kind      "sums" (aggregation queries), "products" (cross-products of arrays), "rows" (passes over blocks in
              memory), "disk" (passes over blocks on disk), or "workers" (passes over blocks where the rows are)
    counted   rows where equal ones are counted, or None
    why       what keeps a gaussian model from its sums, where that is worth a note
    n_rows    rows of the frame, where they were counted to decide
    needed    bytes that the rows would take in memory, where that was asked
    refused   what to raise where the rows fit neither in memory nor, having several factors, on disk
    engine    the frame whose rows stay with workers
    """

    kind: Kind
    counted: Counted | None = None
    why: Obstacle = Obstacle("")
    n_rows: int | None = None
    needed: int | None = None
    refused: ResourceError | None = None
    engine: EngineFrame | None = None


def choose(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control) -> Route:
    """The route of what `call` asks of a frame; reads of the frame what it needs to decide, and no more."""
    route = _chosen(frame, call, control)
    together = "known=" if call.known else "mm()" if shared(call.spec().random) else ""
    return _together(route, together) if together else route


def _chosen(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control) -> Route:
    """The same, were levels independent."""
    spec = call.spec()
    found = obstacle(spec, call)
    if found is None:
        height = _height(frame, control)
        return Route("sums" if height is None or queries_pay(height, spec) else "products", n_rows=height)
    if exact(spec):
        return Route("products", why=found)
    if spec.residual is not None:
        if isinstance(frame, pl.DataFrame):
            return Route("rows", why=found)
        return _together(_room(spec, frame, control, found), "residual=")
    if few_variances(spec, frame):
        route = Route("products", why=found) if isinstance(frame, pl.DataFrame) else _room(spec, frame, control, found)
        return route if route.kind == "disk" else route._replace(kind="products")
    countable = control.rows.compress and not shared(spec.random)  # equal rows would be so in all their slots
    if countable and (counted := _counted(spec, frame, call)) is not None:
        return Route("rows", counted, found)
    return Route("rows", why=found) if isinstance(frame, pl.DataFrame) else _room(spec, frame, control, found)


def exact(spec: ModelSpec) -> bool:
    """A gaussian identity-link model with one residual variance: cross-products hold all there is to know."""
    return spec.family.linear and len(spec.predictors) == 1 and spec.residual is None


def few_variances(spec: ModelSpec, frame: pl.DataFrame | pl.LazyFrame) -> bool:
    """A gaussian identity-link model by ML or REML with residual variances that are few: each has its cross-products.

    Of a LazyFrame only those are known that belong to the labels of one column.
    """
    gaussian = spec.family.linear
    phi = spec.predictor("phi")
    if phi is None or not gaussian or shared(spec.random) or spec.method.name not in ("ml", "reml"):
        return False
    schema = frame.collect_schema()
    used = list(dict.fromkeys(phi.columns()))
    if any(name not in schema for name in used):
        return False  # to be said where columns are read
    if isinstance(frame, pl.DataFrame):
        return not used or frame.select(map(column, used)).n_unique() <= MOST_VALUES
    return len(used) < 2 and not any(schema[name].is_numeric() for name in used)


def queries_pay(n_rows: int, spec: ModelSpec) -> bool:
    """Whether a DataFrame has so many rows that queries are quicker than arrays."""
    factors = {frozenset(term.keys) for term in spec.random}
    return n_rows >= MANY_ROWS[len(factors) > 1]


def _height(frame: pl.DataFrame | pl.LazyFrame, control: Control) -> int | None:
    """Rows of a frame that is in memory, or will be because its rows are to be kept; None where none is collected."""
    if isinstance(frame, pl.DataFrame):
        return frame.height
    return count_rows(frame) if control.keep == "rows" else None


def choose_on_engine(frame: EngineFrame, call: Call, control: Control) -> Route | None:
    """The route of a model whose rows stay with their engine; None where they must be read out."""
    spec = call.spec()
    if obstacle(spec, call) is None:
        return Route("sums")
    if control.rows.compress and _countable(spec, frame):
        counted = learned_cells(compress_engine(frame, spec, missing=call.missing), spec, call)
        if counted is not None:
            return Route("rows", counted)
    return _stays(spec, frame, control)


def _countable(spec: ModelSpec, frame: EngineFrame) -> bool:
    """Whether equal rows may be counted."""
    return not exact(spec) and equal_rows_count(spec) and not few_variances(spec, frame.lazy())


def equal_rows_count(spec: ModelSpec) -> bool:
    """Whether a model asks no more of equal rows than their number, whatever the data."""
    if spec.residual is not None or spec.response.ends or shared(spec.random):
        return False
    return not (spec.family.is_censored or spec.family.unordered)


def _not_apart(spec: ModelSpec) -> str:
    """Why a model needs its rows in one place, or has no need of them; empty where they may be divided."""
    if exact(spec):
        return "a gaussian model with one residual variance is fitted from its cross-products"
    if spec.residual is not None:
        return "residuals of this model are correlated, and its rows must be in one place"
    if spec.response.ends or spec.family.is_censored:
        return "its response is censored"
    if spec.relations:
        return f"known= couples the levels of {spec.relations[0][0]!r}, and its rows must be in one place"
    if name := shared(spec.random):
        return f"rows are in several levels of {name!r}, and must be in one place"
    if spec.family.unordered:
        return "the categories of its response are learned from rows in one place"
    return "" if spec.family.curve is None else "the starting values of a curve are found from rows in one place"


def _stays(spec: ModelSpec, frame: EngineFrame, control: Control) -> Route | None:
    """Passes by the workers that hold the rows, where that was asked for or memory here would not hold them.

    Raises ModelError where it was asked for and cannot be.
    """
    stay = control.rows.stay
    if stay is False:
        return None
    why = _not_apart(spec)
    if connected(frame) is None:
        why = unconnected(frame)
    if stay and why:
        msg = f"Rows cannot stay with workers, as control=Control(rows=Rows(stay=True)) asks: {why}."
        raise ModelError(msg)
    if why:
        return None
    if not stay:
        limit = memory_limit(control.memory.limit)
        if room_for(spec.resolve(frozenset(frame.schema.names())), frame, limit).needed <= limit:
            return None
    return Route("workers", engine=frame)


def _counted(spec: ModelSpec, frame: pl.DataFrame | pl.LazyFrame, call: Call) -> Counted | None:
    """Equal rows counted first, where that saves rows."""
    return learned_cells(compress(frame, spec, missing=call.missing), spec, call)


def learned_cells(found: Compressed | None, spec: ModelSpec, call: Call) -> Counted | None:
    """What counted rows teach; None where there are none, or something is to be said of single rows."""
    if found is None:
        return None
    try:
        learned = learn(found.spec, found.frame, missing=call.missing)
    except GlmmError:  # to be raised again from the rows that the user knows
        return None
    if any(note.code == "rows_without_trials" for note in learned.notes):
        return None
    asked = replace(learned.recipe.spec, frequency=spec.frequency)
    learned = learned._replace(
        recipe=replace(learned.recipe, spec=asked),
        notes=(*found.notes, *learned.notes),
        n_dropped=found.n_dropped,
        kept=None,
    )
    return Counted(found, learned)


def _room(spec: ModelSpec, frame: pl.LazyFrame, control: Control, why: Obstacle) -> Route:
    """Blocks in memory, or on disk where they would need more memory than allowed."""
    spec = spec.resolve(frozenset(frame.collect_schema().names()))
    limit = memory_limit(control.memory.limit)
    n_rows, needed = room_for(spec, frame, limit)
    if needed <= limit:
        return Route("rows", None, why, n_rows, needed)
    factors = {frozenset(term.keys): term.group for term in spec.random}
    if len(factors) < 2:
        return Route("disk", None, why, n_rows, needed)
    names = enumerate_names(list(factors.values()))
    msg = (
        f"{n_rows:,} rows with {len(factors)} grouping factors ({names}) need about {readable(needed)} of memory, "
        f"more than the {readable(limit)} that may be used; only models of one factor can be fitted from disk. "
        f"Allow more with control=Control(memory=Memory(limit={_rounded(needed)})), use fewer columns or rows, or "
        "keep one factor."
    )
    return Route("disk", None, why, n_rows, needed, ResourceError(msg))


def _together(route: Route, what: str) -> Route:
    """Rows of correlated series, and of levels that know each other, are in memory, or nowhere."""
    if route.kind != "disk" or route.refused is not None or route.needed is None:
        return route
    msg = (
        f"{route.n_rows or 0:,} rows need about {readable(route.needed)} of memory, and models with {what} are "
        "fitted in memory only. Allow more with "
        f"control=Control(memory=Memory(limit={_rounded(route.needed)})), or use fewer columns or rows."
    )
    return route._replace(refused=ResourceError(msg))


def _rounded(size: int) -> int:
    """A size a little above, with two digits, to be typed."""
    unit = int(10 ** max(len(str(size)) - 2, 0))
    return -(-size // unit) * unit
