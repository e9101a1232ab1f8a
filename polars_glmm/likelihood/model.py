"""A design made ready for computing: bases, random effects, row blocks or cross-products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from polars_glmm.control import Control
from polars_glmm.design.disk.parts import StoredDesign
from polars_glmm.design.records import Design
from polars_glmm.families.base import Family
from polars_glmm.likelihood.parameters.basis import Basis, centred
from polars_glmm.likelihood.parameters.effects import Effects, map_effects
from polars_glmm.likelihood.rows import sums as rowsums
from polars_glmm.likelihood.rows.store import Stored, store
from polars_glmm.likelihood.rows.sums import Piece, Stretch
from polars_glmm.linalg.columns import stretches
from polars_glmm.spec.method import Method

NO_EFFECTS = Effects((), None, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A design, its family and method, and the columns in the bases used for computing.

    stored   the rows where they are on disk; x, x_phi and effects have no columns then
    """

    design: Design | StoredDesign
    family: Family
    method: Method
    control: Control
    x: Basis
    x_phi: Basis | None
    effects: Effects
    by_rows: bool = False
    stored: Stored | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Fixed effects of mu."""
        return self.design.mu.names

    @property
    def phi_names(self) -> tuple[str, ...] | None:
        """Fixed effects of log phi, where phi has a formula."""
        return None if self.design.phi is None else self.design.phi.names

    @property
    def n_obs(self) -> int:
        return self.design.n_obs

    @property
    def exact(self) -> bool:
        """A gaussian identity-link model with one residual variance: cross-products hold all there is to know."""
        return not self.by_rows and self.family.linear and self.design.phi is None

    @property
    def n_gamma(self) -> int:
        """Parameters of log phi."""
        if not self.family.has_phi or self.exact:
            return 0
        return 1 if self.x_phi is None else len(self.x_phi.a)

    def pieces(self) -> Iterator[Piece]:
        """The rows, a stretch at a time that fits in cache, or from disk."""
        if self.stored is not None:
            return self.stored.rows(effects=False).blocks()
        design = self.held_in_memory()
        stretch = stretches(design.n_rows, self.control.rows.block)
        return (Stretch(design, self.x, rows) for rows in stretch)

    def held_in_memory(self) -> Design:
        """The design, where its rows are not on disk."""
        assert isinstance(self.design, Design)  # what is stored has no need of it
        return self.design

    def constant(self) -> float:
        """The parameter-free part of the log-likelihood."""
        return rowsums.constant(self.pieces(), self.family)

    def saturated(self) -> float | None:
        """Log-likelihood of the saturated model, or None where there is none."""
        return rowsums.saturated(self.pieces(), self.family)


def prepare(
    design: Design | StoredDesign, family: Family, method: Method, control: Control, *, by_rows: bool = False
) -> Model:
    """The model of a design; `by_rows` keeps a gaussian one from its cross-products."""
    if isinstance(design, StoredDesign):
        on_disk = store(design, control.rows.block)
        x, x_phi, effects = on_disk.x, on_disk.x_phi, on_disk.effects
        return Model(design, family, method, control, x, x_phi, effects, by_rows=True, stored=on_disk)
    x_phi = None if design.phi is None else centred(design.phi.x)
    effects = map_effects(design.factors, design.n_rows)
    return Model(design, family, method, control, centred(design.mu.x), x_phi, effects, by_rows)
