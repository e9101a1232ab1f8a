"""Parameters that the user gives: values to start from, and values to hold.

Held fixed effects leave the design as an offset; held standard deviations and phi stay out of the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES, Structure
from polars_glmm.errors import ModelError, brief, enumerate_names, suggest
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.parameters.names import Parametrised, TermPlace, parameter_names
from polars_glmm.likelihood.parameters.thresholds import Thresholds, place_thresholds
from polars_glmm.typing import BoolVec, Mat, Vec


class OfFit(dict[str, float]):
    """Natural parameters of another fit: those that the model has are a start, the others are left alone."""


@dataclass(frozen=True, slots=True)
class Given:
    """Natural parameters by name: where to start, what to hold. Raises ModelError for what is no number by its name."""

    start: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for argument, values in (("start", self.start), ("fixed", self.fixed)):
            if not isinstance(values, Mapping):
                msg = f"{argument}= takes values by name such as {{'Intercept': 1.0}}, not a {type(values).__name__}."
                raise ModelError(msg)
            for name, value in values.items():
                if not isinstance(value, Real):
                    msg = f"The value given for {name!r} is {brief(repr(value))}; it must be a number."
                    raise ModelError(msg)

    @property
    def asked(self) -> dict[str, float]:
        """Both together; what is held counts."""
        return {**self.start, **self.fixed}


NOTHING = Given()


class Placed(NamedTuple):
    """Values for the search vector [β_c, θ], NaN where not given; held marks those that stay."""

    values: Vec
    held: BoolVec


def of_estimate(names: Sequence[str], estimate: Estimate) -> OfFit:
    """The natural parameters of an estimate by name; `names` are those of beta, or of beta and gamma.

    A term with a standard deviation of 0 is left out: there the likelihood has no slope to leave by.
    """
    values = np.concatenate([estimate.beta, estimate.gamma])[: len(names)]
    found = OfFit(zip(names, values.tolist(), strict=True))
    for factor in estimate.factors:
        start = 0
        for sigma in factor.covariances:
            sd = np.sqrt(np.diag(sigma))
            own = factor.labels[start : start + len(sd)]
            if bool((sd > 0).all()):
                found |= {f"sd({factor.name}: {name})": float(one) for name, one in zip(own, sd, strict=True)}
            start += len(sd)
    if estimate.residual is not None:
        found |= zip(estimate.residual.names, estimate.residual.values.tolist(), strict=True)
    found |= {name: float(value) for name, value in estimate.constants.items() if 0 < value < np.inf}
    return OfFit(found)


def meant(model: Parametrised, given: Given) -> Given:
    """What is given, of another fit only what this model can start from: all fixed effects and whole terms.

    Raises ModelError where the fit and the model have nothing in common.
    """
    if not isinstance(given.start, OfFit):
        return given
    blocks, names = parameter_names(model)
    asked = {name: value for name, value in given.start.items() if name in names and np.isfinite(value)}
    if not asked:
        msg = f"start= is a fit that shares no parameter with this model, which has {', '.join(names)}."
        raise ModelError(msg)
    whole = [*(part.labels for part in model.parts), model.residual_names, *(names[b.sd] for b in blocks)]
    for group in whole:
        if not all(name in asked or name in given.fixed for name in group):
            asked = {name: value for name, value in asked.items() if name not in group}
    return replace(given, start=asked)


def spelled_out(model: Parametrised, given: Given) -> Given:
    """A value of a whole parameter of a curve, start={"Asym": 200}, as that of its coefficients: the same in all rows.

    What is held is spelled out before the design is (`held.of_levels`). Raises ModelError for a parameter that no
    coefficients make constant.
    """
    start = dict(given.start)
    for part in model.parts:
        if part.basis is None or part.parameter not in start or part.parameter in part.labels:
            continue
        constant = part.basis.constant
        if constant is None:
            names = enumerate_names(part.labels)
            msg = f"{part.parameter!r} has no single value: give its coefficients, {names}."
            raise ModelError(msg)
        start.update(zip(part.labels, (constant * start.pop(part.parameter)).tolist(), strict=True))
    return replace(given, start=start) if not isinstance(given.start, OfFit) else given


def check_names(model: Parametrised, given: Given, known: tuple[str, ...] = ()) -> None:
    """Raise ModelError for names that are no parameters, and for what cannot be held."""
    if not given.start and not given.fixed:
        return
    _, names = parameter_names(model)
    for name, value in [*given.start.items(), *given.fixed.items()]:
        if name not in names and name not in known:
            near = suggest(name, [*names, *known])
            there = enumerate_names(names)
            msg = f"There is no parameter {name!r} to start from or to hold.{near} Parameters: {there}."
            raise ModelError(msg)
        if not np.isfinite(value):
            msg = f"The value given for {name!r} is {value}; it must be finite."
            raise ModelError(msg)
        if (name == "phi" or name.startswith("sd(")) and (value < 0 or (name == "phi" and value == 0)):
            msg = f"The value given for {name!r} is {value}; it must be positive."
            raise ModelError(msg)
        if name.startswith("range(") and value <= 0:
            msg = f"The value given for {name!r} is {value}; a range is positive."
            raise ModelError(msg)
        _check_constant(model, name, value)
        of_residuals = name in model.residual_names and not name.startswith("range")
        if (name.startswith("cor(") or of_residuals) and not -1.0 < value < 1.0:
            msg = f"The value given for {name!r} is {value}; a correlation lies between −1 and 1."
            raise ModelError(msg)


def _check_constant(model: Parametrised, name: str, value: float) -> None:
    """Raise ModelError for a value that a constant parameter cannot have."""
    part = next((one for one in model.parts if one.constant and one.parameter == name), None)
    if part is not None:
        with np.errstate(all="ignore"):
            at = part.predictor(value)
        if not np.isfinite(at):
            msg = f"The value given for {name!r} is {value}, which is outside its range."
            raise ModelError(msg)


def place(model: Parametrised, given: Given) -> Placed:
    """Given values in the search vector of a model over rows."""
    p = model.parts[-1].own.stop
    size = p + model.effects.n_theta
    values, held = np.full(size, np.nan), np.zeros(size, dtype=bool)
    blocks, names = parameter_names(model)
    asked = given.asked
    for part in model.parts:
        if part.basis is None:
            if part.parameter in asked:
                values[part.own] = part.predictor(asked[part.parameter])
                held[part.own] = part.parameter in given.fixed
            continue
        own = part.labels
        there = [name for name in own if name in asked]
        if isinstance(part.basis, Thresholds):
            place_thresholds(part, model.parts[0], given.asked, given.fixed, values, held)
        elif there:
            if len(there) < len(own):
                lacking = next(name for name in own if name not in asked)
                of = part.parameter
                msg = f"start= has {there[0]!r} but not {lacking!r}: give all fixed effects of {of}, or none."
                raise ModelError(msg)
            values[part.own] = part.basis.inward(np.array([asked[name] for name in own]))
    for block in blocks:
        _place_block(model, block, names, given, values[p:], held[p:])
    return Placed(values, held)


def _place_block(
    model: Parametrised,
    block: TermPlace,
    names: tuple[str, ...],
    given: Given,
    values: Vec,
    held: BoolVec,
) -> None:
    """Standard deviations and correlations of one term as entries of its working Λ; without a value these are zero."""
    t = block.term
    own, pairs = list(names[block.sd]), list(names[block.cor])
    asked = given.asked
    named = [name for name in (*own, *pairs) if name in asked]
    if not named:
        return
    structure = STRUCTURES[t.structure]
    if isinstance(structure, Scaled):
        unit = np.diag(model.effects.factors[block.factor].outward)[t.start : t.stop]
        placed = _place_scaled(structure, t.r, (tuple(own), tuple(pairs)), given, unit)
        values[t.theta], held[t.theta] = placed
        return
    free = [name for name in (*own, *pairs) if name not in given.fixed]
    if pairs and 0 < len(free) < len(own) + len(pairs):
        msg = (
            f"fixed= holds part of a term with correlations: {free[0]!r} is free. Hold all standard deviations and "
            f"correlations of the term, or write it with || or diag()."
        )
        raise ModelError(msg)
    lacking = [name for name in own if name not in asked]
    if lacking and STRUCTURES[t.structure].correlated:
        msg = f"start= has {named[0]!r} but not {lacking[0]!r}: give all standard deviations of a term, or none."
        raise ModelError(msg)
    outward = model.effects.factors[block.factor].outward[t.start : t.stop, t.start : t.stop]
    sd = np.array([asked.get(name, np.nan) for name in own])
    if structure.rank(t.r) < t.r:
        working = _of_rank(structure, sd, [asked.get(name, 0.0) for name in pairs], outward, own)
    elif structure.correlated:
        root = sd[:, None] * _correlation_root([asked.get(name, 0.0) for name in pairs], t.r, own)
        working = np.asarray(np.linalg.qr(np.linalg.solve(outward, root).T, mode="r")).T
        working = working * np.where(np.diag(working) < 0, -1.0, 1.0)
    else:
        working = np.diag(sd / np.diag(outward))
    values[t.theta] = working[STRUCTURES[t.structure].entries(t.r)]
    if t.r == 1 or not STRUCTURES[t.structure].correlated:
        held[t.theta] = [name in given.fixed for name in own]
    elif not free:
        held[t.theta] = True


def _of_rank(structure: Structure, sd: Vec, pairs: Sequence[float], outward: Mat, names: Sequence[str]) -> Mat:
    """The working factor of a structure of lower rank, from natural standard deviations and correlations."""
    r = len(sd)
    sigma = np.eye(r)
    rows, columns = np.tril_indices(r, -1)
    sigma[rows, columns] = sigma[columns, rows] = pairs
    back = np.linalg.inv(outward) * sd
    sigma = back @ sigma @ back.T
    factor = structure.factor(structure.of(sigma), r)
    if np.abs(factor @ factor.T - sigma).max() > 1e-6 * np.abs(sigma).max():
        msg = f"The correlations given for {names[0]!r} and its neighbours do not make a matrix {structure.words}."
        raise ModelError(msg)
    return factor


def _place_scaled(
    structure: Scaled, r: int, names: tuple[tuple[str, ...], tuple[str, ...]], given: Given, unit: Vec
) -> Placed:
    """The same for a structure whose parameters they are: each stands by itself, but for the correlations of several
    angles, which stand together; unit (r,) natural size of an effect per unit of the linear predictor.
    """
    (own, pairs), asked, k = names, given.asked, len(names[0])
    values, held = np.full(structure.size(r), np.nan), np.zeros(structure.size(r), dtype=bool)
    values[:k] = structure.roots(np.array([asked.get(name, np.nan) for name in own]) / unit[:k])
    held[:k] = [name in given.fixed for name in own]
    if not any(name in asked for name in pairs):
        return Placed(values, held)
    holds = [name in given.fixed for name in pairs]
    if any(holds) and not all(holds):
        msg = f"fixed= holds {pairs[holds.index(True)]!r} but not {pairs[holds.index(False)]!r}: hold all or none."
        raise ModelError(msg)
    angles = structure.natural(np.empty(0), np.array([asked.get(name, 0.0) for name in pairs]), r)
    if np.isnan(angles).any():
        msg = f"The correlations given for {pairs[0]!r} and its neighbours do not make a matrix of {structure.name}()."
        raise ModelError(msg)
    values[k:], held[k:] = angles, all(holds)
    return Placed(values, held)


def _correlation_root(values: Sequence[float], r: int, names: Sequence[str]) -> Mat:
    """Lower triangular root of the correlation matrix below whose diagonal `values` stand row by row."""
    correlation = np.eye(r)
    rows, columns = np.tril_indices(r, -1)
    correlation[rows, columns] = correlation[columns, rows] = values
    try:
        return np.asarray(np.linalg.cholesky(correlation), dtype=np.float64)
    except np.linalg.LinAlgError:
        msg = f"The correlations given for {names[0]!r} and its neighbours do not make a covariance matrix."
        raise ModelError(msg) from None














