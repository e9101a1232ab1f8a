"""Makes the shipped data, the test data and the reference entries from a reference corpus.

    python tests/references/convert.py FOLDER

FOLDER holds `data/NAME.csv|parquet` with `NAME.schema.json`, `reference/ID.json` (fitted models of lme4, glmmTMB, TMB
and nlme), and `inference/ID.json` (what comes after a fit). Written: `polars_glmm/data/*.parquet` (published
measurements), `tests/data/*.parquet` (simulated and derived sets), `tests/references/ID.json` (models this package
fits), `tests/references/inference/ID.json`, `tests/references/README.md` (what is left out, and why).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / "polars_glmm" / "data"
TEST_ONLY = HERE.parent / "data"

AFTER_THE_FIT = ("ddf", "terms")
"""Beginnings of the names of entries about what comes after a fit."""
NOT_REDISTRIBUTED = ("pig", "kubo_seeds", "salamander_mating")
TEST_PREFIXES = ("sim_", "edge_", "sleepstudy_ext", "sleepstudy_na")
DTYPES = {"int64": pl.Int64, "float64": pl.Float64, "string": pl.String, "bool": pl.String}

FAMILIES = (
    "gaussian", "binomial", "poisson", "Gamma", "inverse.gaussian", "nbinom2", "nbinom1", "beta", "betabinomial",
    "lognormal", "t", "tweedie", "weibull", "exponential", "loglogistic", "lognormal_time", "gaussian_censored",
    "ordinal",
)  # fmt: skip
ZEROS = (
    "poisson", "nbinom1", "nbinom2", "truncated_poisson", "truncated_nbinom1", "truncated_nbinom2", "ziGamma",
    "zero_inflated_beta",
)  # fmt: skip
"""Families with a formula for zeros."""
HELD = ("t", "tweedie")
"""Families with a further parameter that is estimated there and held at that estimate here."""
STRUCTURES = ("us", "diag", "scalar", "cs", "ar1", "toep")
HETEROSCEDASTIC = {
    "pig_lme_varident_ml": ("weight ~ week + (1 | id)", "~0 + C(week)"),
    "pig_lme_varident_reml": ("weight ~ week + (1 | id)", "~0 + C(week)"),
    "sleepstudy_dispformula_reml": ("Reaction ~ Days + (1 | Subject)", "~Days"),
}
"""Residual structures that are a formula of phi here (nlme: varIdent, varExp), with that formula."""
NO_RESIDUALS = {
    "pig_tmb_cs_ml": ("weight ~ week", "cs(1 | id)"),
    "pig_tmb_diag_ml": ("weight ~ week + (1 | id)", None),
    "pig_tmb_toep_ml": ("weight ~ week", "toep(week | id)"),
}
"""Effects of every week without a residual (glmmTMB: dispformula = ~0): here the residuals, of a variance per week."""
CORRELATED = {
    "pig_gls_ar1_ml": ("weight ~ week", "ar1(week | id)"),
    "pig_gls_ar1_reml": ("weight ~ week", "ar1(week | id)"),
    "pig_gls_compsymm_ml": ("weight ~ week", "cs(1 | id)"),
    "pig_gls_compsymm_reml": ("weight ~ week", "cs(1 | id)"),
    "pig_gls_unstructured_ml": ("weight ~ week", "us(week | id)"),
    "pig_lme_slope_ar1_reml": ("weight ~ week + (week | id)", "ar1(week | id)"),
    "sim_ou_gls_car1_reml": ("y ~ x", "car1(t | id)"),
    "sim_ou_ml": ("y ~ x + (1 | id)", "car1(t | id)"),
    "sim_ou_reml": ("y ~ x + (1 | id)", "car1(t | id)"),
    "sleepstudy_lme_ar1_ml": ("Reaction ~ Days + (1 | Subject)", "ar1(Days | Subject)"),
    "sleepstudy_lme_ar1_reml": ("Reaction ~ Days + (1 | Subject)", "ar1(Days | Subject)"),
}
"""Residual structures that are residual= here (nlme: corAR1, corCAR1, corCompSymm, corSymm), with formula and term."""
KNOWN = {"sim_pedigree": {"animal": "sim_pedigree_a"}}
"""Data sets whose levels know each other (kind `lmm_known_covariance`): by grouping factor, the data set of A."""
EXTRAS = ("tests", "predict", "wald", "glm", "stata_variance_se", "kubo")
ENTRY = (
    "id", "kind", "dataset", "subset", "family", "link", "formula", "dispersion_formula", "zi_formula",
    "random_formula", "residual", "start", "method", "n_agq", "weights", "contrasts", "design", "what", "table", "by",
    "by_levels", "fits", "situation", "r_call", "r_behaviour", "recommended_behaviour", "software", "primary_engine",
    "engines", "results", "tolerance", "seed_reported", "notes",
)  # fmt: skip


def main(source: Path) -> None:
    """Convert everything below `source`."""
    for folder in (SHIPPED, TEST_ONLY):
        folder.mkdir(parents=True, exist_ok=True)
    excluded: list[tuple[str, str]] = []
    used: set[str] = set()
    for path in sorted((source / "reference").glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        reason = why_not(entry)
        if reason:
            excluded.append((entry["id"], reason))
        else:
            used |= {entry["dataset"], *KNOWN.get(entry["dataset"], {}).values()}
            (HERE / path.name).write_text(layout(trim(entry)), encoding="utf-8")
    write_readme(excluded)
    (HERE / "inference").mkdir(exist_ok=True)
    for kind in AFTER_THE_FIT:
        for path in sorted((source / "inference").glob(f"{kind}_*.json")):
            (HERE / "inference" / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for schema in sorted((source / "data").glob("*.schema.json")):
        name = schema.name.removesuffix(".schema.json")
        for_tests = name.startswith(TEST_PREFIXES)
        if name not in NOT_REDISTRIBUTED and (name in used or not for_tests):
            folder = TEST_ONLY if for_tests else SHIPPED
            read(schema).write_parquet(folder / f"{name}.parquet", compression="zstd", compression_level=19)


def read(schema: Path) -> pl.DataFrame:
    """One data set with the dtypes of its schema: factors are Enums in the declared order of levels."""
    described = json.loads(schema.read_text(encoding="utf-8"))
    file = schema.with_name(described["file"])
    dtypes = {column["name"]: DTYPES[column["type"]] for column in described["columns"]}
    if file.suffix == ".parquet":
        frame = pl.read_parquet(file).with_columns(pl.col(name).cast(dtype) for name, dtype in dtypes.items())
    else:
        frame = pl.read_csv(file, schema_overrides=dtypes, null_values=[""])
    levels = {column["name"]: pl.Enum(column["levels"]) for column in described["columns"] if "levels" in column}
    logical = [column["name"] for column in described["columns"] if column["type"] == "bool"]
    return frame.with_columns(pl.col(name).cast(enum) for name, enum in levels.items()).with_columns(
        pl.col(name).str.to_lowercase() == "true" for name in logical
    )


def why_not(entry: dict[str, Any]) -> str:
    """Why an entry is outside the models this package fits; empty if it is inside."""
    kind, family = entry["kind"], entry.get("family")
    if entry["id"] in HETEROSCEDASTIC.keys() | CORRELATED.keys() | NO_RESIDUALS.keys():
        return ""
    structures = {term.get("structure", "none") for term in entry.get("results", {}).get("random", ())}
    if kind in ("gls", "lmm_residual_structure"):
        return "residual covariance structure"
    if family is not None and family not in (ZEROS if entry.get("zi_formula") else FAMILIES):
        return f"family {family}"
    if entry.get("dispersion_formula") == "~0":
        return "no residual variance (dispformula = ~0): a residual covariance structure"
    if structures - set(STRUCTURES):
        return f"random-effects structure {', '.join(sorted(structures - set(STRUCTURES)))}"
    return ""


def trim(entry: dict[str, Any]) -> dict[str, Any]:
    """The parts tests use: everything about the model and its results, and which engines stand behind them."""
    kept = {key: entry[key] for key in ENTRY if key in entry}
    if entry["id"] in HETEROSCEDASTIC:
        formula, dispersion = HETEROSCEDASTIC[entry["id"]]
        kept |= {"kind": "heteroscedastic", "formula": formula, "dispersion_formula": dispersion}
    if entry["id"] in NO_RESIDUALS:
        formula, residual = NO_RESIDUALS[entry["id"]]
        kept |= {"kind": "no_residuals", "formula": formula, "dispersion_formula": "~0 + C(week)"}
        kept |= {"residual": residual} if residual else {}
    if entry["id"] in CORRELATED:
        formula, residual = CORRELATED[entry["id"]]
        kept |= {"kind": "correlated", "formula": formula, "residual": residual}
    if entry.get("family") in HELD:
        kept["kind"] = "held"
    if entry.get("zi_formula"):
        kept["kind"] = "zeros"
    kept["engines"] = [
        {key: engine[key] for key in ("name", "version", "call", "logLik", "se_kind", "note") if key in engine}
        for engine in entry.get("engines", ())
    ]
    kept["fits"] = {
        level: {key: value for key, value in fit.items() if key != "agreement"}
        for level, fit in entry.get("fits", {}).items()
    }
    kept["extras"] = {key: value for key, value in entry.get("extras", {}).items() if key in EXTRAS}
    if entry["dataset"] in NOT_REDISTRIBUTED:
        kept.get("design", {}).pop("first_rows", None)
    return {key: value for key, value in kept.items() if value not in ({}, [])}


def layout(entry: dict[str, Any]) -> str:
    """JSON with one line per key of the entry, and one per key of its results and fits."""

    def line(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = []
    for key, value in entry.items():
        if key in ("results", "extras", "fits"):
            inner = ",\n".join(f"  {line(name)}: {line(item)}" for name, item in value.items())
            lines.append(f" {line(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {line(key)}: {line(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_readme(excluded: list[tuple[str, str]]) -> None:
    """The page that says what is here and what is left out."""
    rows = "\n".join(f"| `{name}` | {reason} |" for name, reason in excluded)
    left_out = f"\n## Left out\n\n| id | reason |\n|---|---|\n{rows}\n" if excluded else ""
    unsent = ", ".join(f"`{n}`" for n in NOT_REDISTRIBUTED)
    (HERE / "README.md").write_text(README.format(left_out=left_out, unsent=unsent))


README = """# Reference fits

One JSON file per model: the call, the engines and their versions, estimates, and the tolerance a test may demand.
`tests/test_references.py` reads all of them. Software: R 4.2.2, lme4 1.1-31, glmmTMB 1.1.5, nlme 3.1-162, lmerTest
3.1-3, TMB 1.9.2 ("reftmb" is a model of its own on TMB; "own-AGQ" an adaptive quadrature of its own).

- Log-likelihoods hold every constant; the Laplace approximation is with observed curvature; AGQ is the full
  log-likelihood (lme4 leaves out the saturated model there).
- Standard errors: gaussian with identity link σ²(X'V⁻¹X)⁻¹ as lme4, otherwise the joint observed Hessian.
- Dispersion: gaussian `sigma`; Gamma `sigma` with variance sigma²·mu² (here phi = sigma²); inverse.gaussian `lambda`
  with variance mu³/lambda (here phi = 1/lambda); nbinom2 `theta` (here phi = theta). Coefficients of a gaussian
  dispersion formula are for log σ² (here log σ: half of them), but for log σ where random effects are on it too
  (kind `two_part`: "TMB breadth.cpp" is a template of its own, its optimum found again by an engine in numpy).
- Ordered categories (kind `ordinal`): P(y <= k) = F(alpha_k - x'beta - z'b), thresholds alpha as they stand (component
  `threshold`), no intercept.
- Times (kinds `survival`, `censored`) are accelerated failure times: log t = x'beta + b + W/shape, with shape =
  1/scale of survreg; of `lognormal_time` our phi is 1/shape. Status: 1 an event, 0 censored on the right, 2 on the
  left, 3 an interval.
- Correlated residuals (kind `correlated`): nlme's corAR1, corCAR1, corCompSymm and corSymm with varIdent, by exact
  dense likelihoods too. By ML the standard errors of nlme's `gls` have a factor √(n/(n − p)), those here none.
- Effects of every week without a residual (kind `no_residuals`, glmmTMB's `dispformula = ~0`) are residuals here, with
  a variance per week and a correlation. glmmTMB stopped `pig_tmb_diag_ml` at a gradient of 0.003.
- Levels that know each other (kind `lmm_known_covariance`): an exact dense likelihood, and lme4 with its Zt replaced by
  that of whitened levels; A is a data set of pairs of levels.
- Rows in several levels (kind `lmm_multiple_membership`): an exact dense likelihood, and lme4 with its Zt replaced by
  the weighted sum of those of the slots.
- Terms carry R's names; `tests/references/translate.py` turns them into this package's.
- The data of {unsent} may not be redistributed. Their tests read them from the folder named by
  POLARS_GLMM_REFERENCE, or from `../shared/reference/data` beside the checkout, and are skipped without it.

Entries in `inference/` are about what comes after a fit: degrees of freedom (`ddf_*`) and tests of terms (`terms_*`),
by lmerTest 3.1-3, pbkrtest 0.5.2 and car 3.1-1. Each holds its call, the log-likelihood and coefficients of the fit
behind it, tables with the columns that identify a row (`keys`) and a tolerance for each column, how every table was
checked by code of its own (`independent`), with the difference found, and the versions used.
`tests/inference/test_references.py` reads them.

`convert.py FOLDER` makes all files here, and the Parquet files of `polars_glmm/data` and `tests/data`, from the corpus.
{left_out}"""

if __name__ == "__main__":
    main(Path(sys.argv[1]))
