"""Reports: the numbers of the tables, side by side, and markup that nothing in a label can break."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest

import polars_glmm
from polars_glmm import ModelError, datasets, report

TICKS = datasets.load("grouseticks")


@pytest.fixture(scope="module")
def small() -> Any:
    return TICKS.glmm.fit("TICKS ~ YEAR + (1 | BROOD)", family="poisson")


@pytest.fixture(scope="module")
def large() -> Any:
    return TICKS.glmm.fit("TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", family="negative_binomial")


def cell(frame: pl.DataFrame, term: str, quantity: str, model: str) -> str | None:
    found: str | None = frame.filter(pl.col("term") == term, pl.col("quantity") == quantity)[model].item()
    return found


def test_a_report_holds_the_numbers_of_the_tables(small: Any, large: Any) -> None:
    frame = report([small, large], names=["small", "large"])
    assert frame.columns == ["section", "term", "quantity", "small", "large"]
    assert set(frame.dtypes) == {pl.String}
    for name, fit in (("small", small), ("large", large)):
        for row in fit.fixef().iter_rows(named=True):
            assert float(cell(frame, row["term"], "estimate", name)) == pytest.approx(row["estimate"], abs=1e-4)
            error = cell(frame, row["term"], "stat", name)
            assert float(error.strip("()")) == pytest.approx(row["std_error"], rel=1e-3)
        sd = fit.varcorr().filter(group="BROOD")["std_dev"][0]
        assert float(cell(frame, "sd(BROOD: Intercept)", "std_dev", name)) == pytest.approx(sd, rel=1e-3)
        assert float(cell(frame, "AIC", "aic", name)) == pytest.approx(fit.aic, abs=0.01)
        assert cell(frame, "Observations", "n_obs", name) == str(fit.n_obs)
    assert cell(frame, "cHEIGHT", "estimate", "small") is None
    assert float(cell(frame, "phi", "dispersion", "large")) == pytest.approx(large.estimate.phi, rel=1e-3)


def test_terms_stay_with_the_line_below_them_whatever_the_order_of_models(small: Any, large: Any) -> None:
    for fits in ([small, large], [large, small]):
        frame = report(fits, rows=["fixed"])
        assert frame["quantity"].to_list() == ["estimate", "stat"] * 4
        assert frame["term"].to_list()[::2] == frame["term"].to_list()[1::2] == large.fixef()["term"].to_list()


def test_exponentiated_stars_and_intervals(large: Any) -> None:
    table = large.fixef(exponentiate=True, conf_level=0.9)
    style: dict[str, Any] = {"stat": "[{conf_low}; {conf_high}] {p_value}", "exponentiate": True, "conf_level": 0.9}
    frame = report(large, stars={"!": 0.01, "!!": 1e-4}, **style)
    for row in table.iter_rows(named=True):
        mark = "!!" if row["p_value"] < 1e-4 else "!" if row["p_value"] < 0.01 else ""
        text = cell(frame, row["term"], "estimate", "model_1")
        assert text.count("!") == len(mark)
        assert float(text.rstrip("!")) == pytest.approx(row["estimate"], rel=1e-3)
        low, high = re.findall(r"[\d.]+", cell(frame, row["term"], "stat", "model_1"))[:2]
        assert (float(low), float(high)) == pytest.approx((row["conf_low"], row["conf_high"]), rel=2e-3)
    text = report(large, format="markdown", stars=True, **style)
    assert "exponentiated" in text
    assert "90% intervals" in text
    assert r"\* p \< 0.05" in text
    assert "*" not in report(large, format="markdown", rows=["fit"]).replace("**Fit**", "")


def test_labels_and_sections(large: Any) -> None:
    frame = report(large, rows=("fit", "fixed"), term_labels={"cHEIGHT": "Height", "AIC": "Akaike"}, stat=None)
    assert frame["section"].unique(maintain_order=True).to_list() == ["fit", "fixed"]
    assert {"Height", "Akaike"} <= {*frame["term"]}
    assert "stat" not in frame["quantity"]


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_gaussian_correlations_dropped_terms_and_phi() -> None:
    sleep = datasets.load("sleepstudy").with_columns(twice=2 * pl.col("Days"))
    frame = report(sleep.glmm.fit("Reaction ~ Days + twice + (Days | Subject)"))
    assert cell(frame, "twice", "estimate", "model_1") == "(dropped)"
    assert cell(frame, "cor(Subject: Intercept, Days)", "correlation", "model_1") == "0.066"
    assert cell(frame, "sigma", "std_dev", "model_1") == "25.592"
    frame = report(sleep.glmm.fit("Reaction ~ Days", "phi ~ Days"))
    assert {"Days", "phi: Days"} <= {*frame["term"]}
    assert "sigma" not in frame["term"]


def test_a_collection_has_a_column_for_each_key() -> None:
    made = datasets.load("chickweight").glmm.fit("weight ~ Time + (1 | Chick)", by="Diet")
    frame = made.report()
    assert frame.columns[3:] == ["1", "2", "3", "4"]
    for key, fit in made:
        assert frame[key].to_list() == fit.report()["model_1"].to_list()


BAD = 'a|b \\ *x* _y_ [z] <b>&amp; `c` $5 100% #1 {} ~^ "q" 高さ\nnext'


class Reader(HTMLParser):
    """What a browser shows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_html_shows_a_label_as_it_is(large: Any) -> None:
    reader = Reader()
    reader.feed(report({BAD: large}, format="html", term_labels={"cHEIGHT": BAD}))
    assert reader.cells.count(BAD) == 2
    assert "b" not in reader.tags


def test_markdown_shows_a_label_as_it_is(large: Any) -> None:
    text = report({BAD: large}, format="markdown", term_labels={"cHEIGHT": BAD})
    table = text.partition("\n\n")[0].splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in table)
    shown = re.sub(r"\\([\\`*_{}\[\]<>#|~])", r"\1", table[0])
    assert BAD.replace("\n", " ") in shown
    assert not re.search(r"(?<!\\)[<`*_]", table[0])


def test_latex_shows_a_label_as_it_is(large: Any) -> None:
    text = report({BAD: large}, format="latex", term_labels={"cHEIGHT": BAD})
    words = {
        r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
        r"\textgreater{}": ">", r"\textbar{}": "|", r"\textquotedbl{}": '"',
    }  # fmt: skip
    row = next(line for line in text.splitlines() if "100" in line and "toprule" not in line)
    label = row.partition(" & ")[2].removesuffix(r" \\")
    assert not re.search(r"(?<!\\)[%$#&_]", label)
    for word, mark in words.items():
        label = label.replace(word, mark)
    assert re.sub(r"\\([&%$#_{}])", r"\1", label) == BAD.replace("\n", " ")
    assert text.count("{") == text.count("}")
    assert r"$-$0." in text


def test_great_tables_shows_a_label_as_it_is(large: Any) -> None:
    table = report({BAD: large}, format="great_tables", term_labels={"cHEIGHT": BAD}, stars=True)
    reader = Reader()
    reader.feed(table.as_raw_html())
    assert BAD in [one.strip() for one in reader.cells]
    assert any("Random effects" in one for one in reader.cells)


def test_without_great_tables_the_extra_is_named(large: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "great_tables", None)
    with pytest.raises(ModelError, match=r"polars-glmm\[report\]"):
        large.report("great_tables")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "word"}, "format='word'"),
        ({"rows": ["fixd"]}, "Did you mean 'fixed'"),
        ({"rows": []}, "one at least"),
        ({"stat": "{se}"}, "'se'"),
        ({"stat": "{std_error.__class__}"}, "std_error.__class__"),
        ({"stat": "{p_value:.2f}"}, "a name alone"),
        ({"stat": "{p_value"}, "cannot be read"),
        ({"term_labels": {"cHEIGTH": "x"}}, "Did you mean 'cHEIGHT'"),
        ({"names": ["a", "b"]}, "2 names for 1 fit"),
        ({"names": ["term"]}, "'term'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str, large: Any) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        report([large], **arguments)


def test_what_is_no_fit_is_refused(large: Any) -> None:
    with pytest.raises(ModelError, match="DataFrame"):
        report([large, large.fixef()])
    with pytest.raises(ModelError, match="name of its own"):
        report([large, large], names=["a", "a"])
    with pytest.raises(ModelError, match="a fit at least"):
        report([])
    with pytest.raises(TypeError, match="report"):
        polars_glmm.report([large], star=True)


def test_as_text_numbers_stand_under_their_names(small: Any, large: Any) -> None:
    lines = report([small, large], names=["brood", "北海道"], format="text").splitlines()
    assert [line.split() for line in lines[:2]] == [["brood", "北海道"], ["-" * len(lines[1])]]
    cells = {line.split()[0]: line.split()[1:] for line in lines[3:] if len(line.split()) == 3}
    frame = report([small, large])
    assert cells["Intercept"] == [cell(frame, "Intercept", "estimate", name) for name in frame.columns[3:]]
    ends = {len(line) for line in lines if line.endswith(")") and line.count("(") == 2}
    assert len(ends) == 1
