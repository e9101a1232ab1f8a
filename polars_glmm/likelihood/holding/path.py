"""One parameter along its path, all others at their best: points, and the values at which ζ reaches a cutoff.

ζ(t) = sign(t − t̂)·√(2(−ℓ(t) + ℓ(t̂))), nearly linear in t, with dζ/dt = ∂(−ℓ)/∂t/ζ by the envelope theorem: no second
optimisation, and inverse cubic interpolation in ζ finds a root in about three points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from polars_glmm.likelihood.holding.criterion import HeldAt
from polars_glmm.likelihood.holding.surface import Surface
from polars_glmm.likelihood.holding.targets import HeldScale
from polars_glmm.optimize.search import newton_step
from polars_glmm.typing import Mat, Vec

Status = Literal["ok", "at_boundary", "not_reached", "not_monotone", "lower_found", "not_identified"]

CLOSE = 1e-5
"""Distance in ζ from which one step by the slope ends the search: its error is of the square of this."""
_LOWER = 1e-6
"""−ℓ so much below that of the fit is another optimum."""
_APART = 1e-3
"""Points so near in t, in standard errors, say nothing of the way the others go."""
_MOST, _STRETCH, _GRID, _FARTHEST = 60, 2.0, 24, 1e4


class PathPoint(NamedTuple):
    """A held value t with ζ and its slope, the coordinates of the others, and what the search there leaves."""

    t: float
    zeta: float
    slope: float
    x: Vec
    curvature: Mat
    warm: Any
    beta: Vec


class Root(NamedTuple):
    """Where ζ reaches a cutoff, or the end of the range where it does not; None where nothing was found."""

    t: float | None
    status: Status


@dataclass(eq=False)
class Path:
    """The path of one parameter.

    w       (n,) the held coordinate is w'x; None where β is profiled out and `a` (p,) says which a'β is held
    centre  of a'β: what is added to it to be the natural value
    t0, width   the estimate, and one standard error of it in t by the curvature at the optimum
    """

    surface: Surface
    scale: HeldScale
    w: Vec | None
    a: Vec | None
    centre: float
    singular: bool
    t0: float = 0.0
    width: float = np.nan
    moving: Mat = field(default_factory=lambda: np.empty((0, 0)))
    tangent: Vec = field(default_factory=lambda: np.empty(0))
    points: list[PathPoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        s, n = self.surface, len(self.surface.x)
        free = np.eye(n)[:, s.free]
        if self.w is None:
            assert self.a is not None
            at = s.warm.at
            self.moving, self.tangent = free, np.zeros(n)
            self.t0 = float(self.a @ at.beta) + self.centre
            self.width = self._width_of_coefficient()
        else:
            own = free.T @ self.w
            single = np.count_nonzero(own) == 1
            across = np.eye(len(own)) if single else np.linalg.qr(own[:, None], mode="complete")[0]
            self.moving = free @ (across[:, own == 0.0] if single else across[:, 1:])
            self.t0 = float(self.w @ s.x) + self.centre
            h = s.hessian
            toward = self.w / float(self.w @ self.w)
            inner = self.moving.T @ h @ self.moving
            step = newton_step(inner, self.moving.T @ h @ toward)[0] if inner.size else np.empty(0)
            self.tangent = toward + self.moving @ step
            bend = float(self.tangent @ h @ self.tangent)
            self.width = 1.0 / float(np.sqrt(bend)) if bend > 0.0 else np.nan
            self.t0 = self._at_end(self.t0)
        curvature = self.moving.T @ s.hessian @ self.moving
        slope = 1.0 / self.width
        self.points = [PathPoint(self.t0, 0.0, slope, s.x, curvature, s.warm, s.warm.at.beta)]

    def _at_end(self, t: float) -> float:
        """t, or the end of the range that it is at to the digits of a search: a zero is rarely found as 0.0."""
        ends = (self.scale.low, self.scale.high)
        return next((end for end in ends if abs(t - end) < CLOSE * self.width), t)

    def _width_of_coefficient(self) -> float:
        """The standard error of a'β by a difference of its slope, which is exactly linear in the value held."""
        s = self.surface
        assert self.a is not None
        slope = s.evaluate(s.x, s.warm, HeldAt(self.a, self.t0 - self.centre + 1.0)).state.at.slope
        return 1.0 / float(np.sqrt(slope)) if slope > 0.0 else np.nan

    def at(self, t: float) -> PathPoint | None:
        """The point at t, from the nearest known ones; None where no finite value was found."""
        near = sorted(self.points, key=lambda one: abs(one.t - t))
        first = near[0]
        if first.t == t:
            return first
        direction = self.tangent
        apart = [one for one in near[1:] if abs(one.t - first.t) > _APART * self.width]
        if apart and first.t != self.t0:
            direction = (first.x - apart[0].x) / (first.t - apart[0].t)
        start = first.x + (t - first.t) * direction
        held = None if self.a is None else HeldAt(self.a, t - self.centre)
        if self.singular:
            start = self.surface.off_zero(start)
        if self.w is not None:
            start = start + self.w * ((t - self.centre - float(self.w @ start)) / float(self.w @ self.w))
        x, found = self.surface.search(start, self.moving, first.curvature, first.warm, held)
        e = found.evaluation
        if not np.isfinite(e.value):
            return None
        excess = e.value - self.surface.value
        side = 1.0 if t >= self.t0 else -1.0
        slope = e.state.at.slope if self.w is None else float(e.state.gradient @ self.w) / float(self.w @ self.w)
        zeta = side * float(np.sqrt(max(2.0 * excess, 0.0))) if excess > -_LOWER else np.nan
        steep = slope / zeta if zeta else 1.0 / self.width
        point = PathPoint(t, zeta, steep, x, found.curvature, e.state, e.state.at.beta)
        self.points.append(point)
        return point

    def root(self, cutoff: float) -> Root:
        """Where ζ, on the side of its sign, reaches the cutoff: the outermost crossing that is met."""
        side = 1.0 if cutoff > 0.0 else -1.0
        end = self.scale.high if side > 0.0 else self.scale.low
        if self.t0 == end:
            return Root(end, "at_boundary")
        if not np.isfinite(self.width):
            return Root(None, "not_identified")
        folded = False
        inside, outside = self.points[0], None
        t = self._within(self.t0 + cutoff * self.width, end)
        for _ in range(_MOST):
            now = self.at(t)
            if now is None:
                if abs(t - inside.t) < CLOSE * self.width:
                    return Root(None, "not_reached")
                t = 0.5 * (inside.t + t)
                end = t
                continue
            if np.isnan(now.zeta):
                return Root(None, "lower_found")
            folded |= now.slope < 0.0
            if folded:
                return self._outermost(cutoff, end)
            if abs(now.zeta - cutoff) < CLOSE:
                return Root(self._within(now.t + (cutoff - now.zeta) / now.slope, end), "ok")
            if abs(now.zeta) > abs(cutoff):
                outside = now
            else:
                inside = now
                if now.t == end:
                    return Root(end, "at_boundary")
            t = _between(inside, outside, cutoff) if outside else self._further(now, cutoff, end)
            if abs(t - self.t0) > _FARTHEST * self.width:
                break
        return Root(None, "not_reached")

    def trace(self, cutoff: float, n: int) -> list[PathPoint]:
        """The estimate and n points evenly spaced in ζ from −cutoff to cutoff, as far as ζ goes; sorted by t."""
        ends = [self.root(-cutoff), self.root(cutoff)]
        known = sorted((one for one in self.points if np.isfinite(one.zeta)), key=lambda one: one.t)
        low = ends[0].t if ends[0].t is not None else known[0].t
        high = ends[1].t if ends[1].t is not None else known[-1].t
        met = [self.at(low), *known, self.at(high)]
        inside = sorted(
            {one.t: one for one in met if one is not None and low <= one.t <= high and np.isfinite(one.zeta)}.values(),
            key=lambda one: one.t,
        )
        values = {self.t0, low, high}
        for zeta in np.linspace(inside[0].zeta, inside[-1].zeta, n)[1:-1]:
            after = next((i for i, one in enumerate(inside) if one.zeta > zeta), len(inside) - 1)
            if abs(zeta) > CLOSE and after:
                values.add(_between(inside[after - 1], inside[after], float(zeta)))
        made = (self.at(t) for t in sorted(values, key=lambda t: abs(t - self.t0)))
        return sorted((one for one in made if one is not None), key=lambda one: one.t)

    def _within(self, t: float, end: float) -> float:
        return min(t, end) if end > self.t0 else max(t, end)

    def _further(self, now: PathPoint, cutoff: float, end: float) -> float:
        """The next t outwards: along the slope, at most twice as far from the estimate."""
        step = (cutoff - now.zeta) / now.slope if now.slope > 0.0 else np.inf * (end - self.t0)
        most = (_STRETCH - 1.0) * max(abs(now.t - self.t0), self.width)
        return self._within(now.t + float(np.clip(step, -most, most)), end)

    def _outermost(self, cutoff: float, end: float) -> Root:
        """The last crossing on a grid, where ζ goes back on its way out."""
        side = 1.0 if cutoff > 0.0 else -1.0
        far = max(abs(one.t - self.t0) for one in self.points) * _STRETCH
        last = self._within(self.t0 + side * far, end)
        met = [self.points[0]]
        for t in np.linspace(self.t0, last, _GRID)[1:]:
            now = self.at(float(t))
            if now is not None and not np.isnan(now.zeta):
                met.append(now)
        if abs(met[-1].zeta) < abs(cutoff):
            return Root(met[-1].t, "at_boundary") if met[-1].t == end else Root(None, "not_reached")
        crossing = max(i for i, one in enumerate(met) if abs(one.zeta) < abs(cutoff))
        inside, outside = met[crossing], met[crossing + 1]
        for _ in range(_MOST):
            now = self.at(0.5 * (inside.t + outside.t))
            if now is None or np.isnan(now.zeta):
                return Root(None, "lower_found")
            inside, outside = (now, outside) if abs(now.zeta) < abs(cutoff) else (inside, now)
            if abs(outside.t - inside.t) < CLOSE * self.width:
                break
        return Root(outside.t, "not_monotone")


def _between(inside: PathPoint, outside: PathPoint, zeta: float) -> float:
    """t at a ζ between two points, by the cubic in ζ with their slopes; by the chord where it leaves the interval."""
    span, share = outside.zeta - inside.zeta, (zeta - inside.zeta) / (outside.zeta - inside.zeta)
    chord = inside.t + share * (outside.t - inside.t)
    if not (inside.slope > 0.0 and outside.slope > 0.0):
        return 0.5 * (inside.t + outside.t)
    m0, m1 = span / inside.slope, span / outside.slope
    u, v = share, 1.0 - share
    cubic = inside.t * (1 + 2 * u) * v**2 + m0 * u * v**2 + outside.t * u**2 * (3 - 2 * u) - m1 * u**2 * v
    low, high = sorted((inside.t, outside.t))
    return float(cubic) if low < cubic < high else float(chord)
