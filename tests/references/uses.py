"""References for what comes after a fit: one JSON file per question in `inference/`, read as its README says."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import polars_glmm
from polars_glmm.errors import FitWarning
from tests.references import translate

HERE = Path(__file__).resolve().parent / "inference"


@cache
def entries(capability: str) -> dict[str, Mapping[str, Any]]:
    """All entries of one capability, by id."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.json")))
    return {entry["id"]: entry for entry in found if entry["capability"] == capability}


def data(entry: Mapping[str, Any]) -> pl.DataFrame:
    """The rows that the entry is about."""
    frame = translate.whole_data(entry["dataset"])
    if (subset := entry.get("subset")) is not None:
        frame = frame.filter(pl.col(subset["column"]).cast(pl.String).is_in(subset["in"]))
    return frame


def fit(entry: Mapping[str, Any], frame: pl.DataFrame | None = None, **changes: Any) -> Any:
    """The fit behind the entry's tables, checked against its log-likelihood."""
    model = entry["model"]
    named = {"family": model["family"], "link": model["link"], "method": model["method"].lower(), **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        made = polars_glmm.fit(data(entry) if frame is None else frame, model["formula"], **named)
    if frame is None and not changes:
        assert made.loglik == pytest.approx(entry["fit"]["loglik"], abs=2e-5 * abs(entry["fit"]["loglik"]))
    return made


def same_group(name: str) -> frozenset[str]:
    """A grouping factor whatever the order of its columns; lme4 numbers the terms of one factor."""
    return frozenset(name.partition(".")[0].split(":"))


def close(entry: Mapping[str, Any], table: str, column: str, want: float) -> Any:
    """What a number of a table may be: |got − want| ≤ abs + rel·|want|."""
    allowed = entry["tolerance"][table][column]
    return pytest.approx(want, rel=0.0, abs=allowed.get("abs", 0.0) + allowed.get("rel", 0.0) * abs(want))
