"""What runs every night: data of many files, models that are kept, exit codes, records that programs read."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import cli, datasets

SLEEP = "Reaction ~ Days + (1 | Subject)"


def sleep() -> pl.DataFrame:
    return datasets.load("sleepstudy").with_columns(pl.col("Subject").cast(pl.String))


def loglik(out: str) -> str:
    found = re.search(r"Log-likelihood \(REML\): (\S+)", out)
    assert found is not None
    return found.group(1)


def test_folders_patterns_packed_files_and_databases_are_the_same_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = sleep()
    for day in (0, 1):
        part = tmp_path / "hive" / f"part={day}"
        part.mkdir(parents=True)
        frame.filter(frame["Days"] % 2 == day).write_parquet(part / "0.parquet")
        (tmp_path / "packed").mkdir(exist_ok=True)
        text = frame.filter(frame["Days"] % 2 == day).write_csv().encode()
        (tmp_path / "packed" / f"{day}.csv.gz").write_bytes(gzip.compress(text))
    connection = duckdb.connect(str(tmp_path / "base.db"))
    connection.register("given", frame.to_arrow())
    connection.execute("create table sleep as select * from given")
    connection.close()
    names = ["hive", "hive/**/*.parquet", "hive/part=*/0.parquet", "packed", "packed/*.csv.gz"]
    places = [str(tmp_path / name) for name in names]
    places += [f"duckdb:{tmp_path}/base.db?sleep", f"duckdb:{tmp_path}/base.db"]
    want = polars_glmm.fit(frame, SLEEP).loglik
    for place in places:
        assert cli.main(["fit", place, SLEEP]) == 0, place
        printed = capsys.readouterr()
        assert float(loglik(printed.out)) == pytest.approx(want, abs=1e-4)
        assert "180 rows" in printed.err
    assert cli.main(["fit", str(tmp_path / "hive"), "Reaction ~ part + (1 | Subject)"]) == 0


def test_what_a_database_cannot_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A view of a file that is gone, and one that fails at a row."""
    sleep().write_parquet(tmp_path / "gone.parquet")
    sleep().write_parquet(tmp_path / "there.parquet")
    with duckdb.connect(str(tmp_path / "base.db")) as connection:
        connection.execute(f"create view lost as from '{tmp_path}/gone.parquet'")
        connection.execute("create table there as from read_parquet(?)", [str(tmp_path / "there.parquet")])
        connection.execute(
            "create view bad as select *, case when Days = 3 then error('no third day') else Days end as Day from there"
        )
    (tmp_path / "gone.parquet").unlink()
    for view, said in (("lost", "gone.parquet"), ("bad", "no third day")):
        assert cli.main(["fit", f"duckdb:{tmp_path}/base.db?{view}", SLEEP.replace("Days", "Day")]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nothing/*.parquet", "no file fits"),
        ("empty", "no file of a format"),
        ("mixed", "name those you mean"),
        ("duckdb:nothing.db?a", "no such file"),
        ("duckdb:{folder}/base.db?slep", "Did you mean 'sleep'?"),
        ("duckdb:{folder}/mixed/a.csv?a", "cannot be read"),
    ],
)
def test_data_that_are_not_there_are_one_line(
    place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    sleep().write_csv(tmp_path / "mixed" / "a.csv")
    sleep().write_parquet(tmp_path / "mixed" / "b.parquet")
    with duckdb.connect(str(tmp_path / "base.db")) as connection:
        connection.execute("create table sleep (a int)")
        connection.execute("create table other (a int)")
    assert cli.main(["fit", place.format(folder=tmp_path), SLEEP]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == f"polars-glmm {polars_glmm.__version__}"


def test_exit_codes_tell_what_became_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "sleep.parquet")
    frame = sleep().with_columns(same=pl.int_range(pl.len()) % 6)
    frame.write_parquet(path)
    singular = "Reaction ~ Days + (Days | same)"
    with pytest.warns(polars_glmm.FitWarning, match="boundary"):
        assert polars_glmm.fit(frame, singular).singular
    assert cli.main(["fit", path, singular]) == 0
    assert cli.main(["fit", path, singular, "--fail-singular"]) == 4
    assert cli.main(["fit", path, SLEEP, "--fail-singular"]) == 0
    monkeypatch.setattr(polars_glmm.Fit, "converged", property(lambda _: False))
    assert cli.main(["fit", path, SLEEP]) == 3


def test_a_key_without_a_model_is_an_exit_code(tmp_path: Path) -> None:
    path = str(tmp_path / "two.parquet")
    half = sleep().with_columns(half=pl.col("Days") < 5)
    half.with_columns(Reaction=pl.when(pl.col("half")).then("Reaction")).write_parquet(path)
    assert cli.main(["fit", path, SLEEP, "--by", "half"]) == 3


def test_a_night_starts_where_the_last_one_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.glmm", tmp_path / "second.glmm"
    sleep().head(150).write_parquet(tmp_path / "old.parquet")
    sleep().write_parquet(tmp_path / "new.parquet")
    assert cli.main(["fit", str(tmp_path / "old.parquet"), SLEEP, "--save", str(first)]) == 0
    new = ["fit", str(tmp_path / "new.parquet"), SLEEP, "--start", str(first), "--save", str(second)]
    assert cli.main(new) == 0
    want = polars_glmm.fit(sleep(), SLEEP)
    assert polars_glmm.fit(sleep(), SLEEP, start=first).loglik == pytest.approx(want.loglik, abs=1e-8)
    capsys.readouterr()
    assert cli.main(["drift", str(first), str(second)]) == 0
    moved = pl.read_csv(capsys.readouterr().out.encode())
    one, two = (polars_glmm.read_fit(path) for path in (first, second))
    table = polars_glmm.drift(one, two)  # type: ignore[arg-type]
    assert moved["name"].to_list() == table["name"].to_list() == ["Intercept", "Days", "sd(Subject: Intercept)", "phi"]
    own = table.row(1, named=True)
    assert own["new"] == pytest.approx(want.fixef()["estimate"][1], rel=1e-6)
    assert own["in_std_errors"] == pytest.approx((own["new"] - own["old"]) / own["std_error_old"])
    assert (polars_glmm.drift(want, want)["change"] == 0.0).all()


def test_drift_names_parameters_of_one_fit_only_and_refuses_other_families() -> None:
    one = polars_glmm.fit(sleep(), "Reaction ~ 1 + (1 | Subject)")
    two = polars_glmm.fit(sleep(), SLEEP)
    row = polars_glmm.drift(one, two).filter(pl.col("name") == "Days").row(0, named=True)
    assert (row["old"], row["change"]) == (None, None)
    assert row["new"] is not None
    counts = polars_glmm.fit(datasets.load("grouseticks"), "TICKS ~ 1 + (1 | BROOD)", family="poisson")
    with pytest.raises(polars_glmm.ModelError, match="different families"):
        polars_glmm.drift(one, counts)


def test_drift_of_collections_is_that_of_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = sleep().with_columns(half=pl.when(pl.col("Days") < 5).then(1).otherwise(2))
    last = frame.filter(pl.col("Subject") < "350")
    now = pl.concat([frame, frame.filter(half=1).with_columns(half=pl.lit(3, dtype=pl.Int32))])
    old, new = (polars_glmm.fit(rows, "Reaction ~ Days + (1 | Subject)", by="half") for rows in (last, now))
    moved = polars_glmm.drift(old, new)
    assert moved["half"].unique(maintain_order=True).to_list() == [1, 2, 3]
    for key in (1, 2):
        want = polars_glmm.drift(old[key], new[key])
        assert_frame_equal(moved.filter(half=key).drop("half"), want)
    lone = moved.filter(half=3)
    assert lone["old"].null_count() == lone["change"].null_count() == lone.height == 4
    assert lone["new"].null_count() == 0
    for name, fit in (("old", old), ("new", new)):
        fit.write(tmp_path / name)
    capsys.readouterr()
    assert cli.main(["drift", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert pl.read_csv(capsys.readouterr().out.encode()).columns == moved.columns
    with pytest.raises(polars_glmm.ModelError, match="two collections; old is a FitCollection"):
        polars_glmm.drift(old, new[1])
    other = polars_glmm.fit(frame.with_columns(part=pl.col("half") + 7), "Reaction ~ Days + (1 | Subject)", by="part")
    with pytest.raises(polars_glmm.ModelError, match="different keys, 'half' and 'part'"):
        polars_glmm.drift(old, other)
    with pytest.raises(polars_glmm.ModelError, match="No key of 'part'"):
        polars_glmm.drift(other, polars_glmm.fit(frame.rename({"half": "part"}), "Reaction ~ Days", by="part"))


def test_files_that_came_later_may_have_more_columns(tmp_path: Path) -> None:
    sleep().head(90).write_parquet(tmp_path / "1.parquet")
    sleep().tail(90).with_columns(more=1).write_parquet(tmp_path / "2.parquet")
    assert cli.main(["fit", str(tmp_path), SLEEP]) == 0
    sleep().tail(90).drop("Days").write_parquet(tmp_path / "3.parquet")
    assert cli.main(["fit", str(tmp_path), SLEEP]) == 2


def test_tables_of_other_schemas_are_named_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = sleep()
    with duckdb.connect(str(tmp_path / "base.db")) as connection:
        connection.register("given", frame.to_arrow())
        connection.execute("create schema night")
        connection.execute("create table night.sleep as select * from given")
        connection.execute("create table sleep as select * from given where Days < 8")
    for name, n in (("night.sleep", 180), ("sleep", 144)):
        assert cli.main(["fit", f"duckdb:{tmp_path}/base.db?{name}", SLEEP]) == 0
        assert f"{n} rows" in capsys.readouterr().err
    assert cli.main(["fit", f"duckdb:{tmp_path}/base.db", SLEEP]) == 2
    assert "'night.sleep'" in capsys.readouterr().err


def test_products_grow_month_by_month(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.products"
    for number, part in enumerate((sleep().head(90), sleep().tail(90))):
        path = tmp_path / f"{number}.parquet"
        part.write_parquet(path)
        asked = ["products", str(path), *([SLEEP] if number == 0 else []), "--out", str(kept), "--append"]
        assert cli.main(asked) == 0
    assert "180 observations" in capsys.readouterr().out
    assert cli.main(["fit", f"products:{kept}"]) == 0
    want = polars_glmm.fit(sleep(), SLEEP).loglik
    assert float(loglik(capsys.readouterr().out)) == pytest.approx(want, abs=1e-4)
    assert cli.main(["fit", f"products:{kept}", SLEEP]) == 2
    assert cli.main(["products", str(tmp_path / "0.parquet"), "--out", str(tmp_path / "other")]) == 2
    before = kept.read_bytes()
    again = ["products", str(tmp_path / "0.parquet"), "--out", str(kept), "--append"]
    assert cli.main([*again, "Reaction ~ 1 + (1 | Subject)"]) == 2
    assert "leave out FORMULA" in capsys.readouterr().err
    assert kept.read_bytes() == before
    assert cli.main([*again, SLEEP]) == 0  # the same line every night


def test_the_same_line_is_run_every_night_with_nested_groups(tmp_path: Path) -> None:
    """Products are kept by the formula that the columns resolve groups= to: 'batch/cask' is of two factors."""
    path, kept = tmp_path / "pastes.parquet", tmp_path / "kept.products"
    datasets.load("pastes").write_parquet(path)
    line = ["products", str(path), "strength ~ 1", "--groups", "batch/cask", "--out", str(kept), "--append"]
    assert [cli.main(line), cli.main(line)] == [0, 0]
    assert cli.main([*line[:4], "batch", *line[5:]]) == 2


def test_records_are_json_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = tmp_path / "sleep.parquet", tmp_path / "sleep.glmm"
    sleep().write_parquet(path)
    assert cli.main(["fit", str(path), SLEEP, "--save", str(model), "--log", "json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {record["event"] for record in records} >= {"read", "fitted", "saved"}
    fitted = next(record for record in records if record["event"] == "fitted")
    assert (fitted["n_obs"], fitted["converged"], fitted["logger"]) == (180, True, "polars_glmm")
    assert cli.main(["fit", str(path), "Reaction ~ Dais", "--log", "json"]) == 2
    (error,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"error"' in line]
    assert "Did you mean 'Days'" in error["message"]


def test_the_logger_tells_of_fits_and_stages(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="polars_glmm"):
        polars_glmm.fit(sleep(), SLEEP)
    events = [record.glmm["event"] for record in caplog.records]  # type: ignore[attr-defined]
    assert events[-1] == "fitted"
    assert "stage" in events
