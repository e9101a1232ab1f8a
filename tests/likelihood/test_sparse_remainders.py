"""Nearly nested factors, and crossing within sites: the same fit whichever way the remainder is factorised."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.linalg import stages
from polars_glmm.linalg.crossed_lead import CrossedLead
from polars_glmm.linalg.elimination import eliminator
from polars_glmm.linalg.pattern import find_pattern
from polars_glmm.linalg.remainder import BlockRemainder, Remainder
from polars_glmm.linalg.stages import StagedRemainder


def school_years(seed: int = 3) -> pl.DataFrame:
    """Pupils seen three times, in classes, in schools; some change class, a few to another school."""
    rng = np.random.default_rng(seed)
    schools, classes, pupils = 12, 5, 8
    home = np.repeat(np.arange(schools * classes), pupils)
    pupil = np.repeat(np.arange(len(home)), 3)
    at = home[pupil]
    moves = (np.arange(len(at)) % 3 == 2) & (rng.random(len(home)) < 0.1)[pupil]
    at[moves] = rng.integers(0, schools * classes, moves.sum())
    x = rng.normal(size=len(at))
    eta = 0.2 + 0.4 * x + 0.7 * rng.normal(size=len(home))[pupil] + 0.5 * rng.normal(size=schools * classes)[at]
    eta += 0.4 * rng.normal(size=schools)[at // classes] + 0.3 * x * rng.normal(size=schools * classes)[at]
    return pl.DataFrame(
        {
            "z": eta + rng.normal(size=len(at)), "n": rng.poisson(np.exp(eta)), "x": x, "pupil": pupil, "class": at,
            "school": at // classes,
        }
    )  # fmt: skip


def sites(seed: int = 4) -> pl.DataFrame:
    """Raters and items crossed within sites."""
    rng = np.random.default_rng(seed)
    n, k = 2000, 12
    site = rng.integers(0, k, n)
    rater, item = site * 9 + rng.integers(0, 9, n), site * 7 + rng.integers(0, 7, n)
    x = rng.normal(size=n)
    eta = 0.2 + 0.4 * x + 0.7 * rng.normal(size=9 * k)[rater] + 0.5 * rng.normal(size=7 * k)[item]
    eta += 0.4 * x * rng.normal(size=9 * k)[rater] + 0.6 * rng.normal(size=k)[site]
    z, counts = eta + rng.normal(size=n), rng.poisson(np.exp(eta))
    return pl.DataFrame({"z": z, "n": counts, "x": x, "rater": rater, "item": item, "site": site})


CASES = {
    "movers": (school_years(), "x + (1 | pupil) + (1 | class) + (1 | school)"),
    "movers, slopes": (school_years(), "x + (1 | pupil) + (x | class)"),
    "sites": (sites(), "x + (1 | rater) + (1 | item)"),
    "sites, slopes": (sites(), "x + (x | rater) + (1 | item) + (1 | site)"),
}


def remainder_is(made: Callable[[CrossedLead], Remainder], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every crossed lead leaves what this makes of it."""
    kept: cached_property[Remainder] = cached_property(made)
    kept.__set_name__(CrossedLead, "remainder")
    monkeypatch.setattr(CrossedLead, "remainder", kept)


def one_dense(lead: CrossedLead) -> Remainder:
    return BlockRemainder(np.zeros(lead.offsets[-1], dtype=np.intp))


def staged(lead: CrossedLead) -> Remainder:
    return StagedRemainder(lead.graph)


def components(lead: CrossedLead) -> Remainder:
    return BlockRemainder(lead.components)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("response", ["z", "n"])
@pytest.mark.parametrize("case", list(CASES))
def test_every_remainder_gives_the_same_fit(case: str, response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, right = CASES[case]
    family = "gaussian" if response == "z" else "poisson"
    monkeypatch.setattr(stages, "PAIR_NS", 0.0)  # stages to the end
    monkeypatch.setattr(stages, "_STAGE_NS", 0.0)
    fits = []
    for made in (one_dense, staged, components):
        remainder_is(made, monkeypatch)
        fits.append(polars_glmm.fit(frame, f"{response} ~ {right}", family=family))
    dense = fits[0]
    for other in fits[1:]:
        assert_allclose(other.loglik, dense.loglik, rtol=1e-11)
        assert_allclose(other.fixef()["std_error"], dense.fixef()["std_error"], rtol=1e-5)
        assert_allclose(other.varcorr()["estimate"], dense.varcorr()["estimate"], rtol=1e-4, atol=1e-6)
        for column in ("estimate", "std_error"):
            assert_allclose(other.ranef()[column], dense.ranef()[column], rtol=1e-4, atol=1e-5)


def test_what_is_cheaper_is_chosen() -> None:
    """Small components stay dense; thousands of unknowns of which few meet go in stages."""
    rng = np.random.default_rng(0)
    lead, other = np.repeat(np.arange(12_000), 2), np.repeat(np.arange(4000), 6)
    other[rng.choice(len(other), 300, replace=False)] = rng.integers(0, 4000, 300)
    order = np.lexsort((other, lead))
    few = eliminator(find_pattern((lead[order], other[order]), (12_000, 4000), (1, 1)))
    assert isinstance(few, CrossedLead)
    assert isinstance(few.remainder, StagedRemainder)
    assert few.dense_entries < 0.01 * 4000**2
    site = np.repeat(np.arange(10), 400)
    a, b = site * 30 + rng.integers(0, 30, 4000), site * 20 + rng.integers(0, 20, 4000)
    order = np.lexsort((b, a))
    parts = eliminator(find_pattern((a[order], b[order]), (300, 200), (1, 1)))
    assert isinstance(parts, CrossedLead)
    assert isinstance(parts.remainder, BlockRemainder)
    assert (parts.order, parts.dense_entries) == (20, 10 * 20**2)
