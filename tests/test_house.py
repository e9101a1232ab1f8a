"""The house keeps its shape: arrows point down, the front door is light and complete, files stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import polars_glmm

PACKAGE = Path(polars_glmm.__file__).parent
ROOT = Path(__file__).resolve().parent.parent

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "typing"}),
    frozenset({"notes", "control", "memory", "cores", "progress", "foreign"}),
    frozenset({"linalg", "spill"}),
    frozenset({"families", "covariance", "optimize"}),
    frozenset({"spec"}),
    frozenset({"design"}),
    frozenset({"likelihood"}),
    frozenset({"prediction"}),
    frozenset({"inference"}),
    frozenset({"result"}),
    frozenset({"api", "datasets"}),
    frozenset({"namespace"}),
    frozenset({"__init__", "cli"}),
    frozenset({"__main__"}),
)
"""Rooms from the ground up. A room imports rooms of lower floors, and itself."""

LIBRARIES: dict[str, frozenset[str]] = {
    "numpy": frozenset().union(*FLOORS)
    - {
        "errors",
        "notes",
        "control",
        "foreign",
        "memory",
        "cores",
        "progress",
        "spill",
        "spec",
        "cli",
        "__main__",
        "namespace",
    },
    "scipy": frozenset({"linalg", "families", "covariance", "optimize", "likelihood", "prediction", "inference"}),
    "threadpoolctl": frozenset({"linalg", "likelihood"}),
    "polars": frozenset(
        {"design", "prediction", "inference", "result", "api", "datasets", "namespace", "__init__", "cli"}
    ),
    "narwhals": frozenset({"design", "prediction"}),
}
"""Who may stand on which library."""

LAZY = frozenset({"__init__", "namespace", "api", "cli"})
"""The front door: its imports inside functions are there to be late, and may reach any room."""

HEAVY = ("scipy", "pandas", "sklearn", "pyarrow", "formulaic", "narwhals", "matplotlib")
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of a module that counts as an arrow."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    free = {
        inner
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        or (isinstance(node, ast.FunctionDef) and room_of(path) in LAZY)
        for inner in ast.walk(node)
    }
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(tree):
        if node in free:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*(parts[: -node.level] if node.level else ()), *([node.module] if node.module else [])))
            whole = base == PACKAGE.name  # `from polars_glmm import x` reaches the room x
            yield from ((node.lineno, f"{base}.{alias.name}" if whole else base) for alias in node.names)


def crossings(path: Path) -> Iterator[str]:
    """What a module imports and may not."""
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    room = room_of(path)
    for line, name in imports(path):
        head, *rest = name.split(".")
        place = f"{path.relative_to(PACKAGE)}:{line}: {room}"
        if head == PACKAGE.name:
            target = rest[0] if rest else "__init__"
            if target != room and floor.get(target, len(FLOORS)) >= floor[room]:
                yield f"{place} may not import {target}"
        elif head in LIBRARIES:
            if room not in LIBRARIES[head]:
                yield f"{place} may not import {head}"
        elif head not in sys.stdlib_module_names:
            yield f"{place} may not import {head}: no dependency of this package"


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} <= frozenset().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_arrows_point_down(path: Path) -> None:
    assert not list(crossings(path))


@pytest.mark.parametrize("statement", ["import polars_glmm", "import polars_glmm.cli", "import polars_glmm.datasets"])
def test_the_front_door_is_light(statement: str) -> None:
    code = f"{statement}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


VERBS = {"fit", "explain", "objective", "predict", "augment", "with_ranef", "simulate", "glmm", "anova"}
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
    assert not [str(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]


def test_no_file_needs_a_table_of_contents() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_private_names_stay_in_their_module() -> None:
    taken = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {alias.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not taken


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
