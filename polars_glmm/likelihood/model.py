"""A design made ready for computing: bases, random effects, row blocks or cross-products."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.apart import Apart
from polars_glmm.design.disk.parts import StoredDesign
from polars_glmm.design.records import Design, ResidualRows
from polars_glmm.design.spread.rows import SpreadDesign
from polars_glmm.families.base import Family, Parameter
from polars_glmm.likelihood.parameters.basis import Basis, centred
from polars_glmm.likelihood.parameters.effects import Effects, map_effects
from polars_glmm.likelihood.parameters.parts import Part, make_parts
from polars_glmm.likelihood.parameters.thresholds import bases_of
from polars_glmm.likelihood.rows import sums as rowsums
from polars_glmm.likelihood.rows.spread import SpreadRows, spread
from polars_glmm.likelihood.rows.store import Stored, store
from polars_glmm.likelihood.rows.sums import Answering, Stretches
from polars_glmm.spec.method import ML, REML, Method

NO_EFFECTS = Effects((), None, 0)
LOG_TWO_PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True, eq=False)  # its parts are made once
class Model:
    """A design, its family and method, and the columns in the bases used for computing.

    bases    of the predictors that have a formula, that of the mean first
    stored   the rows where they are on disk or with workers; bases and effects have no columns then
    """

    design: Design | Apart
    family: Family
    method: Method
    control: Control
    bases: tuple[Basis, ...]
    effects: Effects
    by_rows: bool = False
    stored: Stored | SpreadRows | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Fixed effects of mu."""
        return self.design.mu.names

    @property
    def x(self) -> Basis:
        """The basis of the mean."""
        return self.bases[0]

    @property
    def phi_part(self) -> Part | None:
        """The predictor of log phi, where there is one."""
        return self.part("phi")

    @property
    def models_phi(self) -> bool:
        """Whether phi has a formula."""
        return self.design.phi is not None

    def part(self, parameter: str) -> Part | None:
        """The predictor of a parameter."""
        return next((one for one in self.parts if one.parameter == parameter), None)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The linear predictors and their coefficients; a constant phi is one, unless it is profiled out."""
        return predictors_of(self.design, self.bases, self.family.parameters[: 1 if self.exact else None])

    def without_phi(self, limit: Family) -> Model:
        """The model of a family that has no phi: predictors behind it move up by a place."""
        up = lambda part: part - 1 if part > 1 else part
        maps = tuple(
            replace(f, terms=tuple(replace(t, part_of=tuple(map(up, t.part_of))) for t in f.terms))
            for f in self.effects.factors
        )
        effects = replace(self.effects, factors=maps, part_of=tuple(map(up, self.effects.part_of)))
        return replace(self, family=limit, effects=effects)

    @property
    def n_coefficients(self) -> int:
        """Coefficients of all predictors."""
        return int(self.parts[-1].own.stop)

    @property
    def n_obs(self) -> int:
        return self.design.n_obs

    @property
    def residual(self) -> ResidualRows | None:
        """Groups of rows with correlated residuals."""
        return self.design.residual if isinstance(self.design, Design) else None

    @property
    def residual_names(self) -> tuple[str, ...]:
        """Parameters of the correlation of residuals."""
        return () if self.residual is None else self.residual.names

    @property
    def exact(self) -> bool:
        """A gaussian identity-link model with one residual variance: cross-products hold all there is to know."""
        return not self.by_rows and self.family.linear and not self.design.further and self.residual is None

    @property
    def spread_by_rows(self) -> bool:
        """A gaussian model, exact, whose residual variance has a formula of fixed effects."""
        exact = self.family.linear and isinstance(self.method, ML | REML)
        return exact and self.models_phi and self.effects.moving in ((0,), NO_EFFECTS.moving)

    @property
    def few_variances(self) -> bool:
        """Whether sums per residual variance may hold all there is to know."""
        return (
            not self.by_rows
            and self.family.linear
            and isinstance(self.method, ML | REML)
            and self.design.phi is not None
            and not any(self.effects.sets)
        )

    @property
    def restricted(self) -> bool:
        """β is integrated out."""
        return isinstance(self.method, REML)

    @property
    def rows(self) -> Answering:
        """Who answers for the rows as they are in the data, nothing merged and nothing coupled."""
        if self.stored is not None:
            return self.stored.rows(effects=False)
        return Stretches(self.held_in_memory(), self.x, self.control.rows.block)

    def held_in_memory(self) -> Design:
        """The design, where its rows are not on disk."""
        assert isinstance(self.design, Design)  # what is stored has no need of it
        return self.design

    def constant(self) -> float:
        """The parameter-free part of the log-likelihood; under REML of the columns that the user named."""
        whole = rowsums.constant(self.rows, self.family)
        return whole + 0.5 * len(self.x.a) * LOG_TWO_PI + self.x.log_determinant if self.restricted else whole

    def saturated(self) -> float | None:
        """Log-likelihood of the saturated model, or None where there is none."""
        return rowsums.saturated(self.rows, self.family)


def predictors_of(
    design: Design | Apart, bases: tuple[Basis, ...], parameters: tuple[Parameter, ...]
) -> tuple[Part, ...]:
    """The linear predictors of parameters, with the bases of those that have a formula, in the order of the design."""
    known = {one.parameter: (one.coefficients, basis) for one, basis in zip(design.predictors, bases, strict=True)}
    there = [one for one in parameters if one.name in known or not one.optional]
    return make_parts([(one, *known.get(one.name, ((one.name,), None))) for one in there])


def prepare(
    design: Design | Apart,
    family: Family,
    method: Method,
    control: Control,
    *,
    by_rows: bool = False,
    held: Collection[str] = (),
) -> Model:
    """The model of a design; `by_rows` keeps a gaussian one from its cross-products; `held` names what is held."""
    if isinstance(design, StoredDesign):
        parts_of = partial(predictors_of, design, parameters=family.parameters)
        on_disk = store(design, control.rows.block, parts_of, held)
        return Model(design, family, method, control, on_disk.bases, on_disk.effects, by_rows=True, stored=on_disk)
    if isinstance(design, SpreadDesign):
        parts_of = partial(predictors_of, design.shape, parameters=family.parameters)
        there = spread(design, control.rows.block, parts_of, held)
        return Model(design, family, method, control, there.bases, there.effects, by_rows=True, stored=there)
    assert isinstance(design, Design)  # what is apart is on disk or with workers
    _, bases = bases_of(design.predictors, lambda one, *, elsewhere: centred(one.x, elsewhere=elsewhere), held)
    return Model(design, family, method, control, bases, map_effects(design.factors, design.n_rows), by_rows)
