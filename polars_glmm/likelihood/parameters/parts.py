"""The linear predictors of a model, and the one vector of coefficients that they share out among themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polars_glmm.covariance.fields import coordinates
from polars_glmm.covariance.structures import over_points
from polars_glmm.families.base import Parameter
from polars_glmm.families.links import LINKS, Link
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.typing import Mat, Vec


def label(name: str, parameter: str, between: str = " ") -> str:
    """What a random effect is called where those of several predictors stand together: "Intercept", "phi Intercept"."""
    return name if parameter == "mu" else f"{parameter}{between}{name}"


def pair_name(structure: str, group: str, first: str, second: str) -> str:
    """What the parameter of two effects is called: their correlation, or the range of a field."""
    if over_points(structure):
        return range_name(group, coordinates(first))
    return f"cor({group}: {first}, {second})"


def range_name(group: str, where: str) -> str:
    """What the range of a field is called: where are its coordinates."""
    return f"range({group}: {where})"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One linear predictor: that of the mean, of log phi, of another parameter.

    parameter   of the family: "mu", "phi"
    link        from the predictor to the parameter, on the scale on which a constant is reported
    names       of its coefficients, as the user named the columns; of a constant the parameter's own
    basis       its columns, or None for a constant: one coefficient and no column
    own         its coefficients in the vector of all
    """

    parameter: str
    link: Link
    names: tuple[str, ...]
    basis: Basis | None
    own: slice

    @property
    def constant(self) -> bool:
        """No formula: one number for all rows."""
        return self.basis is None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its coefficients among those of all predictors: "x", "phi: x", and of a constant "phi"."""
        if self.constant or self.parameter == "mu":
            return self.names
        return tuple(f"{self.parameter}: {name}" for name in self.names)

    def natural(self, value: float) -> float:
        """A constant on the scale of its parameter."""
        return float(self.link.inverse(np.float64(value)))  # type: ignore[arg-type]

    def predictor(self, value: float) -> float:
        """A constant on the scale of its predictor."""
        return float(self.link.forward(np.float64(value)))  # type: ignore[arg-type]

    def natural_slope(self, value: float) -> float:
        """∂parameter/∂predictor of a constant at its predictor."""
        return float(self.link.value(np.float64(value), 1)[1])  # type: ignore[arg-type]

    @property
    def outward(self) -> Mat:
        """Coefficients as named = outward · those in the computing basis, (p, p)."""
        return np.eye(1) if self.basis is None else self.basis.a.T


def make_parts(named: Sequence[tuple[Parameter, tuple[str, ...], Basis | None]]) -> tuple[Part, ...]:
    """Parts from parameter, names and basis of each, their coefficients one after the other."""
    found, start = [], 0
    for parameter, names, basis in named:
        size = 1 if basis is None else len(basis.a)
        found.append(Part(parameter.name, parameter.link, names, basis, slice(start, start + size)))
        start += size
    return tuple(found)


def mean_alone(names: tuple[str, ...], basis: Basis) -> tuple[Part, ...]:
    """The predictor of the mean, where it is all there is."""
    return make_parts([(Parameter("mu", LINKS["identity"], "mean"), names, basis)])


def outward(parts: Sequence[Part]) -> Mat:
    """All coefficients as named from those in the computing bases (P, P): block diagonal, but for those that take up
    what the columns of the mean are centred on. Of some parts only theirs, one after the other.
    """
    blocks = [part.outward for part in parts]
    ends = np.cumsum([len(block) for block in blocks]).tolist()
    own = [slice(end - len(block), end) for end, block in zip(ends, blocks, strict=True)]
    whole = np.zeros((ends[-1],) * 2)
    for part, place, block in zip(parts, own, blocks, strict=True):
        whole[place, place] = block
        if part.basis is not None and part.basis.beside is not None:
            whole[place, own[0]] = part.basis.beside @ blocks[0]
    return whole


def inward(parts: Sequence[Part], named: Vec) -> Vec:
    """All coefficients in the computing bases from those as named, (P,); constants stand as they are."""
    own: Vec = np.array(named, dtype=np.float64)
    for part, beside in _taking_up(parts):
        own[part.own] -= beside @ own[parts[0].own]
    found: Vec = np.concatenate([own[p.own] if p.basis is None else p.basis.inward(own[p.own]) for p in parts])
    return found


def outward_slopes(parts: Sequence[Part], slopes: Vec) -> Vec:
    """Derivatives in the coefficients as named from those in the computing bases, (P,)."""
    found = [
        slopes[p.own] if p.basis is None or not len(p.basis.a) else np.linalg.solve(p.basis.a, slopes[p.own])
        for p in parts
    ]
    of_named = np.concatenate(found)
    for part, beside in _taking_up(parts):
        of_named[parts[0].own] -= beside.T @ of_named[part.own]
    return of_named


def _taking_up(parts: Sequence[Part]) -> list[tuple[Part, Mat]]:
    return [(p, p.basis.beside) for p in parts if p.basis is not None and p.basis.beside is not None]
