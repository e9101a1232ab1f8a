"""Copies in this process hold all of a fit, rows too; pickles leave the rows behind."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from polars_glmm import ModelError, datasets

FORMULA = "weight ~ Time + (1 | Chick)"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_fit_with_its_rows(copied: Callable[[Any], Any]) -> None:
    data = datasets.load("chickweight")
    want = data.glmm.fit(FORMULA, method="ml").loglik
    for frame in (data, data.lazy()):
        fit = frame.glmm.fit(FORMULA)
        other = copied(fit)
        assert other is not fit
        assert other.fixef().equals(fit.fixef())
        assert other.data().lazy().collect().equals(data)
        assert other.update(method="ml").loglik == pytest.approx(want, rel=1e-12)
    many = copied(data.glmm.fit("weight ~ Time", by="Diet"))  # four models side by side
    assert many["1"].update("weight ~ 1").n_obs == data["Diet"].value_counts().filter(Diet="1")["count"].item()
    several = copied(datasets.load("chickweight").glmm.products(FORMULA))
    assert several.fit("ml").loglik == pytest.approx(want, rel=1e-9)


def test_a_pickle_leaves_the_rows_behind() -> None:
    whole = copy.deepcopy(datasets.load("chickweight").glmm.fit(FORMULA))
    fit = pickle.loads(pickle.dumps(whole))  # noqa: S301
    with pytest.raises(ModelError, match="keeps no data"):
        fit.data()
