"""What a design cannot determine is said before or beside the numbers, and never said of a design that can."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import AGQ, Fit, IdentifiabilityError, StudentT
from tests.hard import independent
from tests.hard.attempt import attempt, codes, fixed, names, note, refused, silent, variance

DOUBTS = {"not_identified", "same_partition", "redundant_terms", "flat_direction", "separation", "not_converged"}


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """One row per level of `row`, ten per level of `g`, overdispersed counts."""
    rng = np.random.default_rng(11)
    g = np.repeat(np.arange(30), 10)
    x = rng.normal(size=300)
    eta = 0.5 + 0.5 * x + 0.6 * rng.normal(size=30)[g] + 0.8 * rng.normal(size=300)
    return pl.DataFrame(
        {
            "row": np.arange(300),
            "g": g,
            "x": x,
            "y": eta + rng.normal(size=300),
            "count": rng.poisson(np.exp(1 + eta)),
            "size": np.full(300, 12),
            "success": rng.binomial(12, 1 / (1 + np.exp(-eta))),
            "once": (rng.random(300) < 1 / (1 + np.exp(-eta))).astype(int),
        }
    )


# ------------------------------------------------------------------------------------------ one row per level


@pytest.mark.one_in(3)
@pytest.mark.parametrize("formula", ["y ~ x + (1 | row)", "y ~ x + (1 | g) + (1 | row)", "y ~ x + (1 | g / row)"])
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_gaussian_with_one_row_per_level_is_refused(rows: pl.DataFrame, formula: str, method: str) -> None:
    """The level's effect and the residual are one and the same."""
    with refused(IdentifiabilityError, "row", "300 levels", "300 observations", "residual variance"):
        attempt(rows, formula, method=method)
    shared = rows.with_columns(row=pl.col("row") // 2)
    fit = attempt(shared, formula, method=method)
    assert not codes(fit) & DOUBTS
    assert variance(fit, "g:row" if "/" in formula else "row", column="std_error") is not None or fit.singular


def test_gaussian_with_as_many_effects_as_rows_is_refused(rows: pl.DataFrame) -> None:
    """Intercept and slope for every two rows; with four rows each it can be done."""
    with refused(IdentifiabilityError, "pair", "150 levels × 2 effects", "300 observations"):
        attempt(rows.with_columns(pair=pl.col("row") // 2), "y ~ x + (x | pair)")
    fit = attempt(rows.with_columns(pair=pl.col("row") // 4), "y ~ x + (x | pair)")
    assert not codes(fit) & DOUBTS


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("response", "arguments", "family"),
    [
        ("count", {"family": "poisson"}, independent.POISSON),
        ("success", {"family": "binomial", "trials": "size"}, independent.binomial(12.0)),
        ("cbind(success, size - success)", {"family": "binomial"}, independent.binomial(12.0)),
    ],
)
def test_an_observation_level_effect_of_counts_is_right(
    rows: pl.DataFrame, response: str, arguments: dict[str, Any], family: independent.Counts
) -> None:
    """Overdispersion as a row effect: Poisson-lognormal and logit-normal binomial are identified, and not flagged."""
    fit = attempt(rows, f"{response} ~ x + (1 | row)", **arguments)
    silent(fit)
    y, x = rows["count" if response == "count" else "success"].to_numpy(), rows["x"].to_numpy()
    loglik = lambda t: independent.observation_level_loglik(family, y, t[0] + t[1] * x, float(np.exp(t[2])))
    at = [fixed(fit), fixed(fit, "x"), np.log(variance(fit, "row", column="std_dev"))]
    assert fit.loglik == pytest.approx(loglik(at), abs=1e-7)
    assert independent.best(loglik, at, [0.3, 0.3, -1.0]) < fit.loglik + 1e-6
    silent(attempt(rows, f"{response} ~ x + (1 | g) + (1 | row)", **arguments))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize("method", ["laplace", AGQ(9)])
def test_a_bernoulli_trial_per_level_determines_no_variance(rows: pl.DataFrame, link: str, method: Any) -> None:
    """Only the margin P(y = 1) shows: fitted, but the variance has a note and no standard error."""
    fit = attempt(rows, "once ~ x + (1 | row)", family="binomial", link=link, method=method)
    names(fit, "not_identified", "row")
    columns = ("std_error", "conf_low", "conf_high")
    assert [variance(fit, "row", column=c) for c in columns] == [None] * 3
    assert not codes(fit) & (DOUBTS - {"not_identified"})
    twin = attempt(
        rows.with_columns(row=pl.col("row") // 5), "once ~ x + (1 | row)", family="binomial", link=link, method=method
    )
    assert not codes(twin) & DOUBTS


def test_trials_make_a_row_effect_identified_and_so_does_frequency(rows: pl.DataFrame) -> None:
    """One row of 12 trials per level, 12 rows of one trial, or rows with a frequency: the same information."""
    trials = attempt(rows, "success ~ x + (1 | row)", family="binomial", trials="size")
    long = pl.concat(
        [
            rows.with_columns(hit=pl.lit(1), times="success"),
            rows.with_columns(hit=pl.lit(0), times=12 - pl.col("success")),
        ]
    )
    counted = attempt(long, "hit ~ x + (1 | row)", family="binomial", frequency="times")
    silent(counted)
    assert fixed(counted, "x") == pytest.approx(fixed(trials, "x"), abs=1e-6)
    assert variance(counted, "row") == pytest.approx(variance(trials, "row"), rel=1e-5)
    assert variance(counted, "row", column="std_error") == pytest.approx(
        variance(trials, "row", column="std_error"), rel=1e-4
    )
    singles = rows.with_columns(size=1, success="once")
    names(attempt(singles, "success ~ x + (1 | row)", family="binomial", trials="size"), "not_identified", "row")


# ------------------------------------------------------------------------------------------ replication designs

MODELS = ("(1 | pot)", "(1 | plant)", "(1 | pot) + (1 | plant)")
DESIGNS = ((100, 1, 1), (25, 1, 4), (20, 5, 1), (5, 5, 4))


def garden(pots: int, plants: int, seeds: int, seed: int = 0) -> pl.DataFrame:
    """Pots with plants with seeds: every seed germinates or not, has 8 trials, and bears a count."""
    rng = np.random.default_rng([pots, plants, seeds, seed])
    pot = np.repeat(np.arange(pots), plants * seeds)
    plant = np.repeat(np.arange(pots * plants), seeds)
    eta = 0.3 + rng.normal(size=pots)[pot] + rng.normal(size=pots * plants)[plant]
    p = 1 / (1 + np.exp(-eta))
    return pl.DataFrame(
        {
            "pot": pot,
            "plant": plant,
            "once": (rng.random(len(eta)) < p).astype(int),
            "of8": rng.binomial(8, p),
            "trials": np.full(len(eta), 8),
            "count": rng.poisson(np.exp(0.5 + eta)),
            "weight": eta + rng.normal(size=len(eta)),
        }
    )


def expected(kind: str, model: str, pots: int, plants: int, seeds: int) -> dict[str, tuple[str, ...]]:
    """Which notes, naming what; "refused" for an error."""
    groups = [name for name in ("pot", "plant") if name in model]
    alone = {name: {"pot": plants * seeds, "plant": seeds}[name] == 1 for name in groups}
    if kind == "gaussian" and any(alone.values()):
        return {"refused": tuple(name for name in groups if alone[name])[:1]}
    found: dict[str, tuple[str, ...]] = {}
    if kind == "bernoulli" and any(alone.values()):
        found["not_identified"] = tuple(name for name in groups if alone[name])
    if len(groups) == 2 and plants == 1:
        found["same_partition"] = ("pot", "plant")
    return found


@pytest.mark.one_in(6)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("pots", "plants", "seeds"), DESIGNS)
@pytest.mark.parametrize("kind", ["bernoulli", "binomial", "poisson", "gaussian"])
def test_replication_designs(kind: str, pots: int, plants: int, seeds: int, model: str) -> None:
    """Textbook tables of pots × plants × seeds: which variance the design determines, for every kind of response."""
    frame = garden(pots, plants, seeds)
    response, arguments = {
        "bernoulli": ("once", {"family": "binomial"}),
        "binomial": ("of8", {"family": "binomial", "trials": "trials"}),
        "poisson": ("count", {"family": "poisson"}),
        "gaussian": ("weight", {"method": "ml"}),
    }[kind]
    wanted = expected(kind, model, pots, plants, seeds)
    if "refused" in wanted:
        with refused(IdentifiabilityError, *wanted["refused"]):
            attempt(frame, f"{response} ~ 1 + {model}", **arguments)
        return
    fit = attempt(frame, f"{response} ~ 1 + {model}", **arguments)
    assert codes(fit) - {"singular"} == set(wanted)
    doubtful = {name for words in wanted.values() for name in words}
    for code, words in wanted.items():
        texts = [note.text for note in fit.notes if note.code == code]
        for name in ("pot", "plant"):
            assert any(f"'{name}'" in text for text in texts) == (name in words), (code, texts)
    for name in [name for name in ("pot", "plant") if name in model]:
        known = variance(fit, name, column="std_error") is not None
        assert known == (name not in doubtful and variance(fit, name) > 0)


def test_four_seeds_are_four_trials() -> None:
    """25 pots × 1 plant × 4 seeds: four Bernoulli rows of a plant, or one row of four trials, are the same model."""
    frame = garden(25, 1, 4)
    together = frame.group_by("plant", maintain_order=True).agg(pl.col("once").sum(), trials=pl.len())
    single = attempt(frame, "once ~ 1 + (1 | plant)", family="binomial")
    summed = attempt(together, "once ~ 1 + (1 | plant)", family="binomial", trials="trials")
    assert fixed(single) == pytest.approx(fixed(summed), abs=1e-6)
    assert variance(single, "plant") == pytest.approx(variance(summed, "plant"), rel=1e-5)
    y = together["once"].to_numpy()
    choose = independent.binomial(4.0).logp(y, np.zeros(25)).sum() - 100 * np.log(0.5)
    assert summed.loglik == pytest.approx(single.loglik + choose, abs=1e-8)
    z = independent.indicators(together["plant"])
    at = variance(summed, "plant", column="std_dev") * np.eye(25)
    loglik = independent.laplace_loglik(independent.binomial(4.0), y, np.full(25, fixed(summed)), z, at)
    assert summed.loglik == pytest.approx(loglik, abs=1e-8)


def test_seed_survival_with_individual_and_pot_effects() -> None:
    """Kubo's design: 10 pots of 10 individuals with 8 seeds each; both effects are identified, silently."""
    rng = np.random.default_rng(12)
    pot = np.repeat(np.arange(10), 10)
    eta = 1.5 * rng.normal(size=10)[pot] + 1.5 * rng.normal(size=100)
    frame = pl.DataFrame({"pot": pot, "id": np.arange(100), "y": rng.binomial(8, 1 / (1 + np.exp(-eta))), "n": 8})
    silent(attempt(frame, "y ~ 1 + (1 | pot) + (1 | id)", family="binomial", trials="n"))
    names(
        attempt(frame.with_columns(y=(pl.col("y") > 4).cast(int)), "y ~ 1 + (1 | pot) + (1 | id)", family="binomial"),
        "not_identified",
        "id",
        absent=("pot",),
    )


# ------------------------------------------------------------------------------------------ one level, same levels


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("response", "family"), [("y", "gaussian"), ("count", "poisson"), ("once", "binomial")])
@pytest.mark.parametrize("bar", ["(1 | site)", "(x | site)", "(1 | g) + (1 | site)", "(1 | site / g)"])
def test_one_group_only_is_refused(rows: pl.DataFrame, response: str, family: str, bar: str) -> None:
    """A variance between groups needs groups."""
    with refused(IdentifiabilityError, "'site'", "one level"):
        attempt(rows.with_columns(site=pl.lit("here")), f"{response} ~ x + {bar}", family=family)
    two = rows.with_columns(site=pl.when(pl.col("g") < 15).then(pl.lit("here")).otherwise(pl.lit("there")))
    assert not codes(attempt(two, f"{response} ~ x + (1 | site)", family=family)) & DOUBTS


def test_one_group_left_after_missing_rows(rows: pl.DataFrame) -> None:
    frame = rows.with_columns(site=pl.when(pl.col("g") < 15).then(pl.lit("here")).otherwise(pl.lit("there")))
    gone = frame.with_columns(x=pl.when(pl.col("site") == "here").then("x"))
    with refused(IdentifiabilityError, "'site'", "one level"):
        attempt(gone, "y ~ x + (1 | site)")


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("response", "family"), [("y", "gaussian"), ("count", "poisson"), ("once", "binomial")])
def test_two_factors_with_the_same_partition(rows: pl.DataFrame, response: str, family: str) -> None:
    """Names and numbers of the same schools: only the sum of the variances is determined."""
    twice = rows.with_columns(h=pl.concat_str(pl.lit("school "), (97 * pl.col("g") % 31).cast(pl.String)))
    fit = attempt(twice, f"{response} ~ x + (1 | g) + (1 | h)", family=family)
    assert codes(fit) - {"singular"} == {"same_partition"}
    names(fit, "same_partition", "g", "h")
    assert variance(fit, "g", column="std_error") is None
    assert variance(fit, "h", column="std_error") is None
    alone = attempt(rows, f"{response} ~ x + (1 | g)", family=family)
    assert fit.loglik == pytest.approx(alone.loglik, abs=1e-6)
    assert variance(fit, "g") + variance(fit, "h") == pytest.approx(variance(alone, "g"), rel=1e-4)
    assert fixed(fit, "x", "std_error") == pytest.approx(fixed(alone, "x", "std_error"), rel=1e-4)
    moved = twice.with_columns(h=pl.when(pl.col("row") % 17 == 0).then(pl.lit("school 1")).otherwise("h"))
    assert not codes(attempt(moved, f"{response} ~ x + (1 | g) + (1 | h)", family=family)) & DOUBTS


# ------------------------------------------------------------------------------------------ redundant terms


@pytest.fixture(scope="module")
def blocks() -> pl.DataFrame:
    """Three treatments in each of 40 blocks, four rows each; `between` differs only from block to block."""
    rng = np.random.default_rng(13)
    g = np.repeat(np.arange(40), 12)
    f = np.tile(np.repeat([0, 1, 2], 4), 40)
    b = rng.normal(size=(40, 3)) @ np.array([[1, 0.5, 0.2], [0, 0.9, 0.3], [0, 0, 0.8]])
    eta = 0.5 * f + b[g, f]
    x = rng.normal(size=480)
    return pl.DataFrame(
        {
            "g": g,
            "f": np.array(["a", "b", "c"])[f],
            "x": x,
            "half": np.where(g < 20, "n", "s"),
            "between": (g % 7).astype(float),
            "y": eta + 0.5 * rng.normal(size=40)[g] * x + rng.normal(size=480),
            "c": rng.poisson(np.exp(0.5 + eta)),
        }
    )


def one_model(fit: Fit, other: Fit) -> None:
    assert fit.loglik == pytest.approx(other.loglik, abs=1e-5)
    assert fit.fixef()["estimate"].to_list() == pytest.approx(other.fixef()["estimate"].to_list(), abs=1e-3)
    assert fit.fixef()["std_error"].to_list() == pytest.approx(other.fixef()["std_error"].to_list(), rel=1e-3)


@pytest.mark.parametrize(("response", "family"), [("y", "gaussian"), ("c", "poisson")])
def test_an_intercept_beside_all_levels_is_redundant(blocks: pl.DataFrame, response: str, family: str) -> None:
    """(1|g) + (0+f|g): the intercept's variance can be moved into the matrix of the levels (grouseticks' trap)."""
    fit = attempt(blocks, f"{response} ~ f + (1 | g) + (0 + f | g)", family=family)
    assert codes(fit) - {"singular"} == {"redundant_terms"}
    text = note(fit, "redundant_terms").text
    assert "(1 | g)" in text
    assert "(0 + f[a] + f[b] + f[c] | g)" in text or "(0 + f | g)" in text
    for term in ("Intercept", "f[a]", "f[b]", "f[c]"):
        assert variance(fit, "g", term, "std_error") is None
    whole = attempt(blocks, f"{response} ~ f + (0 + f | g)", family=family)
    silent(whole)
    one_model(fit, whole)
    corner = attempt(blocks, f"{response} ~ f + (f | g)", family=family)
    silent(corner)
    one_model(corner, whole)


@pytest.mark.parametrize(
    "bars",
    [
        "(1 | g) + (0 + f || g)",
        "(1 | g) + (1 | g:f)",
        "(1 | g) + (0 + x | g)",
        "(x || g)",
        "(1 | g) + (0 + f | g:half)",
    ],
)
def test_terms_that_only_look_redundant(blocks: pl.DataFrame, bars: str) -> None:
    """Twins: a common covariance beside separate variances, and a slope beside an intercept, are determined."""
    fit = attempt(blocks, f"y ~ f + {bars}")
    if bars.endswith("g:half)"):
        assert {"same_partition", "redundant_terms"} & codes(fit)  # g:half are the levels of g
    else:
        assert not codes(fit) & DOUBTS


def test_the_same_slope_twice(blocks: pl.DataFrame) -> None:
    """(0+x|g) + (0+I(2*x)|g): one slope under two names."""
    fit = attempt(blocks, "y ~ x + (0 + x | g) + (0 + I(2 * x) | g)")
    names(fit, "redundant_terms", "x", "g")
    one_model(fit, attempt(blocks, "y ~ x + (0 + x | g)"))


def test_a_treatment_between_blocks_has_no_covariance_within(blocks: pl.DataFrame) -> None:
    """(half | g) with half constant in g: two variances show, three parameters are asked for."""
    fit = attempt(blocks, "y ~ half + (half | g)")
    names(fit, "redundant_terms", "g", "half[T.s]")
    assert variance(fit, "g", "half[T.s]", "std_error") is None
    apart = attempt(blocks, "y ~ half + (0 + half || g)")
    assert not codes(apart) & DOUBTS
    assert fit.loglik == pytest.approx(apart.loglik, abs=1e-5)
    seven = attempt(blocks, "y ~ between + (between | g)")
    assert not codes(seven) & DOUBTS


def test_a_slope_on_a_constant_is_the_intercept(blocks: pl.DataFrame) -> None:
    """A covariate that never varies, as a random slope beside the intercept."""
    fit = attempt(blocks.with_columns(k=pl.lit(2.0)), "y ~ f + (k | g)")
    names(fit, "redundant_terms", "g", "k")
    one_model(fit, attempt(blocks, "y ~ f + (1 | g)"))


def test_more_fixed_effects_than_rows() -> None:
    frame = pl.DataFrame({"y": [1.0, 2.5, 3.0], "g": ["a", "a", "b"], "f": ["u", "v", "w"]})
    with refused(IdentifiabilityError, "3 observations", "3 fixed effects"):
        attempt(frame, "y ~ f")
    with refused(IdentifiabilityError):
        attempt(frame, "y ~ f + (1 | g)")


# ------------------------------------------------------------------------------------------ saturated models


def contrasts(seed: int, *, shared: bool) -> pl.DataFrame:
    """One row per level of x but for a few pairs: REML keeps the difference of each pair.

    The rows of a pair are in two groups. Where no two pairs share a group all differences have the variance
    2(τ² + σ²) and are independent; where two do, their covariance is ±τ².
    """
    rng = np.random.default_rng([seed, 41])
    pairs, singles, n_groups = 3, 20, 8
    first, second = [0, 1, 2], [3, 0, 1] if shared else [3, 4, 5]
    g = [*first, *rng.integers(0, n_groups, singles), *range(n_groups), *second]
    x = [*range(len(g) - pairs), *range(pairs)]
    return pl.DataFrame({"x": [f"v{k}" for k in x], "g": g, "y": rng.normal(size=len(g))})


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(3))
def test_contrasts_of_one_variance_do_not_split_it(seed: int) -> None:
    """Only τ² + σ² is determined: half the mean square of the differences, and every route says so."""
    frame = contrasts(seed, shared=False)
    fits = [attempt(frame, "y ~ x + (1 | g)"), attempt(frame.lazy(), "y ~ x + (1 | g)")]
    with pytest.warns(polars_glmm.FitWarning):
        fits.append(polars_glmm.fit(pl.concat([frame, frame]).with_columns(k=pl.int_range(pl.len()) // frame.height),
                                    "y ~ x + (1 | g)", by="k")[1])  # fmt: skip
    y = frame["y"].to_numpy()
    expected = float(((y[-3:] - y[:3]) ** 2).mean()) / 2
    for fit in fits:
        assert [n.code for n in fit.notes if not n.quiet] == ["flat_direction"]
        names(fit, "flat_direction", "sd(g: Intercept)", "phi")
        assert variance(fit, "g") + fit.dispersion()["estimate"][0] ** 2 == pytest.approx(expected, rel=1e-6)
        assert variance(fit, "g", column="std_error") is None
        assert fit.dispersion()["std_error"][0] is None
        assert fit.loglik == pytest.approx(fits[0].loglik, abs=1e-8)


@pytest.mark.parametrize("lazy", [False, True])
def test_contrasts_that_share_a_level_split_their_variance(lazy: bool) -> None:
    frame = contrasts(1, shared=True)
    fit = attempt(frame.lazy() if lazy else frame, "y ~ x + (1 | g)")
    assert not codes(fit) & DOUBTS
    assert fit.dispersion()["std_error"][0] > 0
    y = frame["y"].to_numpy()
    difference = y[-3:] - y[:3]
    z = np.zeros((3, 4))
    for k, (a, b) in enumerate(zip([0, 1, 2], [3, 0, 1], strict=True)):
        z[k, a], z[k, b] = z[k, a] - 1, z[k, b] + 1

    def loglik(tau2: float, sigma2: float) -> float:
        v = 2 * sigma2 * np.eye(3) + tau2 * z @ z.T
        return -0.5 * (np.linalg.slogdet(v)[1] + difference @ np.linalg.solve(v, difference))

    at = variance(fit, "g"), fit.dispersion()["estimate"][0] ** 2
    for a, b in [(1.05, 1), (0.95, 1), (1, 1.05), (1, 0.95)]:
        assert loglik(at[0] * a + 1e-3 * (a - 1), at[1] * b) <= loglik(*at) + 1e-9


@pytest.mark.parametrize("lazy", [False, True])
def test_maximum_likelihood_of_a_saturated_model_has_no_bound(lazy: bool) -> None:
    """ML keeps the zero residual of every single row: whatever the response, so no copy of it is to be looked for."""
    frame = contrasts(2, shared=True)
    with refused(IdentifiabilityError, "span all observations", "no bound", "fewer terms"):
        attempt(frame.lazy() if lazy else frame, "y ~ x + (1 | g)", method="ml")
    copied = frame.with_columns(x=pl.int_range(pl.len()) * 1.0).with_columns(y=2 * pl.col("x") + pl.col("g"))
    with refused(IdentifiabilityError, "reproduce the response exactly", "copy of the response"):
        attempt(copied.lazy() if lazy else copied, "y ~ x + (1 | g)", method="ml")


@pytest.mark.parametrize("formulas", [("y ~ x",), ("y ~ x + (1 | g)",), ("y ~ x", "phi ~ f")])
def test_shares_without_dispersion_are_refused_as_other_responses_are(formulas: tuple[str, ...]) -> None:
    """A beta's phi is a precision: it grows where nothing is left, in all rows or in those of one value of phi."""
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(10), 6), rng.normal(size=60)
    f = np.arange(60) % 2
    effects = rng.normal(size=10)[g] * (len(formulas) == 1 and "g" in formulas[0])
    eta = 0.3 + 0.5 * x + effects + (0.1 * rng.normal(size=60) * f if len(formulas) == 2 else 0.0)
    frame = pl.DataFrame({"g": g, "x": x, "f": f.astype(str), "y": 1.0 / (1.0 + np.exp(-eta))})
    with refused(IdentifiabilityError, "exactly", "no bound"):
        attempt(frame, *formulas, family="beta")


@pytest.mark.parametrize("seed", range(6))
def test_a_student_t_at_its_gaussian_limit_is_an_optimum(seed: int) -> None:
    """Residuals without tails: ℓ is flat in df there, and all else is where the gaussian family has it."""
    rng = np.random.default_rng(seed)
    n = 2000 if seed == 2 else 200
    frame = pl.DataFrame({"x": rng.normal(size=n), "g": rng.integers(0, 20, n), "y": rng.uniform(-1.0, 1.0, n)})
    for formula in ("y ~ x", "y ~ x + (1 | g)"):
        fit = attempt(frame, formula, family=StudentT(df=None))
        gaussian = attempt(frame, formula, method="ml")
        assert fit.converged
        assert "at_limit" in codes(fit)
        assert fit.loglik == pytest.approx(gaussian.loglik, abs=1e-4)
