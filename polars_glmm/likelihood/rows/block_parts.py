"""One linear predictor on the rows of a block: columns, a constant, or thresholds that rows pick."""

from __future__ import annotations

from dataclasses import dataclass

from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.thresholds import Thresholds
from polars_glmm.likelihood.rows.picked import Picked, codes_of, open_ends
from polars_glmm.typing import Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BlockPart:
    """One linear predictor on the rows of a block: x (p, m), None for a constant; whose coefficients; offset (m,).

    Of thresholds x says how a row picks them, and offset (2, m) is where there is none.
    """

    x: Mat | Picked | None
    own: slice
    offset: Mat | None = None

    @property
    def columns(self) -> Mat | None:
        """Columns in memory; None for a constant."""
        return self.x.columns if isinstance(self.x, Picked) else self.x

    def scores(self, v: Mat) -> Mat:
        """Derivatives in its coefficients (p, m), from those in the predictor."""
        if self.x is None:
            return v[None]
        return self.x.scores(v) if isinstance(self.x, Picked) else self.x * v


def block_part(basis: Basis | None, x: Mat | None, own: slice, offset: Mat | None, y: Vec) -> BlockPart:
    """A predictor on rows with responses y, of columns x in its basis."""
    if not isinstance(basis, Thresholds) or x is None:
        return BlockPart(x, own, offset)
    codes = codes_of(y)
    return BlockPart(Picked(codes, basis.jacobian, x), own, open_ends(codes, basis.n_categories))
