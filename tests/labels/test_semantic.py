"""Class maps sharpened along edges."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.io.categories import Category
from trace_d2.io.score_stacks import labels_of_scores
from trace_d2.labels.semantic import SemanticRefiner, SemanticSettings, _softmax
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.patch_scores import patch_scores
from trace_d2.scenes.procedural import make_scene

CATEGORIES = tuple(Category(i, f"c{i}", False, (i, i, i)) for i in (0, 3, 7, 9))
IDS = [0, 3, 7, 9]
SURE = EdgeCalibration((0.0, 0.4, 0.6, 1.0), (-8.0, -8.0, -0.05, -0.05), 0.0, 0.9, 9)
SHAPE = (64, 96)


def refiner(**settings: object) -> SemanticRefiner:
    return SemanticRefiner(CATEGORIES, SemanticSettings(**settings), SURE)


def halves(at: int) -> np.ndarray:
    """A map of class 0 left of a column and 3 from there on."""
    semantic = np.zeros(SHAPE, np.uint8)
    semantic[:, at:] = 3
    return semantic


def line(at: int) -> np.ndarray:
    """An edge down a column."""
    edges = np.zeros(SHAPE, np.float32)
    edges[:, at] = 1
    return edges


@pytest.mark.parametrize("off", [-3, -2, 2, 3])
def test_an_outline_moves_onto_the_edge(off: int) -> None:
    refined = refiner(reach=0.1)(halves(48 + off), line(48))
    assert refined.dtype == np.uint8
    assert (refined[:, :48] == 0).all()
    assert (refined[:, 49:] == 3).all()


def test_a_gap_in_the_edge_does_not_leak() -> None:
    edges = line(48)
    edges[30:34] = 0
    refined = refiner(reach=0.1)(halves(51), edges)
    right = np.count_nonzero(refined != halves(48)) / refined.size
    assert right < 0.02


@pytest.mark.parametrize("at", [325, 326, 327])
def test_an_outline_off_the_grid_leaves_no_spur(at: int) -> None:
    """Cells are 4 pixels wide, and most of the one that the given outline cuts is right."""
    semantic, edges = np.zeros((480, 640), np.uint8), np.zeros((480, 640), np.float32)
    semantic[:, at:], edges[:, 332] = 3, 1
    refined = refiner()(semantic, edges)
    right = np.zeros_like(semantic)
    right[:, 332:] = 3
    changed = refined != right
    changed[:, 332] = False
    assert not changed.any()


def some_map(seed: int = 0) -> np.ndarray:
    """Blobs of all classes, down to single pixels, with unknown ones."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.uint8([*IDS, 255]), (16, 24), p=[0.4, 0.2, 0.2, 0.15, 0.05])
    semantic = coarse.repeat(4, 0).repeat(4, 1)
    semantic[10, 10], semantic[:, 50] = 7, 9
    return semantic


@pytest.mark.parametrize("edges", [None, "empty", "even", "far", "no trust"])
def test_where_edges_say_nothing_nothing_moves(edges: str | None) -> None:
    semantic = some_map()
    given = {
        None: None,
        "empty": np.zeros(SHAPE, np.float32),
        "even": np.ones(SHAPE, np.float32),
        "far": line(95) * 0.3,
        "no trust": np.random.default_rng(1).random(SHAPE).astype(np.float32),
    }[edges]
    own = refiner()
    if edges == "no trust":
        own.calibration = EdgeCalibration((0.0, 1.0), (-1.0, 0.0), 0.0, 0.05, 9)
    assert np.array_equal(own(semantic, given), semantic)


def test_far_from_every_edge_nothing_moves() -> None:
    semantic = some_map()
    refined = refiner()(semantic, line(80))
    assert np.array_equal(refined[:, :40], semantic[:, :40])


def test_unknown_pixels_stay_or_are_filled() -> None:
    semantic, edges = halves(48), line(48)
    semantic[20:30, 30:60] = 255
    kept = refiner()(semantic, edges)
    assert np.array_equal(kept == 255, semantic == 255)
    filled = refiner(unknown="fill")(semantic, edges)
    assert np.array_equal(filled[:, :48], halves(48)[:, :48])
    assert np.array_equal(filled[:, 49:], halves(48)[:, 49:])
    nothing = np.full(SHAPE, 255, np.uint8)
    assert (refiner(unknown="fill")(nothing, edges) == 255).all()


def test_a_thing_thinner_than_a_cell_stays() -> None:
    semantic = np.zeros((480, 640), np.uint8)
    semantic[100:300, 320:323] = 7
    refined = refiner()(semantic, (boundaries(semantic) > 0).astype(np.float32))
    own = semantic == 7
    found = refined == 7
    assert (own & found).sum() / (own | found).sum() > 0.6
    assert set(np.unique(refined)) == {0, 7}


def test_scores_say_how_sure_a_map_is() -> None:
    """A strip between outline and edge goes to the class that nearly had it."""
    scores = np.zeros((4, 32, 48), np.float32)
    scores[0, :, :24], scores[1, :, 24:] = 1, 1
    scores[1, :, 21:24] = 0.8
    edges = line(42)
    refined = refiner()(scores, edges)
    assert (refined[:, :42] == 0).all()
    assert (refined[:, 43:] == 3).all()
    # The same whatever the scale of the logits, and at any resolution.
    assert np.array_equal(refiner()(30 * scores - 7, edges), refined)
    as_map = refiner()(labels_of_scores(scores, IDS, SHAPE), edges, scores)
    assert np.array_equal(as_map, refined)


def test_softmax_has_the_confidence_asked_for() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 20, 30)).astype(np.float32)
    for scale in (0.01, 1, 100):
        found = _softmax(logits * np.float32(scale), 0.6)
        assert found.sum(0) == pytest.approx(np.ones((20, 30)), abs=1e-5)
        assert found.max(0).mean() == pytest.approx(0.6, abs=0.01)
        assert np.array_equal(found.argmax(0), logits.argmax(0))
    assert (_softmax(np.zeros((2, 3, 3), np.float32), 0.6) == 0.5).all()


BAD = {
    "2-D": (np.zeros(SHAPE, np.float32), "must be uint8"),
    "class": (np.full(SHAPE, 5, np.uint8), r"values \[5\] that no category has"),
    "size": (np.zeros((64, 95), np.uint8), "resize them to the image"),
    "number": (np.zeros((3, 8, 12), np.float32), "scores of 3 classes, but there are 4 categories"),
    "NaN": (np.full((4, 8, 12), np.nan, np.float32), "NaN or infinite values in 384 of 384"),
    "integers": (np.zeros((4, 8, 12), np.int32), "scores are floating point"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    semantic, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        refiner()(semantic, line(48))


def test_probabilities_are_checked() -> None:
    scores = np.full((4, 8, 12), 0.25, np.float32)
    scores[1, :, 6:] = 1.5
    with pytest.raises(ValueError, match=r"0\.25\.\.1\.5, which are no probabilities"):
        refiner(scores="probabilities")(scores, line(48))
    with pytest.raises(ValueError, match="scores alone have no size"):
        refiner()(scores, None)


def test_degraded_scenes_become_better() -> None:
    """Scores that err as patches do, and perfect edges: wrong pixels are mended, if not all."""
    wrong, left = 0, 0
    for index in range(3):
        scene = make_scene(0, index)
        truth = scene.semantic()
        ids = sorted({*np.unique(truth).tolist()} - {255})
        categories = [Category(i, str(i), False, (i, 0, 0)) for i in ids]
        scores = patch_scores(truth, ids, 0.5, index)
        edges = (boundaries(scene.segment_ids) > 0).astype(np.float32)
        own = SemanticRefiner(categories, None, SURE)
        given = labels_of_scores(scores, ids, truth.shape)
        wrong += np.count_nonzero(given != truth)
        left += np.count_nonzero(own(scores, edges) != truth)
    assert left < 0.9 * wrong
