"""Formulas with fewer terms than a model has: its null model, and the model without one random term."""

from __future__ import annotations

from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import render


def null_formulas(spec: ModelSpec) -> tuple[str, ...]:
    """The formulas with an intercept alone in the mean; offsets, random effects and other predictors stay."""
    random = [term.text for term in spec.mu.random]
    return f"{spec.response.text} ~ {' + '.join(['1', *_offsets(spec), *random])}", *spec.formulas[1:]


def without_term(spec: ModelSpec, number: int) -> tuple[str, ...]:
    """The formulas without the random term of that number."""
    fixed = [term.written for term in spec.mu.fixed if term.factors]
    fixed = [*(["1"] if any(not term.factors for term in spec.mu.fixed) else ["0"]), *fixed]
    random = [term.text for k, term in enumerate(spec.mu.random) if k != number]
    return f"{spec.response.text} ~ {' + '.join([*fixed, *_offsets(spec), *random])}", *spec.formulas[1:]


def _offsets(spec: ModelSpec) -> list[str]:
    return [f"offset({render(one, top=False)})" for one in spec.mu.offsets]
