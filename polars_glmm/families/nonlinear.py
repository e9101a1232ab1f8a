"""A mean that is a curve in parameters with linear predictors of their own, around which a family spreads responses."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import factorial, prod
from typing import Any, ClassVar, cast

import numpy as np

from polars_glmm.errors import ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density, Expected, Family, Parameter, Predictors, Rows, Tensor
from polars_glmm.families.curve import Curve, JetAlgebra
from polars_glmm.families.densities import density_of
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import LINKS
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.typing import Vec

_ALGEBRA = JetAlgebra()


class Nonlinear(MeanFamily):
    """What changes in a family whose predictor is a curve f(inputs, φ_1 …); mixed into the family by `nonlinear`.

    With an identity link f is the mean. The parameters of the curve come first, each a linear predictor, then those of
    the family beyond its mean.
    """

    shape: ClassVar[Curve]
    base: MeanFamily
    knows_information = False
    sufficient = False

    @property
    def curve(self) -> Curve:
        return self.shape

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        own = (Parameter(name, LINKS["identity"], "parameter of the curve") for name in self.curve.parameters)
        return (*own, *super().parameters[1:])

    @property
    def plain(self) -> MeanFamily:
        return self.base

    @property
    def n_parameters(self) -> int:
        return len(self.parameters)

    @property
    def canonical(self) -> bool:
        return False

    @property
    def log_concave(self) -> bool:
        return False

    @property
    def linear(self) -> bool:
        return False

    @property
    def unit(self) -> float | None:
        return None

    def density(self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None) -> Density:
        """That of the base at the curve, its derivatives carried through the curve's (Faà di Bruno's formula)."""
        self._require(at)
        m, n = len(self.curve.parameters), len(at)
        most = (order,) * m + (1,) * (n - m) if degrees is None else degrees
        eta = self.predictor(rows, at, order, most)
        base = self.base.density(rows, (eta.f, *at[m:]), order, (order, *most[m:]))
        steps = [eta, *(jet.variable(at[k], k, order, most[k]) for k in range(m, n))]
        with np.errstate(all="ignore"):
            return density_of(_through(base, steps, order), order, most)

    def predictor(self, rows: Rows, at: Predictors, order: int, most: Degrees) -> Jet:
        """The curve at the predictors of its parameters."""
        m = len(self.curve.parameters)
        with np.errstate(all="ignore"):
            quantities = [jet.variable(at[k], k, order, most[k]) for k in range(m)]
            found = self.curve.value(_ALGEBRA, quantities, rows.inputs)
        made = cast("Jet", found)
        shape = np.broadcast_shapes(made.f.shape, rows.y.shape)
        return made if made.f.shape == shape else made + np.zeros(shape)

    def expected(self, rows: Rows, at: Predictors) -> Expected:
        """E[w] of the curve's parameters, the base's times the products of the curve's slopes; third order left out."""
        m = len(self.curve.parameters)
        eta = self.predictor(rows, at, 1, (1,) * len(at))
        w = self.base.expected(rows, (eta.f, *at[m:])).w[0, 0]
        slopes = [eta.parts.get((k,), np.zeros(())) for k in range(m)]
        pairs: Tensor = {
            (a, b): np.broadcast_to(w * slopes[a] * slopes[b], w.shape) for a in range(m) for b in range(a, m)
        }
        return Expected(pairs, {})

    def start(self, rows: Rows) -> Vec:
        return self.base.start(rows)

    def __repr__(self) -> str:
        return repr(self.base)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nonlinear) and (self.curve, self.base) == (other.curve, other.base)

    def __hash__(self) -> int:
        return hash((self.curve, self.base))

    def __reduce__(self) -> tuple[Any, ...]:
        return nonlinear, (self.base, self.curve)


def nonlinear(family: Family, curve: Curve) -> Nonlinear:
    """A family with a curve as its predictor. Raises ModelError for one that has no mean with a predictor."""
    if not isinstance(family, MeanFamily) or isinstance(family, Nonlinear) or family.takes_trials:
        msg = f"A nonlinear model has a family such as gaussian, gamma or poisson, not {family.name}."
        raise ModelError(msg)
    made = object.__new__(_mixed(type(family), curve))
    for name, value in family.__dict__.items():
        object.__setattr__(made, name, value)
    object.__setattr__(made, "base", family)
    return made


@cache
def _mixed(base: type[MeanFamily], curve: Curve) -> type[Nonlinear]:
    return type(f"Nonlinear{base.__name__}", (Nonlinear, base), {"shape": curve, "__doc__": base.__doc__})


def _through(base: Density, steps: list[Jet], order: int) -> Jet:
    """The base's Taylor polynomial in its own predictors, of jets: `steps` are those predictors."""
    rests = [Jet({at: part for at, part in step.parts.items() if at}, order, step.still) for step in steps]
    result = Jet({(): base.f}, order)
    if not order:
        return result
    tensors: list[dict[tuple[int, ...], Vec]] = [
        {(k,): g for k, g in enumerate(base.g) if g is not None},
        {place: -w for place, w in base.w.items()},
        {place: -third for place, third in base.third.items()},
    ]
    for tensor in tensors[:order]:
        for place, derivative in tensor.items():
            share = 1.0 / prod(map(factorial, Counter(place).values()))
            term = rests[place[0]]
            for k in place[1:]:
                term = term * rests[k]
            result = result + term * (derivative * share)
    return result
