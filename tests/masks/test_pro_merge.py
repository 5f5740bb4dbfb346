"""ProMerge against its definition, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trace_d2.masks.features import TokenFeatures
from trace_d2.masks.pro_merge import merge, pro_merge, propose, prune
from trace_d2.masks.settings import ProMergeSettings


def flood(mask: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """The 4-connected part of ``mask`` that holds ``start``."""
    part, left = np.zeros_like(mask), [start]
    while left:
        r, c = left.pop()
        inside = 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1]
        if inside and mask[r, c] and not part[r, c]:
            part[r, c] = True
            left += [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
    return part


def plain(grid: tuple[int, int], vectors: np.ndarray, s: ProMergeSettings) -> list[np.ndarray]:
    """The method as it is told, without a thought for speed."""
    h, w = grid
    at = vectors.reshape(h, w, -1)
    candidates, found = [], []
    for r in range(0, h, s.stride):
        for c in range(0, w, s.stride):
            mask = at @ at[r, c] > s.tau
            borders = (mask[0], mask[h - 1], mask[:, 0], mask[:, w - 1])
            if sum(border.mean() >= s.border_share for border in borders) > s.border_lines:
                candidates.append(mask)
                continue
            if not mask[r, c]:
                continue
            own, seen = flood(mask, (r, c)).sum(), np.zeros_like(mask)
            for i in range(h):
                for j in range(w):
                    if mask[i, j] and not seen[i, j]:
                        part = flood(mask, (i, j))
                        seen |= part
                        if part.sum() >= s.component_share * own:
                            found.append(part)
    background = np.zeros(grid, bool)
    if candidates:
        background = np.mean(candidates, axis=0) > s.background_votes
    if not candidates or background.mean() < s.min_background:
        if s.need_background:
            return []
        background[:] = False

    def mean(mask: np.ndarray) -> np.ndarray:
        return at[mask].mean(0) if mask.any() else np.zeros(at.shape[2])

    covered, kept = np.zeros(grid, bool), []
    for mask in sorted(found, key=np.sum):
        new = mask & ~covered
        if new.sum() == 0 or mean(mask) @ mean(background) >= s.max_background_similarity:
            continue
        if (new & background).sum() / new.sum() < s.max_background_share:
            kept.append(mask)
            covered = covered | mask
    clusters: list[np.ndarray] = []
    for mask in sorted(kept, key=lambda m: -m.sum()):
        fit, rest = [mask], []
        for cluster in clusters:
            share = (mask & cluster).sum() / mask.sum()
            alike = mean(mask) @ mean(cluster) >= s.similarity
            joins = share > s.overlap or (share > s.similar_overlap and alike)
            (fit if joins else rest).append(cluster)
        clusters = [*rest, np.any(fit, axis=0)]
    return clusters


GRID = 10, 13


def scene(seed: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    """Vectors of a background with a frame and some blobs on it, of length 1."""
    generator = np.random.default_rng(seed)
    kinds = generator.standard_normal((5, 8))
    kinds[1:] -= 0.3 * kinds[0]
    labels = np.zeros(grid, int)
    for kind in range(1, 5):
        r, c = generator.integers(1, grid[0] - 4), generator.integers(1, grid[1] - 5)
        labels[r : r + generator.integers(2, 5), c : c + generator.integers(2, 6)] = kind
    noise = generator.uniform(0.2, 1.0) * generator.standard_normal((*grid, 8))
    vectors = (kinds[labels] + noise).reshape(-1, 8).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def found(vectors: np.ndarray, grid: tuple[int, int], settings: Any) -> list[np.ndarray]:
    scored = list(pro_merge(TokenFeatures(grid, torch.from_numpy(vectors)), settings))
    assert all(mask.dtype == bool and mask.shape == grid for mask, _ in scored)
    assert all(0 <= score <= 1 for _, score in scored)
    return [mask for mask, _ in scored]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return sorted(m.tobytes() for m in one) == sorted(m.tobytes() for m in other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"need_background": False},
        {"need_background": False, "min_background": 0.9},
        {"stride": 2, "tau": 0.4, "max_background_similarity": 0.5, "overlap": 0.2},
        {"stride": 3, "border_lines": 0, "border_share": 0.3, "component_share": 0.1},
        {"background_votes": 0.2, "similar_overlap": 0.0, "similarity": -1.0, "tau": 0.1},
        {"max_background_similarity": 2.0, "max_background_share": 2.0, "stride": 2},
    ],
)
def test_it_is_what_the_definition_gives(options: dict[str, Any]) -> None:
    settings, counts = ProMergeSettings(**options), []
    for seed in range(5):
        vectors = scene(seed)
        expected = plain(GRID, vectors.astype(np.float64), settings)
        assert same(found(vectors, GRID, settings), expected)
        counts.append(len(expected))
    assert max(counts) > 1


def test_without_background_there_are_no_masks_unless_they_are_wanted() -> None:
    vectors = np.eye(36, dtype=np.float32)  # every token is like itself alone
    assert found(vectors, (6, 6), ProMergeSettings()) == []
    alone = found(vectors, (6, 6), ProMergeSettings(need_background=False))
    assert [np.argwhere(mask).tolist() for mask in alone] == [
        [[0, 0]], [[0, 4]], [[4, 0]], [[4, 4]]
    ]  # fmt: skip


def test_seeds_background_and_parts() -> None:
    # Of 5 x 5 tokens the frame is alike, and so is the middle column's inside, in two parts.
    kinds = np.full((5, 5), 0)
    kinds[1:4, 1:4] = 2
    kinds[1, 2] = kinds[3, 2] = 1
    alike = torch.from_numpy(kinds.ravel()[:, None] == kinds.ravel()).reshape(25, 5, 5)
    masks, background = propose(alike, ProMergeSettings(stride=1))
    np.testing.assert_array_equal(background, kinds == 0)
    # A seed of kind 1 finds both parts, each as large as its own.
    parts = [mask for mask in masks if mask[1, 2] or mask[3, 2]]
    assert len(parts) == 4
    assert all(mask.sum() == 1 for mask in parts)
    assert len(masks) == 4 + (kinds == 2).sum()


def test_a_mask_that_adds_nothing_is_pruned_and_so_is_background() -> None:
    masks = np.zeros((3, 2, 4), bool)
    masks[0, 0, :2] = masks[1, 0, :2] = True
    masks[2, 1] = True
    background = np.zeros((2, 4), bool)
    background[1, :3] = True  # 3 of the 4 new tokens
    vectors = np.tile([1.0, 0.0], (8, 1))
    never = {"max_background_similarity": 2.0}
    assert len(prune(masks, background, vectors, ProMergeSettings(**never))) == 2
    strict = ProMergeSettings(max_background_share=0.75, **never)
    assert len(prune(masks, background, vectors, strict)) == 1
    assert prune(masks, background, vectors, ProMergeSettings(max_background_similarity=1.0)) == []


def test_a_mask_joins_all_clusters_that_it_fits_into_one() -> None:
    def line(*columns: int) -> np.ndarray:
        mask = np.zeros((1, 12), bool)
        mask[0, list(columns)] = True
        return mask

    vectors = np.eye(12)
    left, right, bridge, far = line(0, 1, 2, 3), line(6, 7, 8, 9), line(2, 3, 6), line(11)
    settings = ProMergeSettings(overlap=0.3, similar_overlap=0.3)
    merged = merge([bridge, left, far, right], vectors, settings)
    assert [np.flatnonzero(mask).tolist() for mask in merged] == [
        [0, 1, 2, 3, 6, 7, 8, 9], [11]
    ]  # fmt: skip
    # A third of it is not more than a third.
    apart = merge([bridge, left, right], vectors, ProMergeSettings(overlap=0.5))
    assert [mask.sum() for mask in apart] == [5, 4]


def test_an_image_of_one_colour_has_no_masks() -> None:
    flat = np.tile(np.float32([0.6, 0.8]), (35, 1))
    for need in (True, False):
        assert found(flat, (5, 7), ProMergeSettings(need_background=need)) == []
    nothing = np.zeros((35, 2), np.float32)
    assert found(nothing, (5, 7), ProMergeSettings(need_background=False)) == []


def test_a_mask_apart_from_all_others_scores_1() -> None:
    vectors = np.zeros((36, 2), np.float32)
    vectors[:, 0] = 1
    vectors[[14, 15, 20, 21]] = [0, 1]
    settings = ProMergeSettings(stride=2)
    ((mask, score),) = pro_merge(TokenFeatures((6, 6), torch.from_numpy(vectors)), settings)
    assert np.flatnonzero(mask).tolist() == [14, 15, 20, 21]
    assert score == 1
