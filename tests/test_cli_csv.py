"""csv files and outputs as a command line meets them: digits that are labels, other separators, readers that leave."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import polars_glmm
from polars_glmm import cli, datasets


def test_digits_in_a_csv_file_are_labels_where_the_model_has_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The subjects of sleepstudy are an Enum of "308" …; a csv file has them as 308 …."""
    sleep = datasets.load("sleepstudy")
    model, rows = str(tmp_path / "sleep.glmm"), str(tmp_path / "rows.csv")
    sleep.write_csv(rows)
    assert cli.main(["fit", "dataset:sleepstudy", "Reaction ~ Days + (1 | Subject)", "--save", model]) == 0
    capsys.readouterr()
    assert cli.main(["predict", model, rows]) == 0
    predicted = pl.read_csv(io.StringIO(capsys.readouterr().out))["prediction"]
    wanted = polars_glmm.read_fit(model).predict(sleep)["prediction"]
    assert predicted.to_list() == pytest.approx(wanted.to_list(), rel=1e-12)
    assert cli.main(["confint", model, "--method", "profile", "--which", "Days", "--data", rows]) == 0
    sums = str(tmp_path / "sums.parquet")
    text = str(tmp_path / "text.parquet")
    sleep.with_columns(pl.col("Subject").cast(pl.String)).write_parquet(text)
    assert cli.main(["products", text, "Reaction ~ Days + (1 | Subject)", "--out", sums]) == 0
    assert cli.main(["products", rows, "--append", "--out", sums]) == 0
    assert polars_glmm.read_products(sums).recipe.factors[0].levels.height == 18


def test_keys_of_a_collection_are_labels_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chicks = datasets.load("chickweight").with_columns(Diet=pl.col("Diet").cast(pl.String))
    model, rows = tmp_path / "diets.glmm", tmp_path / "rows.csv"
    chicks.glmm.fit("weight ~ Time + (1 | Chick)", by="Diet").write(model)
    chicks.write_csv(rows)
    assert cli.main(["predict", str(model), str(rows)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == chicks.height + 1


def test_csv_files_of_other_countries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sleep = datasets.load("sleepstudy")
    wanted = sleep.glmm.fit("Reaction ~ Days + (1 | Subject)").loglik
    comma, tabs = tmp_path / "comma.csv", tmp_path / "tabs.tsv"
    comma.write_text(sleep.write_csv(separator=";").replace(".", ","))
    sleep.write_csv(tabs, separator="\t")
    (tmp_path / "tabs.txt.csv").write_bytes(tabs.read_bytes())
    fit = ["Reaction ~ Days + (1 | Subject)", "--save", str(tmp_path / "m.glmm")]
    for words in (
        [str(comma), *fit, "--separator", ";", "--decimal-comma"],
        [str(tabs), *fit],
        [str(tmp_path / "tabs.txt.csv"), *fit, "--separator", "\\t"],
    ):
        assert cli.main(["fit", *words]) == 0
        assert polars_glmm.read_fit(tmp_path / "m.glmm").loglik == pytest.approx(wanted, rel=1e-9)
    capsys.readouterr()
    assert cli.main(["fit", str(comma), *fit]) == 2
    assert "--separator ';'" in capsys.readouterr().err
    assert cli.main(["fit", "dataset:sleepstudy", *fit, "--save", str(tmp_path)]) == 2
    assert "this is a folder" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of Unix")
def test_csv_files_that_are_no_utf8_are_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sleep = datasets.load("sleepstudy").select("Reaction", "Days", pl.format("é{}", "Subject").alias("Subject"))
    path, text = tmp_path / "rows.csv", sleep.write_csv()
    fit = ["fit", str(path), "Reaction ~ Days + (1 | Subject)"]
    for written in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
        path.write_bytes(written)
        assert cli.main(fit) == 0
    capsys.readouterr()
    named = sleep.rename({"Subject": "Prüfling"}).write_csv()
    for written, words in (
        (text.encode("latin-1"), "is not UTF-8"), (named.encode("latin-1"), "is not UTF-8"),
        (text.encode("utf-16"), "is not UTF-8"), (text.replace("\n", "\r").encode(), "a carriage return alone"),
        (gzip.compress(text.encode())[:400], "rows.csv' cannot be read"),
    ):  # fmt: skip
        path.write_bytes(written)
        assert cli.main(fit) == 2
        assert words in capsys.readouterr().err


def test_output_that_nobody_reads_ends_in_silence() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "polars_glmm", "fit", "dataset:sleepstudy", "Reaction ~ Days + (1 | Subject)"]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, timeout=120)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, b"")


def table(rows: pl.DataFrame, folder: Path, name: str) -> Path:
    rows.write_csv(folder / name)
    return folder / name


@pytest.fixture
def few() -> pl.DataFrame:
    rows = datasets.load("sleepstudy").with_columns(pl.col("Subject").cast(pl.String).str.replace("3", "s"))
    return rows.select("Reaction", "Days", "Subject")


FIT = "Reaction ~ Days + (1 | Subject)"


def test_a_part_without_values_says_nothing_of_dtypes(
    few: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty part of a night's files is a part with no rows: its columns were text, and with them all others."""
    table(few, tmp_path, "part1.csv")
    table(few.clear(), tmp_path, "part2.csv")
    assert cli.main(["fit", str(tmp_path / "part*.csv"), FIT]) == 0
    assert "180 rows; Reaction Float64, Days Int64, Subject String" in capsys.readouterr().err
    (tmp_path / "part3.csv").write_text("")
    table(few.with_columns(Days=pl.lit(None, dtype=pl.Float64)).head(20), tmp_path, "part4.csv")
    assert cli.main(["fit", str(tmp_path), FIT]) == 0
    assert "200 rows; Reaction Float64, Days Int64 (20 null), Subject String" in capsys.readouterr().err
    table(few.head(20).with_columns(Days=pl.lit("x1")), tmp_path, "part5.csv")
    assert cli.main(["fit", str(tmp_path), FIT]) == 0
    assert "Days String (20 null)" in capsys.readouterr().err


def test_rows_without_values_are_predicted_as_rows_without_values(
    few: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "m.glmm")
    assert cli.main(["fit", str(table(few, tmp_path, "rows.csv")), FIT, "--save", model]) == 0
    capsys.readouterr()
    assert cli.main(["predict", model, str(table(few.clear(), tmp_path, "none.csv"))]) == 0
    assert capsys.readouterr().out == "Reaction,Days,Subject,prediction\n"
    missing = few.head(2).with_columns(Days=pl.lit(None, dtype=pl.Float64))
    assert cli.main(["predict", model, str(table(missing, tmp_path, "missing.csv"))]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["249.56,,s08,", "258.7047,,s08,"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"Reaction","Days","Subject"\n"1",2.5,1,"a"\n', "more fields than the first one has names"),
        ("Reaction,Days,Subject\n2.5,1,a,\n", "more fields than the first one has names"),
        ('Reaction,Days,Subject\n2.5,1,"a\n2.5,2,b\n', "a quotation mark is not closed"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said_in_words(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text(text)
    assert cli.main(["fit", str(tmp_path / "rows.csv"), FIT]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_name_that_stands_twice_in_the_first_line_is_told(
    few: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = few.with_columns(again=pl.col("Days") ** 2).write_csv().replace("again", "Days", 1)
    (tmp_path / "rows.csv").write_text(text)
    assert cli.main(["fit", str(tmp_path / "rows.csv"), FIT]) == 0
    assert "Days Int64, the first of several of that name, Subject" in capsys.readouterr().err


def test_a_picture_of_one_fit_is_refused_for_a_collection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path / "m.glmm")
    words = ["weight ~ Time + (1 | Chick)", "--by", "Diet", "--save", model]
    assert cli.main(["fit", "dataset:chickweight", *words]) == 0
    capsys.readouterr()
    assert cli.main(["plot", model, "caterpillar", "--out", str(tmp_path / "c.html")]) == 2
    assert "collection[Diet].plot.caterpillar(" in capsys.readouterr().err
    with pytest.raises(AttributeError, match="no picture 'shape' of a collection"):
        _ = polars_glmm.read_fit(model).plot.shape  # type: ignore[union-attr]
