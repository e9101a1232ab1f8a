"""Residual variances that may vanish alone: of rows so few that the model reproduces them whatever they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from polars_glmm.likelihood.optimum.vanishing import MOST_VALUES
from polars_glmm.likelihood.products.strata import StrataEngine
from polars_glmm.likelihood.rows.sums import Piece
from polars_glmm.notes import Note
from polars_glmm.typing import Mat, Vec

_SMALL = (float(np.log(1e-3)), float(np.log(1e-4)))
"""log of the residual sds, in units of the response's spread, between which the log-likelihood is compared."""
_FEW_FACTORS = 4
"""Factors of which all choices are looked at."""


def spikes(engine: StrataEngine) -> int:
    """How many rows are in strata at whose vanishing residual variance ℓ rises without bound.

    Some of the factors may be without variance there. With rank [X_k Z_k] = n_k > rank Z_k the rows of stratum k are
    reproduced, and ℓ has −(n_k − rank Z_k) log phi_k. By REML −½ log|X'V⁻¹X| takes that away.
    """
    strata, p = engine.strata, engine.p
    most = p + sum(f.n_levels * f.r for f in engine.effects.factors)
    few = [(k, _alone(strata.x_phi, k)) for k, part in enumerate(strata.parts) if part.n <= most]
    return sum(strata.parts[k].n for k, direction in few if direction is not None and _rises(engine, direction))


def _rises(engine: StrataEngine, direction: Vec) -> bool:
    """Whether ℓ rises by a row's worth as the residual sd of a stratum, all others like the response, vanishes."""
    strata = engine.strata
    spread = np.sqrt(sum(float(part.ww[-1, -1]) for part in strata.parts) / strata.n)
    others = np.linalg.lstsq(strata.x_phi, np.log(spread) - strata.offset, rcond=None)[0]
    whole = engine.effects.lambdas(engine.effects.start(spread))
    n = len(whole)
    choices = product((0.0, 1.0), repeat=n) if n <= _FEW_FACTORS else [(0.0,) * n, (1.0,) * n]
    for chosen in choices:
        factors = [c * lam for c, lam in zip(chosen, whole, strict=True)]
        far, farther = (_minus_two(engine, factors, others + size * direction) for size in _SMALL)
        if far - farther > _SMALL[0] - _SMALL[1]:  # half of what a row is worth
            return True
    return False


def _minus_two(engine: StrataEngine, factors: list[Mat], gamma: Vec) -> float:
    with np.errstate(all="ignore"):
        pieces = engine.pieces(factors, gamma, gradient=False)
    return np.inf if pieces is None else engine.minus_two(pieces, gamma)


def _alone(x_phi: Mat, k: int) -> Vec | None:
    """The direction of γ in which value k of log phi, x_phi (K, s) γ, moves by one and no other; None without one."""
    unit = np.eye(len(x_phi))[k]
    direction = np.linalg.lstsq(x_phi, unit, rcond=None)[0]
    return np.asarray(direction) if np.allclose(x_phi @ direction, unit, atol=1e-8) else None


def spikes_apart(pieces: Iterable[Piece], most: int) -> dict[bytes, list[Mat]]:
    """Of rows as they are: by value of log phi the columns [phi, X] of its rows, of `most` + 1 at most.

    Only what fixed effects alone reproduce is looked for: `most` is their number.
    """
    found: dict[bytes, list[Mat]] = {}
    for piece in pieces:
        x, offset = piece.of_phi
        whole = np.vstack([x, np.zeros(x.shape[1]) if offset is None else offset])
        values, codes = np.unique(np.round(whole, 9) + 0.0, axis=1, return_inverse=True)
        if len(values.T) > MOST_VALUES:
            return {}
        times = np.ones(len(codes)) if piece.frequency is None else piece.frequency
        for k, value in enumerate(values.T):
            places = np.flatnonzero(codes == k)[: most + 1]
            few = np.repeat(places, np.minimum(times[places].astype(int), most + 1))[: most + 1]
            found.setdefault(value.tobytes(), []).extend(np.vstack([x, piece.x])[:, few].T)
    return {key: rows[: most + 1] for key, rows in found.items()}


def joined(parts: Sequence[dict[bytes, list[Mat]]]) -> dict[bytes, list[Mat]]:
    """The same of several sets of rows."""
    found: dict[bytes, list[Mat]] = {}
    for part in parts:
        for key, rows in part.items():
            found.setdefault(key, []).extend(rows)
    return found


def lonely_rows(found: dict[bytes, list[Mat]], s: int) -> int:
    """Rows of values of log phi (s columns) that may vanish alone, and that fixed effects reproduce: rank X_k = n_k."""
    groups = [np.array(rows) for rows in found.values()]
    if not groups:
        return 0
    of_phi = np.array([rows[0, :s] for rows in groups])
    return sum(
        len(rows) for k, rows in enumerate(groups)
        if _alone(of_phi, k) is not None and np.linalg.matrix_rank(rows[:, s:]) == len(rows)
    )  # fmt: skip


def spike_notes(n_rows: int) -> tuple[Note, ...]:
    """A note where maximum likelihood has no highest point, for that many rows."""
    if not n_rows:
        return ()
    have, them = ("1 row has", "it") if n_rows == 1 else (f"{n_rows:,} rows have", "them")
    text = (
        f"Maximum likelihood has no highest point here: {have} a residual variance apart, and the model can "
        f"reproduce {them} exactly, so that it rises without bound as that vanishes. Shown is an optimum beside it."
    )
    advice = 'Use method="reml", which is bounded, or give these rows the residual variance of others.'
    return (Note("no_bound", text, advice),)
