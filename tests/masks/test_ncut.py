"""Recursive normalised cuts against their definition: full eigenproblems, cuts edge by edge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage

from trace_d2.masks.features import TokenFeatures
from trace_d2.masks.ncut import best_cut, cut_nodes, recursive_cuts
from trace_d2.masks.settings import NcutSettings

GRID = 7, 8


def scene(seed: int) -> np.ndarray:
    """Vectors of length 1 of a background and two boxes."""
    generator = np.random.default_rng(seed)
    kinds, labels = generator.standard_normal((3, 6)), np.zeros(GRID, int)
    labels[1:4, 1:4], labels[3:6, 4:7] = 1, 2
    vectors = kinds[labels].reshape(-1, 6) + 0.3 * generator.standard_normal((56, 6))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def normalised_cut(weights: np.ndarray, side: set[int]) -> float:
    """cut / volume + cut / volume of the rest, summed pair by pair."""
    n = len(weights)
    other = set(range(n)) - side
    cut = sum(weights[i, j] for i in side for j in other)
    return sum(cut / sum(weights[i, j] for i in part for j in range(n)) for part in (side, other))


def plain_cut(weights: np.ndarray) -> tuple[list[int], list[int], float]:
    """The best of the cuts along the second eigenvector of (D - W) y = lambda D y."""
    degrees = np.diag(weights.sum(1))
    order = np.argsort(linalg.eigh(degrees - weights, degrees)[1][:, 1]).tolist()
    cuts = [normalised_cut(weights, set(order[:k])) for k in range(1, len(order))]
    size = int(np.argmin(cuts)) + 1
    return order[:size], order[size:], cuts[size - 1]


def plain(vectors: np.ndarray, s: NcutSettings) -> dict[bytes, float]:
    """Masks and scores as they are defined."""
    weights = np.maximum(vectors @ vectors.T - s.tau, 0) + s.epsilon

    def nodes(tokens: list[int], made: float | None) -> Iterator[tuple[list[int], float]]:
        parts, left = [], 1.0
        if len(tokens) >= 2 * s.min_tokens:
            *parts, left = plain_cut(weights[np.ix_(tokens, tokens)])
        if made is not None:
            yield tokens, max(0, 1 - made / left)
        for part in parts if left <= s.max_cut else ():
            if len(part) >= s.min_tokens:
                yield from nodes([tokens[i] for i in part], left)

    best: dict[bytes, float] = {}
    for tokens, score in nodes(list(range(len(vectors))), None):
        mask = np.isin(np.arange(len(vectors)), tokens).reshape(GRID)
        labels, count = ndimage.label(mask)
        for number in range(1, count + 1):
            part = labels == number
            if part.sum() >= s.min_tokens:
                own = score * part.sum() / len(tokens)
                best[part.tobytes()] = max(own, best.get(part.tobytes(), 0))
    return best


@pytest.mark.parametrize(
    "settings",
    [
        NcutSettings(min_tokens=3),
        NcutSettings(tau=0.0, epsilon=1e-2, min_tokens=1),
        NcutSettings(tau=0.1, epsilon=1e-3, min_tokens=2, max_cut=0.7),
    ],
)
def test_it_is_what_the_definition_gives(settings: NcutSettings) -> None:
    for seed in range(3):
        vectors = scene(seed)
        found = list(recursive_cuts(TokenFeatures(GRID, torch.from_numpy(vectors)), settings))
        expected = plain(vectors, settings)
        assert {mask.tobytes() for mask, _ in found} == expected.keys()
        assert len(found) == len(expected) > 1
        for mask, score in found:
            assert mask.dtype == bool
            assert score == pytest.approx(expected[mask.tobytes()], abs=1e-7)
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)
        assert 0 <= scores[-1] <= scores[0] <= 1


def test_boxes_come_first() -> None:
    vectors = np.zeros((56, 3))
    labels = np.zeros(GRID, int)
    labels[1:4, 1:4], labels[3:6, 4:7] = 1, 2
    vectors[np.arange(56), labels.ravel()] = 1
    features = TokenFeatures(GRID, torch.from_numpy(vectors))
    # Of equals the cuts are arbitrary, so the boxes are not cut any more.
    found = list(recursive_cuts(features, NcutSettings(max_cut=0.5)))
    first = [mask.tobytes() for mask, score in found if score > 0.99]
    assert {(labels == kind).tobytes() for kind in range(3)} <= set(first)


def test_a_graph_of_two_cliques_by_hand() -> None:
    weights = torch.zeros(5, 5, dtype=torch.float64)
    weights[:2, :2] = weights[2:, 2:] = 1
    weights[1, 2] = weights[2, 1] = 0.5
    cut = best_cut(weights, 0.0)
    assert cut is not None
    assert {tuple(sorted(part.tolist())) for part in cut[:2]} == {(0, 1), (2, 3, 4)}
    assert cut[2] == pytest.approx(0.5 / 4.5 + 0.5 / 9.5)


def test_nodes_part_their_parents_tokens() -> None:
    nodes = list(cut_nodes(torch.from_numpy(scene(0)), NcutSettings(min_tokens=1)))
    leaves = [node for node in nodes if len(node.tokens) == 1]
    assert sorted(int(node.tokens) for node in leaves) == list(range(56))
    assert len(nodes) == 2 * 56 - 2


@pytest.mark.parametrize("vectors", [np.zeros((56, 4)), np.tile([0.6, 0.8], (56, 1))])
def test_an_image_of_one_colour_has_no_masks(vectors: np.ndarray) -> None:
    assert list(recursive_cuts(TokenFeatures(GRID, torch.from_numpy(vectors)))) == []
    one = TokenFeatures((1, 1), torch.from_numpy(vectors[:1]))
    assert list(recursive_cuts(one, NcutSettings(min_tokens=1))) == []
