from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.cuts import normalised_cut_plainly, second_eigenvector_plainly

from trace_d2.masks.eigen import Graph, normalised_cuts, second_eigenvectors


def _random_weights(seed: int, tokens: int) -> np.ndarray:
    weights = np.random.default_rng(seed).random((tokens, tokens)) ** 3
    return (weights + weights.T) / 2


def _graph(weights: np.ndarray, floor: float = 0.0, active: np.ndarray | None = None) -> Graph:
    batched = torch.from_numpy(weights.reshape(-1, *weights.shape[-2:]))
    own = None if active is None else torch.from_numpy(active.reshape(len(batched), -1))
    return Graph(batched, floor, None if own is None else own.double())


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """How far two vectors without sign lie apart, in relation to the largest entry."""
    both = np.abs(found - expected).max(), np.abs(found + expected).max()
    return min(both) / np.abs(expected).max()


def test_three_tokens_in_a_row_by_hand():
    # Degrees 1, 2, 1: D - W has (1, 0, -1) for lambda 1 beside (1, 1, 1) and (1, -1, 1).
    weights = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    [found] = second_eigenvectors(_graph(weights))
    assert found is not None
    assert found.value == pytest.approx(1, abs=1e-14)
    assert _apart(found.vector.numpy(), np.array([1, 0, -1]) / np.sqrt(2)) < 1e-12


def test_two_tokens_by_hand():
    # D - W = [[1, -1], [-1, 1]], D = 4: lambda = 2 / 4, of (1, -1).
    [found] = second_eigenvectors(_graph(np.array([[3.0, 1], [1, 3]])))
    assert found is not None
    assert found.value == pytest.approx(0.5, abs=1e-14)
    assert _apart(found.vector.numpy(), np.array([1, -1]) / np.sqrt(8)) < 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 70))
def test_equals_the_full_decomposition(seed, tokens):
    weights = _random_weights(seed, tokens)
    value, vector = second_eigenvector_plainly(weights)
    [found] = second_eigenvectors(_graph(weights))
    assert found is not None
    assert found.value == pytest.approx(value, abs=1e-12)
    assert _apart(found.vector.numpy(), vector) < 1e-7
    assert found.steps < tokens


def test_tokens_that_are_not_active_have_the_floor_alone():
    weights = _random_weights(1, 40)
    active = np.arange(40) % 3 > 0
    expected = second_eigenvector_plainly(weights * np.outer(active, active) + 1e-3)
    [found] = second_eigenvectors(_graph(weights, 1e-3, active))
    assert found is not None
    assert found.value == pytest.approx(expected[0], abs=1e-12)
    assert _apart(found.vector.numpy(), expected[1]) < 1e-8


def test_parts_without_a_tie_are_told_apart_by_the_floor():
    # Three parts: the first eigenvalues are of the size of the floor, and close to each other.
    part = np.repeat([0, 1, 2], [30, 50, 20])
    weights = (part[:, None] == part) * (1 - 1e-5)
    value, vector = second_eigenvector_plainly(weights + 1e-5)
    [found] = second_eigenvectors(_graph(weights, 1e-5))
    assert found is not None
    assert 0 < value < 1e-4
    assert found.value == pytest.approx(value, abs=1e-12)
    assert _apart(found.vector.numpy(), vector) < 1e-7


def test_it_stops_when_the_residual_is_small_and_not_sooner():
    weights = _random_weights(2, 300)
    steps = []
    for tolerance in (1e-2, 1e-6, 1e-10):
        [found] = second_eigenvectors(_graph(weights), tolerance)
        assert found is not None
        z = torch.from_numpy(weights.sum(1)).sqrt() * found.vector
        root = torch.from_numpy(weights.sum(1)).rsqrt()
        product = root * (torch.from_numpy(weights) @ (root * z))
        assert torch.linalg.vector_norm(product - (1 - found.value) * z) <= tolerance
        assert torch.linalg.vector_norm(z) == pytest.approx(1)
        steps.append(found.steps)
    assert steps[0] < steps[1] < steps[2] < 299


def test_company_changes_nothing():
    stack = np.stack([_random_weights(seed, 60) for seed in range(3)])
    stack[1] *= np.kron(np.eye(2), np.ones((30, 30)))  # takes another number of steps
    active = np.ones((3, 60), bool)
    active[2, :7] = False
    together = second_eigenvectors(_graph(stack, 1e-4, active))
    for weights, own, found in zip(stack, active, together, strict=True):
        [alone] = second_eigenvectors(_graph(weights, 1e-4, own))
        assert alone is not None
        assert found is not None
        assert found.steps == alone.steps
        assert _apart(found.vector.numpy(), alone.vector.numpy()) < 1e-9


@pytest.mark.parametrize(
    "weights",
    [np.ones((1, 1)), np.ones((30, 30)), np.eye(30), np.zeros((30, 30))],
    ids=["one token", "all alike", "none alike", "no weights"],
)
def test_where_no_cut_is_better_than_another_there_is_no_vector(weights):
    assert second_eigenvectors(_graph(weights, 1e-5)) == [None]


def test_one_without_a_vector_leaves_the_others_theirs():
    stack = np.stack([np.ones((30, 30)), _random_weights(0, 30)])
    first, second = second_eigenvectors(_graph(stack, 1e-5))
    assert first is None
    assert second is not None
    assert _apart(second.vector.numpy(), second_eigenvector_plainly(stack[1] + 1e-5)[1]) < 1e-8


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([[1.0, np.nan], [np.nan, 1]]), "finite"),
        (np.array([[1.0, np.inf], [np.inf, 1]]), "finite"),
        (np.array([[1.0, -0.5], [-0.5, 1]]), "negative"),
        (np.array([[1.0, 0], [0, 0]]), "no weight to any other"),
    ],
)
def test_bad_weights_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        second_eigenvectors(_graph(weights))


def test_normalised_cuts():
    # A = {0}: cut 2 + 0.5, vol(A) 2.5, vol(B) 2 + 1 + 0.5 + 1 = 4.5.
    weights = np.array([[0, 2, 0.5], [2, 0, 1], [0.5, 1, 0]])
    cuts = normalised_cuts(_graph(weights), torch.tensor([[True, False, False]]))
    assert cuts.tolist() == pytest.approx([1 + 2.5 / 4.5])
    weights, side = _random_weights(3, 20), np.arange(20) % 3 == 0
    found = normalised_cuts(_graph(weights, 1e-3), torch.from_numpy(side)[None])
    assert found.tolist() == pytest.approx([normalised_cut_plainly(weights + 1e-3, side)])
    for empty in (np.zeros(20, bool), np.ones(20, bool)):
        assert normalised_cuts(_graph(weights), torch.from_numpy(empty)[None]).tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_weights_of_other_types_are_the_same_graph(dtype):
    weights = torch.from_numpy(_random_weights(4, 50) > 0.2).to(dtype)[None]
    [found] = second_eigenvectors(Graph(weights, 1e-3, scale=0.5))
    value, vector = second_eigenvector_plainly(0.5 * weights[0].double().numpy() + 1e-3)
    assert found is not None
    assert found.value == pytest.approx(value, abs=1e-12)
    assert _apart(found.vector.numpy(), vector) < 1e-8
