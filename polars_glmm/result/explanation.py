"""What a fit would do, without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.design.learn import learn
from polars_glmm.inference.schemas import Schema, table

if TYPE_CHECKING:
    from polars_glmm.design.records import Design, Factor
    from polars_glmm.notes import Note
    from polars_glmm.result.call import Call
    from polars_glmm.spec.model import ModelSpec

EXPLANATION: Schema = {"part": pl.String(), "name": pl.String(), "columns": pl.List(pl.String()), "size": pl.Int64()}
DENSE_COMFORT = 5_000
"""Levels left to a dense factorisation that are still comfortable."""


METHODS = {
    "reml": "REML",
    "ml": "maximum likelihood",
    "laplace": "Laplace approximation",
    "agq": "adaptive quadrature",
}


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """The plan of a fit.

    text   for reading
    frame  part ("rows", "dropped", "fixed", "random", "route"), name, columns, size
    notes  what the data already give reason to say
    """

    text: str
    frame: pl.DataFrame
    notes: tuple[Note, ...]

    def __repr__(self) -> str:
        return self.text


def explain_call(frame: pl.DataFrame | pl.LazyFrame, call: Call) -> Explanation:
    """Read the data once, learn levels and constants, and say what the likelihood will be made of."""
    learned = learn(call.spec(), frame, missing=call.missing)
    design, spec = learned.design, learned.recipe.spec
    way = route(spec, design)
    predictors = [("mu", design.mu)] + ([("phi", design.phi)] if design.phi is not None else [])
    rows: list[tuple[str, str, list[str], int]] = [
        ("rows", "used", [], design.n_rows),
        ("rows", "dropped", [], learned.n_dropped),
        *(("fixed", parameter, list(predictor.names), len(predictor.names)) for parameter, predictor in predictors),
        *(("random", f.name, _names(f), f.n_levels) for f in design.factors),
        ("route", way, [], design.n_obs),
    ]
    lines = [
        f"{spec.formula}",
        f"{spec.family.name} ({spec.family.link.name} link), {way}",
        f"{design.n_rows} rows used, {learned.n_dropped} dropped",
        *(f"fixed effects of {name}: {', '.join(p.names) or 'none'}" for name, p in predictors),
        *(f"random effects on {f.name}: {', '.join(_names(f))} ({f.n_levels} levels)" for f in design.factors),
        *(f"note: {note.text}" for note in learned.notes),
    ]  # fmt: skip
    columns = {name: [row[k] for row in rows] for k, name in enumerate(EXPLANATION)}
    return Explanation("\n".join(lines), table(EXPLANATION, columns), learned.notes)


def _names(factor: Factor) -> list[str]:
    """Names of all random-effect columns of a factor."""
    return [name for term in factor.terms for name in term.names]


def route(spec: ModelSpec, design: Design) -> str:
    """The way to the likelihood, in words."""
    exact = spec.family.name == "gaussian" and spec.family.link.name == "identity" and design.phi is None
    method = METHODS[spec.method.name]
    if not design.factors:
        return f"{method}, least squares" if exact else "maximum likelihood, no random effects"
    if exact:
        return f"{method} from cross-products: rows are read once"
    if len(design.factors) == 1:
        return f"{method}, one factor: its levels are solved independently"
    rest = sum(factor.n_levels * len(factor.z) for factor in sorted(design.factors, key=lambda f: -f.n_levels)[1:])
    size = "" if rest <= DENSE_COMFORT else f", up to {rest} unknowns left to a dense factor"
    return f"{method}, {len(design.factors)} factors: the largest is eliminated level by level{size}"
