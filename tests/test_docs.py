"""Every Python block of README.md and docs/ runs and prints what the page says, each file in one namespace."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
BLOCK = re.compile(
    r"^```python[ \t]*(?P<flag>[^\n]*)\n(?P<code>.*?)^```(?:\s*^```text\n(?P<printed>.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)


HERE = re.compile(r"^\| here \|.*\n\|(?:-+\|)+\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)
"""A table of words in several packages: the first cell of each row is a call of ours."""


class Block(NamedTuple):
    """An example: where it starts, its code, and what it prints (a ```text block right after it; None: not said)."""

    line: int
    code: str
    printed: str | None
    script: bool = False


def blocks(page: Path) -> list[Block]:
    """The examples of a page; after the language `no-run` leaves one out, `script` makes a program of its own of it."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start("code")), found["code"], found["printed"], "script" in found["flag"])
        for found in BLOCK.finditer(text)
        if "no-run" not in found["flag"]
    ]


NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
"""Numbers with digits after the point; whole numbers must agree as text."""


def skeleton(text: str) -> list[str]:
    """The words between the numbers; widths of columns and rules of tables do not count."""
    return re.sub(r"[─═┬┴╪┆│┌┐└┘╞╡]", " ", NUMBER.sub(" # ", text)).split()


def assert_prints(output: str, page: str) -> None:
    """The same words; the same numbers to a unit or two of the last digit that another machine may print."""
    assert skeleton(output) == skeleton(page)
    for ours, printed in zip(NUMBER.findall(output), NUMBER.findall(page), strict=True):
        digits = len(printed.partition("e")[0].partition(".")[2])
        unit = 10.0**-digits * 10.0 ** int(printed.partition("e")[2] or 0)
        assert float(ours) == pytest.approx(float(printed), rel=1e-3, abs=2 * unit)  # p-values magnify


def printed(block: Block, page: Path, namespace: dict[str, object]) -> str:
    """What an example prints in the namespace of its page."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)  # noqa: S102  our own pages
    return output.getvalue()


def printed_by_a_script(block: Block, folder: Path) -> str:
    """What an example prints as a file that Python runs."""
    script = folder / "script.py"
    script.write_text(block.code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def calls_here(page: Path) -> list[str]:
    """The calls in the columns "here" of a page."""
    tables = HERE.finditer(page.read_text(encoding="utf-8"))
    cells = [re.match(r"\| `(.+?)` \| ", row) for table in tables for row in table["rows"].splitlines()]
    assert all(cells), "the first cell of a row is no call"
    return [cell[1].replace("\\|", "|") for cell in cells if cell]


@pytest.mark.one_in(len(PAGES))  # the README
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run_and_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(tmp_path)  # examples may write files
    try:
        for block in blocks(page):
            output = printed_by_a_script(block, tmp_path) if block.script else printed(block, page, namespace)
            if block.printed is not None:
                assert_prints(output, block.printed)
        for call in calls_here(page):
            exec(compile(call, f"{page}: {call}", "exec"), namespace)  # noqa: S102  our own pages
    finally:
        os.chdir(before)


def test_the_readme_has_examples() -> None:
    assert any(blocks(page) for page in PAGES if page.name == "README.md")
