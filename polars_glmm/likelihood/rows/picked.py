"""Thresholds on rows: coefficients that a row's category picks, two of them a row, without columns of their own.

Category k of C lies between thresholds k and k + 1 of −∞, α_1, …, α_{C−1}, ∞. The predictor of such a part is two
numbers a row, upper threshold first; an infinite one is an offset, so that the part itself is linear in its
coefficients τ: α = Jτ, or with columns x of its own α_k(x) = Σ_m x_m (Jτ_m)_k, τ one column after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.typing import IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """The columns of a predictor of thresholds, as sums over them go.

    codes     (m,) category of each row;  jacobian   J (C − 1, p₀);  columns   (q, m)
    """

    codes: IntVec
    jacobian: Mat
    columns: Mat

    @property
    def x(self) -> Mat | None:
        """The columns, or None where there is one of ones."""
        one = len(self.columns) == 1 and bool((self.columns == 1.0).all())
        return None if one else self.columns

    @property
    def n_columns(self) -> int:
        """Coefficients."""
        return int(self.jacobian.shape[1]) * len(self.columns)

    def linear(self, tau: Mat, of_row: IntVec | None = None) -> Mat:
        """Upper and lower threshold of every row (2, m), zero for an infinite one.

        tau (p,), or (p, M) of many models, and the model of every row
        """
        q = 1 if self.x is None else len(self.x)
        tail = tau.shape[1:]
        alpha = np.tensordot(tau.reshape(q, -1, *tail), self.jacobian, ([1], [1]))  # (q, …, C − 1)
        alpha = np.moveaxis(alpha, -1, 1)
        nothing = np.zeros((q, 1, *tail))
        table = np.concatenate([nothing, alpha, nothing], axis=1)
        at = (slice(None), self.codes) if of_row is None else (slice(None), self.codes, of_row)
        above = (slice(None), self.codes + 1) if of_row is None else (slice(None), self.codes + 1, of_row)
        if self.x is None:
            return np.stack([table[above][0], table[at][0]])
        return np.stack([np.einsum("qm,qm->m", self.x, table[above]), np.einsum("qm,qm->m", self.x, table[at])])

    def sums(self, v: Mat, of_row: IntVec | None = None, n_models: int = 1) -> Mat:
        """Σ over rows of the derivatives v (2, m) in the thresholds, by coefficient: (p,), or (p, M) by model."""
        c = len(self.jacobian) + 1
        codes = self.codes if of_row is None else self.codes + c * of_row
        out = []
        for column in (None,) if self.x is None else self.x:
            upper, lower = v if column is None else v * column
            total = np.zeros((n_models, c + 1))
            total[:, 1:] += np.bincount(codes, upper, c * n_models).reshape(n_models, c)
            total[:, :-1] += np.bincount(codes, lower, c * n_models).reshape(n_models, c)
            out.append(self.jacobian.T @ total[:, 1:-1].T)
        found = np.concatenate(out)
        return found[:, 0] if of_row is None else found

    def scores(self, v: Mat) -> Mat:
        """The same of every row: (p, m)."""
        c, m = len(self.jacobian) + 1, len(self.codes)
        each = np.zeros((c + 1, m))
        rows = np.arange(m)
        each[self.codes + 1, rows] = v[0]
        each[self.codes, rows] += v[1]
        own = self.jacobian.T @ each[1:-1]
        return own if self.x is None else np.concatenate([column * own for column in self.x])


def open_ends(codes: IntVec, n_categories: int) -> Mat:
    """Infinite thresholds of rows (2, m), zero where there is a finite one."""
    return np.stack([np.where(codes == n_categories - 1, np.inf, 0.0), np.where(codes == 0, -np.inf, 0.0)])


def codes_of(y: Vec) -> IntVec:
    """Categories as places."""
    return np.asarray(y).astype(np.intp)
