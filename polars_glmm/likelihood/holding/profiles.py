"""The paths of a fitted model's parameters: surfaces made once per chart and criterion, shared by all that use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from polars_glmm.control import Control
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.apart import Apart
from polars_glmm.design.records import Design, ResidualRows
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.held import hold_fixed_effects
from polars_glmm.likelihood.holding.chart import Chart
from polars_glmm.likelihood.holding.constants import at_limit, constant_predictor
from polars_glmm.likelihood.holding.criterion import Criterion, ProductCriterion, ResidualCriterion, RowCriterion
from polars_glmm.likelihood.holding.path import Path, PathPoint
from polars_glmm.likelihood.holding.scaled_chart import ScaledChart
from polars_glmm.likelihood.holding.surface import Surface
from polars_glmm.likelihood.holding.targets import COSINE, EXPONENTIAL, ROOT, HeldScale, Target, scale_of, targets
from polars_glmm.likelihood.marginal.dispersion_range import size_cap
from polars_glmm.likelihood.marginal.engine import RowEngine, row_engine
from polars_glmm.likelihood.marginal.starts import bending_scale
from polars_glmm.likelihood.model import LOG_TWO_PI, Model, prepare
from polars_glmm.likelihood.parameters.names import parameter_names
from polars_glmm.likelihood.parameters.parts import Part, inward, outward
from polars_glmm.likelihood.products.engine import ProductEngine, ProductModel, product_engine
from polars_glmm.likelihood.residual.engine import ResidualEngine
from polars_glmm.likelihood.residual.fit import residual_engine
from polars_glmm.spec.method import REML
from polars_glmm.spec.model import ModelSpec
from polars_glmm.typing import BoolVec, Mat, Vec

_BETA_STEP = 1e-4
"""Steps of differences in fixed effects, as a share of a noticeable effect on the scale of the linear predictor."""

Lead: TypeAlias = Mapping[tuple[int, int], tuple[int, ...]]
"""Effects that come first in a chart, as in `targets.Target`."""
Order: TypeAlias = tuple[tuple[tuple[int, int], tuple[int, ...]], ...]


@dataclass(eq=False)
class Profiles:
    """What a model and its estimate say of single parameters.

    fixed   what the user holds by fixed=, by name; held fixed effects are no longer in the model
    kept    marks the estimate's fixed effects of mu that are
    """

    model: Model | ProductModel
    estimate: Estimate
    fixed: Mapping[str, float]
    kept: BoolVec
    _surfaces: dict[tuple[bool, Order], Surface] = field(default_factory=dict)

    @cached_property
    def targets(self) -> list[Target]:
        """All parameters that are estimated."""
        return targets(self.model, self.fixed)

    @property
    def restricted(self) -> bool:
        """Whether the model was fitted by REML."""
        return isinstance(self.model.method, REML)

    def path(self, target: Target, *, restricted: bool) -> Path | None:
        """By the (restricted) likelihood; None for a correlation of no effect, and for a constant at a limit."""
        lead = target.lead if self._correlated(target) else {}
        surface = self._surface(lead, restricted=restricted)
        chart, p, w = surface.chart, surface.criterion.n_beta, np.zeros(len(surface.x))
        singular = surface.singular
        if target.quantity in ("sd", "correlation", "range"):
            ((place, first),) = target.lead.items()
            own = next(c for c in chart.terms if (c.factor, c.term.start) == place)
            if isinstance(own, ScaledChart):
                return self._path_of_scaled(surface, own, first)
            if len(first) == 2:
                if self._vanishes(place, first):
                    return None
                w[p + own.place.start + 2] = 1.0
                return Path(surface, COSINE, w, None, 0.0, singular)
            at = 0 if lead else first[0]
            w[p + own.place.start + at] = 1.0
            return Path(surface, HeldScale("linear", float(own.unit[first[0]]), 0.0), w, None, 0.0, singular)
        if target.quantity in ("residual_correlation", "residual_range"):
            w[-1] = 1.0
            return Path(surface, HeldScale("residual", residual=self._residual), w, None, 0.0, singular)
        if target.quantity == "dispersion":
            return self._path_of_constant(surface, target.parameter)
        if target.parameter != "mu":
            assert isinstance(self.model, Model)
            part = self.model.part(target.parameter)
            assert part is not None  # a target is of a part
            assert part.basis is not None  # with a formula
            row = outward(self.model.parts)[part.own.start + target.place]
            n_mean = len(self.model.x.a)
            w[:p] = row[:n_mean][:p]
            w[p + chart.size : p + chart.size + len(row) - n_mean] = row[n_mean:]
            return Path(surface, HeldScale("linear"), w, None, 0.0, singular)
        a = self.model.x.a[:, target.place]
        if p:
            w[:p] = a
            return Path(surface, HeldScale("linear"), w, None, 0.0, singular)
        return Path(surface, HeldScale("linear"), None, a, float(self._centre[target.place]), singular)

    def _path_of_constant(self, surface: Surface, parameter: str) -> Path | None:
        """None at a limit beside other predictors."""
        if self._at_limit(parameter):
            return None
        w = np.zeros(len(surface.x))
        w[self._place_of(parameter, surface.criterion.n_beta + surface.chart.size, len(w))] = 1.0
        root = isinstance(surface.criterion, RowCriterion) and surface.criterion.root
        scale = scale_of(self.model, parameter) if parameter != "phi" else ROOT if root else EXPONENTIAL
        return Path(surface, scale, w, None, 0.0, surface.singular)

    def _path_of_scaled(self, surface: Surface, own: ScaledChart, first: tuple[int, ...]) -> Path | None:
        """The path of a standard deviation or correlation that is a coordinate of a structure; None where it is none:
        correlations at longer distances move with several angles.
        """
        p, w, singular = surface.criterion.n_beta, np.zeros(len(surface.x)), surface.singular
        structure, r = own.structure, own.term.r
        if len(first) == 1:
            at = own.of_effect(first[0])
            w[p + own.place.start + at] = 1.0
            scale = HeldScale("square" if structure.squared else "linear", float(own.unit[first[0]]), 0.0)
            return Path(surface, scale, w, None, 0.0, singular)
        if first[::-1] != structure.root.pairs(r)[0] or self._vanishes((own.factor, own.term.start), first):
            return None
        w[p + own.place.start + own.first_angle] = 1.0
        others = surface.split(surface.x)[1][own.place][own.first_angle + 1 :]

        def correlation(t: float) -> float:
            return structure.reported(np.append(t, others), r)

        return Path(surface, HeldScale("angle", 1.0, *structure.root.ends, correlation), w, None, 0.0, singular)

    def natural(self, path: Path, point: PathPoint) -> dict[str, float]:
        """All natural parameters by name at a point of a path."""
        blocks, names = parameter_names(self.model)
        surface, model = path.surface, self.model
        _, own, tail = surface.split(point.x)
        values = np.empty(len(names))
        values[: len(model.names)] = model.x.outward(point.beta) + self._centre
        sigmas = {
            (c.factor, c.term.start): sigma
            for c, sigma in zip(surface.chart.terms, surface.chart.sigmas(own), strict=True)
        }
        for block in blocks:
            sigma = sigmas[block.factor, block.term.start]
            sd = np.sqrt(np.diag(sigma))
            values[block.sd] = sd[block.effects]
            if block.n_cor:
                values[block.cor] = block.between(sigma)
        k = self._n_correlations
        if k and self._residual is not None:
            at = len(names) - len(tail)
            values[at : at + k] = self._residual.correlation.natural(tail[len(tail) - k :], self._residual.size)
            tail = tail[: len(tail) - k]
        if len(tail):
            values[len(names) - len(tail) :] = self._phi(surface, point.beta, tail)
        return dict(zip(names, values.tolist(), strict=True))

    def _phi(self, surface: Surface, beta: Vec, tail: Vec) -> Vec:
        if isinstance(self.model, Model) and self._several:
            named, found = outward(self.model.parts) @ np.concatenate([beta, tail]), []
            for part in sorted(self.model.parts[1:], key=lambda part: part.constant):
                own = named[part.own]
                found.append(np.array([part.natural(float(own[0]))]) if part.basis is None else own)
            return np.concatenate(found)
        root = isinstance(surface.criterion, RowCriterion) and surface.criterion.root
        return np.array([(ROOT if root else EXPONENTIAL).natural(abs(float(tail[0])) if root else float(tail[0]))])

    def _place_of(self, parameter: str, behind: int, size: int) -> int:
        """Where a constant stands in a vector of so many coordinates, the tail of which begins `behind`."""
        part = next((one for one in self.model.parts if one.parameter == parameter), None)
        if self._several and part is not None:
            return behind + int(part.own.start) - len(self.model.x.a)
        return size - 1 - self._n_correlations

    @property
    def _several(self) -> bool:
        """Whether there is more than a constant phi beyond the mean, or another constant."""
        if not isinstance(self.model, Model):
            return False
        beyond = [part.parameter for part in self.model.parts[1:]]
        return bool(self.model.design.further) or len(beyond) > 1 or (beyond != ["phi"] and bool(beyond))

    @property
    def _residual(self) -> ResidualRows | None:
        return self.model.residual if isinstance(self.model, Model) else None

    @property
    def _n_correlations(self) -> int:
        """Parameters of the correlation of residuals, the last of the tail."""
        return len(self.model.residual_names)

    @cached_property
    def _correlated_rows(self) -> ResidualEngine | None:
        model = self.model
        return residual_engine(model) if isinstance(model, Model) and model.residual is not None else None

    @cached_property
    def _engine(self) -> ProductEngine | None:
        return product_engine(self.model) if self.model.exact else None

    @cached_property
    def _rows(self) -> RowCriterion:
        model = self.model
        assert isinstance(model, Model)
        cap = size_cap(model)
        engine = row_engine(model)
        p = len(model.x.a)
        if cap is None or self._several:
            return RowCriterion(engine, p, model.n_coefficients - p)
        return RowCriterion(engine, p, model.n_coefficients - p, root=True, cap=cap)

    def _by_rows(self, *, restricted: bool) -> RowCriterion:
        """The criterion over rows; β is integrated out, or not, whatever the model was fitted by."""
        rows = self._rows
        marginal = rows.engine.marginal
        if marginal.reml == restricted:
            return rows
        return replace(rows, engine=RowEngine(rows.engine.effects, replace(marginal, reml=restricted)))

    @cached_property
    def _centre(self) -> Vec:
        """What was taken from the coefficients with the response, in the columns of the user (p,)."""
        model = self.model
        out = np.zeros(len(model.names))
        if self._correlated_rows is not None and model.x.constant is not None:
            return self._correlated_rows.y_shift * model.x.constant
        if self._engine is not None:
            stats = self._engine.stats
            if stats.start is not None:
                out = out + model.x.outward(stats.start)
            if model.x.constant is not None:
                out = out + stats.y_shift * model.x.constant
        return out

    def _criterion(self, *, restricted: bool) -> Criterion:
        if self._correlated_rows is not None:
            rows = self._correlated_rows
            return ResidualCriterion(replace(rows, reml=restricted), rows.s + self._n_correlations)
        if self._engine is None:
            return self._by_rows(restricted=restricted)
        e = self._engine
        return ProductCriterion(e if e.reml == restricted else ProductEngine(e.effects, e.stats, restricted, e.p))

    def _correlated(self, target: Target) -> bool:
        """Whether the parameter belongs to a term with correlations, whose order matters."""
        for (factor, start), first in target.lead.items():
            t = next(t for t in self.model.effects.factors[factor].terms if t.start == start)
            return bool(STRUCTURES[t.structure].invariant and t.r > 1 and first != (0,))
        return False

    def _surface(self, lead: Lead, *, restricted: bool) -> Surface:
        key = (restricted, tuple(sorted(lead.items())))
        if key not in self._surfaces:
            self._surfaces[key] = self._settled(lead, restricted=restricted)
        return self._surfaces[key]

    def _settled(self, lead: Lead, *, restricted: bool) -> Surface:
        """The surface of a chart at its optimum, which the fit has found, or the plain chart of the same criterion."""
        model, criterion = self.model, self._criterion(restricted=restricted)
        chart = Chart.of_effects(model.effects, lead)
        scale, steps = self._sizes(criterion)
        if lead:
            base = self._surface({}, restricted=restricted)
            beta, own, tail = base.split(base.x)
            sigmas = base.chart.sigmas(own)
        else:
            beta, sigmas, tail = self._beta(criterion), self._sigmas(chart), self._tail(criterion)
        x = np.concatenate([beta, chart.of(sigmas), tail])
        constant = self._constant(restricted=restricted)
        surface = Surface(criterion, chart, self._free(chart, criterion), scale, steps, constant)
        surface.settle(x)
        return surface

    def _constant(self, *, restricted: bool) -> float:
        """What ℓ has beside the criterion: constants of the family, weights, the change of basis under REML."""
        if self._correlated_rows is not None:
            return self.model.x.log_determinant if restricted else 0.0
        if self._engine is None:
            assert isinstance(self.model, Model)
            whole = self.model.constant()
            if restricted == self.model.restricted:
                return whole
            return whole - 0.5 * len(self.model.x.a) * LOG_TWO_PI - self.model.x.log_determinant
        change = self.model.x.log_determinant if restricted else 0.0
        return 0.5 * self._engine.stats.log_weights + change

    def _beta(self, criterion: Criterion) -> Vec:
        if not criterion.n_beta:
            return np.empty(0)
        return self.model.x.inward(self.estimate.beta[self.kept])

    def _sigmas(self, chart: Chart) -> list[Mat]:
        """Natural covariance matrices of the estimate, in the order of the chart's terms."""
        out = []
        for c in chart.terms:
            f = chart.effects.factors[c.factor]
            number = [t.start for t in f.terms].index(c.term.start)
            out.append(self.estimate.factors[f.place].covariances[number])
        return out

    def _tail(self, criterion: Criterion) -> Vec:
        if not criterion.n_tail:
            return np.empty(0)
        residual, found = self._residual, self.estimate.residual
        if residual is not None and found is not None:
            return np.append(self._phi_tail(criterion), residual.correlation.working(found.values, residual.size))
        return self._phi_tail(criterion)

    def _phi_tail(self, criterion: Criterion) -> Vec:
        if isinstance(self.model, Model) and self._several:
            named = [self.estimate.beta[self.kept], *(self._named(part) for part in self.model.parts[1:])]
            return inward(self.model.parts, np.concatenate(named))[len(self.model.x.a) :]
        phi = self.estimate.phi
        assert phi is not None
        if phi == 0.0:
            msg = "This fit leaves nothing for a residual variance: its likelihood has no profile."
            raise ModelError(msg)
        if isinstance(criterion, RowCriterion) and criterion.root:
            return np.array([0.0 if np.isinf(phi) else phi**-0.5])
        return np.array([np.log(phi)])

    def _named(self, part: Part) -> Vec:
        """The coefficients of a further predictor at the estimate, a constant on the scale of its predictor."""
        if part.basis is not None:
            return self.estimate.coefficients[part.parameter]
        assert isinstance(self.model, Model)  # products have one constant
        return np.array([constant_predictor(self.model, part, self.estimate)[0]])

    def _at_limit(self, parameter: str) -> bool:
        return isinstance(self.model, Model) and self._several and at_limit(self.model, parameter, self.estimate)

    def _sizes(self, criterion: Criterion) -> tuple[float, Vec]:
        """A noticeable effect on the scale of the linear predictor, and the steps of fixed effects."""
        model = self.model
        if isinstance(criterion, ProductCriterion | ResidualCriterion):
            return float(self.estimate.phi or 1.0), np.empty(0)
        assert isinstance(model, Model)
        beta = self._beta(criterion)
        scale = bending_scale(model, beta)
        return scale, np.full(len(beta), _BETA_STEP * scale)

    def _free(self, chart: Chart, criterion: Criterion) -> BoolVec:
        """Marks on the coordinates: what the user holds stays."""
        free = np.ones(criterion.n_beta + chart.size + criterion.n_tail, dtype=bool)
        for c in chart.terms:
            f = chart.effects.factors[c.factor]
            for k, name in enumerate(c.term.labels):
                if f"sd({f.name}: {name})" in self.fixed:
                    at = c.of_effect(k) if isinstance(c, ScaledChart) else k
                    free[criterion.n_beta + c.place.start + at] = False
            if isinstance(c, ScaledChart) and any(name in self.fixed for name in c.correlations(f.name)):
                free[criterion.n_beta + c.place.start + c.first_angle : criterion.n_beta + c.place.stop] = False
        k = self._n_correlations
        if "phi" in self.fixed and criterion.n_tail == 1 + k:
            free[-1 - k] = False
        if isinstance(self.model, Model) and self._several:
            tail = criterion.n_beta + chart.size - len(self.model.x.a)
            for part in self.model.parts[1:]:
                stays = self._at_limit(part.parameter)
                free[tail + part.own.start : tail + part.own.stop] &= [
                    one not in self.fixed and not stays for one in part.labels
                ]
        if k and any(name in self.fixed for name in self.model.residual_names):
            free[len(free) - k :] = False
        return free

    def _vanishes(self, place: tuple[int, int], pair: tuple[int, ...]) -> bool:
        """Whether an effect of a pair has no variance, and the pair no correlation."""
        f = self.model.effects.factors[place[0]]
        number = [t.start for t in f.terms].index(place[1])
        return bool((np.diag(self.estimate.factors[f.place].covariances[number])[list(pair)] <= 0.0).any())


def profiles(
    design: Design | Apart, spec: ModelSpec, control: Control, asked: tuple[Estimate, Given]
) -> Profiles:
    """The profiles of the model of a design, for its estimate and what the user gave."""
    found, given = asked
    reduced = hold_fixed_effects(design, given.fixed)
    model = prepare(reduced, spec.family, spec.method, control, held=given.fixed)
    return Profiles(model, found, given.fixed, np.array([name not in given.fixed for name in design.mu.labels]))


def profiles_of_products(model: ProductModel, names: tuple[str, ...], asked: tuple[Estimate, Given]) -> Profiles:
    """The same for a model of which only cross-products are known; those of `names` that are held are in them."""
    found, given = asked
    return Profiles(model, found, given.fixed, np.array([name not in given.fixed for name in names]))
