"""Adaptive Gauss–Hermite quadrature of one grouping factor or of nested ones, with what its gradient needs.

With LL' = H, the levels in an order in which the inner ones come first, nodes are v_k = û + L⁻ᵀz_k: those of an outer
level carry the ones inside it along, û_i − L_i⁻ᵀL_oi'(v_o − û_o) + L_i⁻ᵀz_i (Pinheiro & Bates 1995; Rabe-Hesketh,
Skrondal & Pickles 2005). For every node of an outer level the inner levels are independent, so

    F(û, L) = log Σ_k w_k exp{J(v_k) + ½|z_k|²} − log|L|

is a sum over inner nodes within an inner level, of whose logarithms the outer level has one for each of its nodes.
With S = L⁻¹ dH L⁻ᵀ the Cholesky differential is dL = LΦ(S), Φ the lower triangle with halved diagonal, so

    dF = F_û·dû − tr(Φ(S) N),   N = Σ_k π_k L⁻¹J_u(v_k) z_k' + I,   Ĥ = L⁻ᵀ Q L⁻¹

with π the weights of the nodes in the sum and Q the symmetric matrix of the lower triangle of N'. One node: Ĥ = H⁻¹.

Factors are f = 0 (the innermost) … F − 1. A *path* of f is a node of every factor from F − 1 down to f, that of f
running fastest: P_f of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.likelihood.marginal.modes import UnitAt, added
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.elimination import Factorised, LevelByLevel, NestedFactorised
from polars_glmm.linalg.pattern import Blocks, sum_by
from polars_glmm.linalg.quadrature import Rule, gauss_hermite
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class NodeValue(NamedTuple):
    """Quadrature of a unit: ℓ of each model and the derivatives of it in û and H.

    g         averages over the nodes by block and predictor
    direct    Σ π Z'g v' per factor (d, r_f);  slope  F_û per factor (r_f, G_f);  hat  Ĥ on the pattern of H
    """

    value: Any
    g: list[list[Vec]]
    direct: list[Cube]
    slope: list[Mat]
    hat: Blocks


@dataclass(frozen=True, slots=True, eq=False)
class _Lead:
    """One factor of the chain: L_f (r, r, G) and, by how far out another factor is, L_gf' (r, r_g, G) and its level.

    codes   the level of each cell (C,), or None where the cells are the levels
    """

    rule: Rule
    low: Cube
    w: list[Cube]
    parents: list[IntVec]
    codes: IntVec | None

    @property
    def n_nodes(self) -> int:
        return len(self.rule.log_weights)


def passes_of(nodes: int, u: list[Mat]) -> int:
    """Rows are visited once for every path of the innermost factor."""
    return int(nodes ** sum(len(v) for v in u))


def integrate_nodes(nodes: int, here: UnitAt, u: list[Mat], factor: Factorised) -> NodeValue:
    """The quadrature of a unit at its modes u, `nodes` per random effect; LL' = H as factorised."""
    chain, models = _chain(nodes, here, u, factor), here.unit.models
    v = _nodes(chain, u)
    f, g, densities = _rows_at(chain, here, v)
    value, weights = _summed(chain, here, v, f)
    whole = _from_outside(chain, weights)
    at_levels = _conditional(chain, weights, g)
    bent = [
        np.where(_seen(share), models.transposed_times(lam, own) - b, 0.0)
        for share, lam, own, b in zip(whole, here.at.factors, at_levels, v, strict=True)
    ]
    half = _forward(chain, weights, bent)
    n = _moments(chain, weights, whole, half)
    return NodeValue(
        value,
        _row_averages(chain, here, densities, whole[0]),
        [
            models.level_totals(np.einsum("dqG,rqG->drG", np.where(_seen(share), own, 0.0) * share, b))
            for own, share, b in zip(at_levels, whole, v, strict=True)
        ],
        [np.einsum("qG,rqG->rG", share, b) for share, b in zip(whole, bent, strict=True)],
        _selected(chain, n),
    )


def _chain(nodes: int, here: UnitAt, u: list[Mat], factor: Factorised) -> list[_Lead]:
    """The factors from the innermost outwards."""
    chain = []
    pattern = here.unit.pattern
    for f, own in enumerate(u):
        rule = gauss_hermite(nodes, len(own))
        codes = None if pattern is None else pattern.codes[f]
        if isinstance(factor, NestedFactorised):
            parents = [factor.symbolic.parents[g] for g in factor.w]
            chain.append(_Lead(rule, factor.low, list(factor.w.values()), parents, codes))
            factor = factor.rest
        else:
            assert isinstance(factor, LevelByLevel)  # the outermost; crossed factors have no nodes
            chain.append(_Lead(rule, factor.low, [], [], codes))
    return chain


def _nodes(chain: list[_Lead], u: list[Mat]) -> list[Cube]:
    """The nodes v_f (r_f, P_f, G_f) of every factor."""
    moved: list[Cube] = [np.empty(0)] * len(chain)
    for f in reversed(range(len(chain))):
        lead, z = chain[f], chain[f].rule.nodes
        n_levels = lead.low.shape[-1]
        if not lead.w:
            moved[f] = cholesky.backward(lead.low, np.broadcast_to(z[:, :, None], (*z.shape, n_levels)))
            continue
        pulled: Cube | float = 0.0  # of paths of the next factor
        for step, (w, parent) in enumerate(zip(lead.w, lead.parents, strict=True)):
            outer = _widened(chain, moved[f + 1 + step], f + 1 + step, f + 1)
            pulled = pulled + np.einsum("raG,apG->rpG", w, outer[..., parent])
        rest = z[:, None, :, None] - np.asarray(pulled)[:, :, None]
        moved[f] = cholesky.backward(lead.low, rest.reshape(len(z), -1, n_levels))
    return [own[:, None] + m for own, m in zip(u, moved, strict=True)]


def _widened(chain: list[_Lead], a: Cube, of: int, to: int) -> Cube:
    """What has the paths of a factor on its second to last axis, on those of an inner one."""
    times = int(np.prod([chain[f].n_nodes for f in range(to, of)]))
    return a if times == 1 else np.repeat(a, times, axis=-2)


def _rows_at(chain: list[_Lead], here: UnitAt, v: list[Cube]) -> tuple[Mat, Cube, list[Any]]:
    """Sums over cells of log densities (P_0, C) and of their slopes (d, P_0, C), and the densities per block."""
    b: Cube | float = 0.0
    for f, (lam, own) in enumerate(zip(here.at.factors, v, strict=True)):
        term = _widened(chain, here.unit.models.times(lam, own), f, 0)
        codes = chain[f].codes
        b = b + (term if codes is None else term[..., codes])
    b = np.asarray(b)
    f_cells, g_cells, densities = np.empty(b.shape[1:]), np.empty(b.shape), []
    for block, fixed in zip(here.unit.blocks, here.fixed, strict=True):
        parts = here.density.rows(block, added(fixed, block.combine(b[..., block.cells])), 1)
        densities.append(parts)
        f_cells[:, block.cells] = block.sums(parts.f)
        g_cells[..., block.cells] = block.z_sums(parts.g)
    return f_cells, g_cells, densities


def _summed(chain: list[_Lead], here: UnitAt, v: list[Cube], f: Mat) -> tuple[Any, list[Cube]]:
    """ℓ, and the weights of a factor's nodes given those outside it: (P_{f+1}, Q_f, G_f), which sum to one over Q_f."""
    weights: list[Cube] = []
    total = f if chain[0].codes is None else sum_by(chain[0].codes, f, v[0].shape[-1])
    for k, (lead, own) in enumerate(zip(chain, v, strict=True)):
        terms = total - 0.5 * np.einsum("rqG,rqG->qG", own, own)
        terms = terms.reshape(-1, lead.n_nodes, terms.shape[-1]) + lead.rule.log_weights[:, None]
        terms = np.where(np.isnan(terms), -np.inf, terms)
        top = terms.max(1)
        posterior = np.exp(terms - top[:, None])
        summed = posterior.sum(1)
        posterior /= summed[:, None]
        weights.append(posterior)
        total = top + np.log(summed) - 0.5 * cholesky.log_determinant(lead.low)
        if k + 1 < len(chain):
            total = sum_by(lead.parents[0], total, v[k + 1].shape[-1])
    return here.unit.models.level_totals(total[0]), weights


def _from_outside(chain: list[_Lead], weights: list[Cube]) -> list[Mat]:
    """The weights of all paths of each factor, (P_f, G_f)."""
    whole: list[Mat] = [np.empty(0)] * len(chain)
    for f in reversed(range(len(chain))):
        own = weights[f]
        if f + 1 < len(chain):
            own = own * whole[f + 1][:, chain[f].parents[0]][:, None]
        whole[f] = own.reshape(-1, own.shape[-1])
    return whole


def _seen(share: Mat) -> Any:
    """Nodes that count: others may have no finite slope."""
    return share > 0.0


def _averaged(weight: Cube, a: Cube) -> Cube:
    """Averages over a factor's own nodes of a (…, P_f, G), its weights (P_{f+1}, Q_f, G): (…, P_{f+1}, G)."""
    paths = a.reshape(*a.shape[:-2], *weight.shape)
    return np.asarray(np.einsum("pqG,...pqG->...pG", weight, np.where(weight > 0.0, paths, 0.0)))


def _at(chain: list[_Lead], weights: list[Cube], a: Cube, of: int, to: int) -> Cube:
    """Averages of a (…, P_of, G_of), given the paths of a factor further out: (…, P_to, G_of)."""
    level: IntVec | slice = slice(None)
    for f in range(of, to):
        if f > of:
            level = chain[of].parents[f - of - 1]
        a = _averaged(weights[f][..., level], a)
    return a


def _conditional(chain: list[_Lead], weights: list[Cube], g: Cube) -> list[Cube]:
    """Z'g of the levels of each factor, averaged over all nodes inside its paths: (d, P_f, G_f)."""
    out = []
    codes = chain[0].codes
    here = g if codes is None else sum_by(codes, g, chain[0].low.shape[-1])
    for f, lead in enumerate(chain):
        out.append(here)
        if f + 1 < len(chain):
            here = sum_by(lead.parents[0], _averaged(weights[f], here), chain[f + 1].low.shape[-1])
    return out


def _forward(chain: list[_Lead], weights: list[Cube], slopes: list[Cube]) -> list[Cube]:
    """L⁻¹J_u of each factor, averaged over the nodes inside its paths: (r_f, P_f, G_f)."""
    out: list[Cube] = []
    for g, lead in enumerate(chain):
        rest = slopes[g]
        for f in range(g):
            inner = chain[f]
            w, parent = inner.w[g - f - 1], inner.parents[g - f - 1]
            at = _at(chain, weights, out[f], f, g)
            rest = rest - sum_by(parent, np.einsum("raG,rpG->apG", w, at), lead.low.shape[-1])
        out.append(cholesky.forward(lead.low, rest))
    return out


def _moments(
    chain: list[_Lead], weights: list[Cube], whole: list[Mat], half: list[Cube]
) -> dict[tuple[int, int], Cube]:
    """The blocks N_fg, f ≤ g: of levels of f and the level of g around them, (r_f, r_g, G_f)."""
    n = {}
    for f, lead in enumerate(chain):
        for g in range(f, len(chain)):
            share = whole[g] if g == f else whole[g][:, lead.parents[g - f - 1]]
            z = np.tile(chain[g].rule.nodes, len(share) // chain[g].n_nodes)
            weighted = _at(chain, weights, half[f], f, g) * share
            n[f, g] = np.array([z @ row for row in weighted])
        for i in range(len(lead.low)):
            n[f, f][i, i] += 1.0
    return n


def _selected(chain: list[_Lead], n: dict[tuple[int, int], Cube]) -> Blocks:
    """Ĥ on the pattern of H, from the outermost factor inwards."""
    last = len(chain) - 1
    diagonal: list[Cube] = [np.empty(0)] * (last + 1)
    cross: dict[tuple[int, int], Cube] = {}
    for f in reversed(range(last + 1)):
        lead = chain[f]
        q = _mirrored(n[f, f])
        outer = range(f + 1, last + 1)
        b = _backward_outside(chain, f, {g: n[f, g] for g in outer})

        def around(g: int, h: int, lead: _Lead = lead, f: int = f) -> Cube:
            """Ĥ_gh of the levels around each level of f."""
            if g == h:
                return diagonal[g][..., lead.parents[g - f - 1]]
            if g < h:
                return cross[g, h][..., lead.parents[g - f - 1]]
            return cross[h, g][..., lead.parents[h - f - 1]].swapaxes(0, 1)

        for g in outer:
            w = lead.w[g - f - 1]
            carried = sum(np.einsum("iaG,abG->ibG", lead.w[h - f - 1], around(h, g)) for h in outer)
            twice = np.einsum("iaG,jaG->ijG", b[g], w)
            q = q - twice - twice.swapaxes(0, 1) + np.einsum("iaG,jaG->ijG", np.asarray(carried), w)
            cross[f, g] = cholesky.backward(lead.low, b[g] - carried)
        half = cholesky.backward(lead.low, q)
        diagonal[f] = cholesky.backward(lead.low, half.swapaxes(0, 1))
    return Blocks(diagonal, cross)


def _mirrored(n: Cube) -> Cube:
    """The symmetric matrix of the lower triangle of n'."""
    q = np.empty_like(n)
    for i in range(len(n)):
        q[i, i] = n[i, i]
        for j in range(i):
            q[i, j] = q[j, i] = n[j, i]
    return q


def _backward_outside(chain: list[_Lead], f: int, q: dict[int, Cube]) -> dict[int, Cube]:
    """Q_f· L⁻¹ over the levels around each level of f: (r_f, r_g, G_f) for every factor g further out."""
    found: dict[int, Cube] = {}
    for g in sorted(q, reverse=True):
        level, lead = chain[f].parents[g - f - 1], chain[g]
        rest = q[g]
        for step, w in enumerate(lead.w):
            rest = rest - np.einsum("abG,ibG->iaG", w[..., level], found[g + 1 + step])
        found[g] = cholesky.backward(lead.low[..., level], rest.swapaxes(0, 1)).swapaxes(0, 1)
    return found


def _row_averages(chain: list[_Lead], here: UnitAt, densities: list[Any], whole: Mat) -> list[list[Vec]]:
    """Averages of ∂f/∂η over all nodes, by block and predictor."""
    codes = chain[0].codes
    by_cell = whole if codes is None else whole[:, codes]
    out = []
    for block, parts in zip(here.unit.blocks, densities, strict=True):
        weight = block.spread(by_cell[:, block.cells])
        use = weight > 0.0
        out.append([(weight * np.where(use, part, 0.0)).sum(-2) for part in parts.g if part is not None])
    return out
