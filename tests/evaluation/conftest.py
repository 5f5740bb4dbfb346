from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trace_d2.io import coco_panoptic as panoptic
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category

CATEGORIES = tuple(
    Category(identity, name, isthing, (identity, 1, 1))
    for identity, name, isthing in [(1, "cat", True), (7, "dog", True), (0, "sky", False)]
)


def _map(rng: np.random.Generator) -> tuple[np.ndarray, dict[int, int]]:
    """A map of rectangles, (12, 16) int32, and the category of each segment."""
    ids = np.zeros((12, 16), np.int32)
    for identity in rng.choice(2**24 - 1, size=7, replace=False) + 1:
        y, x = rng.integers(0, 9), rng.integers(0, 12)
        ids[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = identity
    present = np.unique(ids[ids > 0]).tolist()
    return ids, {identity: int(rng.choice([1, 7, 0])) for identity in present}


def random_image(rng: np.random.Generator):
    """Truth with void and crowd, and a prediction that is partly right."""
    truth, truth_categories = _map(rng)
    wrong, wrong_categories = _map(rng)
    guess = np.roll(truth, rng.integers(-1, 2, 2), (0, 1))
    area = np.s_[: rng.integers(0, 12), : rng.integers(0, 16)]
    guess[area] = wrong[area]
    names = wrong_categories | truth_categories
    guess_categories = {int(i): names[int(i)] for i in np.unique(guess[guess > 0])}
    crowd, crowded = set(), set()
    for identity, category in truth_categories.items():
        if rng.random() < 0.3 and category not in crowded:
            crowd.add(identity)
            crowded.add(category)
    return (
        truth,
        panoptic.segments_info(truth, truth_categories, crowd),
        guess,
        panoptic.segments_info(guess, guess_categories),
    )


def write_dataset(folder: Path, images, side: int) -> None:
    """``images`` as a COCO panoptic folder: the truth (side 0) or the prediction (side 2)."""
    (folder / "panoptic").mkdir(parents=True)
    annotations = []
    for image_id, image in enumerate(images):
        name = f"{image_id:04d}.png"
        panoptic.write_panoptic_png(folder / "panoptic" / name, image[side])
        annotations.append(panoptic.panoptic_annotation(image_id, name, image[side + 1]))
    write_json(folder / "panoptic.json", panoptic.coco_dataset([], annotations, CATEGORIES))


@pytest.fixture
def images():
    rng = np.random.default_rng(5)
    return [random_image(rng) for _ in range(12)]


@pytest.fixture
def folders(tmp_path, images):
    """Folders of truth and prediction of ``images``."""
    write_dataset(tmp_path / "truth", images, 0)
    write_dataset(tmp_path / "predicted", images, 2)
    return tmp_path / "truth", tmp_path / "predicted"


@pytest.fixture
def categories():
    return CATEGORIES
