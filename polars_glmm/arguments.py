"""The words of the command line: verbs and their options, named and meant as the arguments of the functions."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from polars_glmm.cli_questions import add_csv, add_log, add_questions
from polars_glmm.logs import tell

BAD_INPUT = 2


def complain(message: str, log: str | None = None) -> int:
    """Print one line to standard error; returns the exit code."""
    line = " ".join(message.split())
    if log is not None:
        tell("error", line, logging.ERROR)
        return BAD_INPUT
    print(f"polars-glmm: error: {line}", file=sys.stderr)  # noqa: T201
    return BAD_INPUT


class _Arguments(argparse.ArgumentParser):
    """Arguments as argparse reads them, mistakes as one line."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(complain(f"{message} (see {self.prog} --help)"))


_DATA = (
    "csv, tsv, parquet, ipc or ndjson file (by suffix, .gz behind it or not), a pattern or a folder of them, "
    "duckdb:FILE?TABLE, or dataset:NAME"
)


def _version() -> str:
    try:
        return version("polars-glmm")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def _common(add: Callable[..., object]) -> None:
    """Options of every verb that reads data."""
    add_csv(add)
    add_log(add)


def parser(formats: Sequence[str]) -> argparse.ArgumentParser:
    """The arguments: names and meanings as those of `fit`."""
    made = _Arguments(prog="polars-glmm", description="Mixed-effects models on Polars frames.")
    made.add_argument("--version", action="version", version=f"polars-glmm {_version()}")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    fit = verbs.add_parser(
        "fit",
        help="fit a model, print its summary, write its tables",
        description="Fit a model to a file or to a shipped data set, print the summary, and write the tidy tables.",
    )
    fit.add_argument("data", metavar="DATA", help=_DATA)
    fit.add_argument(
        "formulas", metavar="FORMULA", nargs="*", help='"y ~ x + (1 | g)"; further ones name a parameter: "phi ~ x"'
    )
    add = fit.add_argument
    add("--groups", action="append", metavar="NAME", help="grouping factor: adds (1 | NAME); may be repeated")
    add(
        "--family",
        default="gaussian",
        help="gaussian, binomial, poisson, gamma, beta …; a wrong name lists them all",
    )
    add("--link", help="link of the mean; each family has a default")
    add("--method", help="reml, ml, laplace or agq")
    add("--nodes", type=int, help="quadrature points per random effect, for --method agq")
    add("--trials", metavar="COLUMN", help="binomial trials; the response is the number of successes")
    add("--offset", metavar="COLUMN", help="added to the linear predictor")
    add("--frequency", metavar="COLUMN", help="whole numbers: the row stands for that many identical rows")
    add("--precision", metavar="COLUMN", help="the variance of the row is divided by it")
    add("--residual", metavar="TERM", help="correlation of residuals within groups, as 'ar1(time | id)'")
    add("--by", action="append", metavar="COLUMN", help="one model per value; may be repeated")
    add("--out", type=Path, metavar="DIR", help="write fixef, varcorr, dispersion, ranef and glance there")
    add("--format", choices=sorted(formats), default="parquet", help="format of those tables (default: parquet)")
    add("--save", type=Path, metavar="MODEL", help="write the model there, for polars-glmm predict and read_fit")
    add("--start", type=Path, metavar="MODEL", help="start from the parameters of a model that --save wrote")
    add("--fail-singular", action="store_true", help="exit code 4 where a covariance matrix has lost rank")
    _common(add)
    predict = verbs.add_parser(
        "predict",
        help="predict by a saved model",
        description="Predict the rows of a file by a model that fit --save wrote; print csv, or write a file.",
    )
    add = predict.add_argument
    add("model", type=Path, metavar="MODEL", help="what fit --save wrote")
    add("data", metavar="DATA", help=_DATA)
    add("--out", type=Path, metavar="FILE", help="write there (csv, parquet, ipc or ndjson, by suffix)")
    add("--kind", choices=("response", "link", "mu", "phi", "zi", "zero"), default="response", help="what is predicted")
    add("--random", choices=("all", "none"), default="all", help="with the random effects of known levels, or without")
    add("--new-levels", choices=("error", "zero", "null"), default="error", help="what a level not seen before gets")
    add("--interval", action="store_true", help="with confidence limits")
    add("--conf-level", type=float, default=0.95, metavar="SHARE", help="of the limits (default: 0.95)")
    add("--name", default="prediction", metavar="COLUMN", help="of the prediction (default: prediction)")
    _common(add)
    _add_keeping(verbs)
    add_questions(verbs)
    return made


def read_arguments(reader: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked. Formulas may stand behind options too, which argparse does not find there by itself."""
    options, rest = reader.parse_known_args(arguments)
    if rest and hasattr(options, "formulas") and not any(one.startswith("-") for one in rest):
        options.formulas, rest = [*options.formulas, *rest], []
    if rest:
        reader.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _add_keeping(verbs: Any) -> None:
    """The verbs of what is kept from night to night: products, drift."""
    products = verbs.add_parser(
        "products",
        help="sum up the rows of a gaussian model, alone or added to earlier ones",
        description="Write the cross-products of a gaussian model to a file; fit products:FILE fits them.",
    )
    add = products.add_argument
    add("data", metavar="DATA", help=_DATA)
    add("formulas", metavar="FORMULA", nargs="*", help="of the model; not needed with --append to a file that is there")
    add("--out", type=Path, metavar="FILE", required=True, help="the file of products")
    add("--append", action="store_true", help="add to the products that are in the file already")
    add("--groups", action="append", metavar="NAME", help="grouping factor: adds (1 | NAME); may be repeated")
    add("--levels", action="append", metavar="COLUMN=A,B", help="all labels of a column, where a part may lack some")
    _common(add)
    moved = verbs.add_parser(
        "drift",
        help="how far parameters moved between two saved models",
        description="Print old and new estimates of every parameter of two saved models as csv.",
    )
    add = moved.add_argument
    add("old", type=Path, metavar="OLD", help="what fit --save wrote before")
    add("new", type=Path, metavar="NEW", help="what fit --save wrote now")
    add_log(add)
