"""The natural parameters of a model by name: fixed effects, standard deviations, correlations, dispersion."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES, range_of
from polars_glmm.families.base import Family
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.effects import Effects, TermMap
from polars_glmm.likelihood.parameters.parts import Part, pair_name
from polars_glmm.spec.method import Method
from polars_glmm.typing import IntVec, Mat, Vec


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
    """Where one term's parameters live: its factor in order of elimination, the term, and its first sd.

    Its standard deviations and, behind them, its correlations are those of the entries of Σ that are reported.
    """

    factor: int
    term: TermMap
    start: int

    @property
    def effects(self) -> IntVec:
        """The effects whose standard deviations are parameters."""
        rows, columns = self._vech
        return np.asarray(rows[rows == columns])

    @property
    def pairs(self) -> tuple[IntVec, IntVec]:
        """Rows and columns of the correlations that are parameters, by rows of the lower triangle."""
        rows, columns = self._vech
        apart = rows != columns
        return rows[apart], columns[apart]

    def between(self, sigma: Mat) -> Vec:
        """Those correlations of a covariance matrix (r, r), or the range of a field."""
        length, sd = range_of(self.term.structure, sigma), np.sqrt(np.diag(sigma))
        if length is not None:
            return np.array([length])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((sigma / np.outer(sd, sd))[self.pairs])

    @property
    def _vech(self) -> tuple[IntVec, IntVec]:
        return STRUCTURES[self.term.structure].vech(self.term.r)

    @property
    def n_sd(self) -> int:
        return len(self.effects)

    @property
    def n_cor(self) -> int:
        return len(self.pairs[0])

    @property
    def sd(self) -> slice:
        """Standard deviations among all parameters."""
        return slice(self.start, self.start + self.n_sd)

    @property
    def cor(self) -> slice:
        """Correlations among all parameters."""
        return slice(self.sd.stop, self.sd.stop + self.n_cor)


def parameter_names(model: Parametrised) -> tuple[tuple[TermPlace, ...], tuple[str, ...]]:
    """Names of the natural parameters, and where the covariance parameters of each term stand among them."""
    names = list(model.parts[0].labels)
    blocks = []
    factors = model.effects.factors
    for i in sorted(range(len(factors)), key=lambda i: factors[i].place):
        f = factors[i]
        for t in f.terms:
            block = TermPlace(i, t, len(names))
            blocks.append(block)
            own = t.labels
            names += [f"sd({f.name}: {own[k]})" for k in block.effects]
            names += [pair_name(t.structure, f.name, own[k], own[j]) for j, k in zip(*block.pairs, strict=True)]
    names += model.residual_names
    further = model.parts[1:]
    for part in sorted(further, key=lambda part: part.constant):  # constants stand last
        names += part.labels
    if model.family.has_phi and not further:  # profiled out
        names.append("phi")
    return tuple(blocks), tuple(names)
