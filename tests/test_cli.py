"""The command line: every reader and writer, the same numbers as in Python, one line and code 2 on bad input."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import cli, datasets

TABLES = ("dispersion", "fixef", "glance", "ranef", "varcorr")
SLEEP = "Reaction ~ Days + (Days | Subject)"

SAVE: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "csv": pl.DataFrame.write_csv,
    "parquet": pl.DataFrame.write_parquet,
    "ipc": pl.DataFrame.write_ipc,
    "ndjson": pl.DataFrame.write_ndjson,
}


@pytest.mark.parametrize("suffix", SAVE)
def test_every_format_is_read_to_the_same_fit(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"sleep.{suffix}"
    SAVE[suffix](datasets.load("sleepstudy").with_columns(pl.col("Subject").cast(pl.String)), path)
    assert cli.main(["fit", str(path), SLEEP, "--out", str(tmp_path / "out")]) == 0
    assert "Subject" in capsys.readouterr().out
    ours = pl.read_parquet(tmp_path / "out" / "fixef.parquet")
    expected = polars_glmm.fit(datasets.load("sleepstudy"), SLEEP).fixef()
    assert ours.schema == expected.schema
    assert ours["term"].to_list() == expected["term"].to_list()
    assert ours["estimate"].to_list() == pytest.approx(expected["estimate"].to_list(), rel=1e-8)


READ: dict[str, Callable[[Path], pl.DataFrame]] = {
    "parquet": pl.read_parquet,
    "csv": pl.read_csv,
    "json": pl.read_json,
}


@pytest.mark.parametrize("form", READ)
def test_every_table_is_written_in_every_format(form: str, tmp_path: Path) -> None:
    call = ["fit", "dataset:cbpp", "incidence ~ period", "--groups", "herd", "--family", "binomial", "--trials", "size"]
    assert cli.main([*call, "--out", str(tmp_path / "a" / "b"), "--format", form]) == 0
    written = sorted((tmp_path / "a" / "b").iterdir())
    assert [path.name for path in written] == [f"{name}.{form}" for name in TABLES]
    fit = polars_glmm.fit(datasets.load("cbpp"), "incidence ~ period", groups="herd", family="binomial", trials="size")
    frames = {path.stem: READ[form](path) for path in written if path.stem != "dispersion"}
    assert frames["glance"]["loglik"].item() == pytest.approx(fit.loglik, abs=1e-6)
    assert frames["fixef"].columns == fit.fixef().columns
    assert frames["ranef"].height == fit.ranef().height
    assert "herd" in str(frames["glance"]["groups"].item())


def test_several_formulas_and_every_column_argument(tmp_path: Path) -> None:
    frame = datasets.load("sleepstudy").with_columns(one=pl.lit(1), zero=pl.lit(0.0), same=pl.lit(1.0))
    frame.write_parquet(tmp_path / "sleep.parquet")
    columns = ["--offset", "zero", "--frequency", "one", "--precision", "same"]
    call = ["fit", str(tmp_path / "sleep.parquet"), "Reaction ~ Days", "phi ~ Days", "--groups", "Subject"]
    assert cli.main([*call, *columns, "--method", "laplace", "--out", str(tmp_path)]) == 0
    assert pl.read_parquet(tmp_path / "fixef.parquet")["parameter"].to_list() == ["mu", "mu", "phi", "phi"]


def test_quadrature_by_nodes(tmp_path: Path) -> None:
    call = ["fit", "dataset:cbpp", "incidence ~ period", "--groups", "herd", "--family", "binomial", "--trials", "size"]
    assert cli.main([*call, "--method", "agq", "--nodes", "5", "--out", str(tmp_path)]) == 0
    loglik = pl.read_parquet(tmp_path / "glance.parquet")["loglik"].item()
    assert loglik == pytest.approx(-91.98404, abs=1e-4)  # references/cbpp_agq5.json


def test_one_model_per_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["fit", "dataset:chickweight", "weight ~ Time + (1 | Chick)", "--method", "ml", "--by", "Diet"]
    assert cli.main([*call, "--out", str(tmp_path)]) == 0
    assert "4 models" in capsys.readouterr().out
    glance = pl.read_parquet(tmp_path / "glance.parquet")
    assert glance["Diet"].cast(pl.String).to_list() == ["1", "2", "3", "4"]
    assert glance["loglik"].head(2).to_list() == pytest.approx([-1033.85069, -588.58219], abs=1e-4)  # references
    assert set(pl.read_parquet(tmp_path / "status.parquet")["status"]) == {"ok"}


BAD = {
    "no such data set": (["dataset:grousetick", "TICKS ~ YEAR"], "grouseticks"),
    "no such file": (["nowhere.csv", "y ~ x"], "nowhere.csv"),
    "unknown suffix": (["data.xlsx", "y ~ x"], "parquet"),
    "formula": (["dataset:sleepstudy", "Reaction ~ Days + (1 | Subject"], "Subject"),
    "column": (["dataset:sleepstudy", "Reaction ~ Day + (1 | Subject)"], "Days"),
    "group": (["dataset:sleepstudy", "Reaction ~ Days", "--groups", "subject"], "Subject"),
    "family": (["dataset:sleepstudy", SLEEP, "--family", "poison"], "poisson"),
    "method": (["dataset:sleepstudy", SLEEP, "--method", "remel"], "reml"),
    "nodes": (["dataset:sleepstudy", SLEEP, "--method", "ml", "--nodes", "5"], "agq"),
    "response": (["dataset:sleepstudy", "Reaction ~ Days", "--groups", "Subject", "--family", "binomial"], "Reaction"),
    "by": (["dataset:cbpp", "incidence ~ 1 + (1 | obs)", "--by", "heard"], "herd"),
    "format": (["dataset:sleepstudy", SLEEP, "--format", "xlsx"], "parquet"),
    "option": (["dataset:sleepstudy", SLEEP, "--familly", "poisson"], "--familly"),
    "no formula": (["dataset:sleepstudy"], "FORMULA"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_2(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, word = BAD[case]
    out = tmp_path / "out"
    try:
        code: object = cli.main(["fit", *arguments, "--out", str(out)])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("polars-glmm: error: ")
    assert printed.err.count("\n") == 1
    assert word in printed.err
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"\x00\x01not a parquet file"])
def test_a_broken_file_is_bad_input(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(content)
    assert cli.main(["fit", str(path), "y ~ x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_in_the_place_of_the_directory_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert cli.main(["fit", "dataset:sleepstudy", SLEEP, "--out", str(tmp_path / "out")]) == 2
    assert (tmp_path / "out").read_text() == "mine"
    assert "directory" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: pl.DataFrame, path: Path) -> None:
        if path.stem == "varcorr":
            raise OSError(28, "No space left on device")
        table.write_parquet(path)

    monkeypatch.setitem(cli.WRITERS, "parquet", full)
    assert cli.main(["fit", "dataset:sleepstudy", SLEEP, "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_formulas_may_stand_behind_options(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse takes positional arguments only before them."""
    told = []
    for asked in (["--method", "ml", SLEEP, "phi ~ Days"], [SLEEP, "--method", "ml", "phi ~ Days"]):
        assert cli.main(["fit", "dataset:sleepstudy", *asked]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    with pytest.raises(SystemExit) as left:
        cli.main(["fit", "dataset:sleepstudy", SLEEP, "--methd", "ml"])
    assert left.value.code == 2
    assert "unrecognized arguments: --methd ml" in capsys.readouterr().err


def test_the_module_runs() -> None:
    """The README's own command, in a process of its own."""
    call = ["fit", "dataset:grouseticks", "TICKS ~ YEAR", "--groups", "LOCATION", "--family", "poisson"]
    done = subprocess.run([sys.executable, "-m", "polars_glmm", *call], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "LOCATION" in done.stdout
    assert "-1149.14" in done.stdout  # references/grouseticks_location.json
    assert done.stderr == ""


def _csv(path: Path, marker: str, *, late: bool = False) -> Path:
    """300 rows as other programs write them: x has one missing value, and all before row 200 may be whole numbers."""
    rng = random.Random(3)
    with path.open("w") as file:
        file.write("y,x,g,unused\n")
        for i in range(300):
            x = rng.gauss(0, 1)
            y = 1 + 0.5 * x + rng.gauss(0, 1)
            whole = late and i < 200
            file.write(f"{round(y) if whole else round(y, 3)},{marker if i == 250 else round(x, 4)},{i % 15},z\n")
    return path


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("marker", "options"),
    [
        ("NA", []),
        ("", []),
        (".", ["--null-values", ".", "NA"]),
        ("-999", ["--null-values", "NA", "--null-values=-999"]),
    ],
)
def test_a_csv_is_inferred_to_its_end_and_has_missing_values(
    marker: str, options: list[str], late: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _csv(tmp_path / "d.csv", marker, late=late)
    assert cli.main(["fit", str(path), "y ~ x", "--groups", "g", *options]) == 0
    printed = capsys.readouterr()
    assert "Observations: 299" in printed.out
    assert printed.err == f"polars-glmm: read {path}: 300 rows; y Float64, x Float64 (1 null), g Int64\n"


def test_a_marker_that_nobody_named_leaves_text_and_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _csv(tmp_path / "d.csv", "missing")
    assert cli.main(["fit", str(path), "x ~ y", "--groups", "g"]) == 2
    printed = capsys.readouterr()
    assert "x' is String. It is text" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"y,x,g\n1,2,3\n4,5,6,7\n"),
        ("a.csv", b"y,x,g\n1,\xe9,3\n"),
        ("a.csv", b"y,x,g\n"),
        ("a.csv", b"y,x\n1,2\n"),
        ("a.ndjson", b'{"y": 1}\nno json'),
        ("a.ipc", b"no arrow"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert cli.main(["fit", str(path), "y ~ x", "--groups", "g"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("polars-glmm: error: ")
    assert printed.err.count("\n") == 1
    assert not any(word in printed.err for word in ("infer_schema", "schema_overrides", "ignore_errors"))


def test_null_values_are_for_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "dataset:sleepstudy", SLEEP, "--null-values", "NA"]) == 2
    assert "csv" in capsys.readouterr().err


def test_a_saved_model_predicts_what_it_does_in_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = tmp_path / "sleep.glmm", tmp_path / "new.csv", tmp_path / "predicted"
    frame = datasets.load("sleepstudy").with_columns(pl.col("Subject").cast(pl.String))
    frame.write_parquet(tmp_path / "sleep.parquet")
    assert cli.main(["fit", str(tmp_path / "sleep.parquet"), SLEEP, "--save", str(model)]) == 0
    rows = pl.DataFrame({"Days": [0, 5, 12], "Subject": ["308", "372", "new"]})
    rows.write_parquet(tmp_path / "new.parquet")
    rows.write_csv(data)
    asked = {"new_levels": "zero", "interval": "confidence", "conf_level": 0.8}
    wanted = polars_glmm.read_fit(model).predict(rows, **asked)
    words = [str(model), str(tmp_path / "new.parquet"), "--new-levels", "zero", "--interval", "--conf-level", "0.8"]
    for suffix, reader in (("csv", pl.read_csv), ("parquet", pl.read_parquet), ("ipc", pl.read_ipc)):
        assert cli.main(["predict", *words, "--out", f"{out}.{suffix}"]) == 0
        found = reader(f"{out}.{suffix}")
        assert found.columns == wanted.columns
        assert found["prediction_low"].to_list() == pytest.approx(wanted["prediction_low"].to_list(), rel=1e-14)
    capsys.readouterr()
    assert cli.main(["predict", *words]) == 0
    assert capsys.readouterr().out == wanted.write_csv()


def test_a_saved_collection_predicts_by_key(tmp_path: Path) -> None:
    model, out = tmp_path / "many.glmm", tmp_path / "predicted.parquet"
    assert cli.main(["fit", "dataset:chickweight", "weight ~ Time", "--by", "Diet", "--save", str(model)]) == 0
    assert cli.main(["predict", str(model), "dataset:chickweight", "--out", str(out), "--name", "mean"]) == 0
    frame = datasets.load("chickweight")
    wanted = polars_glmm.fit(frame, "weight ~ Time", by="Diet").predict(frame, name="mean")
    assert pl.read_parquet(out)["mean"].to_list() == wanted["mean"].to_list()


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "nothing.glmm", "dataset:sleepstudy"],
        ["predict", __file__, "dataset:sleepstudy"],
        ["predict", "{model}", "dataset:cbpp"],
        ["predict", "{model}", "dataset:sleepstudy", "--out", "out.xlsx"],
        ["fit", "dataset:sleepstudy", SLEEP, "--save", "no-such-folder/model.glmm"],
    ],
)
def test_a_wrong_model_or_place_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "sleep.glmm"
    datasets.load("sleepstudy").glmm.fit(SLEEP).write(model)
    assert cli.main([one.format(model=model) for one in arguments]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert not said.out


def test_a_saved_model_answers_as_in_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "cake.glmm", tmp_path / "table.parquet"
    cake = datasets.load("cake")
    fit = cake.glmm.fit("angle ~ recipe + temperature + (1 | recipe:replicate)")
    fit.write(model)
    assert cli.main(["confint", str(model), "--which", "fixed", "--conf-level", "0.9", "--out", str(out)]) == 0
    assert_frame_equal(pl.read_parquet(out), fit.confint("wald", ["fixed"], 0.9))
    words = ["means", str(model), "recipe", "--contrast", "pairwise", "--adjust", "tukey"]
    assert cli.main(words) == 0
    expected = fit.marginal_means("recipe", contrast="pairwise", adjust="tukey")
    assert capsys.readouterr().out == expected.write_csv()
    assert cli.main(["confint", str(model), "--method", "profile", "--which", "phi"]) == 2
    assert "data" in capsys.readouterr().err
    rows = ["--data", "dataset:cake"]
    assert cli.main(["confint", str(model), "--method", "profile", "--which", "phi", *rows, "--out", str(out)]) == 0
    assert_frame_equal(pl.read_parquet(out), fit.confint("profile", ["phi"]), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("words", "data"),
    [(["caterpillar"], False), (["effects", "temperature"], True), (["residuals"], True)],
)
def test_pictures_are_written_as_the_suffix_says(words: list[str], data: bool, tmp_path: Path) -> None:
    model, out = tmp_path / "cake.glmm", tmp_path / "picture.json"
    datasets.load("cake").glmm.fit("angle ~ recipe + temperature + (1 | recipe:replicate)").write(model)
    rows = ["--data", "dataset:cake"] if data else []
    assert cli.main(["plot", str(model), *words, *rows, "--out", str(out)]) == 0
    assert "vega-lite" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        ["plot", "{model}", "caterpillar", "--out", "x.gif"],
        ["plot", "{model}", "effects", "--out", "x.json"],
        ["plot", "{model}", "residuals", "--out", "{model}.json"],
        ["confint", "{model}", "--out", "x.xlsx"],
        ["confint", "{model}", "--which", "Dayss"],
        ["means", "{model}", "Subjects"],
    ],
)
def test_a_wrong_question_is_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "sleep.glmm"
    datasets.load("sleepstudy").glmm.fit(SLEEP).write(model)
    assert cli.main([one.format(model=model) for one in arguments]) == 2
    said = capsys.readouterr()
    assert (said.err.count("\n"), said.out) == (1, "")
