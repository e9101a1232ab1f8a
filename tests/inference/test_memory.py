"""What explain says of the memory of crossed designs is counted: the matrices held, and what W is made of."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm.fitting import costs
from polars_glmm.fitting.look import look_at_arrays, look_by_queries
from polars_glmm.likelihood.dense_limit import dense_bytes
from polars_glmm.linalg.crossed_lead import CrossedLead
from polars_glmm.linalg.remainder import BlockRemainder
from polars_glmm.spec.call import Call


def _frame(n: int, users: int, items: int) -> pl.DataFrame:
    """Ratings of uneven activity and fame."""
    rng = np.random.default_rng(32)
    user = np.minimum(users * rng.random(n) ** 2, users - 1).astype(int)
    item = np.minimum(items * rng.random(n) ** 3, items - 1).astype(int)
    eta = 0.5 * rng.normal(size=users)[user] + 0.5 * rng.normal(size=items)[item]
    return pl.DataFrame(
        {
            "y": eta + rng.normal(size=n), "n": rng.poisson(np.exp(eta)), "b": (rng.normal(size=n) < eta).astype(int),
            "x": rng.normal(size=n), "user": user, "item": item, "shop": rng.integers(0, 7, n),
        }
    )  # fmt: skip


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all dense remainders for which memory was asked: those given back are used again."""
    made: list[int] = []
    room = BlockRemainder.room

    def counting(self: BlockRemainder) -> np.ndarray:
        found = room(self)
        if all(found is not one for one in kept):
            kept.append(found)
            made.append(self.size)
        return found

    kept: list[np.ndarray] = []
    monkeypatch.setattr(BlockRemainder, "room", counting)
    return made


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("formula", "family", "exact"),
    [
        ("y ~ x + (1 | user) + (1 | item)", "gaussian", True),
        ("y ~ x + (x | user) + (1 | item)", "gaussian", True),
        ("y ~ x + (1 | user) + (x | item) + (1 | shop)", "gaussian", True),
        ("n ~ x + (1 | user) + (1 | item)", "poisson", False),
        ("b ~ x + (1 | user) + (1 | item)", "binomial", False),
        ("n ~ x + (x | user) + (1 | item)", "poisson", False),
    ],
)
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_no_more_dense_matrices_are_held_than_are_counted(
    formula: str, family: str, exact: bool, rooms: list[int]
) -> None:
    polars_glmm.fit(_frame(3000, 400, 160), formula, family=family)
    assert len(set(rooms)) == 1
    held = dense_bytes(rooms[0], exact=exact, gathered=False) / (8 * rooms[0])
    assert len(rooms) + 1 <= held  # and room for the inverse
    assert len(rooms) + 2 >= held


@pytest.mark.parametrize("terms", ["(1 | user) + (1 | item)", "(x | user) + (1 | item)", "(1 | user) + (x | item)"])
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_the_pairs_of_entries_are_those_of_the_elimination(terms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of W, and pairs of entries that share a row, from how many levels meet how many."""
    frame = _frame(2000, 150, 40)
    seen: list[CrossedLead] = []
    factorise = CrossedLead.factorise

    def watching(self: CrossedLead, h: object) -> object:
        seen.append(self)
        return factorise(self, h)  # type: ignore[arg-type]

    monkeypatch.setattr(CrossedLead, "factorise", watching)
    polars_glmm.fit(frame, f"y ~ x + {terms}")
    length = np.diff(seen[0].entries[2])
    look = look_at_arrays(Call((f"y ~ x + {terms}",)).spec(), frame, "drop")
    left = costs.Left.of(look, costs.elimination(look))
    assert left.entries == length.sum()
    assert left.pairs == (length * (length + 1) // 2).sum()


def test_queries_count_the_meetings_that_arrays_do() -> None:
    frame = _frame(2000, 150, 40)
    spec = Call(("y ~ x + (1 | user) + (1 | item) + (1 | shop)",)).spec()
    arrays, queries = look_at_arrays(spec, frame, "drop"), look_by_queries(spec, frame.lazy(), "drop")
    assert arrays.meetings == queries.meetings
    assert arrays.pairs == queries.pairs
    factors = ("user", "item", "shop")
    for i, j in permutations(range(3), 2):
        each = frame.group_by(factors[i]).agg(pl.col(factors[j]).n_unique())[factors[j]]
        assert sum(k * n for k, n in arrays.meetings[i, j].items()) == each.sum()
        assert max(arrays.meetings[i, j]) == each.max()


_PEAK = """
import resource, sys
from pathlib import Path
import polars as pl, polars_glmm

def peak():
    status, unit = Path("/proc/self/status"), 1024 if sys.platform != "darwin" else 1
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024

frame = pl.scan_parquet(sys.argv[1])
formula = "y ~ 1 + (1 | user) + (1 | item)"
polars_glmm.fit(frame.head(2000), formula)  # what libraries take when they first work
if Path("/proc/self/clear_refs").exists():  # a child begins with the peak of its parent
    Path("/proc/self/clear_refs").write_text("5")
before = peak()
polars_glmm.fit(frame, formula)
print(peak() - before, polars_glmm.explain(frame, formula).plan.cost.memory)
"""


@pytest.mark.slow
def test_the_memory_that_is_said_is_that_of_the_process(tmp_path: object) -> None:
    """A process of its own on 100,000 ratings of 1500 items: six and a half matrices of 18 MB, and what makes them."""
    path = f"{tmp_path}/ratings.parquet"
    _frame(100_000, 2000, 1500).write_parquet(path)
    done = subprocess.run([sys.executable, "-c", _PEAK, path], capture_output=True, text=True, check=True)
    taken, said = map(int, done.stdout.split())
    assert taken > 80e6
    assert 0.7 * taken < said < 1.6 * taken
