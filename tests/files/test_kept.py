"""Files of every version of the format are read for ever, and answer as on the day they were written.

`kept/fit_1.glmm` and `kept/collection_1.glmm` were written by `written` below in version 1 of the format; the tables
beside them are what their models answered then. Since version 2 models that were fitted together have several grouping
factors: `kept/batch_1.glmm` and `kept/batch_2.glmm` are of the same models, before and after.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm

KEPT = Path(__file__).parent / "kept"
FILES = [("fit", 1), ("collection", 1), ("batch", 1), ("batch", 2)]
CHICKS = polars_glmm.datasets.load("chickweight")
DATA = {"fit": polars_glmm.datasets.load("owls"), "collection": CHICKS, "batch": CHICKS}


def written() -> dict[str, Any]:
    """The models: learned columns, offset, labels, a formula for phi; keys with a singular and a failed one."""
    owls = DATA["fit"].with_columns(pl.col("FoodTreatment").cast(pl.Enum(["Satiated", "Deprived"])))
    chicks = DATA["collection"].with_columns(
        weight=pl.when(pl.col("Diet") == DATA["collection"]["Diet"][-1]).then(float("inf")).otherwise("weight")
    )
    fit = owls.glmm.fit(
        "SiblingNegotiation ~ FoodTreatment + ns(ArrivalTime, df=3) + offset(log(BroodSize)) + (1 | Nest)",
        "phi ~ scale(ArrivalTime)",
        family="negative_binomial",
    )
    return {
        "fit": fit,
        "collection": chicks.glmm.fit("weight ~ poly(Time, 2) + (Time | Chick)", by="Diet"),
        "batch": CHICKS.glmm.fit("weight ~ Time + (Time | Chick)", by="Diet"),
    }


def answers(kind: str, model: Any) -> dict[str, pl.DataFrame]:
    """What is compared."""
    rows = DATA[kind].gather_every(40)
    if kind == "fit":
        rows = rows.with_columns(pl.col("FoodTreatment").cast(pl.Enum(["Satiated", "Deprived"])))
    predicted = model.predict(rows, interval="confidence").select(pl.col("^prediction.*$"))
    return {"fixef": model.fixef(), "varcorr": model.varcorr(), "predicted": predicted}


@pytest.mark.parametrize(("kind", "version"), FILES)
def test_a_file_of_every_version_is_read_and_answers_as_then(kind: str, version: int) -> None:
    model = polars_glmm.read_fit(KEPT / f"{kind}_{version}.glmm")
    for name, table in answers(kind, model).items():
        then = pl.read_parquet(KEPT / f"{kind}_{version}_{name}.parquet")
        assert_frame_equal(table.select(then.columns), then, rel_tol=1e-9, abs_tol=1e-12)
    if kind == "collection":
        assert model.status()["status"].to_list().count("failed") == 1
    elif kind == "batch":
        assert model.status()["status"].to_list() == ["ok", "singular", "singular", "ok"]
    else:
        assert "Nest" in str(model)
