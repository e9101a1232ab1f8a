"""Python objects in a column are refused in the same words wherever a model uses it; unused they do no harm."""

from __future__ import annotations

import polars as pl
import pytest

import polars_glmm  # noqa: F401  # registers the namespace
from polars_glmm.errors import ColumnError

FRAME = pl.DataFrame({
    "y": [1.0, 2.0, 3.0, 5.0] * 6, "g": [*"abcdef"] * 4, "x": [1.0, 2.0, 2.0, 1.0, 3.0, 4.0] * 4,
    "o": pl.Series([object() for _ in range(24)], dtype=pl.Object),
})  # fmt: skip
USES = {
    "response": ("o ~ x + (1 | g)", {}),
    "fixed": ("y ~ o + (1 | g)", {}),
    "slope": ("y ~ x + (0 + o | g)", {}),
    "group": ("y ~ x + (1 | o)", {}),
    "offset": ("y ~ x + offset(o) + (1 | g)", {}),
    "precision": ("y ~ x + (1 | g)", {"precision": "o"}),
    "by": ("y ~ x + (1 | g)", {"by": "o"}),
    "fixed, with by": ("y ~ o", {"by": "g"}),
}


@pytest.mark.parametrize("kind", [pl.DataFrame.clone, pl.DataFrame.lazy])
@pytest.mark.parametrize("use", USES)
def test_objects_are_refused(use, kind):
    formula, options = USES[use]
    for verb in ("fit", "explain"):
        with pytest.raises(ColumnError, match=r"column 'o' is Object: values are numbers, .* Cast it"):
            getattr(kind(FRAME).glmm, verb)(formula, **options)


def test_objects_beside_a_model_do_no_harm():
    formula = "y ~ x + (1 | g)"
    assert FRAME.lazy().glmm.fit(formula).loglik == pytest.approx(FRAME.drop("o").glmm.fit(formula).loglik, abs=1e-9)
