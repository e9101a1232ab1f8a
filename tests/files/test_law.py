"""A fit that was written and read answers everything as the fit does."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import FitCollection, FitWarning, ModelError, datasets, read_fit
from tests.files.models import KINDS, rows

KEPT = Path(__file__).parent / "kept"


def through(model: Any, folder: Path) -> Any:
    """The model of the file of a model; the file of that one is the same to the last byte."""
    one, two = folder / "one.glmm", folder / "two.glmm"
    model.write(one)
    read = read_fit(one)
    read.write(two)
    assert one.read_bytes() == two.read_bytes()
    return read


def without_rows(fit: Any) -> Any:
    """The fit as a pickle keeps it."""
    return pickle.loads(pickle.dumps(fit))  # noqa: S301  made here


@pytest.mark.one_in(18)
@pytest.mark.parametrize("name", KINDS)
def test_a_read_fit_answers_as_the_fit_did(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        fit, frame = KINDS[name]()
    read = through(fit, tmp_path)
    groups = [factor.name for factor in fit.recipe.factors]
    questions = {
        "fixef": lambda f: f.fixef(),
        "normal": lambda f: f.fixef(df="normal", exponentiate=True),
        "varcorr": lambda f: f.varcorr(conf_level=0.8),
        "dispersion": lambda f: f.dispersion(),
        "ranef": lambda f: f.ranef(),
        "glance": lambda f: f.glance(),
        "vcov": lambda f: f.vcov(),
        "full vcov": lambda f: f.vcov(full=True),
        "diagnose": lambda f: f.diagnose(),
        "augment": lambda f: f.augment(frame),
        "with_ranef": lambda f: f.with_ranef(frame),
        "simulate": lambda f: f.simulate(frame, 2, rng=1),
        "predict": lambda f: f.predict(frame),
        "unseen": lambda f: f.predict(frame.head(5), random="none", interval="confidence", new_levels="zero"),
        **{f"ranef {group}": lambda f, group=group: f.ranef(group) for group in groups},
        **{f"coef {group}": lambda f, group=group: f.coef(group) for group in groups},
    }
    if fit.certificate.exact:
        questions["interval"] = lambda f: f.predict(frame, interval="confidence")
    for question, ask in questions.items():
        try:
            wanted = ask(fit)
        except polars_glmm.GlmmError as refused:
            with pytest.raises(type(refused), match=re.escape(str(refused))):
                ask(read)
            continue
        found = ask(read)
        assert found.equals(wanted), question
        assert found.schema == wanted.schema, question
    rowless = without_rows(fit)
    assert str(read) == str(rowless)
    assert read._repr_html_() == rowless._repr_html_()
    assert (read.spec, read.call, read.control) == (fit.spec, fit.call, fit.control)
    with pytest.raises(ModelError, match="read from a file"):
        read.data()


def test_a_read_fit_knows_at_which_values_covariates_were_held(tmp_path: Path) -> None:
    """Means over the rows are in the file, so that marginal means need none; other statistics do."""
    frame = datasets.load("chickweight").with_columns(often=pl.lit(2))
    made = polars_glmm.fit(frame, "weight ~ Time * Diet + (1 | Chick)", frequency="often")
    for _ in range(2):  # a file of a read fit too
        made.write(tmp_path / "one.glmm")
        read = polars_glmm.read_fit(tmp_path / "one.glmm")
        assert polars_glmm.grid(read)["Time"].unique().to_list() == [frame["Time"].mean()]
        pairs = [one.marginal_means("Diet", contrast="pairwise") for one in (made, read)]
        assert_frame_equal(*pairs)
        with pytest.raises(ModelError, match="the median of 'Time' is not known"):
            polars_glmm.grid(read, Time="median")
        made = read


def test_a_read_fit_is_fitted_again_and_starts_others(tmp_path: Path) -> None:
    frame = rows()
    for formula, groups in (("y ~ x + (1 | g)", None), ("y ~ x", {"g": "1"})):
        fit = frame.glmm.fit(formula, groups=groups, method="ml")
        read = through(fit, tmp_path)
        again = read.update(". ~ . + z", frame=frame)
        assert again.formula == fit.update(". ~ . + z").formula
        assert again.loglik == pytest.approx(fit.update(". ~ . + z").loglik)
        started = frame.glmm.fit("y ~ x + (1 | g)", method="ml", start=read)
        assert started.loglik == pytest.approx(fit.loglik)
        assert through(started, tmp_path).call.start == started.call.start
        assert polars_glmm.anova(read, again).height == 2


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("formula", "by", "arguments"),
    [
        ("y ~ x + (1 | g)", "h", {}),
        ("count ~ x + (1 | g)", ["h"], {"family": "poisson"}),
        ("y ~ x", ["h", "f"], {}),
        ("y ~ poly(x, 2) + (1 | g)", "h", {}),
        ("y ~ x + (1 | g) + (1 | c)", "h", {"method": "ml"}),
    ],
)
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_a_read_collection_answers_as_the_collection_did(
    formula: str, by: str | list[str], arguments: dict[str, Any], tmp_path: Path
) -> None:
    frame = rows(24, 12)
    made = frame.glmm.fit(formula, by=by, **arguments)
    read = through(made, tmp_path)
    assert isinstance(read, FitCollection)
    for table in ("status", "fixef", "varcorr", "dispersion", "ranef", "glance"):
        assert_frame_equal(getattr(read, table)(), getattr(made, table)(), check_exact=True)
    for verb in ("predict", "augment", "with_ranef"):
        assert_frame_equal(getattr(read, verb)(frame), getattr(made, verb)(frame), check_exact=True)
    assert (str(read), read._repr_html_()) == (str(made), made._repr_html_())
    for (key, fit), (same, own) in zip(made, read, strict=True):
        assert key == same
        assert str(own) == str(without_rows(fit))


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_errors_of_failed_keys_are_kept(tmp_path: Path) -> None:
    frame = rows().with_columns(y=pl.when(pl.col("h") == "h1").then(float("inf")).otherwise("y"))
    made = frame.glmm.fit("y ~ x + (1 | g)", by="h")
    read = through(made, tmp_path)
    assert (read.status()["status"] == "failed").sum() == 1
    with pytest.raises(type(made.outcomes[1])) as raised:
        _ = read["h1"]
    assert str(raised.value) == str(made.outcomes[1])


def test_a_family_of_ones_own_has_no_file(tmp_path: Path) -> None:
    class Own(polars_glmm.Poisson):
        """A subclass, which a name does not bring back."""

    fit = rows().glmm.fit("count ~ x", family=Own())
    with pytest.raises(ModelError, match="no file format"):
        fit.write(tmp_path / "own.glmm")
    assert not list(tmp_path.iterdir())


def test_products_of_the_first_version_of_their_format_are_read(tmp_path: Path) -> None:
    """Written by this package before its recipes had a family; the fit is that of the rows."""
    frame = polars_glmm.datasets.load("sleepstudy").with_columns(
        grp=pl.when(pl.col("Days") > 4).then(pl.lit("late")).otherwise(pl.lit("early")).cast(pl.Enum(["early", "late"]))
    )
    old = polars_glmm.read_products(KEPT / "products_1.parquet")
    new = polars_glmm.products(frame, "Reaction ~ grp + bs(Days, knots=[3.0, 6.0]) + (Days | Subject)")
    assert old.fit().loglik == pytest.approx(new.fit().loglik, rel=1e-12)
    assert old.recipe.categoricals == new.recipe.categoricals
    old.write_parquet(tmp_path / "again.parquet")
    assert polars_glmm.read_products(tmp_path / "again.parquet").fit().loglik == old.fit().loglik
