"""A response or a family that is not there is answered with what to do instead."""

from __future__ import annotations

import polars as pl
import pytest

from polars_glmm import ModelError, datasets
from polars_glmm.errors import ResponseError


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("quasipoisson", "negative_binomial"),
        ("quasibinomial", "observation-level"),
        ("bernoulli", "every row is one trial"),
    ],
)
def test_a_family_of_other_packages_is_not_taken_for_a_misspelling(name, remedy):
    with pytest.raises(ModelError, match=remedy) as caught:
        datasets.load("grouseticks").glmm.fit("TICKS ~ YEAR + (1 | BROOD)", family=name)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "family", "remedy"),
    [
        (pl.col("TICKS") / 2, "poisson", "offset"),
        (pl.col("TICKS") / 2, "negative_binomial", "offset"),
        (pl.col("TICKS") - 1, "poisson", "no negative values"),
        (pl.col("TICKS"), "gamma", "values above 0 only"),
    ],
)
def test_a_value_that_the_family_cannot_have_comes_with_a_remedy(values, family, remedy):
    frame = datasets.load("grouseticks").with_columns(TICKS=values)
    for given in (frame, frame.lazy()):
        with pytest.raises(ResponseError, match=remedy):
            given.glmm.fit("TICKS ~ YEAR + (1 | BROOD)", family=family)
