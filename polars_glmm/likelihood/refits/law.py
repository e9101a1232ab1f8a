"""The law of a fitted model over the rows of its design: responses drawn from it, each by its own stream of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES, plain_name
from polars_glmm.design.records import Design, Factor, Predictor
from polars_glmm.design.selection import rows_of
from polars_glmm.errors import ModelError
from polars_glmm.families.arithmetic import ArrayAlgebra
from polars_glmm.families.base import Family, beyond_mean, n_mean
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.parameters.parts import label, pair_name
from polars_glmm.likelihood.residual.rows import Correlated, correlated
from polars_glmm.linalg.coupled import coloured
from polars_glmm.typing import IntVec, Mat, Vec

_SEMIDEFINITE = 1e-10
"""Eigenvalue of a correlation matrix that rounding may leave below zero."""


def refuse_censored(family: Family) -> None:
    """Raise ModelError for responses that may be censored: nothing says when a new one would have been."""
    if family.is_censored:
        msg = (
            "New responses of a model with censoring cannot be drawn here: nothing says when they would have been "
            "censored. Resample groups, bootstrap(kind='cluster'), or draw times with simulate() and censor them."
        )
        raise ModelError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """A model with its parameters held at an estimate.

    beta (p,)    coefficients of mu
    fixed        per parameter of the family x'β + offset (n,), or None where it is one of the constants
    roots        per factor and term a root (r_t, r_t) of its covariance matrix
    constants    parameters that are one number, on their own scale
    residual     the correlation of the rows' errors, or None
    """

    design: Design
    family: Family
    beta: Vec
    fixed: tuple[Vec | None, ...]
    roots: tuple[tuple[Mat, ...], ...]
    constants: Mapping[str, float]
    residual: Correlated | None = None

    @classmethod
    def of(cls, design: Design, family: Family, estimate: Estimate) -> Law:
        """The law of an estimate, whose fixed effects are the design's columns."""
        coefficients, start = {estimate.first: estimate.beta}, 0
        for one in design.further:
            coefficients[one.parameter] = estimate.gamma[start : start + len(one.coefficients)]
            start += len(one.coefficients)
        roots = tuple(tuple(map(_root, f.covariances)) for f in estimate.factors)
        fixed = _fixed(design, family, coefficients)
        residual = None
        if design.residual is not None and estimate.residual is not None:
            residual = correlated(design.residual, estimate.residual.values)
        return cls(design, family, estimate.beta, fixed, roots, estimate.constants, residual)

    def responses(self, seed: int, draws: Iterable[int]) -> Mat:
        """Responses (len(draws), n); each depends on the seed and its number alone."""
        return np.array([self._response(np.random.default_rng([seed, draw])) for draw in draws])

    def _response(self, rng: np.random.Generator) -> Vec:
        design = self.design
        moved: dict[int, Vec] = {}
        for factor, roots in zip(design.factors, self.roots, strict=True):
            b = np.concatenate([root @ rng.standard_normal((len(root), factor.n_levels)) for root in roots])
            b = coloured(factor.prior, b)
            for k in sorted(set(factor.part_of)):
                moved[k] = moved.get(k, 0.0) + _effect(factor, b, columns_of(factor, k))
        at = [v if v is None or k not in moved else v + moved[k] for k, v in enumerate(self.fixed)]
        if self.family.response == "category":
            with np.errstate(all="ignore"):
                return self.family.simulate_categories(rng, tuple(v for v in at if v is not None))
        curve, design_rows = self.family.curve, design.rows
        first = n_mean(self.family)
        means, further = at[:first], at[first:]
        with np.errstate(all="ignore"):
            eta = means[0] if curve is None else curve.value(ArrayAlgebra(), means, design_rows.inputs)
            assert eta is not None  # the mean has a predictor
            mu = self.family.mean(eta)
            values = [
                self.constants[one.name] if v is None else one.link.inverse(v)
                for one, v in zip(self.family.parameters[first:], further, strict=True)
            ]
        refuse_censored(self.family)
        y = self.family.simulate(rng, mu, beyond_mean(values), design_rows)
        if self.residual is None:
            return y
        return self.residual.response(y, mu, values[0], design.precision)


def _fixed(design: Design, family: Family, coefficients: Mapping[str, Vec]) -> tuple[Vec | None, ...]:
    """x'β + offset of each parameter of a family that has a formula."""
    known = {one.parameter: one for one in design.predictors}
    return tuple(
        predicted(known[one.name], coefficients[one.name]) if one.name in known else None for one in family.parameters
    )


def law_of_parameters(design: Design, family: Family, values: Mapping[str, float]) -> Law:
    """The law of natural parameters by name; raises ModelError for what is no covariance matrix."""
    beta = np.array([values[name] for name in design.mu.names])
    roots = []
    for f in design.factors:
        own = []
        for t in f.terms:
            r = len(t.names)
            labels = [label(name, on) for name, on in zip(t.names, t.parameter_of, strict=True)]
            if STRUCTURES[t.structure].bends:
                own.append(_structured(t.structure, f.name, labels, values))
                continue
            sd = np.array([values[f"sd({f.name}: {name})"] for name in labels])
            correlation = np.eye(r)
            for j in range(r):
                for k in range(j):
                    rho = values.get(f"cor({f.name}: {labels[k]}, {labels[j]})", 0.0)
                    correlation[j, k] = correlation[k, j] = rho
            if (sd < 0.0).any() or np.linalg.eigvalsh(correlation)[0] < -_SEMIDEFINITE:
                msg = f"The standard deviations and correlations of {f.name} make no covariance matrix."
                raise ModelError(msg)
            own.append(_root(correlation * np.outer(sd, sd)))
        roots.append(tuple(own))
    coefficients = {one.parameter: np.array([values[name] for name in one.labels]) for one in design.predictors}
    left = [one.name for one in family.parameters if one.name not in coefficients and not one.optional]
    constants = {name: values[name] for name in left}
    residual = None
    if design.residual is not None:
        residual = correlated(design.residual, np.array([values[name] for name in design.residual.names]))
    return Law(design, family, beta, _fixed(design, family, coefficients), tuple(roots), constants, residual)


def _structured(structure: str, group: str, labels: Sequence[str], values: Mapping[str, float]) -> Mat:
    """A root of a structure's covariance matrix at its parameters; raises ModelError where these make none."""
    found, r = STRUCTURES[structure], len(labels)
    assert isinstance(found, Scaled)  # no other bends
    places = list(zip(*(part.tolist() for part in found.vech(r)), strict=True))
    sd = np.array([values[f"sd({group}: {labels[i]})"] for i, j in places if i == j])
    names = [pair_name(structure, group, labels[j], labels[i]) for i, j in places if i != j]
    theta = found.natural(sd, np.array([values.get(name, 0.0) for name in names]), r)
    if (sd < 0.0).any() or np.isnan(theta).any():
        msg = f"The parameters of {group} make no covariance matrix of {plain_name(structure)}()."
        raise ModelError(msg)
    return found.factor(theta, r)


def every_row(design: Design) -> Design:
    """The design with a row for each observation: rows that stand for several are different draws."""
    if design.frequency is None:
        return design
    return replace(
        rows_of(design, np.repeat(np.arange(design.n_rows), design.frequency.astype(np.intp))), frequency=None
    )


def columns_of(factor: Factor, part: int) -> IntVec:
    """Places of a factor's columns in one predictor."""
    return np.flatnonzero(np.array(factor.part_of) == part)


def _effect(factor: Factor, b: Mat, own: IntVec) -> Vec:
    """z'b over some columns (n,), for effects b (r, G)."""
    effect: Vec = np.einsum("rn,rn->n", factor.z[own], factor.on_rows(b[own]))
    return effect


def predicted(part: Predictor, coefficients: Vec) -> Vec:
    """x'coefficients + offset of every row (n,); of thresholds all of them, (C − 1, n)."""
    if part.cuts is not None:
        j = part.cuts.jacobian
        return np.asarray(j @ coefficients.reshape(-1, j.shape[1]).T @ part.x)
    eta: Vec = coefficients @ part.x if len(coefficients) else np.zeros(part.x.shape[1])
    return eta if part.offset is None else eta + part.offset


def _root(covariance: Mat) -> Mat:
    """A symmetric root of a covariance matrix that may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
