"""Every Python block of README.md and docs/ runs, each file from top to bottom in one namespace."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
BLOCK = re.compile(r"^```python[ \t]*(?P<flag>[^\n]*)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[int, str]]:
    """First line and text of every block that is to run (a flag `no-run` after the language leaves a block out)."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start("code")), found["code"])
        for found in BLOCK.finditer(text)
        if "no-run" not in found["flag"]
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page: Path, tmp_path: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(tmp_path)  # examples may write files
    try:
        for line, code in blocks(page):
            exec(compile("\n" * line + code, str(page), "exec"), namespace)  # noqa: S102  our own pages
    finally:
        os.chdir(before)


def test_the_readme_has_examples() -> None:
    assert any(blocks(page) for page in PAGES if page.name == "README.md")
