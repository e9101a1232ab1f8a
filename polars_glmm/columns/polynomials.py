"""Orthogonal polynomials of a data column, by the three-term recurrence of the discrete Stieltjes procedure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.typing import Mat, Vec


class Recurrence(NamedTuple):
    """P_{k+1} = (x − alpha_k) P_k − beta_k P_{k−1}, and the weighted norms Σ w P_k²; k = 0 … degree."""

    alpha: Vec
    beta: Vec
    norms: Vec


def recurrence(x: Vec, degree: int, weights: Vec | None = None) -> Recurrence:
    """Coefficients of the monic polynomials that are orthogonal over the values x (Gautschi 2004, §2.2.3)."""
    w = np.ones_like(x) if weights is None else weights
    alpha, beta, norms = np.zeros(degree), np.zeros(degree), np.zeros(degree + 1)
    before, current = np.zeros_like(x), np.ones_like(x)
    norms[0] = w.sum()
    for k in range(degree):
        alpha[k] = (w * x * current**2).sum() / norms[k]
        beta[k] = norms[k] / norms[k - 1] if k else 0.0
        before, current = current, (x - alpha[k]) * current - beta[k] * before
        norms[k + 1] = (w * current**2).sum()
    return Recurrence(alpha, beta, norms)


def roots(known: Recurrence, degree: int) -> Vec:
    """The roots of P_degree: eigenvalues of its Jacobi matrix (Golub & Welsch 1969), real and distinct."""
    side = np.sqrt(known.beta[1:degree])
    return np.linalg.eigvalsh(np.diag(known.alpha[:degree]) + np.diag(side, 1) + np.diag(side, -1))


def orthogonal_values(x: Vec, degree: int) -> Mat:
    """The orthonormal polynomials of degree 1 … degree at the values x themselves, (n, degree)."""
    known = recurrence(x, degree)
    columns = [np.ones_like(x)]
    for k in range(degree):
        before = columns[k - 1] if k else np.zeros_like(x)
        columns.append((x - known.alpha[k]) * columns[k] - known.beta[k] * before)
    return np.column_stack([column / np.sqrt(norm) for column, norm in zip(columns, known.norms, strict=True)][1:])
