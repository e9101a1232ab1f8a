"""anova compares fits of one response only, and knows it whatever the route and the order of the rows."""

from __future__ import annotations

import polars as pl
import pytest

import polars_glmm
from polars_glmm import ModelError, datasets

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")

SMALL, LARGE = "Reaction ~ 1 + (1 | Subject)", "Reaction ~ Days + (1 | Subject)"
SLEEP = datasets.load("sleepstudy").with_columns(w=1 + pl.int_range(180) % 3)
REACTION = pl.col("Reaction")
OTHERS = {
    "backwards": REACTION.reverse(),
    "shuffled": REACTION.shuffle(seed=1),
    "mirrored about its mean": 2 * REACTION.mean() - REACTION,
    "two rows of two levels exchanged": pl.when(pl.int_range(180) == 0).then(REACTION.get(17))
    .when(pl.int_range(180) == 17).then(REACTION.get(0)).otherwise(REACTION),
}  # fmt: skip


def routes(frame: pl.DataFrame, formula: str, **arguments):
    arguments["method"] = "ml"
    many = pl.concat([frame.with_columns(k=pl.lit(k)) for k in range(4)])
    return {
        "eager": frame.glmm.fit(formula, **arguments),
        "lazy": frame.lazy().glmm.fit(formula, **arguments),
        "products": polars_glmm.products(frame, formula, **arguments).fit(),
        "by": many.glmm.fit(formula, by="k", **arguments)[2],
    }


WEIGHTS = {"plain": {}, "counted": {"frequency": "w"}, "weighted": {"precision": "w"}}


@pytest.fixture(scope="module", params=WEIGHTS.values(), ids=WEIGHTS)
def arguments(request):
    return request.param


@pytest.fixture(scope="module")
def small(arguments):
    return routes(SLEEP, SMALL, **arguments)


def test_the_same_rows_are_the_same_on_every_route_and_in_any_order(small, arguments):
    for frame in (SLEEP, SLEEP.sample(fraction=1.0, shuffle=True, seed=5)):
        for large in routes(frame, LARGE, **arguments).values():
            for one in small.values():
                assert polars_glmm.anova(one, large)["df"][1] == 1


@pytest.mark.one_in(3)
@pytest.mark.parametrize("other", OTHERS)
def test_another_response_with_the_same_sums_is_refused_on_every_route(small, arguments, other):
    for large in routes(SLEEP.with_columns(Reaction=OTHERS[other]), LARGE, **arguments).values():
        for one in small.values():
            with pytest.raises(ModelError, match="different data"):
                polars_glmm.anova(one, large)


def test_rows_that_are_kept_tell_responses_exchanged_within_a_level():
    y = SLEEP["Reaction"]
    swapped = SLEEP.with_columns(Reaction=pl.concat([y[1:2], y[:1], y[2:]]))
    with pytest.raises(ModelError, match="different data"):
        polars_glmm.anova(SLEEP.glmm.fit(SMALL, method="ml"), swapped.glmm.fit(LARGE, method="ml"))


def test_counts_are_told_apart_too():
    ticks = datasets.load("grouseticks")
    one = ticks.glmm.fit("TICKS ~ 1 + (1 | BROOD)", family="poisson")
    same = ticks.lazy().glmm.fit("TICKS ~ YEAR + (1 | BROOD)", family="poisson")
    assert polars_glmm.anova(one, same)["df"][1] == 2
    mixed = ticks.with_columns(pl.col("TICKS").shuffle(seed=2))
    other = mixed.lazy().glmm.fit("TICKS ~ YEAR + (1 | BROOD)", family="poisson")
    with pytest.raises(ModelError, match="different data"):
        polars_glmm.anova(one, other)


def test_a_rescaled_predictor_is_no_other_response():
    tenths = SLEEP.with_columns(pl.col("Days") / 10)
    assert polars_glmm.anova(SLEEP.glmm.fit(SMALL, method="ml"), tenths.glmm.fit(LARGE, method="ml"))["df"][1] == 1
