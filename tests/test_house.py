"""The house keeps its shape: arrows point down, the front door is light and complete, files stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

import polars_glmm
from tests.house_picture import first_sentence, picture

PACKAGE = Path(polars_glmm.__file__).parent
ROOT = Path(__file__).resolve().parent.parent

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "typing", "logs"}),
    frozenset({"notes", "control", "memory", "cores", "progress", "foreign"}),
    frozenset({"linalg", "spill", "files"}),
    frozenset({"families", "covariance", "optimize"}),
    frozenset({"spec"}),
    frozenset({"columns"}),
    frozenset({"frames"}),
    frozenset({"cluster"}),
    frozenset({"design.recipe", "design.records"}),
    frozenset({"design.relation"}),
    frozenset({"design.rank", "design.selection", "design.recipe_json", "design.text_numbers"}),
    frozenset({"design.curved", "design.variables", "design.keys"}),
    frozenset({"design.predictors", "design.censoring", "design.categories"}),
    frozenset({"design.response", "design.ordered", "design.members"}),
    frozenset({"design.points"}),
    frozenset({"design.factors", "design.residual"}),
    frozenset({"design.learn"}),
    frozenset({"design.reader", "design.sums"}),
    frozenset({"design.known"}),
    frozenset({"design.apart"}),
    frozenset({"design.distinct"}),
    frozenset({"design.inquired"}),
    frozenset({"design.disk"}),
    frozenset({"design.spread"}),
    frozenset({"design.pairing"}),
    frozenset({"design.by_key"}),
    frozenset({"likelihood.parameters"}),
    frozenset({"likelihood.estimate"}),
    frozenset({"likelihood.dense_limit", "likelihood.identify", "likelihood.optimum", "likelihood.rows"}),
    frozenset({"likelihood.model", "likelihood.given", "likelihood.held"}),
    frozenset({"likelihood.marginal", "likelihood.products"}),
    frozenset({"likelihood.residual"}),
    frozenset({"likelihood.many", "likelihood.objective", "likelihood.holding"}),
    frozenset({"likelihood.build"}),
    frozenset({"likelihood.known"}),
    frozenset({"likelihood.refits"}),
    frozenset({"answer"}),
    frozenset({"fitting"}),
    frozenset({"prediction"}),
    frozenset({"inference"}),
    frozenset({"reports", "plot", "export"}),
    frozenset({"result"}),
    frozenset({"api", "datasets"}),
    frozenset({"namespace"}),
    frozenset({"opening", "cli_files"}),
    frozenset({"cli_questions"}),
    frozenset({"arguments"}),
    frozenset({"__init__", "cli"}),
    frozenset({"__main__"}),
)
"""Rooms from the ground up; a room of a room stands by itself. A room imports rooms of lower floors, and itself."""

HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
ROOMS = frozenset(name.partition(".")[0] for name in HEIGHT)

LIBRARIES: dict[str, frozenset[str]] = {
    "numpy": ROOMS
    - {
        "errors",
        "foreign",
        "notes",
        "control",
        "memory",
        "cores",
        "progress",
        "logs",
        "spill",
        "spec",
        "opening",
        "arguments",
        "cli",
        "cli_files",
        "cli_questions",
        "__main__",
        "namespace",
    },
    "scipy": frozenset(
        {"columns", "linalg", "families", "covariance", "optimize", "likelihood", "prediction", "inference", "plot"}
    ),
    "threadpoolctl": frozenset({"linalg", "likelihood"}),
    "polars": frozenset(
        {
            "columns",
            "files",
            "frames",
            "cluster",
            "design",
            "answer",
            "fitting",
            "prediction",
            "inference",
            "reports",
            "plot",
            "export",
            "result",
            "api",
            "datasets",
            "namespace",
            "opening",
            "__init__",
            "cli",
            "cli_files",
            "cli_questions",
        }
    ),
    "narwhals": frozenset({"frames"}),
    "dask": frozenset({"cluster"}),
    "distributed": frozenset({"cluster"}),
    "pyspark": frozenset({"cluster"}),
    "py4j": frozenset({"cluster"}),
}
"""Who may stand on which library."""

LAZY = frozenset({"__init__", "namespace", "api", "cli", "cli_questions"})
"""The front door: its imports inside functions are there to be late, and may reach any room."""

HEAVY = ("scipy", "pandas", "sklearn", "pyarrow", "formulaic", "narwhals", "matplotlib", "altair", "great_tables")
HEAVY += ("dask", "distributed", "pyspark", "py4j", "arviz", "arviz_base", "bambi", "pymc")
MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


def room_of(parts: Sequence[str]) -> str:
    """The room, or the room of a room, of a module's name without the package's."""
    inner = ".".join(parts[:2])
    return inner if inner in HEIGHT else parts[0]


def room_of_file(path: Path) -> str:
    return room_of(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of a module; one for a type only is an arrow like any other.

    The front door is free: its imports inside functions are late on purpose, and its types are those of the house.
    """
    lazy = room_of_file(path) in LAZY
    free = {
        inner
        for node in nodes_of(path)
        if lazy
        and (isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)))
        for inner in ast.walk(node)
    }
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in nodes_of(path):
        if node in free:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*(parts[: -node.level] if node.level else ()), *([node.module] if node.module else [])))
            whole = base in {PACKAGE.name, *(f"{PACKAGE.name}.{room}" for room in SPLIT)}
            yield from ((node.lineno, f"{base}.{alias.name}" if whole else base) for alias in node.names)


SPLIT = frozenset(name.partition(".")[0] for name in HEIGHT if "." in name)
"""Rooms with rooms inside: `from polars_glmm.design import x` reaches the room x of theirs."""


def crossings(path: Path) -> Iterator[tuple[str, str, str]]:
    """What a module imports and may not: where, its room, and what it reaches."""
    room = room_of_file(path)
    for line, name in imports(path):
        head, *rest = name.split(".")
        place = f"{path.relative_to(PACKAGE)}:{line}"
        if head == PACKAGE.name:
            target = room_of(rest) if rest else "__init__"
            if target != room and HEIGHT.get(target, len(FLOORS)) >= HEIGHT[room]:
                yield place, room, target
        elif head in LIBRARIES:
            if room.partition(".")[0] not in LIBRARIES[head]:
                yield place, room, head
        elif head not in sys.stdlib_module_names and head != "typing_extensions":  # only type checkers read it
            yield place, room, f"{head}: no dependency of this package"


def test_every_room_has_a_floor() -> None:
    packages = {path for path in MODULES if path.name == "__init__.py"}
    assert {room_of_file(path) for path in [*{*MODULES} - packages, PACKAGE / "__init__.py"]} <= HEIGHT.keys()


def test_arrows_point_down() -> None:
    assert not [arrow for path in MODULES for arrow in crossings(path)]


@pytest.mark.parametrize("statement", ["import polars_glmm", "import polars_glmm.cli", "import polars_glmm.datasets"])
def test_the_front_door_is_light(statement: str) -> None:
    code = f"{statement}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


VERBS = {"fit", "explain", "objective", "predict", "augment", "with_ranef", "simulate", "glmm", "anova"}
VERBS |= {"average", "compare", "pool", "pool_test", "power", "rlrt"}
METHODS = {"ML", "REML", "Laplace", "AGQ"}
FAMILIES = {"Gaussian", "Binomial", "Poisson", "Gamma", "InverseGaussian", "NegativeBinomial"}
REST = {"Control", "Fit", "FitWarning", "GlmmError", "datasets"}


def test_the_front_door_is_complete() -> None:
    assert not (VERBS | METHODS | FAMILIES | REST) - set(polars_glmm.__all__)
    assert all(getattr(polars_glmm, name) is not None for name in polars_glmm.__all__)
    assert set(polars_glmm.__all__) <= set(dir(polars_glmm))


def test_no_module_bears_the_name_of_a_public_function() -> None:
    """Importing such a module would rebind the function."""
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    functions = {name for name in polars_glmm.__all__ if name != "datasets"}
    assert not modules & functions


def test_every_module_opens_with_a_sentence() -> None:
    assert not [str(path) for path in MODULES if not ast.get_docstring(tree_of(path))]


def test_no_file_needs_a_table_of_contents() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_private_names_stay_in_their_module() -> None:
    taken = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {alias.name}"
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not taken


TWO_OWNERS: frozenset[str] = frozenset({"Categorical", "Rows"})
"""Names of classes that stand in two files: what users type (a family, an option of Control) beside what rows hold."""


def test_a_class_has_one_owner() -> None:
    owners: dict[str, set[Path]] = {}
    for path in MODULES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                owners.setdefault(node.name, set()).add(path)
    assert {name for name, paths in owners.items() if len(paths) > 1} == TWO_OWNERS


COLLECTING = {"collect", "collect_all", "collect_batches", "collect_schema", "sink_parquet", "sink_ipc"}
COLLECTORS: dict[str, str] = {
    "cli.py": "prints predictions",
    "opening.py": "reads files, which is its work",
    "cli_files.py": "writes predictions while they are read",
}
"""Files outside frames/ that run a query, and why. The list may only shrink."""


def test_only_frames_collects() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if room_of_file(path) != "frames"
        for node in nodes_of(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in COLLECTING - {"collect_schema"}
    }
    assert found == COLLECTORS.keys()


def asks_a_name(node: ast.AST) -> bool:
    """`family.name == …`, `link.name in …`, `fit.family == …`, `t.structure == …`."""
    if not isinstance(node, ast.Compare):
        return False
    for side in (node.left, *node.comparators):
        if isinstance(side, ast.Attribute):
            if side.attr in {"structure", "family", "link"}:
                return True
            owner = side.value
            holder = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if side.attr == "name" and holder in {"family", "link"}:
                return True
    return False


def test_only_families_and_covariance_decide_by_their_names() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if room_of_file(path) not in {"families", "covariance"}
        and any(map(asks_a_name, nodes_of(path)))
    }
    assert not found


MACHINE = re.compile(r"(?<![\w.~)\]}])/(?:root|home|tmp|work|Users|mnt|opt)/")
TEXT = {".py", ".md", ".toml", ".json", ".yml", ".yaml", ".txt", ".R", ""}


def test_no_page_names_a_machine() -> None:
    pages = [
        *PACKAGE.rglob("*"),
        *(path for part in ("tests", "docs", "benchmarks", ".ci") for path in (ROOT / part).rglob("*")),
    ]
    pages += [*ROOT.glob("*.md"), *ROOT.glob("*.toml")]
    texts = (path for path in pages if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts)
    assert not [str(path) for path in texts if MACHINE.search(path.read_text(encoding="utf-8"))]


def test_the_picture_of_the_house_is_that_of_the_floors():
    """docs/images/house.svg; drawn anew by python -m tests.house_picture."""
    drawn = picture(FLOORS, lambda room: first_sentence(PACKAGE, room))
    assert (ROOT / "docs/images/house.svg").read_text(encoding="utf-8") == drawn
