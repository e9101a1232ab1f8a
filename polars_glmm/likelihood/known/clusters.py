"""What each cluster of rows says of the fixed effects: scores of its likelihood, and its share of the information.

Clusters are independent: every level of every grouping factor lies in one of them. S_g = X_g'V_g⁻¹X_g are sums of
rows, at the modes (Henderson's equations); of a linear model s_g = X_g'V_g⁻¹(y_g − X_gβ̂) too. Otherwise s_g is the
slope of the cluster's own marginal log-likelihood, as the model is fitted, in all parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES, plain_name
from polars_glmm.design.records import Design
from polars_glmm.design.selection import relevelled_codes, rows_of
from polars_glmm.errors import ModelError
from polars_glmm.families.base import only_phi
from polars_glmm.likelihood.known.joint import KnownModel
from polars_glmm.likelihood.known.levels import LevelLikelihood
from polars_glmm.likelihood.parameters.parts import Part, outward, outward_slopes
from polars_glmm.likelihood.rows.blocks import cut_rows
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.method import AGQ
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class ClusterSums(NamedTuple):
    """Per cluster, in the computing basis of the fixed effects of the mean; β = outward · β_c.

    scores (J, p)          Σ x ∂log p/∂eta at the modes: of a linear model the slope of the marginal log-likelihood
    information (J, p, p)  X_g'V_g⁻¹X_g
    outward (p, p)
    """

    scores: Mat
    information: Cube
    outward: Mat


def cluster_sums(known: KnownModel, cluster: IntVec, n_clusters: int) -> ClusterSums:
    """Sums over the rows of each cluster; cluster (n,) numbers that of every row of the design."""
    with one_blas_thread(), np.errstate(all="ignore"):
        rows = known.working_rows()
    p = len(rows.x)
    scores, information = np.empty((n_clusters, p)), np.empty((n_clusters, p, p))
    pulled = np.einsum("pkn,kn->pn", rows.x, rows.gradient)
    weighted = np.einsum("pkn,kln->pln", rows.x, rows.weight)

    def total(v: Vec) -> Vec:
        return np.asarray(np.bincount(cluster, v, n_clusters), dtype=np.float64)

    for i in range(p):
        scores[:, i] = total(pulled[i])
        for j in range(p):
            information[:, i, j] = total(np.einsum("ln,ln->n", weighted[i], rows.a[j]))
    out = outward([known.model.parts[k] for k in known.looked_at])
    return ClusterSums(scores, 0.5 * (information + information.swapaxes(1, 2)), out)


def marginal_scores(known: KnownModel, design: Design, cluster: IntVec, n_clusters: int) -> Mat:
    """∂ℓ_g/∂ψ (J, P) as the model is fitted, ψ = (beta, entries of the roots of Σ by term, coefficients of log phi)."""
    model = known.model
    bent = next((t.structure for f in model.effects.factors for t in f.terms if STRUCTURES[t.structure].bends), None)
    if bent is not None:
        msg = f"There is no cluster-robust covariance of this family with {plain_name(bent)}(): use fit.bootstrap()."
        raise ModelError(msg)
    alone = not design.further and only_phi(model.family)
    one = len(design.factors) == 1 and not model.effects.coupled
    if one and alone and not any(map(np.any, design.factors[0].part_of)):
        levels = LevelLikelihood.of(design, model.family)
        nodes = model.method.nodes if isinstance(model.method, AGQ) else 1
        own = levels.at(levels.psi(known.held), nodes).scores
        of_level = np.empty(design.factors[0].n_levels, dtype=np.intp)
        of_level[design.factors[0].codes] = cluster
        out = np.zeros((n_clusters, own.shape[1]))
        np.add.at(out, of_level, own)
        return out
    order = np.argsort(cluster, kind="stable")
    ends = np.cumsum(np.bincount(cluster, minlength=n_clusters))
    with one_blas_thread(), np.errstate(all="ignore"):
        return np.array([_scores(known, design, rows) for rows in np.split(order, ends[:-1])])


def _scores(known: KnownModel, design: Design, rows: IntVec) -> Mat:
    """∂ℓ/∂ψ (P,) of some rows that are independent of all others, in the bases of all rows."""
    model, at = known.model, known.point
    factors = []
    for f in model.effects.factors:
        met, (codes, n_levels) = np.unique(f.codes[rows]), relevelled_codes(f.codes[rows])
        prior = None if f.prior is None else f.prior.among(met)
        sets = None if f.sets is None else f.sets.at(met).met()
        n_levels = n_levels if sets is None else sets.n_levels
        factors.append(replace(f, codes=codes.astype(np.intp), n_levels=n_levels, prior=prior, sets=sets))
    columns = None if model.effects.columns is None else np.ascontiguousarray(model.effects.columns[:, rows])
    effects = replace(model.effects, factors=tuple(factors), columns=columns)
    blocks = cut_rows(rows_of(design, rows), _parts(model.parts, rows), effects, model.control.rows.block)
    found = replace(known.engine.marginal, rows=blocks).evaluate(at, None)
    by_part = outward_slopes(model.parts, found.beta)
    out: list[Any] = [by_part[model.parts[0].own]]
    slopes = {}
    for f, slope in zip(model.effects.factors, found.factors, strict=True):
        slopes[f.place] = f, np.linalg.solve(f.outward.T, f.basis.T @ slope)
    for place in sorted(slopes):
        f, own_slope = slopes[place]
        for t in f.terms:
            i, j = STRUCTURES[t.structure].entries(t.r)
            out.append(own_slope[t.start + i, t.start + j])
    return np.concatenate([*out, *(by_part[part.own] for part in model.parts[1:])])


def _parts(parts: Sequence[Part], rows: IntVec) -> list[Part]:
    """The linear predictors with the columns of some rows."""
    return [
        part if part.basis is None else replace(part, basis=part.basis.holding(part.basis.columns(rows)))
        for part in parts
    ]
