"""Masks from edges, against the same definition pixel by pixel."""

from __future__ import annotations

import heapq
import math
from itertools import combinations

import cv2
import numpy as np
import pytest

from trace_d2.masks.edge_hierarchy import EdgeHierarchy, edge_masks, nearness
from trace_d2.masks.settings import EdgeHierarchySettings

Region = frozenset  # of pixels

ALL = {"min_area": 1, "max_share": 1.0, "max_borders": 4}
"""Nothing is left out but the whole image, which scores 0."""


def neighbours(pixel: tuple[int, int], shape: tuple[int, int]) -> list[tuple[int, int]]:
    row, column = pixel
    around = [(row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column)]
    return [(r, c) for r, c in around if 0 <= r < shape[0] and 0 <= c < shape[1]]


def flood(relief: np.ndarray) -> list[Region]:
    """Watershed basins of a relief without ties: the lowest pixel on a shore is flooded next."""
    owner: dict[tuple[int, int], int] = {}
    shore: list[tuple[float, tuple[int, int]]] = []
    for pixel in np.ndindex(relief.shape):
        if all(relief[pixel] < relief[other] for other in neighbours(pixel, relief.shape)):
            owner[pixel] = len(owner)
            shore.append((relief[pixel], pixel))
    heapq.heapify(shore)
    while shore:
        _, pixel = heapq.heappop(shore)
        for other in neighbours(pixel, relief.shape):
            if other not in owner:
                owner[other] = owner[pixel]
                heapq.heappush(shore, (relief[other], other))
    return [Region(p for p in owner if owner[p] == k) for k in set(owner.values())]


def facing(one: Region, other: Region, relief: np.ndarray) -> list[float]:
    """The higher of the two pixels, for each pair that faces each other across a border."""
    return [
        max(relief[pixel], relief[beside])
        for pixel in one
        for beside in neighbours(pixel, relief.shape)
        if beside in other
    ]


def without_shallow(regions: list[Region], relief: np.ndarray, depth: float) -> list[Region]:
    """Of the lowest pass on, regions are joined where the shallower is less than ``depth`` deep."""
    passes = sorted(
        (min(heights), one, other)
        for one, other in combinations(range(len(regions)), 2)
        if (heights := facing(regions[one], regions[other], relief))
    )
    own = {k: {k} for k in range(len(regions))}
    for height, one, other in passes:
        if own[one] is own[other]:
            continue
        floors = [min(relief[p] for k in own[i] for p in regions[k]) for i in (one, other)]
        if height - max(floors) < depth:
            joined = own[one] | own[other]
            own |= dict.fromkeys(joined, joined)
    return [
        Region().union(*(regions[k] for k in group)) for group in {*map(frozenset, own.values())}
    ]


def plain_nodes(relief: np.ndarray, depth: float) -> dict[Region, float]:
    """The lifetime of every region, all borders measured anew at each step."""
    regions = without_shallow(flood(relief), relief, depth)
    birth = {region: min(relief[p] for p in region) for region in regions}
    lifetime = {}
    while len(regions) > 1:
        weakest, one, other = min(
            (
                (np.mean(heights), one, other)
                for one, other in combinations(regions, 2)
                if (heights := facing(one, other, relief))
            ),
            key=lambda border: border[0],
        )
        lifetime |= {gone: weakest - birth[gone] for gone in (one, other)}
        birth[one | other] = weakest
        regions = [region for region in regions if region not in (one, other)] + [one | other]
    return lifetime


def bumpy(seed: int, shape: tuple[int, int] = (19, 23)) -> np.ndarray:
    """Smooth random edges."""
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def pixels(mask: np.ndarray) -> Region:
    return Region(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))


@pytest.mark.parametrize("depth", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_nodes_and_lifetimes_are_those_of_the_plain_definition(seed, depth):
    relief = bumpy(seed)
    assert len(np.unique(relief)) == relief.size  # ties could be broken otherwise
    tree = EdgeHierarchy.of(relief, 0.0, depth)
    found = {pixels(tree.mask(k)): tree.lifetime[k] for k in range(len(tree.first) - 1)}
    expected = plain_nodes(relief.astype(np.float64), depth)
    assert found.keys() == expected.keys()
    assert len(found) >= 2
    for region, lifetime in expected.items():
        assert found[region] == pytest.approx(lifetime, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_the_nodes_that_pass_scored_by_what_is_told(seed):
    relief = bumpy(seed)
    settings = EdgeHierarchySettings(sigma=0.0, gap_radius=0.0, depth=0.1, min_area=12)
    height, width = relief.shape
    expected = {}
    for region, lifetime in plain_nodes(relief.astype(np.float64), 0.1).items():
        lines = (
            sum(r == 0 for r, _ in region) / width,
            sum(r == height - 1 for r, _ in region) / width,
            sum(c == 0 for _, c in region) / height,
            sum(c == width - 1 for _, c in region) / height,
        )
        half = sum(share >= 0.5 for share in lines)
        if 12 <= len(region) <= relief.size / 2 and half <= 1:
            expected[region] = lifetime * (1 - max(lines)) * (len(region) / relief.size) ** 0.125
    found = list(edge_masks(relief, settings))
    assert {pixels(mask) for mask, _ in found} == {r for r, s in expected.items() if s > 0}
    for mask, score in found:
        assert mask.dtype == bool
        assert score == pytest.approx(expected[pixels(mask)], abs=1e-6)
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)


def square_within_a_square() -> np.ndarray:
    edges = np.zeros((60, 80), np.float32)
    cv2.rectangle(edges, (20, 10), (60, 50), 1.0)
    cv2.line(edges, (40, 11), (40, 49), 0.5)
    return edges


def test_a_square_of_two_halves_by_hand():
    settings = EdgeHierarchySettings(sigma=0.0, gap_radius=0.0)
    found = list(edge_masks(square_within_a_square(), settings))
    assert len(found) == 3  # the surroundings cover all four border lines
    whole, *halves = found
    # The halves part at 0.5; what lies around them is lost across an edge of 1.
    assert 39 * 39 <= whole[0].sum() <= 41 * 41
    assert whole[1] == pytest.approx(0.5 * (whole[0].mean()) ** 0.125, abs=0.02)
    for mask, score in halves:
        assert not (mask & ~whole[0]).any()
        assert score == pytest.approx(0.5 * mask.mean() ** 0.125, abs=0.02)
    assert not (halves[0][0] & halves[1][0]).any()


def finds_the_square(edges: np.ndarray, **settings: float) -> bool:
    masks = [mask for mask, _ in edge_masks(edges, EdgeHierarchySettings(**settings))]
    return any(39 * 39 <= mask.sum() <= 43 * 43 for mask in masks)


def test_a_gap_narrower_than_the_smoothing_does_not_leak():
    edges = square_within_a_square()
    edges[29:31, 20] = 0
    assert finds_the_square(edges, gap_radius=0.0)


def test_a_wider_gap_is_a_pass_in_ground_that_rises():
    edges = square_within_a_square()
    edges[20:32, 20] = 0
    assert finds_the_square(edges)
    assert not finds_the_square(edges, gap_radius=0.0)


@pytest.mark.parametrize("radius", [2.0, 7.5])
def test_nearness_is_that_of_the_plain_definition(radius):
    edges = np.random.default_rng(3).choice([0.0, 0.0, 0.0, 0.3, 0.6, 0.9], (9, 14))
    edges = np.where(np.random.default_rng(4).random(edges.shape) < 0.8, 0, edges)
    expected = np.zeros(edges.shape)
    for place in np.ndindex(edges.shape):
        for other in np.ndindex(edges.shape):
            away = math.hypot(place[0] - other[0], place[1] - other[1])
            for level in (0.2, 0.4, 0.6, 0.8):
                if edges[other] >= level:
                    expected[place] = max(expected[place], level * math.exp(-away / radius))
    found = nearness(edges.astype(np.float32), radius)
    # OpenCV's distances within 5 x 5 pixels are exact to 2 %.
    np.testing.assert_allclose(found, expected, rtol=0.1)
    assert not nearness(np.zeros((3, 4), np.float32), radius).any()


def test_without_nesting_no_masks_overlap_and_the_best_stay():
    relief = bumpy(5, (40, 50))
    settings = {"sigma": 0.0, "depth": 0.05, "min_area": 5}
    nested = list(edge_masks(relief, EdgeHierarchySettings(**settings)))
    flat = list(edge_masks(relief, EdgeHierarchySettings(**settings, nested=False)))
    expected: list[np.ndarray] = []
    for mask, _ in nested:
        if not any((mask & other).any() for other in expected):
            expected.append(mask)
    assert len(expected) < len(nested)
    assert [pixels(mask) for mask, _ in flat] == [pixels(mask) for mask in expected]


def test_masks_of_low_scores_and_of_many_border_lines_are_left_out():
    edges = np.zeros((60, 60), np.float32)
    edges[30] = edges[:, 20] = 1.0  # four quarters: each on two border lines
    plain = {"sigma": 0.0, "gap_radius": 0.0, "area_power": 0.0, "max_share": 0.3}
    both = list(edge_masks(edges, EdgeHierarchySettings(**plain)))
    # The two left of column 20 half-cover one line, those right of it two.
    assert len(both) == 2
    assert {round(score, 1) for _, score in both} == {0.5}
    assert not list(edge_masks(edges, EdgeHierarchySettings(**plain, min_score=0.6)))
    assert not list(edge_masks(edges, EdgeHierarchySettings(**plain, max_borders=0)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (30, 30)])
@pytest.mark.parametrize("strength", [0.0, 0.7, 1.0])
def test_flat_edges_give_no_masks(shape, strength):
    assert not list(edge_masks(np.full(shape, strength, np.float32), EdgeHierarchySettings(**ALL)))


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (2, 2), (5, 64)])
def test_images_of_any_shape(shape):
    edges = np.random.default_rng(0).random(shape)
    settings = EdgeHierarchySettings(sigma=0.0, depth=0.0, **ALL)
    found = list(edge_masks(edges, settings))
    assert all(mask.shape == shape and mask.any() and 0 < score <= 1 for mask, score in found)


def test_the_hierarchy_is_a_tree_over_the_whole_image():
    tree = EdgeHierarchy.of(bumpy(1, (30, 40)), 1.0, 0.0)
    leaves = tree.leaf.max() + 1
    assert len(tree.first) == 2 * leaves - 1
    assert (tree.first[-1], tree.stop[-1]) == (0, leaves)
    assert tree.area[-1] == tree.leaf.size
    assert (tree.stop[:leaves] - tree.first[:leaves] == 1).all()
    assert (np.diff(tree.birth[leaves:]) >= -1e-9).all()  # average linkage has no inversions
    assert (tree.death >= tree.birth - 1e-9).all()


def test_the_same_edges_give_the_same_masks():
    edges = np.round(bumpy(2, (40, 40)) * 20) / np.float32(20)  # many ties
    first, second = (list(edge_masks(edges.copy(), EdgeHierarchySettings(**ALL))) for _ in "12")
    assert [score for _, score in first] == [score for _, score in second]
    assert all((a == b).all() for (a, _), (b, _) in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        (np.full((4, 4), np.nan, np.float32), "NaN"),
        (np.full((4, 4), 2.0, np.float32), "0..1"),
        (np.zeros((4, 4), np.uint8), "floating point"),
        (np.zeros((4, 4, 3), np.float32), r"\(H, W\)"),
        (np.zeros((0, 4), np.float32), "non-empty"),
    ],
)
def test_edges_that_are_none_are_refused(edges, words):
    with pytest.raises(ValueError, match=words):
        next(edge_masks(edges))
