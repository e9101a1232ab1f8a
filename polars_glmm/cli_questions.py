"""The verbs of the command line that ask a saved model: confint, means, plot."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from polars_glmm.cli_files import WRITERS, flat
from polars_glmm.errors import DatasetError, FitWarning, ModelError, counted, enumerate_names
from polars_glmm.opening import Csv, labels_of, opened

TABLES = tuple(f".{name}" for name in WRITERS)
PICTURES = (".html", ".json", ".png", ".svg")


def confint(options: argparse.Namespace) -> None:
    """`confint`: intervals of all parameters; profiles and bootstraps fit the model again to the rows of `--data`."""
    model = _model(options)
    more = {"n": options.n, "rng": options.seed} if options.method == "bootstrap" else {}
    which = options.which or "all"
    _give(options, lambda: model.confint(options.method, which, options.conf_level, **more))


def means(options: argparse.Namespace) -> None:
    """`means`: marginal means, or contrasts of them."""
    model = _model(options)
    _give(
        options,
        lambda: model.marginal_means(
            options.variables, options.by, contrast=options.contrast, adjust=options.adjust, random=options.random,
            scale=options.scale, conf_level=options.conf_level,
        ),
    )  # fmt: skip


def plot(options: argparse.Namespace) -> None:
    """`plot`: a picture to a file."""
    if (ending := options.out.suffix.lower()) not in PICTURES:
        msg = f"--out {options.out}: the suffix {ending!r} says no format; known are {enumerate_names([*PICTURES])}."
        raise DatasetError(msg)
    model = _model(options)
    asked = {"effects": 1, "trajectories": 1}.get(options.picture, 0)
    if len(options.variables) != asked:
        msg = f"plot {options.picture} takes {counted(asked, 'variable')}, not {len(options.variables)}."
        raise ModelError(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        try:
            draw = getattr(model.plot, options.picture)
        except AttributeError as error:
            raise ModelError(str(error)) from error
        draw(*options.variables).save(options.out)


def _model(options: argparse.Namespace) -> Any:
    """The saved model; with `--data` fitted again to those rows, which it does not keep itself."""
    if options.verb != "plot" and options.out is not None and options.out.suffix.lower() not in TABLES:
        ending = options.out.suffix.lower()
        msg = f"--out {options.out}: the suffix {ending!r} says no format; known are {enumerate_names([*TABLES])}."
        raise DatasetError(msg)
    import polars_glmm

    model = polars_glmm.read_fit(options.model)
    if options.data is None:
        return model
    if isinstance(model, polars_glmm.FitCollection):
        msg = "--data is for a saved fit; a collection is fitted again by polars-glmm fit … --by."
        raise ModelError(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        found = opened(options.data, csv_of(options), labels_of(model))
        rows: Any = found if isinstance(found, pl.DataFrame) else found.lazy()
        return model.update(frame=rows)


def _give(options: argparse.Namespace, make: Callable[[], pl.DataFrame]) -> None:
    """A table to `--out`, or as csv to print."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        table = make()
    if options.out is None:
        print(flat(table).write_csv(), end="")  # noqa: T201  the purpose of the command
        return
    with tempfile.TemporaryDirectory(prefix=".glmm-", dir=options.out.absolute().parent) as scratch:
        path = Path(scratch) / options.out.name
        WRITERS[options.out.suffix.lower().removeprefix(".")](table, path)
        path.replace(options.out)


def csv_of(options: argparse.Namespace) -> Csv:
    """How the options say that a csv file is written."""
    return Csv(options.null_values, options.separator, options.decimal_comma)


def add_csv(add: Callable[..., Any]) -> None:
    """The options that say how a csv file is written."""
    add("--separator", type=_byte, metavar="CHAR", help="between the fields of a csv file (default: a comma)")
    add("--decimal-comma", action="store_true", help="numbers of a csv file are written as 1,5")
    add(
        "--null-values", action="extend", nargs="+", metavar="TEXT",
        help="text that is a missing value in a csv file, beside an empty field (default: NA)",
    )  # fmt: skip


def _byte(text: str) -> str:
    r"""One character, or \t for a tab."""
    if text == "\\t":
        return "\t"
    if len(text.encode()) != 1:
        msg = f"{text!r} is not one character"
        raise argparse.ArgumentTypeError(msg)
    return text


def add_log(add: Callable[..., Any]) -> None:
    """The option that says how is told what is done."""
    add("--log", choices=("text", "json"), help="tell on standard error what is done, as text or a JSON object a line")


def add_questions(verbs: Any) -> None:
    """The verbs that ask a saved model."""
    what = {
        "confint": "intervals of the parameters of a saved model",
        "means": "marginal means by a saved model",
        "plot": "a picture of a saved model (extra plot)",
    }
    made = {}
    for verb, text in what.items():
        parser = verbs.add_parser(verb, help=text, description=f"{text[0].upper()}{text[1:]}; print csv, or write it.")
        made[verb] = add = parser.add_argument
        add("model", type=Path, metavar="MODEL", help="what fit --save wrote")
        add("--data", metavar="DATA", help="the rows, where they are needed: the model is fitted to them again")
        add_csv(add)
        add_log(add)
        endings = PICTURES if verb == "plot" else TABLES
        add("--out", type=Path, metavar="FILE", required=verb == "plot", help=f"write there ({', '.join(endings)})")
    for verb in ("confint", "means"):
        made[verb]("--conf-level", type=float, default=0.95, metavar="SHARE", help="of the limits (default: 0.95)")
    add = made["confint"]
    add("--method", choices=("wald", "profile", "bootstrap"), default="wald", help="the last two need --data")
    add("--which", action="append", metavar="NAME", help="all, fixed, random, dispersion, or a name; may be repeated")
    add("-n", type=int, default=1000, help="draws of a bootstrap (default: 1000)")
    add("--seed", type=int, help="of a bootstrap")
    add = made["means"]
    add("variables", metavar="VARIABLE", nargs="+", help="means for each combination of their values")
    add("--by", action="append", metavar="VARIABLE", help="contrasts within its values; may be repeated")
    add("--contrast", choices=("pairwise", "reference", "sequential", "polynomial", "mean"), help="instead of means")
    add("--adjust", help="tukey, holm, bonferroni, mvt …")
    add("--random", choices=("none", "integrate"), default="none", help="effects at zero, or the population")
    add("--scale", choices=("response", "link"), default="response", help="of the estimates")
    add = made["plot"]
    add(
        "picture",
        choices=("caterpillar", "qq_ranef", "forest", "residuals", "effects", "trajectories", "shrinkage", "counts"),
        help="which one; all but the first three need --data",
    )
    add("variables", metavar="VARIABLE", nargs="*", help="of effects and trajectories")
