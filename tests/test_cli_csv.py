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
