"""Crossed factors beyond memory are refused with numbers before a matrix is made."""

from __future__ import annotations

import numpy as np
import pytest

from polars_glmm.control import Control, Memory
from polars_glmm.errors import ResourceError
from polars_glmm.likelihood.build import estimate
from polars_glmm.spec.method import ML, Laplace
from tests.likelihood.models import draw

SMALL = Control(memory=Memory(limit=50_000))


@pytest.mark.parametrize(("family", "method"), [("gaussian", ML()), ("poisson", Laplace())])
def test_a_dense_remainder_beyond_the_limit_is_refused_with_its_size(family, method):
    design, made = draw(family, n=400, groups=80, others=((60, 1, False),))
    with pytest.raises(ResourceError, match=r"'g' \d+ levels.*'h0' \d+ levels.*order \d+.*KiB.*Memory\(limit"):
        estimate(design, made, method, SMALL)


def test_nested_factors_leave_no_dense_matrix():
    design, made = draw("poisson", n=400, groups=80, others=((0, 1, True),))
    assert np.isfinite(estimate(design, made, Laplace(), SMALL).loglik)
