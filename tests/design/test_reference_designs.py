"""Fixed-effects designs of the reference corpus: column sums and first rows as R's model.matrix made them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.design.predictors import learn_columns, matrix
from polars_glmm.design.variables import Variables
from polars_glmm.frames.table import collect, incomplete
from polars_glmm.spec.parser import parse_formula
from polars_glmm.spec.terms import predictor
from tests.references import translate
from tests.references.translate import Entry

ENTRIES = {
    id_: entry
    for id_, entry in translate.all_entries().items()
    if entry.get("design") and entry["kind"] != "ordinal"  # thresholds take the place of the intercept there
}


def _fixed_part(entry: Entry) -> str:
    """The formula without its bars, contrasts written out: R knows ordered factors and a contrasts argument."""
    text = re.sub(r"\+\s*(cs|toep|ar1|diag|us)?\([^()|]*\|\w*\|?[^()]*\)", "", entry["formula"])
    text = re.sub(r"^(?:Surv|Cens)\((\w+),.*?\) ~", r"\1 ~", text)  # X does not depend on the kind of response
    left, right = text.split("~")
    for name, contrast in translate.coding(entry).items():
        right = re.sub(rf"\b{re.escape(name)}\b", f"C({name}, {contrast})", right)
    return f"{left}~{right}"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ENTRIES)
def test_the_design_is_rs(name: str) -> None:
    entry = ENTRIES[name]
    frame, formula = translate.data(entry), _fixed_part(entry)
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
    if "first_rows" in design:  # not of data that may not be redistributed
        assert_allclose(x[:, :3].T, np.array(design["first_rows"], dtype=float), rtol=1e-9, atol=1e-9)
