"""From images to masks of tokens: order, batches, failures of one image, what is no mask."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trace_d2.masks.methods import TokenMaskFinder, checked


class Reader:
    """In place of a feature reader: images are their features."""

    batch = 2
    backbone = "network"

    def __call__(self, image, key):
        return image

    def ready(self, image, key):
        return image

    def detect(self, images):
        return list(images)


def features(grid, value):
    return SimpleNamespace(grid=grid, value=value)


def one_mask(images):
    """A mask an image whose score is its value, and a worse one before it."""
    for image in images:
        if image.value < 0:
            raise ValueError(f"{image.value} is negative")
    full = [np.ones(image.grid, bool) for image in images]
    scores = [image.value for image in images]
    return [[(~mask, 0.0), (mask, score)] for mask, score in zip(full, scores, strict=True)]


def test_masks_come_by_score():
    found = TokenMaskFinder(Reader(), one_mask)(features((2, 3), 0.5), "a")
    assert (found.grid, found.scores) == ((2, 3), [0.5, 0.0])
    assert [mask.all() for mask in found.masks] == [True, False]


def test_images_of_one_grid_are_asked_for_together_and_keep_their_places():
    asked = []

    def method(images):
        asked.append([(image.grid, image.value) for image in images])
        return one_mask(images)

    grids = [(2, 2), (3, 2), (2, 2), (2, 2)]
    images = [features(grid, rank / 10) for rank, grid in enumerate(grids)]
    images.insert(1, RuntimeError("not read"))
    found = TokenMaskFinder(Reader(), method).detect(images)
    assert [sorted(batch) for batch in asked] == [
        [((2, 2), 0.0), ((2, 2), 0.2)],
        [((2, 2), 0.3)],
        [((3, 2), 0.1)],
    ]
    assert str(found.pop(1)) == "not read"
    assert [(one.grid, max(one.scores)) for one in found] == [
        *(((2, 2), 0.0), ((3, 2), 0.1), ((2, 2), 0.2), ((2, 2), 0.3))
    ]


def test_what_fails_in_one_image_leaves_the_others():
    images = [features((2, 2), value) for value in (0.1, -1.0, 0.3)]
    first, second, third = TokenMaskFinder(Reader(), one_mask).detect(images)
    assert (first.scores[0], third.scores[0]) == (0.1, 0.3)
    assert str(second) == "-1.0 is negative"


@pytest.mark.parametrize(
    ("mask", "score"),
    [
        (np.ones((2, 2)), 0.5),
        (np.ones((2, 3), bool), 0.5),
        (np.ones((2, 2), bool), 1.5),
        (np.ones((2, 2), bool), float("nan")),
    ],
)
def test_what_is_no_mask_is_refused(mask, score):
    with pytest.raises(ValueError, match="repair the method"):
        checked((mask, score), (2, 2))
