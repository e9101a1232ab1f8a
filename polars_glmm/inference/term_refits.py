"""Tests of terms by fitting again: the likelihood ratio with and without a term, and its parametric bootstrap.

The smaller model of a hypothesis Lβ = 0 has the columns XN, N a basis of the null space of L: sums of columns of the
formula, which are columns of the frame for the refit. So types I, II and III mean what they mean for Wald tests.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import FitWarning, ModelError, enumerate_names
from polars_glmm.fitting.flow import data_of, fit_call
from polars_glmm.frames.kept import complete_rows
from polars_glmm.inference.at_zero import at_zero_notes
from polars_glmm.inference.distributions import chi2_p
from polars_glmm.inference.estimable import fixed_columns
from polars_glmm.inference.names import coefficient_names
from polars_glmm.inference.resampling import null_distribution
from polars_glmm.inference.schemas import TERMS, TERMS_BOOTSTRAP, table
from polars_glmm.inference.term_columns import TermColumns, terms_of
from polars_glmm.inference.term_hypotheses import TermType, adjusted_for_all, held_apart
from polars_glmm.prediction.effects import balanced_sum
from polars_glmm.prediction.seeds import seed_of
from polars_glmm.spec.syntax import quoted, render
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.spec.call import Call

_NAME = "__term_"
_RANK = 1e-9
_SLOW = "not_converged: a refit stopped early: the statistic is not exact."


class NestedPair(NamedTuple):
    """Two nested models of one term as bases of their fixed columns, (k, larger) and (k, smaller)."""

    term: TermColumns
    larger: Mat
    smaller: Mat
    determined: bool
    predictors: int = 1

    @property
    def df(self) -> int:
        """Coefficients that only the larger model has, in all predictors that have its columns."""
        return self.predictors * int(self.larger.shape[1] - self.smaller.shape[1])


def pairs(fit: Answer, kind: TermType) -> list[NestedPair]:
    """The models to compare for each term of mu but the intercept."""
    columns, terms = fixed_columns(fit, "mu"), terms_of(fit, "mu")
    kept = np.flatnonzero(columns.kept)
    whole = np.eye(len(kept))
    found: list[NestedPair] = []

    def of(some: list[TermColumns]) -> Mat:
        places = [place for term in some for place in term.places]
        return whole[:, np.isin(kept, places)]

    if kind == 3:
        hypotheses = adjusted_for_all(terms, columns, fit.recipe.categoricals)
        found += [NestedPair(one.term, whole, null_space(one.rows), one.determined) for one in hypotheses]
    for k, term in enumerate(terms):
        if kind == 1:
            found.append(NestedPair(term, of(list(terms[: k + 1])), of(list(terms[:k])), determined=True))
        elif kind == 2:
            others = [one for one in terms if not one.key >= term.key]
            with_term = [one for one in terms if one is term or one in others]
            found.append(NestedPair(term, of(with_term), of(others), held_apart(term, terms, columns)))
    alike = len(fit.recipe.predictors) if fit.recipe.spec.family.unordered else 1
    return [pair._replace(predictors=alike) for pair in found if pair.term.name != "Intercept"]


def null_space(rows: Mat) -> Mat:
    """A basis (k, k − rank) of the coefficients with rows · β = 0; coefficients that no row uses stay themselves."""
    k = rows.shape[1]
    used = np.flatnonzero(rows.any(axis=0))
    free = np.setdiff1d(np.arange(k), used)
    own = np.zeros((k, 0))
    if len(used):
        _, sizes, right = np.linalg.svd(rows[:, used])
        rank = int((sizes > _RANK * sizes[0]).sum())
        own = np.zeros((k, len(used) - rank))
        own[used] = right[rank:].T
    return np.hstack([np.eye(k)[:, free], own])


class Refits:
    """Models with other fixed columns on the rows of a fit, each fitted once."""

    def __init__(self, fit: Answer) -> None:
        self.fit = fit
        self.frame = _rows_of(fit)
        self._known: dict[bytes, Answer] = {}

    def call(self, basis: Mat) -> Call:
        """The call for the columns that `with_columns` adds."""
        spec = self.fit.spec
        mu = spec.mu
        constant = self._constant(basis)
        parts = ["1" if constant is not None else "0"]
        parts += [quoted(f"{_NAME}{j}") for j in range(basis.shape[1]) if j != constant]
        parts += [term.text for term in mu.random]
        parts += [f"offset({render(one, top=False)})" for one in mu.offsets]
        formula = f"{spec.response.text} ~ {' + '.join(parts)}"
        method = "ml" if self.fit.method == "reml" else spec.method
        formulas = (formula, *spec.formulas[1:])
        return replace(self.fit.call, formulas=formulas, groups=None, method=method, frequency=None, start=None)

    def with_columns(self, basis: Mat) -> pl.DataFrame:
        """The rows with the columns of a basis."""
        recipe = self.fit.recipe.predictor("mu")
        nodes = [one.node for one, kept in zip(recipe.columns, recipe.kept, strict=True) if kept]
        constant = self._constant(basis)
        made = []
        for j, weights in enumerate(basis.T):
            if j != constant:
                used = np.flatnonzero(weights)
                terms = [nodes[k].to_expr() * float(weights[k]) for k in used]
                made.append(balanced_sum(terms).alias(f"{_NAME}{j}"))
        return self.frame.with_columns(made)

    def _constant(self, basis: Mat) -> int | None:
        """The column that is the intercept alone."""
        recipe = self.fit.recipe.predictor("mu")
        names = [one.name for one, kept in zip(recipe.columns, recipe.kept, strict=True) if kept]
        if "Intercept" not in names:
            return None
        own = names.index("Intercept")
        alone = (basis != 0.0).sum(axis=0) == 1
        found = np.flatnonzero(alone & (basis[own] != 0.0))
        return int(found[0]) if len(found) else None

    def of(self, basis: Mat) -> Answer:
        """The fit of one model, by maximum likelihood."""
        key = basis.tobytes() + bytes(basis.shape[1])
        if key not in self._known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                frame = self.with_columns(basis)
                self._known[key] = fit_call(frame, self.call(basis), self.fit.control, warn=False)
        return self._known[key]

    def simulated(self, pair: NestedPair, n: int, rng: np.random.Generator) -> Vec:
        """Likelihood ratios (n,) of responses drawn from the smaller model; NaN where a refit failed."""
        return null_distribution(self.of(pair.smaller), self.of(pair.larger), n, rng).statistics


def _rows_of(fit: Answer) -> pl.DataFrame:
    """The rows of a fit that it used. Raises ModelError where it holds fixed effects, or keeps no rows."""
    held = set(fit.call.fixed or {}) & set(coefficient_names(fit))
    if held:
        msg = f"method='lrt' and 'bootstrap' fit again, and this fit holds {enumerate_names(sorted(held))}: use 'wald'."
        raise ModelError(msg)
    return complete_rows(data_of(fit), fit.spec.columns(), fit.kept, fit.spec.frequency, fit.spec.gaps)


def likelihood_ratio_tests(fit: Answer, kind: TermType) -> pl.DataFrame:
    """One row per term of mu: χ² = 2(ℓ₁ − ℓ₀), every model fitted by maximum likelihood."""
    rows = [{**row, "distribution": "chi2"} for _, _, row in _compared(fit, kind)]
    for row in rows:
        if row["statistic"] is not None:
            row["p_value"] = chi2_p(row["statistic"], row["num_df"])
        else:
            row["distribution"] = row["df_method"] = None
    return table(TERMS, {name: [row.get(name) for row in rows] for name in TERMS})


def bootstrap_tests(fit: Answer, kind: TermType, n: int, rng: np.random.Generator | int | None) -> pl.DataFrame:
    """The same with p-values from data simulated under the smaller model: (1 + #{larger statistics})/(1 + n).

    Halekoh & Højsgaard (2014), §5. Refits that fail count in neither number, and are said to have failed.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        msg = f"n={n!r}: the number of simulated data sets is a whole number of at least 1."
        raise ModelError(msg)
    seed = None if isinstance(rng, np.random.Generator) else seed_of(rng)
    rows = []
    for k, (refits, pair, row) in enumerate(_compared(fit, kind)):
        failed = None
        if row["statistic"] is not None:
            own = rng if isinstance(rng, np.random.Generator) else np.random.default_rng([k, int(seed or 0)])
            drawn = refits.simulated(pair, n, own)
            fine = drawn[np.isfinite(drawn)]
            failed = n - len(fine)
            row["p_value"] = float((1 + (fine >= row["statistic"] - 1e-9).sum()) / (1 + len(fine)))
        drawn_row = {"distribution": "bootstrap", "df_method": "bootstrap", "n_draws": n, "n_failed": failed}
        empty = dict.fromkeys(("distribution", "df_method", "n_draws"), None)
        rows.append({**row, **(drawn_row if failed is not None else empty), "seed": seed})
    return table(TERMS_BOOTSTRAP, {name: [row.get(name) for row in rows] for name in TERMS_BOOTSTRAP})


def _compared(fit: Answer, kind: TermType) -> Iterator[tuple[Refits, NestedPair, dict[str, Any]]]:
    """Every term with its two models and what their likelihoods say."""
    found = pairs(fit, kind)
    refits = Refits(fit)
    at_zero = at_zero_notes(fit, fit.recipe.predictor("mu")) if kind == 3 else {}
    for pair in found:
        row: dict[str, Any] = {
            "parameter": None if fit.recipe.spec.family.unordered else "mu", "term": pair.term.name, "type": kind,
            "num_df": pair.df or None, "statistic": None, "df_method": "lrt", "note": None,
        }  # fmt: skip
        if not pair.df:
            row["note"] = "columns_dropped: all columns of the term are determined by those before."
        elif not pair.determined:
            row["note"] = "not_estimable: columns were dropped, so this term cannot be told from the others."
        else:
            large, small = refits.of(pair.larger), refits.of(pair.smaller)
            row["statistic"] = max(2.0 * (large.loglik - small.loglik), 0.0)
            row["note"] = at_zero.get(pair.term.name) if large.converged and small.converged else _SLOW
        yield refits, pair, row
