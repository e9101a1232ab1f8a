"""The mean of a nonlinear model: arithmetic on covariates and on parameters that have linear predictors of their own.

A curve is plain data. `value` walks it with an algebra: `ArrayAlgebra` gives arrays, `JetAlgebra` derivatives in the
parameters as well, the interpreter of design columns expressions of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from polars_glmm.families import jet
from polars_glmm.families.arithmetic import OPERATORS, ArrayAlgebra
from polars_glmm.families.jet import Jet
from polars_glmm.typing import Vec


class Algebra(Protocol):
    """What a curve is computed with."""

    def function(self, name: str, x: Any) -> Any: ...
    def binary(self, symbol: str, left: Any, right: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class CurveParameter:
    """A parameter, by its place."""

    place: int


@dataclass(frozen=True, slots=True)
class CurveInput:
    """A covariate, by its place among the inputs."""

    place: int


@dataclass(frozen=True, slots=True)
class CurveFunction:
    """An elementwise function."""

    name: str
    x: Branch


@dataclass(frozen=True, slots=True)
class CurveStep:
    """`left operator right` with + - * / **."""

    operator: str
    left: Branch
    right: Branch


Branch: TypeAlias = CurveParameter | CurveInput | CurveFunction | CurveStep | float


@dataclass(frozen=True, slots=True)
class Curve:
    """y ≈ f(inputs, parameters).

    text         as understood
    parameters   names, in the order of their places
    root         the tree
    form         the self-starting form that the whole curve is, its parameters and inputs in their order, or nothing
    """

    text: str
    parameters: tuple[str, ...]
    root: Branch
    form: str = ""

    def value(self, algebra: Algebra, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
        """The curve at parameters and inputs of whatever the algebra computes with."""
        return _value(self.root, algebra, parameters, inputs)


def _value(branch: Branch, algebra: Algebra, parameters: Sequence[Any], inputs: Sequence[Any]) -> Any:
    match branch:
        case CurveParameter(place):
            return parameters[place]
        case CurveInput(place):
            return inputs[place]
        case CurveFunction(name, x):
            return algebra.function(name, _value(x, algebra, parameters, inputs))
        case CurveStep(operator, left, right):
            sides = (_value(side, algebra, parameters, inputs) for side in (left, right))
            return algebra.binary(operator, *sides)
    return branch


class JetAlgebra(ArrayAlgebra):
    """Jets, arrays and numbers; a jet comes of a jet."""

    def function(self, name: str, x: Any) -> Any:
        return _OF_JETS[name](x) if isinstance(x, Jet) else super().function(name, x)

    def binary(self, symbol: str, left: Any, right: Any) -> Any:
        if not (isinstance(left, Jet) or isinstance(right, Jet)):
            return super().binary(symbol, left, right)
        if symbol == "**":
            return _power(left, right)
        if symbol == "/":
            return left * (reciprocal(right) if isinstance(right, Jet) else 1.0 / np.asarray(right, dtype=np.float64))
        return OPERATORS[symbol](left, right)


def reciprocal(a: Jet) -> Jet:
    """1/a."""
    q = 1.0 / a.f
    return a.through(*(q, -(q**2), 2.0 * q**3, -6.0 * q**4)[: a.order + 1])


def power(a: Jet, c: Vec | float) -> Jet:
    """aᶜ for an exponent that is no jet."""
    at, factor, outer = np.asarray(a.f, dtype=np.float64), np.ones(()), []
    for k in range(a.order + 1):
        # 0 times a pole is 0: x² has no third derivative at zero
        outer.append(np.where(factor == 0.0, 0.0, factor * np.power(at, np.where(factor == 0.0, 0.0, c - k))))
        factor = factor * (np.asarray(c, dtype=np.float64) - k)
    return a.through(*outer)


def exponential(base: Vec | float, b: Jet) -> Jet:
    """baseᵇ for a base ≥ 0 that is no jet; of a base of 0 the limit, with derivatives of 0."""
    base = np.asarray(base, dtype=np.float64)
    value, rate = np.power(base, b.f), np.log(np.where(base > 0.0, base, 1.0))
    return b.through(*(value * rate**k for k in range(b.order + 1)))


def _power(left: Any, right: Any) -> Jet:
    if not isinstance(right, Jet):
        return power(left, right)
    return jet.exp(right * jet.log(left)) if isinstance(left, Jet) else exponential(left, right)


def _sine(a: Jet, shift: float) -> Jet:
    return a.through(*(np.sin(a.f + shift + k * np.pi / 2) for k in range(a.order + 1)))


def _tangent(a: Jet) -> Jet:
    t = np.tan(a.f)
    s = 1.0 + t * t
    return a.through(*(t, s, 2.0 * t * s, 2.0 * s * (1.0 + 3.0 * t * t))[: a.order + 1])


def _absolute(a: Jet) -> Jet:
    return a * np.sign(a.f)


_LOG2, _LOG10 = float(np.log(2.0)), float(np.log(10.0))
_OF_JETS: dict[str, Callable[[Jet], Jet]] = {
    "exp": jet.exp,
    "exp2": lambda a: jet.exp(a * _LOG2),
    "expm1": lambda a: a.through(np.expm1(a.f), *(np.exp(a.f),) * a.order),
    "log": jet.log,
    "log2": lambda a: jet.log(a) * (1.0 / _LOG2),
    "log10": lambda a: jet.log(a) * (1.0 / _LOG10),
    "log1p": lambda a: jet.log(a + 1.0),
    "sqrt": lambda a: power(a, 0.5),
    "sin": lambda a: _sine(a, 0.0),
    "cos": lambda a: _sine(a, np.pi / 2),
    "tan": _tangent,
    "abs": _absolute,
    "negative": lambda a: -a,
    "I": lambda a: a,
}
SMOOTH = frozenset(_OF_JETS)
"""Functions that a parameter may stand in."""
