"""What a collection says of its models: every note of a key, reasons counted, and the same length for any number."""

from __future__ import annotations

import time
import warnings
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import FitCollection, FitWarning, GlmmError, IdentifiabilityError
from polars_glmm.answer.many import Outcomes
from polars_glmm.inference.schemas import STATUS
from polars_glmm.result import overview

EVIL = "<script>alert('x & y')</script>"


@pytest.fixture(scope="module")
def fits() -> FitCollection:
    """Keys with several notes, with one, with none, and with errors of two kinds."""
    rng = np.random.default_rng(5)
    n, keys = 60, ["plain", "constant", "constant too", "empty", "noted", EVIL]
    frame = pl.DataFrame(
        {
            "key": np.repeat(keys, n),
            "g": np.tile(np.arange(n) % 12, len(keys)),
            "x": rng.normal(size=n * len(keys)),
            "u": np.tile(np.repeat(rng.normal(size=12), 1)[np.arange(n) % 12], len(keys)),
            "e": rng.normal(size=n * len(keys)),
        }
    )
    key = pl.col("key")
    y = (
        pl.when(key.str.starts_with("constant")).then(1.0).when(key == "empty").then(None)
        .when((key == "noted") & (pl.col("x") > 1)).then(None).when(key == "noted").then("e")
        .otherwise(pl.col("u") + 0.3 * pl.col("e"))
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return frame.with_columns(y=y).glmm.fit("y ~ x + (1 | g)", by="key")


def many(n: int, reasons: int = 1) -> FitCollection:
    """A collection of so many models, all of which failed."""
    errors: list[GlmmError] = [
        IdentifiabilityError(f"reason {'abcdefghij'[k % reasons]} of key {k}: {'words ' * 80}") for k in range(n)
    ]
    return FitCollection(pl.DataFrame({"key": range(n)}), Outcomes(n, (), dict(enumerate(errors))), 0)


def test_status_holds_every_note_of_every_key(fits: FitCollection) -> None:
    table = fits.status()
    assert dict(table.select(list(STATUS)).schema) == dict(STATUS)
    fitted = dict(iter(fits))
    assert len(fitted) == 3
    assert len(fitted["noted"].notes) >= 1
    for row in table.iter_rows(named=True):
        if row["status"] == "failed":
            assert row["notes"] == [{"code": row["code"], "text": row["text"]}]
        else:
            wanted = {(note.code, note.text) for note in fitted[row["key"]].notes}
            assert {(note["code"], note["text"]) for note in row["notes"]} == wanted
            assert len(row["notes"]) == len(wanted)


def test_notes_of_many_keys_are_those_that_were_given() -> None:
    notes = [[{"code": str(k), "text": str(j)} for j in range(k % 3)] for k in range(10)]
    assert overview._lists_of_notes(notes).to_list() == notes
    assert overview._lists_of_notes([[], []]).to_list() == [[], []]
    assert overview._lists_of_notes([]).to_list() == []


def test_reasons_are_counted_with_their_keys(fits: FitCollection) -> None:
    text = str(fits)
    states = fits.status()["status"].value_counts()
    for state, n in states.rows():
        assert f"{n} {state}" in text
    assert "2 IdentifiabilityError (constant, constant too): The response is constant" in " ".join(text.split())
    assert "1 ColumnError (empty): Every row has a missing value" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(("n", "reasons", "further"), [(10_000, 1, 0), (10_000, 9, 4), (9, 9, 4)])
def test_the_print_stays_short_for_any_number_of_models(n: int, reasons: int, further: int) -> None:
    fits = many(n, reasons)
    text = str(fits)
    assert len(text.splitlines()) < 40
    assert f"{n} failed" in text
    assert ("status() has them" in text) == bool(further)
    if further:
        assert f"{sum(k % reasons >= 5 for k in range(n))} more failed for {further} further reasons" in text
    assert len(fits._repr_html_()) < 10_000


def test_one_model_and_one_reason_are_singular() -> None:
    assert str(many(1)).startswith("FitCollection of 1 model by key: 1 failed")
    text = overview._further([overview.Reason("E", "t", [0])] * 6)
    assert text == ["1 more failed for 1 further reason: status() has them."]


@pytest.mark.slow
def test_status_of_a_hundred_thousand_keys_takes_seconds_at_most() -> None:
    fits = many(100_000, 3)
    began = time.perf_counter()
    assert fits.status().height == 100_000
    assert time.perf_counter() - began < 20.0  # 0.5 s on an idle core; from nested objects a hundred times more


class _Text(HTMLParser):
    """Collects what a reader sees and the elements there are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def test_the_html_of_all_objects_escapes_markup_in_names() -> None:
    rng = np.random.default_rng(2)
    name, group = f"x{EVIL}", f"g{EVIL}"
    frame = pl.DataFrame(
        {
            "y": rng.normal(size=80), name: rng.normal(size=80), group: [f"{k % 8}{EVIL}" for k in range(80)],
            "f": [f"{EVIL}{k % 2}" for k in range(80)], f"k{EVIL}": [f"{EVIL}{k // 40}" for k in range(80)],
        }
    ).with_columns(y=pl.when(pl.col(f"k{EVIL}") == f"{EVIL}1").then(2.0).otherwise("y"))  # fmt: skip
    formula = f"y ~ `{name}` + f + (1 | `{group}`)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        objects = [
            frame.glmm.fit(formula),
            frame.glmm.fit(formula, by=f"k{EVIL}"),
            frame.glmm.explain(formula),
            polars_glmm.products(frame, formula),
        ]
    for one in objects:
        reader = _Text()
        reader.feed(one._repr_html_())
        assert "script" not in reader.elements
        assert any(EVIL in text for text in reader.seen), type(one)


def test_a_table_prints_its_estimate_also_behind_a_key(fits: FitCollection) -> None:
    shown = {"varcorr": "estimate", "glance": "loglik", "fixef": "estimate", "ranef": "estimate", "status": "status"}
    for verb, column in shown.items():
        table = getattr(fits, verb)()
        first_and_last = {*table.columns[:4], *table.columns[-4:]}
        assert {"key", column} <= first_and_last, verb
    alone = fits["plain"]
    table = alone.varcorr()
    for columns in (table.columns, fits.varcorr().columns):
        assert {"group", "term", "other_term", "estimate", "std_error", "std_dev", "correlation"} <= {
            *columns[:4], *columns[-4:],
        }  # fmt: skip
    first_and_last = {*alone.glance().columns[:4], *alone.glance().columns[-4:]}
    assert {"loglik", "aic", "bic", "n_obs", "converged", "singular"} <= first_and_last
    tests = polars_glmm.anova(alone.update("y ~ 1 + (1 | g)", method="ml"), alone.update(method="ml"))
    wanted = {"model", "df_model", "loglik", "aic", "chisq", "df", "p_value", "distribution"}
    assert wanted == {*tests.columns[:4], *tests.columns[-4:]}
