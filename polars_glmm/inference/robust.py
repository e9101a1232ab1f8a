"""Cluster-robust (sandwich) covariances of the fixed effects, with degrees of freedom for few clusters.

With M = (Σ S_g)⁻¹, S_g = X_g'V_g⁻¹X_g and the scores s_g of the clusters (likelihood.known.clusters) the covariance is
M Σ B_g s_g s_g'B_g' M. It needs V only as a working covariance (Liang & Zeger 1986).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from polars_glmm.columns.named import columns
from polars_glmm.design.known import KnownRows, effects_elsewhere, read_known
from polars_glmm.design.records import Design, Factor
from polars_glmm.errors import ModelError, counted, enumerate_names, suggest
from polars_glmm.fitting.again import rows_of, rows_with
from polars_glmm.fitting.held import held_coefficients
from polars_glmm.frames.levels import codes_of, in_order
from polars_glmm.inference.covariance_record import CoefficientCovariance, constant_df
from polars_glmm.inference.ddf import Denominator
from polars_glmm.likelihood.held import hold_fixed_effects
from polars_glmm.likelihood.known.clusters import ClusterSums, cluster_sums, marginal_scores
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.likelihood.refits.resample import is_nested
from polars_glmm.prediction.joint import working_vcov
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Family
    from polars_glmm.likelihood.estimate import Estimate

RobustType: TypeAlias = Literal["CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3"]
TYPES: tuple[RobustType, ...] = ("CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3")
_ALONE = 1e-10
"""1 − eigenvalue of a cluster's share of the information below which it determines a direction alone."""
_AT_ONCE = 1e7
"""Numbers of an array over hypotheses and clusters."""
_RELATED = 1e-12
"""Correlation of two levels up to which they are independent: that of an inverted precision matrix is rounded."""


@dataclass(frozen=True, slots=True)
class CR:
    """Cluster-robust covariance of the fixed effects, for `vcov=`; t and F tests for few clusters go with it.

    cluster   a grouping factor of the model or a column of its data in whose groups all levels of every grouping
              factor and groups of residual= lie; None: the coarsest factor of the model; without one
              the groups of residual=, or each row
    type      B_g: "CR0" I (Liang & Zeger 1986); "CR1" √(J/(J − 1)) for J clusters; "CR1p" √(J/(J − p)) for p
              coefficients of the mean; "CR1S" that of "CR1" times √((n − 1)/(n − p)) (Stata);
              "CR2" (I − S_gM)^(−1/2), unbiased where V holds (Bell & McCaffrey 2002; the root of Kauermann & Carroll
              2001); "CR3" (I − S_gM)⁻¹, near the jackknife (Mancl & DeRouen 2001)

    Degrees of freedom are Satterthwaite's for the variance of the estimator under V (Bell & McCaffrey 2002), F tests
    approximate Hotelling's (Pustejovsky & Tipton 2018, "HTZ"). Linear models take S_g and s_g exactly, by ML and REML,
    and have none for coefficients of phi. Of others s_g is the slope of the cluster's marginal log-likelihood in all
    parameters, S_g the working one at the modes; coefficients of phi are not adjusted, and normal. Where random effects
    are on other predictors too (phi, zi) there is no S_g of the mean: CR0, CR1, CR1p and CR1S, and normal tests. Needs
    the rows. Raises ModelError for a type that is not known, crossed factors, a cluster that cuts levels apart, or
    without rows.
    """

    cluster: str | None = None
    type: RobustType = "CR2"

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            near = suggest(str(self.type), TYPES)
            msg = f"type={self.type!r} is not known.{near} Use {enumerate_names(TYPES, 'or')}."
            raise ModelError(msg)

    def covariance_of(self, fit: Answer) -> CoefficientCovariance:
        """The covariance of the kept coefficients of a fit, read off its rows once."""
        found = _FOUND.setdefault(fit, {})
        if self not in found:
            if self.type in _POWERS and _without_share(fit):
                msg = (
                    f"{self.type} adjusts a cluster by its share of the information on the mean, which a model with "
                    "random effects on other predictors does not have by itself: use 'CR0' or 'CR1'."
                )
                raise ModelError(msg)
            found[self] = _covariance(_clustered(fit, self.cluster), self.type, len(fit.estimate.beta))
        return found[self]


_POWERS: dict[str, float] = {"CR2": -0.5, "CR3": -1.0}


def _without_share(fit: Answer) -> bool:
    """Whether random effects are on predictors beyond the mean (of categories all are the mean, of a curve some)."""
    return effects_elsewhere(fit.recipe) and not fit.recipe.spec.family.unordered


_FOUND: WeakKeyDictionary[Answer, dict[CR, CoefficientCovariance]] = WeakKeyDictionary()


class _Clustered(NamedTuple):
    """Clusters in coordinates w in which M is the identity: coefficients = outward · w, of those estimated.

    influence (J, k)   what each adds to (β̂, γ̂), in w;  share (J, p, p) of the information on the mean, or None;
    outward (k, k)     times (J,): rows that are equal clusters;  free (p + s,): which coefficients are estimated
    """

    influence: Mat
    share: Cube | None
    times: Vec
    outward: Mat
    free: BoolVec
    n_obs: float


def _clustered(fit: Answer, cluster: str | None) -> _Clustered:
    e, family = fit.estimate, fit.recipe.spec.family
    if e.at_infinity is not None:
        msg = "A robust covariance needs finite estimates, and some of this fit run off to infinity (separation)."
        raise ModelError(msg)
    known, codes, times = _clusters(fit, cluster)
    free = ~held_coefficients(fit)
    p = len(e.beta)
    whole = HeldParameters.of(e, family)
    design = hold_fixed_effects(known.design, fit.call.fixed or {}, family.curve)
    assert isinstance(design, Design)  # it was read into memory
    stay, of_formulas = _beyond(e, family, free[p:])
    held = replace(whole, beta=whole.beta[free[:p]], gamma=None if whole.gamma is None else whole.gamma[stay])
    by_scores, k = not family.linear or _without_share(fit), int(free.sum())
    model = known_model(design, family, fit.control, held, fit.spec.method if by_scores else None)
    moved = np.full((len(times), k), np.nan)
    if by_scores:
        vcov, _ = working_vcov(e, family, whole, e.vcov_fixed)
        n_theta, first = len(vcov) - p - len(stay), int(free[:p].sum())
        told = np.concatenate([free[:p], np.ones(n_theta, dtype=bool), stay])
        every = marginal_scores(model, design, codes, len(times)) / times[:, None] @ vcov[np.ix_(told, told)]
        moved = np.hstack([every[:, :first], every[:, first + n_theta :][:, of_formulas[stay]]])
        if _without_share(fit):
            return _Clustered(moved, None, times, np.eye(k), free, float(e.n_obs))
    sums = cluster_sums(model, codes, len(times))
    sums = ClusterSums(sums.scores / times[:, None], sums.information / times[:, None, None], sums.outward)
    root, inverse = _roots(np.einsum("g,gij->ij", times, sums.information))
    share = np.einsum("ai,gij,bj->gab", inverse, sums.information, inverse)
    outward, own = np.eye(k), len(root)
    outward[:own, :own] = sums.outward @ root
    influence = moved
    influence[:, :own] = (
        np.linalg.solve(outward[:own, :own], moved[:, :own].T).T if by_scores else sums.scores @ inverse.T
    )
    return _Clustered(influence, share, times, outward, free, float(e.n_obs))


def _beyond(e: Estimate, family: Family, free: BoolVec) -> tuple[BoolVec, BoolVec]:
    """Of all coefficients beyond the mean, constants among them: which are not held, and which are of formulas."""
    stay: list[bool] = []
    of_formulas: list[bool] = []
    start = 0
    for one in family.parameters[1:]:
        if one.name in e.constants:
            stay.append(True)
            of_formulas.append(False)
        elif not one.optional or one.name in e.coefficients:
            size = len(e.coefficients[one.name])
            stay += free[start : start + size].tolist()
            of_formulas += [True] * size
            start += size
    return np.array(stay, dtype=np.bool_), np.array(of_formulas, dtype=np.bool_)


def _clusters(fit: Answer, cluster: str | None) -> tuple[KnownRows, IntVec, Vec]:
    """The rows of a fit, the cluster of each, and how many equal clusters each stands for."""
    factors = {factor.name: factor for factor in fit.recipe.factors}
    if cluster is None and not factors and fit.recipe.residual is None:
        known = read_known(fit.recipe, rows_of(fit, "A robust covariance"), own_levels=False)
        n, frequency = known.design.n_rows, known.design.frequency
        return known, np.arange(n), np.ones(n) if frequency is None else frequency
    if cluster is None or cluster in factors:
        known = read_known(fit.recipe, rows_of(fit, "A robust covariance"), own_levels=False)
        design = known.design
        name, codes = _of_factor(design, cluster)
    else:
        name = cluster
        rows = rows_with(fit, (cluster,), "A robust covariance")
        known = read_known(fit.recipe, rows, own_levels=False)
        used = rows[known.places].select(columns((cluster,)))
        if used.to_series().null_count():
            msg = f"cluster={cluster!r} is missing in some rows of the fit."
            raise ModelError(msg)
        codes = codes_of(used, in_order(used.unique(), (cluster,))).astype(np.intp)
    _require_nested(known.design, name, codes)
    labels, codes = np.unique(codes, return_inverse=True)
    if len(labels) < 2:
        msg = f"A robust covariance needs two clusters at least, and {name!r} has one."
        raise ModelError(msg)
    return known, codes, np.ones(len(labels))


def _of_factor(design: Design, cluster: str | None) -> tuple[str, IntVec]:
    """Name and codes of a grouping factor: the coarsest of the model, without one the groups of residual=."""
    if not design.factors:
        assert design.residual is not None  # else each row is a cluster
        return "residual=", design.residual.codes.astype(np.intp)
    name = cluster or min(design.factors, key=lambda factor: factor.n_levels).name
    factor = next(factor for factor in design.factors if factor.name == name)
    if factor.sets is not None:
        msg = (
            f"Rows are in several levels of {name!r}, which are no clusters therefore. Name a column in whose groups "
            "all levels of a row lie, CR(cluster), or use another vcov=."
        )
        raise ModelError(msg)
    return name, factor.codes.astype(np.intp)


def _require_nested(design: Design, name: str, codes: IntVec) -> None:
    if design.residual is not None and not is_nested(design.residual.codes, codes):
        msg = (
            f"residual= correlates rows of several clusters of {name!r}, so that clusters are not independent. Name a "
            "cluster that holds its groups, CR(cluster), or use another vcov=."
        )
        raise ModelError(msg)
    for factor in design.factors:
        _require_unrelated(factor, name, codes)
        rows, levels = factor.incidence
        if not is_nested(levels, codes[rows]):
            msg = (
                f"Levels of {factor.name!r} lie in several clusters of {name!r}, so that clusters are not independent. "
                "Name a cluster that holds all of them, CR(cluster), or use another vcov=."
            )
            raise ModelError(msg)


def _require_unrelated(factor: Factor, name: str, codes: IntVec) -> None:
    """Raise ModelError where known= relates levels of two clusters, which are not independent then."""
    if factor.prior is None:
        return
    met, first = np.unique(factor.codes, return_index=True)
    cluster, covariance = codes[first], factor.prior.covariance[np.ix_(met, met)]
    size = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    if (apart := (np.abs(covariance) > _RELATED * size) & (cluster[:, None] != cluster[None, :])).any():
        msg = (
            f"known= relates levels of {factor.name!r} that lie in different clusters of {name!r} "
            f"({counted(int(apart.sum()) // 2, 'pair')}), so that clusters are not independent. Name a cluster that "
            "holds all relatives, as families do, CR(cluster), or use another vcov=."
        )
        raise ModelError(msg)


def _roots(information: Mat) -> tuple[Mat, Mat]:
    """R with RR' = M, the inverse of the information (p, p), and R' (the inward map of scores)."""
    scale = np.sqrt(np.diag(information))
    low = np.linalg.cholesky(information / np.outer(scale, scale)) if len(scale) else information
    root = np.linalg.inv(low).T / scale[:, None]
    return root, root.T


def _covariance(at: _Clustered, type_: RobustType, n_mean: int) -> CoefficientCovariance:
    """From what each cluster adds; the first n_mean coefficients are of the mean."""
    p = int(at.free[:n_mean].sum()) if at.share is None else at.share.shape[1]
    j = float(at.times.sum())
    bent = None if at.share is None or type_ not in _POWERS else _powers(at.share, _POWERS[type_])
    influence = at.influence.copy()
    if bent is not None:
        influence[:, :p] = np.einsum("gab,gb->ga", bent, influence[:, :p])
    influence *= np.sqrt(_inflation(type_, j, at.n_obs, p))
    inner = (influence * at.times[:, None]).T @ influence
    free, k = at.free, len(at.free)
    matrix = np.full((k, k), np.nan)
    told, own = np.isfinite(np.diag(inner)), np.flatnonzero(free)
    places, outward = own[told], at.outward[np.ix_(told, told)]
    matrix[np.ix_(places, places)] = outward @ inner[np.ix_(told, told)] @ outward.T
    matrix[~free] = matrix[:, ~free] = 0.0  # what is held is known
    exact = bool(free.all() and told.all())
    outer, core = (at.outward, inner) if exact else (None, None)
    if at.share is None:
        return CoefficientCovariance(matrix, *constant_df(np.inf, np.inf, n_mean, k - n_mean), "normal", outer, core)
    freedom = _Freedom(at, at.share, bent)
    return CoefficientCovariance(matrix, freedom.of, freedom.each, "satterthwaite", outer, core)


def _inflation(type_: RobustType, j: float, n: float, p: int) -> float:
    """By what the sum over J clusters is multiplied for p coefficients having been estimated from n rows."""
    if type_ == "CR1p":
        if j <= p:
            msg = (
                f"CR1p divides by the number of clusters less that of coefficients, and there are {j:g} clusters for "
                f"{counted(p, 'coefficient')}. Use 'CR2', which has a factor of its own for each cluster."
            )
            raise ModelError(msg)
        return j / (j - p)
    if type_ not in ("CR1", "CR1S"):
        return 1.0
    return j / (j - 1.0) * ((n - 1.0) / (n - p) if type_ == "CR1S" else 1.0)


def _powers(share: Cube, power: float) -> Cube:
    """(I − A_g)^power; zero in directions that a cluster determines alone, where its residuals are zero too."""
    values, vectors = np.linalg.eigh(share)
    rest = 1.0 - values
    with np.errstate(divide="ignore", invalid="ignore"):
        bent = np.where(rest > _ALONE, rest**power, 0.0)
    return np.asarray((vectors * bent[:, None, :]) @ vectors.swapaxes(1, 2))


@dataclass(frozen=True, slots=True, eq=False)
class _Freedom:
    """Degrees of freedom from the moments of the estimator where V is the covariance.

    A row l has v_g = f(A_g)l, w_g = A_gv_g, and Σ (v_g's_g)² the moments of Q_gh = δ_gh v_g'A_gv_g − w_g'w_h.
    """

    at: _Clustered
    share: Cube
    bent: Cube | None

    @property
    def _p(self) -> int:
        return int(self.share.shape[1])

    def _inward(self, rows: Mat) -> tuple[Mat, BoolVec]:
        """Rows (m, p) over w, and which of them use coefficients of the mean only."""
        p, own = self._p, rows[:, self.at.free]
        return own[:, :p] @ self.at.outward[:p, :p], ~(own[:, p:] != 0.0).any(axis=1)

    def each(self, rows: Mat | None) -> Vec:
        """As CoefficientCovariance.df_each; infinite where a coefficient of phi is used."""
        rows = np.eye(len(self.at.free)) if rows is None else rows
        inward, plain = self._inward(rows)
        out = np.full(len(rows), np.inf)
        step = max(1, int(_AT_ONCE / max(self.share.shape[0] * self._p, 1)))
        for start in range(0, len(rows), step):
            some = np.arange(start, min(start + step, len(rows)))
            some = some[plain[some]]
            if len(some):
                out[some] = self._single(inward[some])
        out[~(rows[:, self.at.free] != 0.0).any(axis=1)] = np.nan
        return out

    def _single(self, rows: Mat) -> Vec:
        v, w = self._ends(rows)
        times = self.at.times[:, None]
        d, c = np.einsum("gma,gma->gm", v, w), np.einsum("gma,gma->gm", w, w)
        u = np.einsum("g,gma,gmb->mab", self.at.times, w, w)
        trace = (times * (d - c)).sum(0)
        square = (times * (d * d - 2.0 * d * c)).sum(0) + np.einsum("mab,mab->m", u, u)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(trace**2 / square)

    def _ends(self, rows: Mat) -> tuple[Cube, Cube]:
        """v and w (J, m, p)."""
        j = len(self.share)
        v = np.broadcast_to(rows, (j, *rows.shape)) if self.bent is None else np.einsum("gab,mb->gma", self.bent, rows)
        return v, np.einsum("gab,gmb->gma", self.share, v)

    def of(self, rows: Mat) -> Denominator:
        """As CoefficientCovariance.df_of: η − q + 1 for η of the matrix of q rows, F = (η − q + 1)/η · χ²/q."""
        if len(rows) == 1:
            return Denominator(float(self.each(rows)[0]))
        inward, plain = self._inward(rows)
        if not plain.all():
            return Denominator(np.inf)
        times, q = self.at.times, len(rows)
        v, w = self._ends(inward)
        d, c = np.einsum("gsa,gta->gst", v, w), np.einsum("gsa,gta->gst", w, w)
        expected = np.einsum("g,gst->st", times, d - c)
        values, vectors = np.linalg.eigh(expected)
        if not values[0] > 0.0:
            return Denominator(0.0)
        turn = vectors / np.sqrt(values) @ vectors.T
        d, c = turn @ d @ turn, turn @ c @ turn
        w = np.einsum("st,gta->gsa", turn, w)
        u = np.einsum("g,gsa,gtb->stab", times, w, w)
        ds, cs = np.einsum("gss->gs", d), np.einsum("gss->gs", c)
        first = np.einsum("g,gs,gt->st", times, ds, ds) - np.einsum("g,gs,gt->st", times, ds, cs)
        first -= np.einsum("g,gs,gt->st", times, cs, ds)
        first += np.einsum("stab,stab->st", u, u)
        second = np.einsum("g,gst->st", times, d * d.swapaxes(1, 2) - d * c.swapaxes(1, 2) - c * d.swapaxes(1, 2))
        second += np.einsum("stab,stba->st", u, u)
        eta = q * (q + 1.0) / float((first + second).sum())
        return Denominator(eta - q + 1.0, (eta - q + 1.0) / eta)
