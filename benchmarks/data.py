"""Data of the problems as files: one Parquet per problem and, for R, the same columns as plain binary files.

Run as a process of its own (`python -m benchmarks.data PROBLEM_JSON FOLDER [--columns]`), because the process that
measures others must stay small.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import generators
from benchmarks.problems import Problem


def load(problem: Problem) -> pl.DataFrame:
    """The columns that the problem's model uses; the response is a number, and trials bring their `failures`.

    Raises FileNotFoundError for reference data that are not there.
    """
    frame = _from_source(problem.source)
    if not frame[problem.response].dtype.is_numeric():
        frame = frame.with_columns(pl.col(problem.response).to_physical().cast(pl.Int8))  # second level = success
    formulas = " ".join([problem.formula(), *problem.further, problem.residual or ""])
    words = [*re.findall(r"\w+", formulas), problem.trials or "", problem.by or ""]
    used = frame.select([column for column in frame.columns if column in words])
    if problem.trials is not None:
        used = used.with_columns(failures=pl.col(problem.trials) - pl.col(problem.response))
    return used


def write(problem: Problem, folder: Path, *, columns: bool) -> None:
    """`NAME.parquet` and, if asked, `NAME.columns/` in the folder; files that exist are kept."""
    path = folder / f"{problem.name}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        load(problem).write_parquet(unfinished)
        unfinished.rename(path)
    if columns and not (folder / f"{problem.name}.columns" / "schema.tsv").exists():
        _write_columns(pl.read_parquet(path), problem, folder / f"{problem.name}.columns")


def _from_source(source: str) -> pl.DataFrame:
    kind, name, *rest = source.split(":")
    match kind:
        case "dataset":
            from polars_glmm import datasets

            return datasets.load(name)
        case "reference":
            return _reference(name)
        case _:
            pairs = (pair.split("=") for pair in ":".join(rest).split(",") if pair)
            make: Callable[..., pl.DataFrame] = getattr(generators, name)
            return make(**{key: int(value) for key, value in pairs})


def _reference(name: str) -> pl.DataFrame:
    """A CSV of the reference corpus, or FileNotFoundError saying what is missing."""
    folder = os.environ.get("POLARS_GLMM_REFERENCE")
    if folder is None:
        raise FileNotFoundError(f"{name}: its data are not ours to ship; POLARS_GLMM_REFERENCE names no folder")
    found = [path for path in (Path(folder) / f"{name}.csv", Path(folder) / "data" / f"{name}.csv") if path.exists()]
    if not found:
        raise FileNotFoundError(f"{name}: there is no {name}.csv in {folder}")
    return pl.read_csv(found[0])


def _write_columns(frame: pl.DataFrame, problem: Problem, folder: Path) -> None:
    """Numbers as little-endian doubles, factors as 1-based int32 codes with their levels, one file each.

    R reads them exactly and at once; grouping factors are ready made, as lme4 wants them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema = []
    for column in frame.iter_columns():
        if column.name in problem.groups or not column.dtype.is_numeric():
            codes, levels = _coded(column)
            codes.astype("<i4").tofile(folder / column.name)
            (folder / f"{column.name}.levels").write_text("\n".join(levels), encoding="utf-8")
            schema.append(f"{column.name}\tfactor")
        else:
            column.cast(pl.Float64).to_numpy().astype("<f8").tofile(folder / column.name)
            schema.append(f"{column.name}\tnumber")
    (folder / "schema.tsv").write_text("\n".join(schema) + "\n", encoding="utf-8")


def _coded(column: pl.Series) -> tuple[np.ndarray, list[str]]:
    """1-based codes and the levels that occur, in the Enum's order or sorted."""
    order = column.unique().sort()  # of an Enum: in its own order
    levels = order.cast(pl.String).to_list()
    labels = column.cast(pl.String).cast(pl.Enum(levels))
    return labels.to_physical().to_numpy() + 1, levels


if __name__ == "__main__":
    try:
        write(Problem.from_json(sys.argv[1]), Path(sys.argv[2]), columns="--columns" in sys.argv)
    except FileNotFoundError as missing:
        sys.exit(str(missing))
