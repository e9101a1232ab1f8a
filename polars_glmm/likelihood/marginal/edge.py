"""Rows whose likelihood is highest on the edge of their link's domain: there a mode is a corner, not a peak.

With a log link a binomial row of successes only is likeliest at probability 1, where the domain of the link ends, and
the level it belongs to may have its mode there. Laplace's and adaptive quadrature's approximations need a peak.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from polars_glmm.errors import enumerate_names
from polars_glmm.families.base import Family, has_edge
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.rows.holder import OverBlocks, added
from polars_glmm.likelihood.rows.sums import Piece
from polars_glmm.typing import BoolVec, Vec


def message(model: Model) -> str | None:
    """Which rows push a mode to the edge of the domain, and what helps; None where there are none."""
    if not has_edge(model.family):
        return None
    full, empty = model.rows.ask(OverBlocks(_at_edges, model.family.edges, added))
    rows = [
        f"{round(count):,} row{'' if round(count) == 1 else 's'} with {what}"
        for count, what in ((full, "successes only (probability 1)"), (empty, f"y = 0 ({_zero(model.family)} 0)"))
        if count
    ]
    if not rows:
        return None
    names = enumerate_names([factor.name for factor in model.design.factors])
    other = "'logit' or 'cloglog'" if model.family.takes_trials else "'log'"
    return (
        f"With the {model.family.link.name} link the modes of levels of {names} reach the edge of the link's domain: "
        f"{' and '.join(rows)} pull their levels there, where the likelihood has a corner and no approximation holds. "
        f"Use link={other}, or leave out the random effects whose levels hold such rows."
    )


def _at_edges(pieces: Iterable[Piece], bottom: bool, top: bool) -> tuple[float, float]:  # noqa: FBT001  # of a family
    """Number of rows at the top of the range of y, and at its bottom, where that is an edge."""
    full = empty = 0.0
    for piece in pieces:
        y, trials = piece.data.y, piece.data.trials
        weight = np.ones_like(y) if piece.frequency is None else piece.frequency
        if top:
            full += _sum(weight, y == (np.ones_like(y) if trials is None else trials))
        if bottom:
            empty += _sum(weight, y == 0.0)
    return full, empty


def _zero(family: Family) -> str:
    return "probability" if family.takes_trials else "mean"


def _sum(weight: Vec, mark: BoolVec) -> float:
    return float(weight[mark].sum())
