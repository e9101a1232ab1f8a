"""Power by simulation: responses of stated parameters, fitted with and without the effect that is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import betaincinv, chdtri

from polars_glmm import progress
from polars_glmm.design.learn import Learned, learn
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.inference.resampling import checked_seed
from polars_glmm.likelihood.given import OfFit
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.parameters.names import parameter_names
from polars_glmm.likelihood.refits.law import Law, law_of_parameters
from polars_glmm.likelihood.refits.refit import RefitQuestion, Refitted, refit_responses
from polars_glmm.likelihood.refits.resample import with_levels
from polars_glmm.spec.method import ML

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.design.records import Design
    from polars_glmm.spec.call import Call
    from polars_glmm.typing import BoolVec

COLUMNS = (
    "test", "effect", "n", "rejected", "power", "conf_low", "conf_high", "failed", "singular", "type_s", "type_m",
    "seconds", "seed",
)  # fmt: skip


class PowerQuestion(NamedTuple):
    """What is tested (names of fixed effects of mu), at which level, by how many draws, on which numbers of levels."""

    test: tuple[str, ...]
    n: int = 1000
    alpha: float = 0.05
    vary: tuple[str, tuple[int, ...]] | None = None
    rng: np.random.Generator | int | None = None


def power_table(
    frame: pl.DataFrame, call: Call, control: Control, parameters: Mapping[str, float], asked: PowerQuestion
) -> pl.DataFrame:
    """A row per number of levels: the share of likelihood-ratio tests that reject, with its Clopper–Pearson interval.

    type_s, type_m   of a single coefficient, among rejections: share of the wrong sign, mean |estimate|/|effect|
                     (Gelman & Carlin 2014)
    A refit that fails does not reject, and is counted.
    """
    seed = checked_seed(asked.n, asked.rng)
    if not 0.0 < asked.alpha < 1.0:
        msg = f"alpha={asked.alpha!r}: a level of a test lies between 0 and 1."
        raise ModelError(msg)
    learned = _learned(frame, call)
    design, spec = learned.design, learned.recipe.spec
    if spec.family.linear and len(spec.predictors) == 1:
        spec = replace(spec, method=ML())
    _, names = parameter_names(prepare(design, spec.family, spec.method, control))
    values = _values(parameters, names)
    start = {name: value for name, value in values.items() if value > 0.0 or name in design.mu.names}
    question = RefitQuestion(spec, control, {}, OfFit({k: v for k, v in start.items() if not k.startswith("cor(")}))
    dropped = _tested(asked.test, design.mu.names)
    rows = []
    sizes: Sequence[int | None] = [None] if asked.vary is None else asked.vary[1]
    with progress.listening(control.progress):
        for size in sizes:
            own = design if size is None or asked.vary is None else with_levels(design, asked.vary[0], size)
            row = _row(question, own, law_of_parameters(own, spec.family, values), dropped, asked, seed)
            rows.append(({} if asked.vary is None else {asked.vary[0]: size}) | row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _row(
    question: RefitQuestion, design: Design, law: Law, dropped: BoolVec, asked: PowerQuestion, seed: int
) -> dict[str, Any]:
    began = perf_counter()
    kept = [k for k, gone in enumerate(dropped) if not gone]
    mu = replace(design.mu, x=np.ascontiguousarray(design.mu.x[kept]), names=tuple(design.mu.names[k] for k in kept))
    full, null = (refit_responses(question, one, law, seed, range(asked.n)) for one in (design, replace(design, mu=mu)))
    statistic = 2.0 * (full.loglik - null.loglik)
    failed = ~np.isfinite(statistic)
    reject = ~failed & (statistic > chdtri(int(dropped.sum()), asked.alpha))
    k, n = int(reject.sum()), asked.n
    effect, sign, exaggerated = _errors(full, law, dropped, reject)
    return {
        "test": ", ".join(asked.test),
        "effect": effect,
        "n": n,
        "rejected": k,
        "power": k / n,
        "conf_low": float(betaincinv(k, n - k + 1, 0.025)) if k else 0.0,
        "conf_high": float(betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0,
        "failed": int(failed.sum()),
        "singular": sum(status == "singular" for status in full.status),
        "type_s": sign,
        "type_m": exaggerated,
        "seconds": perf_counter() - began,
        "seed": seed,
    }


def _errors(
    full: Refitted, law: Law, dropped: BoolVec, reject: BoolVec
) -> tuple[float | None, float | None, float | None]:
    """The effect of a single coefficient, and its errors of sign and size among the rejections."""
    if dropped.sum() != 1 or not full.values.shape[1]:
        return None, None, None
    place = int(np.flatnonzero(dropped)[0])
    effect = float(law.beta[place])
    found = full.values[reject, place]
    if effect == 0.0 or not len(found):
        return effect, None, None
    return effect, float((found * effect < 0.0).mean()), float(np.abs(found / effect).mean())


def _learned(frame: pl.DataFrame, call: Call) -> Learned:
    """The design of a frame, which need not have the response yet."""
    spec = call.spec().resolve(frozenset(frame.columns))
    if spec.family.unordered:
        msg = "power() is not for unordered categories: simulate() from a fit draws responses to be fitted again."
        raise ModelError(msg)
    missing = [name for name in spec.response.columns() if name not in frame.columns]
    return learn(call.spec(), frame.with_columns(pl.lit(1.0).alias(name) for name in missing), missing=call.missing)


def _values(parameters: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """A value for every parameter; correlations may be left out and are 0 then."""
    for name in parameters:
        if name not in names:
            msg = f"There is no parameter {name!r}.{suggest(name, names)} The model has {enumerate_names(names)}."
            raise ModelError(msg)
    lacking = [name for name in names if name not in parameters and not name.startswith("cor(")]
    if lacking:
        msg = f"Parameters without a value: {enumerate_names(lacking)}."
        raise ModelError(msg)
    return {name: float(parameters.get(name, 0.0)) for name in names}


def _tested(test: Sequence[str], names: Sequence[str]) -> BoolVec:
    for name in test:
        if name not in names:
            msg = f"test={name!r} names no fixed effect.{suggest(name, names)} There are {enumerate_names(names)}."
            raise ModelError(msg)
    if not test:
        msg = "test= names the fixed effects whose power is asked for."
        raise ModelError(msg)
    return np.array([name in test for name in names])
