"""Draws the floors of `test_house`, the picture of docs/explanation/architecture.md: python -m tests.house_picture."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

WIDTH, ROW, GAP, LEFT = 920, 22, 6, 112
MOST = 96
"""Letters of a sentence that have room."""
LETTER = 7.3
STYLE = """
  text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328; }
  .house { font-weight: bold; }
  .why { fill: #59636e; }
  .floor { fill: #f6f8fa; stroke: #d1d9e0; }
  .room { fill: #ffffff; stroke: #818b98; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; } .why { fill: #9198a1; }
    .floor { fill: #151b23; stroke: #3d444d; } .room { fill: #0d1117; stroke: #656c76; }
  }
"""


def picture(floors: Sequence[frozenset[str]], says: Callable[[str], str]) -> str:
    """An SVG of the rooms, the ground below; rooms of one house stand together, arrows of imports point down.

    says    what a room is for, of a room that has its floor for itself
    """
    body, y = [], 2 * GAP + ROW
    for house, storeys in _houses(floors):
        rows = [row for storey in storeys for row in _rows(storey, house)]
        height = len(rows) * (ROW + GAP) + GAP
        body.append(f'<rect class="floor" x="{GAP}" y="{y}" width="{WIDTH - 2 * GAP}" height="{height}" rx="6"/>')
        if house:
            body.append(f'<text class="house" x="{2 * GAP}" y="{y + GAP + 15}">{house}/</text>')
        for k, row in enumerate(rows):
            body += _boxes(row, y + GAP + k * (ROW + GAP))
            if len(row) == 1:
                x, why = LEFT + _width(row[0]) + GAP, says(f"{house}.{row[0]}" if house else row[0])
                body.append(f'<text class="why" x="{x:.1f}" y="{y + GAP + k * (ROW + GAP) + 15}">{escape(why)}</text>')
        y += height + GAP
    said = "imports point down: a room knows only what stands below it"
    lines = [f'<text class="why" x="{2 * GAP}" y="{GAP + 15}">↓ {said}</text>', *body]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *lines, "</svg>", ""])


def _houses(floors: Sequence[frozenset[str]]) -> Iterator[tuple[str, list[list[str]]]]:
    """Floors from the top down, those of rooms of one house together: its name, or "" for a floor of several."""

    def house(floor: frozenset[str]) -> str:
        names = {room.partition(".")[0] for room in floor}
        return names.pop() if len(names) == 1 and any("." in room for room in floor) else ""

    for name, some in groupby(reversed(floors), house):
        storeys = [sorted(floor) for floor in some]
        yield from [(name, storeys)] if name else (("", [storey]) for storey in storeys)


def _rows(rooms: Sequence[str], house: str) -> list[list[str]]:
    """The names of a floor, as many side by side as there is room for."""
    rows: list[list[str]] = [[]]
    for room in rooms:
        name = room.removeprefix(f"{house}.")
        if sum(map(_width, rows[-1])) + _width(name) > WIDTH - LEFT - 2 * GAP:
            rows.append([])
        rows[-1].append(name)
    return rows


def _width(name: str) -> float:
    return LETTER * len(name) + 3 * GAP


def _boxes(names: Sequence[str], y: float) -> Iterator[str]:
    x = float(LEFT)
    for name in names:
        yield f'<rect class="room" x="{x:.1f}" y="{y}" width="{_width(name) - GAP:.1f}" height="{ROW}" rx="4"/>'
        yield f'<text x="{x + GAP:.1f}" y="{y + 15}">{name}</text>'
        x += _width(name)


def first_sentence(package: Path, room: str) -> str:
    """The first line of a room's docstring, without its full stop."""
    path = package.joinpath(*room.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].removesuffix(".").replace("`", "")
    return line if len(line) <= MOST else f"{line[:MOST].rpartition(' ')[0]} …"


if __name__ == "__main__":
    from tests.test_house import FLOORS, PACKAGE, ROOT

    drawn = picture(FLOORS, lambda room: first_sentence(PACKAGE, room))
    Path(ROOT / "docs/images/house.svg").write_text(drawn, encoding="utf-8")
