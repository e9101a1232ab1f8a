"""Elimination in stages against dense linear algebra, on graphs of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.linalg import stages
from polars_glmm.linalg.stages import Graph, StagedRemainder, plan


def graph_of(n: int, edges) -> Graph:
    edges = np.array(sorted({(min(i, j), max(i, j)) for i, j in edges if i != j}), dtype=np.intp).reshape(-1, 2)
    return Graph(n, edges[:, 0], edges[:, 1])


def graphs() -> dict[str, Graph]:
    rng = np.random.default_rng(5)
    clique = [(i, j) for i in range(12) for j in range(i)]
    return {
        "nobody meets": graph_of(7, []),
        "path": graph_of(60, [(i, i + 1) for i in range(59)]),
        "star": graph_of(40, [(0, i) for i in range(1, 40)]),
        "grid": graph_of(81, [(9 * i + j, 9 * i + k) for i in range(9) for j in range(9) for k in (j + 1,) if k < 9]
                         + [(9 * i + j, 9 * i + 9 + j) for i in range(8) for j in range(9)]),
        "cliques": graph_of(36, [(i + 12 * k, j + 12 * k) for k in range(3) for i, j in clique]),
        "random, few": graph_of(150, rng.integers(0, 150, (120, 2)).tolist()),
        "random, many": graph_of(60, rng.integers(0, 60, (600, 2)).tolist()),
    }  # fmt: skip


def numbers(graph: Graph, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A positive definite matrix on the graph, as a vector and dense."""
    rng = np.random.default_rng(seed)
    pairs = rng.normal(size=len(graph.left))
    dense = np.zeros((graph.n, graph.n))
    dense[graph.left, graph.right] = dense[graph.right, graph.left] = pairs
    diagonal = np.abs(dense).sum(axis=1) + rng.uniform(0.1, 1.0, graph.n)
    np.fill_diagonal(dense, diagonal)
    return np.concatenate([diagonal, pairs]), dense


@pytest.fixture(params=["as measured", "to the end"])
def thrift(request, monkeypatch) -> str:
    """Where stages end: where they would not pay, or when nothing is left."""
    if request.param == "to the end":
        monkeypatch.setattr(stages, "PAIR_NS", 0.0)
        monkeypatch.setattr(stages, "_STAGE_NS", 0.0)
    return request.param


@pytest.mark.parametrize("name", list(graphs()))
def test_stages_are_dense_algebra(name: str, thrift: str) -> None:
    graph = graphs()[name]
    vector, dense = numbers(graph)
    s = StagedRemainder(graph)
    assert s.width == graph.n
    assert s.size == len(vector)
    assert_allclose(vector[s.place(graph.left, graph.right)], dense[graph.left, graph.right])
    assert (s.order == 0) == (thrift == "to the end")
    factor = s.factorise(vector.copy())
    assert factor is not None
    assert_allclose(factor.log_determinant, np.linalg.slogdet(dense)[1], rtol=1e-12)
    b = np.random.default_rng(1).normal(size=(graph.n, 3))
    assert_allclose(factor.solve(b), np.linalg.solve(dense, b), atol=1e-12)
    inverse, expected = factor.inverse(), np.linalg.inv(dense)
    assert_allclose(inverse[: graph.n], np.diag(expected), atol=1e-12)
    assert_allclose(inverse[graph.n :], expected[graph.left, graph.right], atol=1e-12)


@pytest.mark.parametrize("name", list(graphs()))
def test_in_a_stage_no_two_meet_and_what_stays_is_the_pattern_of_the_schur_complement(name: str, monkeypatch) -> None:
    monkeypatch.setattr(stages, "PAIR_NS", 0.0)
    monkeypatch.setattr(stages, "_STAGE_NS", 0.0)
    graph = graphs()[name]
    met = np.zeros((graph.n, graph.n), dtype=bool)
    met[graph.left, graph.right] = met[graph.right, graph.left] = True
    done, rest, _ = plan(graph)
    assert rest.n == 0
    for stage in done:
        goes, stays = stage.pivots, stage.others
        assert not met[np.ix_(goes, goes)].any()
        met = met[np.ix_(stays, stays)] | (met[np.ix_(stays, goes)].astype(int) @ met[np.ix_(goes, stays)] > 0)
        np.fill_diagonal(met, False)
        assert stage.after == np.triu(met).sum()


@pytest.mark.parametrize("name", ["path", "star"])
def test_low_degree_first_leaves_a_tree_a_tree(name: str, monkeypatch) -> None:
    """No fill but the joint of what a middle unknown kept together."""
    monkeypatch.setattr(stages, "PAIR_NS", 0.0)
    monkeypatch.setattr(stages, "_STAGE_NS", 0.0)
    done, _, _ = plan(graphs()[name])
    assert [stage.after for stage in done] == [max(len(stage.others) - 1, 0) for stage in done]


@pytest.mark.parametrize("name", list(graphs()))
@pytest.mark.parametrize("which", [0, -1])
def test_an_indefinite_matrix_is_reported_not_factorised(name: str, which: int, thrift: str) -> None:
    graph = graphs()[name]
    vector, _ = numbers(graph)
    vector[np.arange(graph.n)[which]] = -50.0
    assert StagedRemainder(graph).factorise(vector) is None, thrift
