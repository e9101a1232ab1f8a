"""The natural parameters of a model by name: fixed effects, standard deviations, correlations, dispersion."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.families.base import Family
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.effects import Effects, TermMap
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.spec.method import Method


class Parametrised(Protocol):
    """What a model says of its parameters, whether rows or cross-products are behind it."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def parts(self) -> tuple[Part, ...]: ...
    @property
    def x(self) -> Basis: ...
    @property
    def effects(self) -> Effects: ...
    @property
    def family(self) -> Family: ...
    @property
    def method(self) -> Method: ...
    @property
    def residual_names(self) -> tuple[str, ...]: ...


class TermPlace(NamedTuple):
    """Where one term's parameters live: its factor in order of elimination, the term, and its first sd."""

    factor: int
    term: TermMap
    start: int

    @property
    def n_cor(self) -> int:
        return self.term.r * (self.term.r - 1) // 2 if STRUCTURES[self.term.structure].correlated else 0


def parameter_names(model: Parametrised) -> tuple[tuple[TermPlace, ...], tuple[str, ...]]:
    """Names of the natural parameters, and where the covariance parameters of each term stand among them."""
    names = list(model.parts[0].labels)
    blocks = []
    factors = model.effects.factors
    for i in sorted(range(len(factors)), key=lambda i: factors[i].place):
        f = factors[i]
        for t in f.terms:
            blocks.append(TermPlace(i, t, len(names)))
            own = t.labels
            names += [f"sd({f.name}: {name})" for name in own]
            if STRUCTURES[t.structure].correlated:
                names += [f"cor({f.name}: {own[k]}, {own[j]})" for j in range(t.r) for k in range(j)]
    names += model.residual_names
    further = model.parts[1:]
    for part in sorted(further, key=lambda part: part.constant):  # constants stand last
        names += part.labels
    if model.family.has_phi and not further:  # profiled out
        names.append("phi")
    return tuple(blocks), tuple(names)
