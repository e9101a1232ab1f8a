"""Which families are nested: by their limits, and by zeros beside their own."""

from __future__ import annotations

import pytest

from polars_glmm import BetaBinomial, Binomial, Gamma, NegativeBinomial, Poisson
from polars_glmm.families.cases import holds
from polars_glmm.families.truncated import TruncatedPoisson
from polars_glmm.families.zero_inflated import ZeroInflated


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (NegativeBinomial(), Poisson()),
        (BetaBinomial(), Binomial()),
        (ZeroInflated(Poisson()), Poisson()),
        (ZeroInflated(NegativeBinomial()), ZeroInflated(Poisson())),
        (ZeroInflated(NegativeBinomial()), Poisson()),
    ],
)
def test_a_case_lies_in_its_family_and_not_the_other_way(outer, inner):
    assert holds(outer, outer)
    assert holds(outer, inner)
    assert not holds(inner, outer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ZeroInflated(TruncatedPoisson()), TruncatedPoisson()),  # a hurdle has a law of zeros of its own
        (NegativeBinomial(), Poisson("sqrt")),
        (NegativeBinomial(), ZeroInflated(Poisson())),
        (Gamma("log"), Poisson()),
    ],
)
def test_others_are_not_nested(one, other):
    assert not holds(one, other)
    assert not holds(other, one)
