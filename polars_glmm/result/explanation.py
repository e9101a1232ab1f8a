"""What a fit would do, without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.errors import brief, counted
from polars_glmm.fitting.categories import with_categories
from polars_glmm.fitting.choose import choose, choose_on_engine, exact
from polars_glmm.fitting.costs import Cost, Elimination, elimination, passes_cost, products_cost
from polars_glmm.fitting.look import Look, look_at_arrays, look_by_queries, require_words
from polars_glmm.fitting.readings import is_collected, rows_to_read
from polars_glmm.frames.batches import whole
from polars_glmm.frames.counted import COUNT, Compressed
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_expressions import NotThereError
from polars_glmm.frames.size import row_bytes
from polars_glmm.inference.cells import visible
from polars_glmm.inference.html import render
from polars_glmm.inference.schemas import Schema, table
from polars_glmm.inference.sheet import Sheet, SheetTable
from polars_glmm.memory import memory_limit, readable
from polars_glmm.spec.members import shared

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.notes import Note
    from polars_glmm.spec.call import Call
    from polars_glmm.spec.model import ModelSpec

EXPLANATION: Schema = {
    "part": pl.String(),
    "name": pl.String(),
    "columns": pl.List(pl.String()),
    "size": pl.Int64(),
    "smallest": pl.Int64(),
    "largest": pl.Int64(),
}
METHODS = {
    "reml": "REML",
    "ml": "maximum likelihood",
    "laplace": "Laplace approximation",
    "agq": "adaptive quadrature",
}
_MANY_NAMES = 12
_LARGE = 200_000
"""Rows of a DataFrame from which it is counted rather than learned."""


class Plan(NamedTuple):
    """The way from the frame to the likelihood.

    route    "sums" (aggregation queries), "products" (cross-products of arrays), "rows" (passes over blocks in memory),
             "disk" (passes over blocks on disk), or "workers" (passes over blocks where the rows are)
    cells    rows after equal ones are counted, or None where that would not pay
    scans    how often the source is read from one end to the other
    engine   who sums or counts the rows instead, or gives them out; "" for Polars
    stays    whether no row leaves that engine
    fits     False where the rows need more memory than may be used, and cannot go to disk
    """

    route: str
    cells: int | None
    scans: int
    cost: Cost
    fits: bool = True
    engine: str = ""
    stays: bool = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explanation:
    """The plan of a fit: print it, or take `frame`.

    frame         part ("rows", "fixed", "random", "route", "elimination", "scans", "memory", "passes"), name, columns,
                  size, and for groups the observations in the smallest and the largest
    notes         what the data already give reason to say
    plan          route, cells, scans and cost;  elimination of the random effects
    """

    text: str
    frame: pl.DataFrame
    notes: tuple[Note, ...]
    plan: Plan
    elimination: Elimination
    look: Look

    def __repr__(self) -> str:
        return "\n".join(map(visible, self.text.split("\n")))

    def _repr_html_(self) -> str:
        return plan_html(self.text)


def plan_html(text: str) -> str:
    """A plan as a table under its formula, the first line of its text."""
    formula, *lines = text.splitlines()
    return render(Sheet(formula, (), (SheetTable("Plan", (), tuple(lines)),), ()))


def explain_call(frame: pl.DataFrame | pl.LazyFrame | EngineFrame, call: Call, control: Control) -> Explanation:
    """Count rows, levels and columns, and say what the likelihood will be made of and what it will cost.

    A DataFrame of ordinary size is learned as for a fit; a large or lazy one is counted by queries.
    """
    if isinstance(frame, EngineFrame):
        return _explained_engine(frame, call, control)
    if isinstance(frame, pl.LazyFrame):
        with rows_to_read(frame, call, control) as rows:
            return _explained(rows, call, control, once=rows is not frame or is_collected(rows, call, control))
    return _explained(frame, call, control)


def _explained(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control, *, once: bool = False) -> Explanation:
    """The explanation of rows that can be read again; once: a fit reads their source in one run."""
    call = with_categories(frame, call)
    spec = call.spec()
    if spec.relations or shared(spec.random) or (isinstance(frame, pl.DataFrame) and frame.height < _LARGE):
        look = look_at_arrays(spec, whole(frame.lazy()), call.missing)
    else:
        look = look_by_queries(spec, frame.lazy(), call.missing)
    plan = make_plan(frame, look, call, control)
    return _worded(look, plan._replace(scans=1) if once else plan)


def _explained_engine(frame: EngineFrame, call: Call, control: Control) -> Explanation:
    """The explanation of rows that an engine holds: what it sums or counts, or that its rows are read out."""
    try:
        route = None if control.keep == "rows" else choose_on_engine(frame, call, control)
        if route is not None:
            look = look_by_queries(call.spec(), frame, call.missing)
            if route.kind == "workers":
                limit = row_bytes(look.spec, frame, most=1 << 62)
                cost = passes_cost(look, look.n_rows, look.n_rows * limit, _nodes(look))
                scans = 3 + look.learning + 2 * len(look.factors)
                return _worded(look, Plan("workers", None, scans, cost, engine=frame.name))
            require_words(look.spec, frame)
            if route.counted is not None:
                return _worded(look, _counted_plan(look, route.counted.compressed)._replace(engine=frame.name))
            scans = 2 + look.learning + len(look.factors) + len(look.pairs)
            return _worded(look, Plan("sums", None, scans, products_cost(look, 1, lazy=True), engine=frame.name))
    except NotThereError:  # a function that the engine does not have
        pass
    explained = explain_call(frame.lazy(), call, control)
    look, plan = explained.look, explained.plan._replace(engine=frame.name, stays=False, scans=1)
    return _worded(look, plan)


def _worded(look: Look, plan: Plan) -> Explanation:
    gone = elimination(look)
    columns = {name: [row[k] for row in _rows(look, plan, gone)] for k, name in enumerate(EXPLANATION)}
    text = "\n".join(_lines(look, plan, gone))
    return Explanation(text, table(EXPLANATION, columns), look.notes, plan, gone, look)


def make_plan(frame: pl.DataFrame | pl.LazyFrame, look: Look, call: Call, control: Control) -> Plan:
    """The route that a fit would take, and what it costs."""
    spec, lazy = look.spec, isinstance(frame, pl.LazyFrame)
    route = choose(frame, call, control)
    if exact(spec):
        scans = 1 + look.learning if route.kind == "sums" else 1
        return Plan(route.kind, None, scans, products_cost(look, scans, lazy=lazy))
    if route.kind == "products":
        return Plan("products", None, 1, products_cost(look, 1, lazy=lazy))
    nodes = _nodes(look)
    if route.counted is not None:
        return _counted_plan(look, route.counted.compressed)
    memory = route.needed or look.n_rows * _row_bytes(spec, frame.lazy())
    if route.kind == "disk":
        fits = route.refused is None
        cost = passes_cost(look, look.n_rows, memory_limit(control.memory.limit) if fits else memory, nodes)
        return Plan("disk", None, look.learning + 2 + spec.family.unordered, cost, fits)
    return Plan("rows", None, 1, passes_cost(look, look.n_rows, memory, nodes))


def _nodes(look: Look) -> int:
    """Evaluations of each row: quadrature points of all effects of a level."""
    nodes: int = getattr(look.spec.method, "nodes", 1) ** sum(len(factor.columns) for factor in look.factors)
    return nodes


def _counted_plan(look: Look, counted: Compressed) -> Plan:
    """Passes over counted rows."""
    cells = _passed_over(counted)
    memory = counted.frame.height * _row_bytes(counted.spec, counted.frame.lazy())
    return Plan("rows", cells, 3, passes_cost(look, cells, memory, _nodes(look)))


def _row_bytes(spec: ModelSpec, frame: pl.LazyFrame) -> int:
    return row_bytes(spec, frame, most=1 << 62)


def _passed_over(counted: Compressed) -> int:
    """Rows that passes go over: a Poisson or binomial response is summed where the rest of a row repeats."""
    spec = counted.spec
    if not spec.family.sufficient:
        return counted.frame.height
    summed = {COUNT, *spec.response.columns(), *([spec.trials] if spec.trials is not None else [])}
    kept = [name for name in counted.frame.columns if name not in summed]
    return counted.frame.select(map(column, kept)).n_unique() if kept else 1


# ------------------------------------------------------------------------------------------------------- in words


def _lines(look: Look, plan: Plan, gone: Elimination) -> list[str]:
    spec = look.spec
    observations = f" ({counted(look.n_obs, 'observation', grouped=True)})" if look.n_obs != look.n_rows else ""
    unit = "observation" if observations else "row"
    return [
        spec.formula,
        f"{spec.family.name} ({spec.family.link.name} link), {_way(look, plan)}",
        f"{counted(look.n_rows, 'row', grouped=True)} used{observations}, {look.n_dropped:,} dropped",
        *([f"{plan.cells:,} different rows, which are counted instead of repeated"] if plan.cells is not None else []),
        *_where(plan),
        *(f"fixed effects of {name}: {_listed(columns)}" for name, columns in look.predictors),
        *(
            f"random effects on {f.name}: {_listed(f.columns)} "
            f"({counted(f.n_levels, 'level', grouped=True)} of {_several(f.smallest, f.largest, unit)})"
            for f in look.factors
        ),
        *([] if spec.residual is None else [f"residuals correlated by {spec.residual.text}"]),
        *_eliminated(gone, "rows in several levels couple" if shared(spec.random) else "known= couples"),
        *_costs(look, plan),
        *(f"note: {note.text}" for note in look.notes),
    ]


def _where(plan: Plan) -> list[str]:
    """What becomes of rows that an engine holds."""
    if not plan.engine:
        return []
    if not plan.stays:
        return [f"rows stay with {plan.engine} until they are read out, once"]
    if plan.route == "workers":
        return [f"rows stay with the workers of {plan.engine}, divided once by the coarsest group: one round a pass"]
    return [f"rows stay with {plan.engine}, which {'sums' if plan.route == 'sums' else 'counts'} them"]


def _way(look: Look, plan: Plan) -> str:
    method, n = METHODS[look.spec.method.name], len(look.factors)
    if look.spec.residual is not None:
        return f"{method} by passes over rows whitened within their groups: rows are collected once"
    if plan.route == "products" and not exact(look.spec):
        return f"{method} from cross-products of each residual variance: rows are read once"
    if not n:
        if exact(look.spec):
            return f"{method}, least squares"
        return f"{method if look.spec.method.name == 'reml' else 'maximum likelihood'}, no random effects"
    if plan.route == "sums":
        return f"{method} from cross-products, summed by queries: no row is kept"
    if plan.route == "products":
        return f"{method} from cross-products: rows are read once"
    where = {"disk": "on disk", "workers": f"with the workers of {plan.engine}"}.get(plan.route, "in memory")
    return f"{method} in passes over blocks of rows {where}, {counted(n, 'factor')}"


def _eliminated(gone: Elimination, couples: str) -> list[str]:
    lead = [repr(brief(name)) for name in gone.lead[:_MANY_NAMES]]
    names = ", then ".join([*lead, *([f"… ({len(gone.lead)} in all)"] if len(gone.lead) > _MANY_NAMES else [])])
    match gone.kind:
        case "none":
            return []
        case "levels":
            return ["elimination: the levels are solved independently"]
        case "nested":
            return [f"elimination: nested, level by level: {names}"]
        case "sparse":
            return [f"elimination: {names} level by level, then {gone.order:,} unknowns of which few meet, in stages"]
    size = f"of order {gone.order:,} ({readable(gone.memory)})"
    if not gone.lead:
        return [f"elimination: all levels together, which {couples}, as a dense matrix {size}"]
    matrices = f"a dense matrix {size}" if gone.blocks == 1 else f"{gone.blocks:,} dense matrices {size} or so"
    return [f"elimination: {names} level by level, then {matrices}"]


def _costs(look: Look, plan: Plan) -> list[str]:
    cost, times = plan.cost, {1: "once", 2: "twice"}.get(plan.scans, f"{plan.scans} times")
    rows = look.n_rows if plan.cells is None else plan.cells
    passes = f"{_several(*cost.passes, 'pass')} over {counted(rows, 'row', grouped=True)}, " if cost.passes[1] else ""
    lines = [f"cost: source read {times}, {passes}{_seconds(*cost.seconds)}, {readable(cost.memory)} of memory"]
    if not plan.fits:
        lines.append("This does not fit in memory, and only models of one factor can be fitted from disk.")
    return lines


def _seconds(low: float, high: float) -> str:
    if high < 0.1:
        return "less than 0.1 s"
    text = f"{low:.2g}" if high < 1.1 * low else f"{low:.2g} to {high:.2g}"
    return f"about {text} s on one core"


def _several(low: int, high: int, noun: str) -> str:
    """`1 pass`, `3 to 12 passes`."""
    return ("" if low == high else f"{low:,} to ") + counted(high, noun, grouped=True)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(brief, names[:_MANY_NAMES])) or "none"
    return shown if len(names) <= _MANY_NAMES else f"{shown}, … ({len(names)} in all)"


def _rows(look: Look, plan: Plan, gone: Elimination) -> list[tuple[Any, ...]]:
    """The lines of the table."""
    cells: list[tuple[Any, ...]] = []
    if plan.cells is not None:
        cells.append(("rows", "cells", [], plan.cells, None, None))
    return [
        ("rows", "used", [], look.n_rows, None, None),
        ("rows", "dropped", [], look.n_dropped, None, None),
        ("rows", "observations", [], look.n_obs, None, None),
        *cells,
        *(("fixed", name, list(columns), len(columns), None, None) for name, columns in look.predictors),
        *(("random", f.name, list(f.columns), f.n_levels, f.smallest, f.largest) for f in look.factors),
        ("route", plan.route, [], None, None, None),
        ("elimination", gone.kind, list(gone.lead), gone.order, None, None),
        ("scans", "source", [], plan.scans, None, None),
        ("memory", "bytes", [], plan.cost.memory, None, None),
        ("passes", "rows", [], None, *plan.cost.passes),
    ]
