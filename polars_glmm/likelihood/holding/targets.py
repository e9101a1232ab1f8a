"""The natural parameters of a model one by one: what to hold, in which coordinates, and within which bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import pi
from typing import Literal

import numpy as np

from polars_glmm.covariance.structures import over_points
from polars_glmm.design.records import ResidualRows
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.names import parameter_names
from polars_glmm.likelihood.parameters.parts import pair_name
from polars_glmm.likelihood.products.engine import ProductModel

Quantity = Literal["coefficient", "sd", "correlation", "range", "residual_correlation", "residual_range", "dispersion"]


@dataclass(frozen=True, slots=True)
class Target:
    """One natural parameter.

    name          as in `parameter_names`
    parameter     "mu" or "phi";  group, terms: as in the tables
    lead          the effects that come first in the chart: one for a sd, two for a correlation
    place         number of a coefficient in its predictor, or 0
    """

    name: str
    quantity: Quantity
    parameter: str
    group: str | None = None
    terms: tuple[str, ...] = ()
    lead: Mapping[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    place: int = 0


def targets(model: Model | ProductModel, fixed: Mapping[str, float]) -> list[Target]:
    """All parameters in the order of their names, without those that the user holds."""
    blocks, _ = parameter_names(model)
    named = enumerate(zip(model.parts[0].labels, model.names, strict=True))
    found = [Target(label, "coefficient", "mu", None, (name,), place=place) for place, (label, name) in named]
    for block in blocks:
        t, factor = block.term, model.effects.factors[block.factor]
        at = (block.factor, t.start)
        for k in block.effects.tolist():
            name = t.labels[k]
            found.append(Target(f"sd({factor.name}: {name})", "sd", "mu", factor.name, (name,), {at: (k,)}))
        for j, k in zip(*(part.tolist() for part in block.pairs), strict=True):
            pair = (t.labels[k], t.labels[j])
            name = pair_name(t.structure, factor.name, *pair)
            of_pair: Quantity = "range" if over_points(t.structure) else "correlation"
            found.append(Target(name, of_pair, "mu", factor.name, pair, {at: (k, j)}))
    residual = model.residual if isinstance(model, Model) else None
    if residual is not None and len(residual.names) == 1:  # of several none is a coordinate
        kind: Quantity = "residual_range" if residual.correlation.lengths else "residual_correlation"
        found.append(Target(residual.names[0], kind, "phi"))
    formulas = [part for part in model.parts[1:] if not part.constant]
    for part in formulas:
        for place, name in enumerate(part.names):
            found.append(Target(part.labels[place], "coefficient", part.parameter, None, (name,), place=place))
    if model.family.has_phi and not any(part.parameter == "phi" for part in formulas):
        found.append(Target("phi", "dispersion", "phi"))
    others = [part.parameter for part in model.parts[1:] if part.constant and part.parameter != "phi"]
    found += [Target(name, "dispersion", name) for name in others]
    return [one for one in found if one.name not in fixed]


@dataclass(frozen=True, slots=True)
class HeldScale:
    """From the coordinate t of a held parameter to its natural value, and the range of t.

    sd: a multiple of t, or of t²;  correlation: cos t, or what a structure makes of an angle t;  dispersion: exp t, or
    t⁻² with the Poisson limit at 0;  residual: as its correlation says
    """

    kind: Literal["linear", "square", "cosine", "exponential", "root", "angle", "residual"]
    unit: float = 1.0
    low: float = -np.inf
    high: float = np.inf
    turned: Callable[[float], float] | None = None
    residual: ResidualRows | None = None

    def natural(self, t: float) -> float:
        """The value people report."""
        if self.turned is not None:
            return self.turned(t)
        if self.residual is not None:
            return float(self.residual.correlation.natural(np.array([t]), self.residual.size)[0])
        if self.kind == "cosine":
            return float(np.cos(t))
        if self.kind == "exponential":
            return float(np.exp(t))
        if self.kind == "root":
            return float(t**-2.0) if t != 0.0 else np.inf
        if self.kind == "square":
            return self.unit * t**2
        return self.unit * t

    @property
    def falls(self) -> bool:
        """Whether the natural value falls as t rises."""
        if self.turned is not None:
            return self.turned(self.high) < self.turned(self.low)
        return self.kind in ("cosine", "root")


COSINE = HeldScale("cosine", low=0.0, high=pi)
EXPONENTIAL = HeldScale("exponential")
ROOT = HeldScale("root", low=0.0)


def scale_of(model: Model | ProductModel, parameter: str) -> HeldScale:
    """From the predictor of a constant to its value, up to where that is at an end."""
    part = next(one for one in model.parts if one.parameter == parameter)
    one = next(one for one in model.family.parameters if one.name == parameter)
    low, high = one.ends or (None, np.inf)

    def natural(t: float) -> float:
        return high if t >= one.far else low if low is not None and t <= -one.far else part.natural(t)

    return HeldScale("angle", low=-np.inf if low is None else -one.far, high=one.far, turned=natural)
