"""What strengths of edges mean on images: how far they are trusted, and what may not matter."""

from __future__ import annotations

import numpy as np
import pytest
from edge_statistics import at, calibration_of, halves, outlined, statistics_of, street
from scipy import ndimage

from trace_d2.propagation.calibration import EdgeCalibration, EdgeStatistics
from trace_d2.propagation.regions import cut_basins
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.procedural import make_scene


class TestTrust:
    def test_perfect_edges_are_trusted(self):
        images = []
        for seed in range(8):
            labels, _ = street(seed)
            differ = np.zeros(labels.shape, bool)
            differ[:, :-1] |= labels[:, :-1] != labels[:, 1:]
            differ[:-1] |= labels[:-1] != labels[1:]
            images.append((labels, differ.astype(np.float32)))
        assert calibration_of(images).trust > 0.97
        assert 0.85 < calibration_of(images[:1]).trust < calibration_of(images).trust

    def test_edges_as_dense_inside_as_on_outlines_are_not(self):
        images = []
        for seed in range(8):
            labels, _ = street(seed)
            noise = np.random.default_rng(seed).random(labels.shape)
            images.append((labels, ndimage.gaussian_filter(noise, 1.5).astype(np.float32)))
        assert calibration_of(images).trust < 0.03

    def test_it_falls_with_the_share_of_outlines_that_have_an_edge(self):
        trusts = []
        for share in (1.0, 0.6, 0.2):
            rng = np.random.default_rng(0)
            edges = outlined(0.75)
            edges[rng.random(100) > share] = 0
            trusts.append(statistics_of(halves(), edges).calibrate().trust)
        assert trusts == sorted(trusts, reverse=True)
        assert trusts[2] < 0.7 * trusts[0]  # gaps are filled by two pixels from either end


TRANSFORMS = {"square": np.square, "root": np.sqrt, "weaker": lambda edges: 0.4 * edges}


class TestWhatMayNotMatter:
    @pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
    def test_strengths_on_another_scale(self, transform):
        images = [street(seed) for seed in range(6)]
        changed = [(labels, transform(edges)) for labels, edges in images]
        before, after = calibration_of(images), calibration_of(changed)
        assert after.trust == pytest.approx(before.trust, abs=0.02)
        pairs = zip(images, changed, strict=True)
        for seed, ((labels, edges), (_, others)) in enumerate(pairs):
            parts = []
            for number in range(1, 5):
                mask = labels == number
                first, second = (
                    cut_basins(mask, calibration(strength), 2.0)
                    for calibration, strength in ((before, edges), (after, others))
                )
                assert first.max() == second.max()
                # The border may wander to either side of a line one pixel wide.
                assert (first != second).sum() <= 100
                parts.append(int(first.max()))
            assert parts == [1 if seed % 3 else 2, 1, 1, 1]

    def test_resolution(self):
        images = [street(seed, noise=0.2) for seed in range(6)]
        finer = [
            (np.kron(labels, np.ones((2, 2), np.int32)), np.kron(edges, np.ones((2, 2), "f4")))
            for labels, edges in images
        ]
        before, after = calibration_of(images), calibration_of(finer)
        assert after.trust == pytest.approx(before.trust, abs=0.02)
        strengths = np.linspace(0, 1, 21)
        assert at(after, *strengths) == pytest.approx(at(before, *strengths), abs=0.5)

    def test_a_mirrored_image(self):
        labels, edges = street(3, noise=0.2)
        before = statistics_of(labels, edges).calibrate()
        for flip in (np.fliplr, np.flipud, np.transpose):
            after = statistics_of(flip(labels).copy(), flip(edges).copy()).calibrate()
            assert after.trust == pytest.approx(before.trust, abs=0.05)

    @pytest.mark.parametrize("groups", [[1] * 6, [2, 4], [5, 1], [3, 3]])
    def test_the_way_images_are_counted(self, groups):
        images = [
            (labels[:64, :64], edges[:64, :64])
            for labels, edges in (street(seed, noise=0.5) for seed in range(6))
        ]
        at_once = EdgeStatistics()
        for labels, edges in images:
            at_once.add(labels, labels > 0, edges, labels == 0)
        total, start = EdgeStatistics(), 0
        for count in groups:
            part = EdgeStatistics()
            for labels, edges in images[start : start + count]:
                part.add(labels, labels > 0, edges, labels == 0)
            total += part
            start += count
        # Cells of 1/64 add up without rounding.
        np.testing.assert_array_equal(total.outline, at_once.outline)
        np.testing.assert_array_equal(total.inside, at_once.inside)
        np.testing.assert_array_equal(total.stuff, at_once.stuff)
        assert (total.area, total.stuff_area) == (at_once.area, at_once.stuff_area)
        assert total.images == at_once.images == 6
        assert total.calibrate() == at_once.calibrate()


def test_many_tiny_objects_are_measured_at_their_scale() -> None:
    """Sixteen scenes in one image: at its own scale their perfect edges pass for texture."""
    scenes = [[make_scene(9, 4 * row + column) for column in range(4)] for row in range(4)]
    semantic = np.block([[scene.semantic() for scene in row] for row in scenes])
    edges = np.block([[boundaries(scene.segment_ids) for scene in row] for row in scenes])
    edges = edges.astype(np.float32) / 255
    isthing = {number: number <= 4 for number in range(1, 7)}
    trusts = []
    for scale in (0, 128):
        statistics = EdgeStatistics()
        statistics.add_semantic(semantic, isthing, edges, scale)
        trusts.append(statistics.calibrate().trust)
    assert trusts[1] > 0.98
    assert trusts[1] > trusts[0]
    evidence = EdgeCalibration.assumed()(edges, 128)
    assert evidence.scale == 128
    assert EdgeCalibration.assumed()(edges, 4096).scale == 512
