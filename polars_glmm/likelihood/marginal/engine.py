"""The engine over rows: −ℓ by Laplace or quadrature and its gradient at a state, made from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.cores import workers
from polars_glmm.errors import IdentifiabilityError
from polars_glmm.families.base import spread_name
from polars_glmm.likelihood.dense_limit import refuse_beyond_memory
from polars_glmm.likelihood.marginal.dispersion_limit import log_size_of_limit
from polars_glmm.likelihood.marginal.modes import Point, RowDensity
from polars_glmm.likelihood.marginal.nearby import Nearby
from polars_glmm.likelihood.marginal.node_limit import refuse_nodes
from polars_glmm.likelihood.marginal.slopes import KeptSlopes, Slopes
from polars_glmm.likelihood.marginal.value import Marginal, ThetaMap, Value
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.notes import reproduced_text
from polars_glmm.likelihood.optimum.vanishing import Floor
from polars_glmm.likelihood.parameters.curvature import Gradient, bending
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.state import State
from polars_glmm.likelihood.rows.blocks import RowBlocks, cut_rows
from polars_glmm.likelihood.rows.holder import Holder
from polars_glmm.likelihood.rows.merge import merge_rows
from polars_glmm.likelihood.rows.spread import SpreadRows
from polars_glmm.likelihood.rows.store import Stored
from polars_glmm.optimize.search import Evaluation, newton_step
from polars_glmm.spec.method import AGQ, REML, Laplace
from polars_glmm.typing import BoolVec, Mat, Vec

_SLOPE_SHARE = 0.3
"""Cost of one direction of the modes' slopes, in row passes."""


_FEWEST_UNITS = 8
"""Blocks from which a pool of threads saves more than it costs."""
_PERFECT_FIT = (
    "The model reproduces the response exactly, so its dispersion is zero and the likelihood has no bound. "
    "Check for a constant response, or a column that is a copy of it."
)


class Confined(NamedTuple):
    """A coefficient by its place, and the range that it is kept in: a constant log phi.

    endless   −1 or 1: below or above the range nothing is left of the dispersion, and the likelihood has no bound; 0:
              it is flat on both sides
    """

    place: int
    low: float
    high: float
    endless: int = -1

    def lost(self, value: float) -> bool:
        """Whether a value lies where the likelihood has no bound."""
        return value < self.low if self.endless < 0 else self.endless > 0 and value > self.high


@dataclass(slots=True, eq=False)
class RowEngine:
    """Laplace or quadrature over rows. Counts its work; nothing else changes."""

    effects: Effects
    marginal: Marginal
    floor: Floor | None = None
    evaluations: int = 0
    passes: float = 0.0

    def _value(
        self, beta: Vec, factors: list[Mat], warm: Any, of_theta: ThetaMap | None = None, *, rough: bool = False
    ) -> Value:
        at = Point(beta, self.effects.effective(factors))
        value = self.marginal.evaluate(at, warm, information=of_theta, rough=rough)
        self.evaluations += 1
        self.passes += value.passes
        return value

    def gradient(self, beta: Vec, factors: list[Mat], warm: Any) -> Gradient:
        return self._inward(self._value(beta, factors, warm))

    def gradients(self, states: Sequence[State], warm: Any, slopes: KeptSlopes | None, steps: Vec) -> list[Gradient]:
        """Gradients at states near that where an evaluation ended `warm`, each a step along its slope; without warm."""
        points = [Point(s.beta, self.effects.effective(list(s.factors))) for s in states]
        handle = None if slopes is None else slopes.handle
        sums = self.marginal.rows.ask(Nearby(self.marginal.how, points, warm, handle, steps))
        found = [self.marginal.valued(one) for one in sums]
        self.evaluations += len(found)
        self.passes += sum(v.passes for v in found)
        return [self._inward(v) for v in found]

    def _inward(self, v: Value) -> Gradient:
        inward = self.effects.inward(v.factors) if np.isfinite(v.value) else []
        return Gradient(v.value, v.beta, inward, v.warm, v.passes)

    def mode_slopes(self, state: State, warm: Any, free: BoolVec) -> KeptSlopes:
        """dû along every free coordinate of a state's vector, at which an evaluation ended `warm`."""
        at = Point(state.beta, self.effects.effective(list(state.factors)))
        directions = []
        for beta, factors in state.directions(free):
            directions.append(Point(beta, self.effects.effective(factors)))
        self.passes += 1 + _SLOPE_SHARE * len(directions)
        question = Slopes(self.marginal.how, at, warm, directions)
        return KeptSlopes(question, self.marginal.rows.ask(question))

    def objective(self, p: int, spread: Confined | None = None, *, rough: bool = False) -> Any:
        """−ℓ over [β, θ], for the search; p coefficients. Rough: see Marginal.

        Values of a formula of phi have a floor, below which there is nothing to be found but the same error.
        A coefficient may be confined: beyond its ends −ℓ is flat, but for the one where nothing is left of the
        dispersion: the likelihood has no bound, and IdentifiabilityError says so.
        """
        highest = [-np.inf]

        def call(x: Vec, warm: Any, *, curvature: bool) -> Evaluation:
            lambdas = self.effects.lambdas(x[p:])
            beta, capped = x[:p], False
            if spread is not None:
                if spread.lost(beta[spread.place]):
                    name = spread_name(self.marginal.density.family)
                    raise IdentifiabilityError(
                        reproduced_text(self.effects, name) if self.effects.factors else _PERFECT_FIT
                    )
                capped = not spread.low <= beta[spread.place] <= spread.high
                if capped:
                    beta = beta.copy()
                    beta[spread.place] = np.clip(beta[spread.place], spread.low, spread.high)
            v = self._value(beta, lambdas, warm, ThetaMap(self.effects, x[p:]) if curvature else None, rough=rough)
            if not np.isfinite(v.value):
                return Evaluation(np.inf, np.zeros_like(x), None, warm)
            if self.floor is not None and v.value > highest[0]:
                self.floor.refuse(beta[self.floor.own])  # uphill only: a step too long is taken back
            highest[0] = max(highest[0], v.value)
            g = np.concatenate([v.beta, self.effects.pullback(x[p:], self.effects.inward(v.factors))])
            if capped and spread is not None:
                g[spread.place] = 0.0
            b = None
            if v.information is not None:
                b = np.zeros((len(x),) * 2)
                b[:p, :p] = v.information.beta
                if self.effects.n_theta:
                    b[p:, p:] = v.information.theta
                if not np.isfinite(b).all():  # beyond what numbers hold, where ℓ itself is not yet
                    return Evaluation(-v.value, -g, None, v.warm)
                if self.effects.n_theta:
                    step = newton_step(b, -g, quick=True)[0][p:]
                    slopes = [-f for f in self.effects.inward(v.factors)]
                    b[p:, p:] += bending(self.effects, lambdas, slopes, step)
            return Evaluation(-v.value, -g, b, v.warm)

        return call


def row_engine(model: Model) -> RowEngine:
    """The engine over a model's rows."""
    effects, rows = model.effects, holder_of(model)
    nodes = model.method.nodes if isinstance(model.method, AGQ) and effects.factors else 1
    if nodes > 1:
        refuse_nodes(effects, rows, nodes, model.control, model.design.n_rows)
    expected = isinstance(model.method, Laplace) and model.method.curvature == "expected"
    threads = workers(model.control.rows.threads)
    if not isinstance(rows, RowBlocks) or len(rows.units) < _FEWEST_UNITS:
        threads = 1
    ceiling = log_size_of_limit(model.family, model.rows) if model.models_phi else np.inf
    density = RowDensity(model.family, ceiling, effects.moving)
    reml = isinstance(model.method, REML)
    marginal = Marginal(rows, density, nodes, expected and not model.family.canonical, threads, reml)
    return RowEngine(effects, marginal)


def bare_engine(engine: RowEngine) -> RowEngine:
    """The engine without random effects, over the same rows: for the GLM that a search starts from."""
    whole = engine.marginal
    density = replace(whole.density, moving=NO_EFFECTS.moving)
    return RowEngine(NO_EFFECTS, replace(whole, rows=whole.rows.uncoupled(), nodes=1, density=density), engine.floor)


def holder_of(model: Model) -> Holder:
    """Who holds a model's rows."""
    if isinstance(model.stored, SpreadRows):
        return model.stored.rows(effects=bool(model.effects.factors))
    return blocks_of(model)


def blocks_of(model: Model) -> RowBlocks:
    """A model's rows in blocks, here."""
    effects = model.effects
    if isinstance(model.stored, Stored):
        return model.stored.rows(effects=bool(effects.factors))
    made = merge_rows(model.held_in_memory(), model.x, effects, model.family)
    parts = (replace(model.parts[0], basis=made.x), *model.parts[1:])
    blocks = cut_rows(made.design, parts, made.effects, model.control.rows.block)
    if len(effects.factors) > 1 or effects.coupled:
        refuse_beyond_memory(blocks.units[0].eliminator, effects, model.control)
    return blocks
