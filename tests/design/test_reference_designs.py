"""Fixed-effects designs of the reference corpus: column sums and first rows as R's model.matrix made them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm.design.predictors import learn_columns, matrix
from polars_glmm.design.variables import Variables
from polars_glmm.frames.table import collect, incomplete
from polars_glmm.spec.parser import parse_formula
from polars_glmm.spec.terms import predictor

CHECKOUT = Path(__file__).parents[2]
BESIDE = Path(os.environ.get("POLARS_GLMM_REFERENCE", CHECKOUT.parent / "shared" / "reference" / "data"))
_TYPES = {"int64": pl.Int64, "float64": pl.Float64, "string": pl.String, "bool": pl.String}


def _entries() -> list[Any]:
    folder = BESIDE.parent / "reference"
    if not folder.is_dir():  # its data may not be redistributed, so a checkout alone has nothing to compare with
        reason = f"no reference corpus at {folder}; name its data folder in POLARS_GLMM_REFERENCE"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="absent")]
    # the thresholds of an ordinal model take the place of the intercept: not yet available
    entries = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [
        pytest.param(entry, id=entry["id"]) for entry in entries if entry.get("design") and entry["kind"] != "ordinal"
    ]


def _read(entry: dict[str, Any]) -> tuple[pl.DataFrame, dict[str, str]]:
    """The data set, and the kind of each column."""
    schema = json.loads((BESIDE / f"{entry['dataset']}.schema.json").read_text())
    columns = schema["columns"]
    path = BESIDE / schema["file"]
    if path.suffix == ".parquet":
        frame = pl.read_parquet(path)
    else:
        types = {column["name"]: _TYPES[column["type"]] for column in columns}
        frame = pl.read_csv(path, schema_overrides=types, null_values=[""])
    frame = frame.with_columns(
        pl.col(column["name"]).cast(pl.Enum(column["levels"])) for column in columns if "levels" in column
    )
    subset = entry.get("subset")
    if subset:
        frame = frame.filter(pl.col(subset["column"]).cast(pl.String) == str(subset["equals"]))
    return frame, {column["name"]: column["kind"] for column in columns}


def _fixed_part(entry: dict[str, Any], kinds: dict[str, str]) -> str:
    """The formula without its bars, contrasts written out: R knows ordered factors and a contrasts argument."""
    text = re.sub(r"\+\s*(cs|toep|ar1|diag|us)?\([^()|]*\|\w*\|?[^()]*\)", "", entry["formula"])
    text = re.sub(r"^(?:Surv|Cens)\((\w+),.*?\) ~", r"\1 ~", text)  # X does not depend on the kind of response
    chosen = dict(entry["contrasts"]) if isinstance(entry["contrasts"], dict) else {}
    chosen |= {name: "contr.poly" for name, kind in kinds.items() if kind == "ordered_factor" and name not in chosen}
    left, right = text.split("~")
    for name, contrast in chosen.items():
        right = re.sub(rf"\b{re.escape(name)}\b", f"C({name}, {contrast})", right)
    return f"{left}~{right}"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("entry", _entries())
def test_the_design_is_rs(entry: dict[str, Any]) -> None:
    frame, kinds = _read(entry)
    formula = _fixed_part(entry, kinds)
    part = predictor(parse_formula(formula), "mu")
    bars = re.sub(r"\|\w+\|", "|", entry["formula"].split("~", 1)[1])  # (1 |p| g): named, for effects of several parts
    whole = parse_formula("1 ~" + re.sub(r"\b(cs|toep|ar1)\(", "us(", bars))
    response = [name for name in frame.columns if re.search(rf"\b{re.escape(name)}\b", formula.split("~")[0])]
    used = [*part.columns(), *predictor(whole, "mu").columns(), *response]
    table = collect(frame, [*dict.fromkeys(used)])
    missing, _ = incomplete(table)
    if missing is not None:
        table = table.keep(~missing)
    columns = [column for term in learn_columns(part.fixed, Variables(table)) for column in term]
    x = matrix(columns, table)
    design = entry["design"]
    if "contr" not in formula:
        ours = [re.sub(r"\[(?:T\.)?([^\]]*)\]", r"\1", column.name).replace(" ", "") for column in columns]
        theirs = [name.replace("(Intercept)", "Intercept").replace(" ", "") for name in design["columns"]]
        assert ours == theirs
    assert_allclose(x.sum(axis=1), design["column_sums"], rtol=1e-9, atol=1e-7)
    assert_allclose(x[:, :3].T, np.array(design["first_rows"], dtype=float), rtol=1e-9, atol=1e-9)
