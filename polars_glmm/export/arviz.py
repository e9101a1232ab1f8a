"""Draws of `posterior` for ArviZ: summaries, pictures and diagnostics of Bayesians."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.export.foreign_package import package
from polars_glmm.inference.natural import naturals
from polars_glmm.inference.posterior import joint_draws
from polars_glmm.inference.ranef import level_labels
from polars_glmm.inference.resampling import checked_seed

_NEW = "arviz_base"


def to_arviz(fit: Answer, n: int = 4000, rng: np.random.Generator | int | None = None) -> Any:
    """A posterior of one chain: an xarray DataTree with ArviZ 1, InferenceData with ArviZ 0.

    Parameters are called as in `objective` ("Days", "sd(Subject: Days)", "phi"), effects "Subject: Days" with the
    dimension "Subject", whose coordinates are the levels as text. Raises ModelError as `posterior`.
    """
    library = package((_NEW, "arviz"), "to_arviz()", "bayes")
    seed = checked_seed(n, rng)
    found = joint_draws(fit, seed, range(n), effects=True)
    names = [one.name for one in naturals(fit) if one.estimate is not None]
    posterior: dict[str, Any] = {name: found.values[None, :, k] for k, name in enumerate(names)}
    coords: dict[str, Any] = {}
    dims: dict[str, list[str]] = {}
    for factor, estimate, effects in zip(fit.recipe.factors, fit.estimate.factors, found.effects, strict=True):
        coords[factor.name] = level_labels(factor).cast(pl.String).to_list()
        for k, label in enumerate(estimate.labels):
            name = f"{factor.name}: {label}"
            posterior[name], dims[name] = effects[None, :, k], [factor.name]
    if library.__name__ == _NEW:
        return library.from_dict({"posterior": posterior}, coords=coords, dims=dims)
    return library.from_dict(posterior=posterior, coords=coords, dims=dims)
