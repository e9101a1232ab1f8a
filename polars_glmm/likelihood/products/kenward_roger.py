"""Kenward and Roger's (1997) small-sample covariance of fixed effects, from cross-products: no matrix of rows by rows.

V = σ²(I + ZΨZ') is linear in the entries of Ψ and in σ², so their section 2 has no second derivatives of V. With
U = (V/σ²)⁻¹, D = Z'UX, B = Z'UZ, M = X'UX, and ∂V = ZEZ' for an entry of Ψ or I for σ²,

    P = −X'U∂VUX        E: D'ED                   I: X'U²X = M − D'ΨD
    Q = X'U∂VU∂VUX      E, E: (ED)'B(ED)          E, I: (ED)'Z'U²X           I, I: X'U³X = X'U²X − D'ΨZ'U²X
    Z'U²X = D − BΨD     tr U² = n − 2 tr ΨB + tr ΨBΨB                        Z'U²Z = B − BΨB

(signs of P left out), and the expected restricted information W⁻¹ = ½[tr U∂V_iU∂V_j − 2 tr M⁻¹Q_ij + tr M⁻¹P_iM⁻¹P_j].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES, plain_name
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.likelihood.products.profile import Profile, profile
from polars_glmm.linalg.pattern import Blocks, Pattern, times
from polars_glmm.linalg.squared_blocks import BlockSquares, squared_blocks, within_levels
from polars_glmm.typing import Cube, Mat

_UNIDENTIFIED = 1e-12
"""Smallest eigenvalue of the information, scaled to a unit diagonal, of variances that are determined singly."""


class SmallSample(NamedTuple):
    """What tests by Kenward and Roger's method are made of, for β_c; β = outward · β_c.

    vcov (p, p)           Φ = σ²M⁻¹;  adjusted (p, p)  Φ_A, which makes their standard errors
    derivative (K, p, p)  ∂Φ by the entries of Ψ and by σ²;  parameters (K, K)  W: both for σ = 1 in V
    """

    vcov: Mat
    derivative: Cube
    parameters: Mat
    adjusted: Mat
    outward: Mat


class Entry(NamedTuple):
    """One parameter: an entry (row, column) of Ψ of a factor, or σ² where factor is −1."""

    factor: int
    row: int
    column: int


RESIDUAL = Entry(-1, 0, 0)


def entries_of(effects: Effects, held: Callable[[int, str], bool]) -> list[Entry]:
    """The entries of all Ψ in the working columns that are estimated; held(factor, name of an effect) leaves out."""
    found = []
    for number, f in enumerate(effects.factors):
        if f.prior is not None:
            msg = (
                f"Kenward and Roger's method is of independent levels, and known= relates those of {f.name!r}: use "
                "df='satterthwaite'."
            )
            raise ModelError(msg)
        if f.sets is not None:
            msg = (
                f"Kenward and Roger's method is of rows that are in one level of each factor, and rows are in several "
                f"of {f.name!r}: use df='satterthwaite'."
            )
            raise ModelError(msg)
        for t in f.terms:
            structure = STRUCTURES[t.structure]
            if structure.bends or structure.rank(t.r) < t.r:
                msg = (
                    f"Kenward and Roger's method is of covariance matrices that are sums of their parameters, which "
                    f"those of {plain_name(t.structure)}() are not. Use df='satterthwaite'."
                )
                raise ModelError(msg)
            rows, columns = structure.vech(t.r)
            found += [
                Entry(number, t.start + int(i), t.start + int(j))
                for i, j in zip(rows, columns, strict=True)
                if not held(number, t.names[int(i)])
            ]
    return found


def small_sample(
    stats: CrossProducts,
    effects: Effects,
    lambdas: list[Mat],
    sigma: float,
    parameters: list[Entry],
    room: Callable[[int], None],
) -> SmallSample:
    """All of it at relative factors Λ_f and σ. Raises ModelError where the variances are not determined singly.

    parameters   what was estimated: entries of Ψ, then σ²; what is held counts as known
    room         as in linalg.squared_blocks
    """
    at = profile(stats, effects.effective(lambdas))
    if at is None or at.h is None:
        msg = "V is not positive definite in floating point: use df='satterthwaite'."
        raise ModelError(msg)
    psi = [lam @ lam.T for lam in lambdas]
    entries = [entry for entry in parameters if entry != RESIDUAL]
    sums = _Sums.of(stats, effects, at, lambdas, entries)
    traces = _traces(_projected(stats, effects), psi, entries, stats, room)
    m = at.m_inverse
    used = slice(len(parameters))
    p, q, traces = sums.p[used], sums.q[used, used], traces[used, used]
    mp = np.einsum("ab,kbc->kac", m, p)
    information = 0.5 * (traces - 2.0 * np.einsum("ab,klba->kl", m, q) + np.einsum("kab,lba->kl", mp, mp))
    w = _inverse(information)
    inner = np.einsum("kl,klab->ab", w, q) - np.einsum("kl,kab,lbc->ac", w, p, mp)
    adjusted = m + 2.0 * m @ inner @ m
    return SmallSample(
        sigma**2 * m, sigma**2 * np.einsum("kab,bc->kac", mp, m), w, 0.5 * sigma**2 * (adjusted + adjusted.T),
        np.eye(len(m)),
    )  # fmt: skip


class _Sums(NamedTuple):
    """P (K, p, p) without its sign and Q (K, K, p, p), σ² last."""

    p: Cube
    q: Mat

    @classmethod
    def of(cls, stats: CrossProducts, effects: Effects, at: Profile, lambdas: list[Mat], entries: list[Entry]) -> _Sums:
        psi = [lam @ lam.T for lam in lambdas]
        n_fixed = len(at.beta)
        d = [np.einsum("dr,dpG->rpG", f.basis, e[:, :n_fixed]) for f, e in zip(effects.factors, at.e, strict=True)]
        through = _through(stats, effects, at, lambdas)
        spread = [np.einsum("ij,jpG->ipG", own, one) for own, one in zip(psi, d, strict=True)]
        squared = [one - other for one, other in zip(d, through(spread), strict=True)]  # Z'U²X
        xx = at.core[:n_fixed, :n_fixed] - _product(d, spread)
        xxx = xx - _product(spread, squared)
        k = len(entries)
        p = np.empty((k + 1, n_fixed, n_fixed))
        q = np.empty((k + 1, k + 1, n_fixed, n_fixed))
        picked = [_picked(entry, d) for entry in entries]
        p[k], q[k, k] = xx, xxx
        for i, entry in enumerate(entries):
            own = picked[i][entry.factor]
            p[i] = np.einsum("rpG,rqG->pq", own, d[entry.factor])
            taken = through(picked[i])
            for j, other in enumerate(entries):
                q[j, i] = np.einsum("rpG,rqG->pq", picked[j][other.factor], taken[other.factor])
            q[i, k] = np.einsum("rpG,rqG->pq", own, squared[entry.factor])
            q[k, i] = q[i, k].T
        return cls(p, q)


def _picked(entry: Entry, d: list[Cube]) -> list[Cube]:
    """E·D for the symmetric unit matrix of an entry, zero for other factors."""
    out = [np.zeros_like(one) for one in d]
    out[entry.factor][entry.row] += d[entry.factor][entry.column]
    if entry.row != entry.column:
        out[entry.factor][entry.column] += d[entry.factor][entry.row]
    return out


def _product(left: list[Cube], right: list[Cube]) -> Mat:
    return np.asarray(sum(np.einsum("rpG,rqG->pq", a, b) for a, b in zip(left, right, strict=True)), dtype=np.float64)


def _through(
    stats: CrossProducts, effects: Effects, at: Profile, lambdas: list[Mat]
) -> Callable[[list[Cube]], list[Cube]]:
    """v → Bv for effects (r_f, m, G_f) in the working columns."""
    if len(lambdas) == 1:
        a = _projected(stats, effects).diagonal[0]
        b = within_levels(a, lambdas[0] @ lambdas[0].T)
        return lambda v: [np.einsum("ijG,jmG->imG", b, v[0])]
    assert at.h is not None  # there are random effects
    h, bases, effective = at.h, [f.basis for f in effects.factors], effects.effective(lambdas)

    def apply(v: list[Cube]) -> list[Cube]:
        zv = times(stats.zz, stats.pattern, [np.einsum("dr,rmG->dmG", t, one) for t, one in zip(bases, v, strict=True)])
        solved = h.solve([np.einsum("dr,dmG->rmG", lam, one) for lam, one in zip(effective, zv, strict=True)])
        back = [np.einsum("dr,rmG->dmG", lam, one) for lam, one in zip(effective, solved, strict=True)]
        taken = times(stats.zz, stats.pattern, back)
        return [np.einsum("dr,dmG->rmG", t, one - two) for t, one, two in zip(bases, zv, taken, strict=True)]

    return apply


def _projected(stats: CrossProducts, effects: Effects) -> Blocks:
    """Z'Z in the working columns of each factor."""
    bases = [f.basis for f in effects.factors]

    def between(f: int, g: int, block: Cube) -> Cube:
        return np.asarray(np.einsum("da,abG->dbG", bases[f].T, np.einsum("abG,bc->acG", block, bases[g])))

    return Blocks(
        [between(f, f, block) for f, block in enumerate(stats.zz.diagonal)],
        {(f, g): between(f, g, block) for (f, g), block in stats.zz.cross.items()},
    )


def _traces(a: Blocks, psi: list[Mat], entries: list[Entry], stats: CrossProducts, room: Callable[[int], None]) -> Mat:
    """tr U∂V_iU∂V_j (K, K), σ² last."""
    sizes = tuple(len(one) for one in psi)
    pattern = stats.pattern or Pattern((a.diagonal[0].shape[-1],), sizes, (), {})
    found = squared_blocks(pattern, a, psi, room)
    units = [_unit(entry, sizes[entry.factor]) for entry in entries]
    k = len(entries)
    out = np.empty((k + 1, k + 1))
    squared = [_squared_sum(found, psi, f) for f in range(len(psi))]  # Σ_a (Z'U²Z)_aa
    for i, entry in enumerate(entries):
        for j, other in enumerate(entries):
            f, g = entry.factor, other.factor
            block = found.squares[f, g] if f <= g else found.squares[g, f].transpose(1, 0, 3, 2)
            out[i, j] = np.einsum("ij,kl,ikjl->", units[i], units[j], block)
        out[i, k] = out[k, i] = float(np.vdot(units[i], squared[entry.factor]))
    whole = sum(float(np.vdot(own, one)) for own, one in zip(psi, found.sums, strict=True))
    rest = sum(float(np.vdot(own, one)) for own, one in zip(psi, squared, strict=True))
    out[k, k] = stats.n - whole - rest  # tr U² = n − tr ΨB − tr ΨZ'U²Z
    return out


def _squared_sum(found: BlockSquares, psi: list[Mat], f: int) -> Mat:
    """Σ_a (B − BΨB)_aa of one factor."""
    out = found.sums[f].copy()
    for g, own in enumerate(psi):
        block = found.squares[f, g] if f <= g else found.squares[g, f].transpose(1, 0, 3, 2)
        out -= np.einsum("kl,ikjl->ij", own, block)
    return out


def _unit(entry: Entry, size: int) -> Mat:
    out = np.zeros((size, size))
    out[entry.row, entry.column] = out[entry.column, entry.row] = 1.0
    return out


def _inverse(information: Mat) -> Mat:
    """W. Raises ModelError where a combination of variances is not determined."""
    scale = np.sqrt(np.diag(information))
    if (scale > 0.0).all():
        values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
        if values[0] > _UNIDENTIFIED:
            half = vectors / np.sqrt(values) / scale[:, None]
            return np.asarray(half @ half.T)
    msg = (
        "Kenward and Roger's method needs variances that the data determine singly, which those of this model are not. "
        "Use df='satterthwaite', or simplify the random effects."
    )
    raise ModelError(msg)
