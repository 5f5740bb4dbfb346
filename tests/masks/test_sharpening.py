"""Sharpening of masks of tokens: against definitions pixel by pixel, and by hand."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

from trace_d2.config import load_trace_cfg
from trace_d2.masks.settings import CrfSettings, DiscoverySettings, GuidedSettings
from trace_d2.masks.sharpening import (
    GuidedFilter,
    Sharpener,
    check_package,
    dense_crf,
    enlarged,
    without_holes,
)

NODE = "MODEL.TRACE.DISCOVERY"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def windows(size, radii):
    """Each pixel with the slices of its window, which ends at the border."""
    for row in range(size[0]):
        for column in range(size[1]):
            yield (
                (row, column),
                (
                    slice(max(0, row - radii[0]), row + radii[0] + 1),
                    slice(max(0, column - radii[1]), column + radii[1] + 1),
                ),
            )


def plain_guided_filter(guide, mask, radii, epsilon):
    """He, Sun and Tang's equations 14, 15 and 16, in float64, window by window."""
    guide, mask = guide.astype(np.float64), mask.astype(np.float64)
    slopes, offsets = np.empty(guide.shape), np.empty(mask.shape)
    for place, window in windows(mask.shape, radii):
        colors, given = guide[window].reshape(-1, 3), mask[window].ravel()
        mean = colors.mean(0)
        covariance = (colors - mean).T @ (colors - mean) / len(colors)
        target = (colors * given[:, None]).mean(0) - mean * given.mean()
        slopes[place] = np.linalg.solve(covariance + epsilon * np.eye(3), target)
        offsets[place] = given.mean() - slopes[place] @ mean
    found = np.empty(mask.shape)
    for place, window in windows(mask.shape, radii):
        slope = slopes[window].reshape(-1, 3).mean(0)
        found[place] = slope @ guide[place] + offsets[window].mean()
    return found


@pytest.mark.parametrize("radii", [(1, 1), (2, 4), (30, 30)])
def test_the_guided_filter_is_its_definition(rng, radii):
    guide = rng.random((17, 23, 3), np.float32)
    soft = GuidedFilter(guide, radii, 1e-2)
    for box in (np.s_[6:10, 8:15], np.s_[0:4, 0:3], np.s_[:, :]):  # small, in a corner, all
        mask = np.zeros((17, 23), bool)
        mask[box] = True
        plain = plain_guided_filter(guide, mask, radii, 1e-2)
        np.testing.assert_allclose(soft(mask), plain, atol=2e-5)


def test_the_guided_filter_of_nothing_is_nothing(rng):
    soft = GuidedFilter(rng.random((5, 6, 3), np.float32), (1, 1), 1e-3)
    assert not soft(np.zeros((5, 6), bool)).any()


def test_holes_are_those_that_scipy_fills(rng):
    for share in (0.3, 0.5, 0.6, 0.9, 1.0):
        for _ in range(10):
            mask = rng.random((9, 13)) < share
            assert np.array_equal(without_holes(mask), ndimage.binary_fill_holes(mask))
    assert not without_holes(np.zeros((1, 1), bool)).any()


def test_enlarged_masks_are_those_of_the_tokens_that_pixels_lie_in():
    mask = np.array([[True, False, True]])
    assert enlarged(mask, (2, 7)).tolist() == [[True, True, False, False, False, True, True]] * 2


@pytest.fixture
def disc():
    """An image with a bright disc on dark ground, its mask, and the mask on a grid of 8 x 10."""
    rows, columns = np.mgrid[:96, :120]
    truth = (rows - 50) ** 2 + (columns - 55) ** 2 < 30**2
    image = np.where(truth[..., None], (220, 180, 60), (30, 60, 90)).astype(np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape, np.uint8)
    tokens = truth.reshape(8, 12, 10, 12).mean((1, 3)) > 0.5
    return image, truth, tokens


def iou(one, other):
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def test_a_mask_of_tokens_finds_the_outline_of_the_object(disc):
    image, truth, tokens = disc
    sharp = Sharpener().of_image(image, tokens.shape)(tokens)
    plain = Sharpener(DiscoverySettings(sharpen="none")).of_image(image, tokens.shape)(tokens)
    assert np.array_equal(plain, enlarged(tokens, truth.shape))
    assert iou(plain, truth) < 0.9 < 0.97 < iou(sharp, truth)


def test_large_images_are_filtered_small_and_masks_have_their_size(disc):
    image, truth, tokens = disc
    small = Sharpener(guided=GuidedSettings(side=60)).of_image(image, tokens.shape)(tokens)
    assert small.shape == truth.shape
    assert iou(small, truth) > 0.95


def test_holes_are_filled_or_kept():
    image = np.full((96, 120, 3), 90, np.uint8)
    ring = np.zeros((8, 10), bool)
    ring[:, 1:9] = True
    ring[2:6, 3:7] = False
    filled = Sharpener().of_image(image, ring.shape)(ring)
    kept = Sharpener(DiscoverySettings(fill_holes=False)).of_image(image, ring.shape)(ring)
    assert filled[48, 60]
    assert not kept[48, 60]


def test_a_mask_that_became_another_is_left_out(disc):
    image, _, tokens = disc
    speck = np.zeros_like(tokens)
    speck[4, 5] = True  # one token within the disc, which the filter smooths away
    sharpen = Sharpener().of_image(image, tokens.shape)
    assert sharpen(speck) is None
    assert sharpen(tokens) is not None
    for kind in ("guided", "none"):
        lenient = Sharpener(DiscoverySettings(sharpen=kind, min_iou=0.0))
        assert lenient.of_image(image, tokens.shape)(np.zeros_like(tokens)) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3)])
@pytest.mark.parametrize("kind", ["guided", "none"])
def test_images_of_fewer_pixels_than_tokens(size, kind):
    image = np.full((*size, 3), 7, np.uint8)
    sharpen = Sharpener(DiscoverySettings(sharpen=kind)).of_image(image, (6, 6))
    assert sharpen(np.ones((6, 6), bool)).all()
    corner = np.zeros((6, 6), bool)
    corner[0, 0] = True
    found = sharpen(corner)
    assert found is None or found.shape == size


# The dense CRF, by its definition: all pairs of pixels, in float64.


class PlainCrf:
    """As pydensecrf's DenseCRF2D: kernels normalised from both sides, Potts weights."""

    def __init__(self, width, height, labels):
        rows, columns = np.mgrid[:height, :width]
        self.places = np.stack([rows.ravel(), columns.ravel()], 1).astype(np.float64)
        assert labels == 2
        self.kernels = []

    def setUnaryEnergy(self, unary):  # noqa: N802 -- pydensecrf's names
        assert unary.dtype == np.float32
        self.unary = unary.astype(np.float64)

    def add(self, features, weight):
        distance = ((features[:, None] - features) ** 2).sum(-1)
        kernel = np.exp(-distance / 2)
        norm = 1 / np.sqrt(kernel.sum(1))
        self.kernels.append(weight * norm[:, None] * kernel * norm)

    def addPairwiseGaussian(self, sxy, compat):  # noqa: N802
        self.add(self.places / sxy, compat)

    def addPairwiseBilateral(self, sxy, srgb, rgbim, compat):  # noqa: N802
        colors = rgbim.reshape(-1, 3).astype(np.float64)
        self.add(np.hstack([self.places / sxy, colors / srgb]), compat)

    def inference(self, steps):
        energy = -self.unary
        for step in range(steps + 1):
            shares = np.exp(energy - energy.max(0))
            shares /= shares.sum(0)
            if step < steps:
                energy = -self.unary + sum(shares @ kernel for kernel in self.kernels)
        return shares


@pytest.fixture
def plain_crf(monkeypatch):
    package, module = ModuleType("pydensecrf"), ModuleType("pydensecrf.densecrf")
    module.DenseCRF2D, package.densecrf = PlainCrf, module
    monkeypatch.setitem(sys.modules, "pydensecrf", package)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_the_crf_moves_a_mask_to_the_outline(disc, plain_crf):
    image, truth, tokens = disc
    image, truth = image[::2, ::2], truth[::2, ::2]
    settings = CrfSettings(side=30, bilateral_xy=5.0, steps=5)
    sharpener = Sharpener(DiscoverySettings(sharpen="crf"), crf=settings)
    found = sharpener.of_image(image, tokens.shape)(tokens)
    assert found.shape == truth.shape
    assert iou(enlarged(tokens, truth.shape), truth) < 0.9 < iou(found, truth)


def test_the_crf_starts_from_the_shares_of_the_two_logits(plain_crf, monkeypatch):
    seen = []
    monkeypatch.setattr(PlainCrf, "setUnaryEnergy", lambda self, unary: seen.append(unary))
    monkeypatch.setattr(PlainCrf, "inference", lambda self, steps: np.exp(-seen[-1]))
    mask = np.array([[True, False]])
    assert dense_crf(mask, np.zeros((1, 2, 3), np.uint8), CrfSettings()).tolist() == mask.tolist()
    np.testing.assert_allclose(np.exp(-seen[0]), [[0.269, 0.731], [0.731, 0.269]], atol=1e-3)


def test_without_weights_the_crf_leaves_a_mask_as_it_is(plain_crf, disc):
    image, truth, _ = disc
    image, mask = image[20:60:2, 20:60:2], truth[20:60:2, 20:60:2]
    plain = CrfSettings(smooth_weight=0.0, bilateral_weight=0.0)
    assert np.array_equal(dense_crf(mask, image, plain), mask)


def test_the_package_decides_as_the_definition(disc):
    real = pytest.importorskip("pydensecrf.densecrf")
    image, truth, tokens = disc
    image = np.ascontiguousarray(image[::3, ::3])
    mask = enlarged(tokens, image.shape[:2])
    settings = CrfSettings(bilateral_xy=6.0)
    found = dense_crf(mask, image, settings)
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr(real, "DenseCRF2D", PlainCrf)
        plain = dense_crf(mask, image, settings)
    assert np.mean(found != plain) < 0.01  # the package's filter is approximate
    assert iou(found, truth[::3, ::3]) > iou(mask, truth[::3, ::3])


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_package("guided")
    with pytest.raises(ValueError, match="pip install pydensecrf2"):
        Sharpener.from_config(load_trace_cfg(None, [f"{NODE}.SHARPEN", "crf"]))


def test_settings_are_those_of_the_config():
    pairs = {"SHARPEN": "none", "MIN_IOU": 0.25, "GUIDED.RADIUS": 2.0, "CRF.STEPS": 3}
    overrides = [text for key, value in pairs.items() for text in (f"{NODE}.{key}", str(value))]
    sharpener = Sharpener.from_config(load_trace_cfg(None, overrides))
    assert sharpener.common == replace(DiscoverySettings(), sharpen="none", min_iou=0.25)
    assert sharpener.guided == GuidedSettings(radius=2.0)
    assert sharpener.crf == CrfSettings(steps=3)
