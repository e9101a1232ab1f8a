"""A file that is no model is refused in words: nothing in it runs, and what it claims is believed only so far."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import polars_glmm
from polars_glmm import DatasetError, ModelFileError, read_fit
from polars_glmm.files import claims
from polars_glmm.files.archive import SCHEMA
from polars_glmm.files.digest import digest
from polars_glmm.files.store import as_parquet, typed
from tests.files.hostile import members, mutations, scrambled, signed
from tests.files.models import rows


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("files") / "good.glmm"
    rows().glmm.fit("y ~ bs(x, df=4) + f + (1 | g)").write(path)
    return path.read_bytes()


def told(data: bytes) -> dict[str, Any]:
    return json.loads(members(data)["manifest.json"])  # type: ignore[no-any-return]


def refused(data: bytes, folder: Path) -> str:
    """What is said of a file that is not read."""
    path = folder / "bad.glmm"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as raised:
        read_fit(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_a_file_signed_again_is_read(good: bytes, tmp_path: Path) -> None:
    """So that what the other tests change is what is refused."""
    (tmp_path / "again.glmm").write_bytes(signed(members(good)))
    assert read_fit(tmp_path / "again.glmm").formula == told(good)["fit"]["recipe"]["formulas"][0]


def test_what_is_no_model_file_is_refused(tmp_path: Path) -> None:
    assert "fit.write" in refused(b"", tmp_path)
    assert "fit.write" in refused(b"PAR1 something PAR1", tmp_path)
    empty = BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert "no manifest" in refused(empty.getvalue(), tmp_path)
    assert "'other.txt'" in refused(signed({"manifest.json": b"{}", "other.txt": b""}), tmp_path)
    with pytest.raises(ModelFileError, match="No such file"):
        read_fit(tmp_path / "nothing.glmm")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_fit(tmp_path)


def test_a_later_version_is_refused_with_both_numbers(good: bytes, tmp_path: Path) -> None:
    text = refused(signed(members(good), told(good) | {"schema": SCHEMA + 6}), tmp_path)
    assert f"version {SCHEMA + 6}" in text
    assert f"up to version {SCHEMA}" in text


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "manifest.json/x", "levels_0.parquet.exe", "levels_-1.parquet"]
)
def test_members_with_other_names_are_refused(name: str, good: bytes, tmp_path: Path) -> None:
    assert "has a member" in refused(signed({**members(good), name: b"x"}), tmp_path)


def test_a_changed_member_is_found_by_its_digest(good: bytes, tmp_path: Path) -> None:
    parts = members(good)
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, parts["fixef.parquet"] if name == "varcorr.parquet" else data)
    assert "not those that were written" in refused(file.getvalue(), tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a device of Unix")
def test_what_never_ends_is_not_read_to_its_end() -> None:
    with pytest.raises(ModelFileError, match="no model file"):
        read_fit("/dev/zero")
    with pytest.raises(DatasetError, match="no Parquet file"):
        polars_glmm.read_products("/dev/zero")


def test_a_compressed_member_is_refused_before_it_is_opened(good: bytes, tmp_path: Path) -> None:
    bomb = members(good) | {"arrays.parquet": bytes(50 << 20)}
    assert "compressed" in refused(signed(bomb, compression=zipfile.ZIP_DEFLATED), tmp_path)


def test_a_table_that_claims_more_than_its_size_allows_is_refused(good: bytes, tmp_path: Path) -> None:
    """10⁷ equal numbers in a few kB of Parquet."""
    n, file = 10_000_000, BytesIO()
    pl.LazyFrame({"x": [0.0]}).select(pl.repeat(0.0, n, dtype=pl.Float64).alias("x")).sink_parquet(file)
    text = told(good)
    text["tables"]["arrays.parquet"] = {"rows": n, "columns": [["x", "Float64"]]}
    assert "MiB" in refused(signed(members(good) | {"arrays.parquet": file.getvalue()}, text), tmp_path)


def test_a_table_with_other_rows_than_the_manifest_says_is_refused(good: bytes, tmp_path: Path) -> None:
    text = told(good)
    text["tables"]["levels_0.parquet"]["rows"] += 1
    assert "rows" in refused(signed(members(good), text), tmp_path)


class Marked:
    """Leaves a mark when a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_nothing_in_a_file_is_executed(good: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    loaded = pickle.dumps(Marked(mark))
    refused(loaded, tmp_path)
    refused(signed(members(good) | {"levels_0.parquet": loaded}), tmp_path)
    for kind in ("Function", "Popen", "__import__", "Estimate"):
        text = told(good)
        column = text["fit"]["recipe"]["predictors"][0]["columns"][0]
        column["node"] = {
            "record": kind,
            "name": f"open({str(mark)!r}, 'w')",
            "x": {"record": "Constant", "value": 1.0},
        }
        refused(signed(members(good), text), tmp_path)
    assert not mark.exists()


TWISTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "family": lambda fit: fit["recipe"].update(family={"name": "os.system", "link": "log"}),
    "link": lambda fit: fit["recipe"]["family"].update(link="eval"),
    "operator": lambda fit: fit["recipe"]["predictors"][0].update(
        offset={"record": "Arithmetic", "operator": "@", "left": {"record": "Constant", "value": 1.0},
                "right": {"record": "Constant", "value": 1.0}}
    ),
    "structure": lambda fit: fit["recipe"]["factors"][0]["terms"][0].update(structure="ar1"),
    "columns": lambda fit: fit["recipe"]["predictors"][0]["columns"].pop(),
    "marks": lambda fit: fit["recipe"]["predictors"][0]["kept"].pop(),
    "formula": lambda fit: fit["recipe"].update(formulas=["y ~ " + "*".join(f"x{k}" for k in range(40))]),
    "deep formula": lambda fit: fit["recipe"].update(formulas=["y ~ " + "(" * 10_000]),
    "method": lambda fit: fit["recipe"]["method"].update(record="HMC"),
    "array": lambda fit: fit["estimate"].update(beta={"array": 10**9}),
    "another array": lambda fit: fit["estimate"].update(beta=fit["estimate"]["vcov_fixed"]),
    "number": lambda fit: fit["estimate"].update(loglik="high"),
    "huge number": lambda fit: fit["estimate"].update(n_obs=10**30),
    "levels": lambda fit: fit["levels"][0]["rows"].update(height=3),
    "many effects": lambda fit: fit["levels"][0].update(effects=10**6),
    "missing": lambda fit: fit.pop("fingerprint"),
    "notes": lambda fit: fit.update(notes=[{"record": "Note", "code": "x"}]),
    "control": lambda fit: fit["control"].update(block=-1),
    "groups": lambda fit: fit["call"].update(groups={"list": [{"list": [{"list": [{"list": []}]}]}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", TWISTS)
def test_content_that_no_fit_has_is_refused(name: str, good: bytes, tmp_path: Path) -> None:
    text = told(good)
    TWISTS[name](text["fit"])
    assert "cannot be read as a model file" in refused(signed(members(good), text), tmp_path)


def test_deep_json_is_refused(good: bytes, tmp_path: Path) -> None:
    deep = b"[" * 200_000
    parts = {"manifest.json": deep} | {n: d for n, d in members(good).items() if n != "manifest.json"}
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    refused(file.getvalue(), tmp_path)


def test_what_parquet_claims_is_read_as_it_is_written() -> None:
    frames = [
        pl.DataFrame({"a": []}, schema={"a": pl.Float64}),
        pl.DataFrame({"a": [[1.0], [], None], "b": [{"x": 1, "y": None}] * 3}),
        pl.DataFrame({"a": range(600_000), "b": pl.repeat("same", 600_000, eager=True)}),
    ]
    for frame in frames:
        file = BytesIO()
        frame.write_parquet(file)
        data = file.getvalue()
        assert pl.read_parquet(BytesIO(claims.check(data, frame.height, 1 << 30))).equals(frame)
        with pytest.raises(ValueError, match="rows"):
            claims.check(data, frame.height + 1, 1 << 30)
        for kept in range(0, len(data), max(len(data) // 50, 1)):
            with pytest.raises(ValueError):
                claims.check(data[:kept], frame.height, 1 << 30)


def test_mutated_files_are_refused_or_read(good: bytes, tmp_path: Path) -> None:
    assert tried(good, 300, 7, tmp_path) > 150


def tried(data: bytes, n: int, seed: int, folder: Path) -> int:
    """How many of n mutated files are refused; the others are read to the end. Anything else is raised."""
    path, count = folder / "mutated.glmm", 0
    for mutated in mutations(data, n, seed):
        path.write_bytes(mutated)
        try:
            model = read_fit(path)
        except ModelFileError:
            count += 1
            continue
        with suppress(Exception):  # numbers that were changed and signed again may have no answer
            str(model)
    return count


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_mutated_products_are_refused_or_the_same(tmp_path: Path) -> None:
    """Of 1,200 such files 21 were fitted to other numbers, and 29 stopped in other ways, before there was a digest."""
    path, chance = tmp_path / "products.parquet", random.Random(3)
    products = polars_glmm.products(rows(), "y ~ bs(x, df=4) + f + (x | g) + (1 | f:g)")
    products.write_parquet(path)
    data, loglik, refusals = path.read_bytes(), products.fit().loglik, 0
    for _ in range(200):
        path.write_bytes(scrambled(data, chance))
        try:
            read = polars_glmm.read_products(path)
        except DatasetError:
            refusals += 1
            continue
        assert read.fit().loglik == loglik  # what changed says nothing, as who wrote the file
    assert refusals > 150


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_products_signed_again_fit_together_or_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "products.parquet"
    polars_glmm.products(rows(), "y ~ x + (1 | g) + (1 | f)").write_parquet(path)
    whole = pl.read_parquet(path)
    head = json.loads(whole.filter(pl.col("set") == "total")["recipe"].item())
    head.pop("sha256")
    table = typed(whole.drop("recipe"), head["columns"])

    def read(text: dict[str, Any], own: pl.DataFrame) -> polars_glmm.Products:
        kept = json.dumps(text | {"sha256": digest(json.dumps(text), own)})
        path.write_bytes(as_parquet(own.with_columns(recipe=pl.when(pl.col("set") == "total").then(pl.lit(kept)))))
        return polars_glmm.read_products(path)

    assert read(head, table).fit().n_obs == rows().height
    twists: list[tuple[dict[str, Any], pl.DataFrame]] = [
        (head, table.with_columns(pl.col("left") + 1)),
        (head, table.with_columns(pl.col("right") - 1)),
        (head, table.with_columns(pl.col("mean").list.slice(1))),
        (head, table.filter(pl.col("set") != "total")),
        (head | {"centre": head["centre"][1:]}, table),
        (head | {"centre": [1e999] * 2 + ["x"]}, table),
        (head | {"n_obs": 10**30}, table),
        (head | {"n_obs": 1.5}, table),
        (head | {"version": 4}, table),
    ]
    for text, own in twists:
        with pytest.raises(DatasetError):
            read(text, own)


@pytest.mark.parametrize("other", [["x", "yz"], ["xyz", ""], ["xy", None], ["x", "y", "z"]])
def test_a_digest_tells_tables_apart(other: list[str | None]) -> None:
    first = pl.DataFrame({"a": ["xy", "z"]})
    told = digest("", first)
    assert told == digest("", pl.concat([first[:1], first[1:]]))
    others = [digest("", pl.DataFrame({"a": other})), digest("", first.cast(pl.Binary)), digest("b", first)]
    assert len({told, *others}) == 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory are asked of a Unix system")
def test_thousands_of_mutations_take_no_memory_and_no_time(good: bytes, tmp_path: Path) -> None:
    """3,000 files in a process of its own, which may grow by 300 MB and take 5 minutes for each 200."""
    (tmp_path / "good.glmm").write_bytes(good)
    code = f"""
        import resource, signal
        from pathlib import Path
        from tests.files.hostile import mutations
        from tests.files.test_hostile import tried
        import polars_glmm
        folder = Path({str(tmp_path)!r})
        data = (folder / "good.glmm").read_bytes()
        str(polars_glmm.read_fit(folder / "good.glmm"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(15):
            signal.alarm(300)
            tried(data, 200, seed, folder)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "memory"
    """
    root = Path(polars_glmm.__file__).parent.parent
    here = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        cwd=here, env={"PYTHONPATH": f"{here}:{root}", "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
