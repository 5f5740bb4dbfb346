from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from trace_d2.config import get_trace_cfg
from trace_d2.io.categories import Category
from trace_d2.labels import LabelSettings, PanopticLabel, PanopticLabeler
from trace_d2.propagation.calibration import EdgeCalibration, EdgeStatistics

SKY, CAT, DOG, UNKNOWN = 0, 1, 7, 255
CATEGORIES = (
    Category(SKY, "sky", False, (0, 0, 255)),
    Category(CAT, "cat", True, (255, 0, 0)),
    Category(DOG, "dog", True, (0, 255, 0)),
)


def label(
    semantic: np.ndarray,
    edges: np.ndarray | None = None,
    calibration: EdgeCalibration | None = None,
    **options: object,
):
    return PanopticLabeler(CATEGORIES, LabelSettings(**options), calibration)(semantic, edges)


def two_touching_rectangles() -> tuple[np.ndarray, np.ndarray]:
    """Two cats of 60 x 50 pixels, side by side in the sky, and the edges around and between."""
    semantic = np.full((100, 160), SKY, np.uint8)
    semantic[20:80, 30:130] = CAT
    edges = np.zeros(semantic.shape, np.float32)
    edges[20:80, [29, 80, 130]] = edges[[19, 80], 30:130] = 1
    return semantic, edges


def texture(shape: tuple[int, int], level: float, seed: int) -> np.ndarray:
    """Strengths of mean 1.3 ``level``, in bumps of some pixels."""
    bumps = np.random.default_rng(seed).standard_normal(shape)
    bumps = np.abs(ndimage.gaussian_filter(bumps, 2))
    return level * bumps / bumps.std()


def blurred_and_textured(edges: np.ndarray, level: float, seed: int) -> np.ndarray:
    """``edges`` blurred, in a texture."""
    edges = ndimage.gaussian_filter(edges, 3)
    edges = edges / edges.max() + texture(edges.shape, level, seed)
    return np.clip(edges, 0, 1).astype(np.float32)


def data_set(level: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight images, two of which have a border to find."""
    semantic, parting = two_touching_rectangles()
    whole = parting.copy()
    whole[20:80, 80] = 0
    return [
        (semantic, blurred_and_textured(whole if seed % 4 else parting, level, seed))
        for seed in range(8)
    ]


def calibration_of(images: list[tuple[np.ndarray, np.ndarray]]) -> EdgeCalibration:
    statistics = EdgeStatistics()
    for semantic, edges in images:
        isthing = {category.id: category.isthing for category in CATEGORIES}
        statistics.add_semantic(semantic, isthing, edges)
    return statistics.calibrate()


def thing_areas(result: PanopticLabel) -> list[int]:
    return [segment.area for segment in result.segments if segment.isthing]


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray | None]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))
    semantic = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 1, 7, 255])))
    # Larger blocks, so that there is something to cut.
    scale = draw(st.sampled_from([1, 4]))
    semantic = np.kron(semantic, np.ones((scale, scale), np.uint8))
    if draw(st.booleans()):
        return semantic, None
    values = st.sampled_from([0.0, 0.0, 0.3, 0.5, 0.7, 1.0])
    return semantic, draw(hnp.arrays(np.float32, semantic.shape, elements=values))


def check_partition(semantic: np.ndarray, result: PanopticLabel, void_allowed: bool) -> None:
    ids = result.segment_ids
    assert ids.shape == semantic.shape
    assert ids.dtype == np.int32
    assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
    assert set(np.unique(ids)) - {0} == {segment.id for segment in result.segments}
    assert not ids[semantic == UNKNOWN].any()
    if not void_allowed:
        assert ids[semantic != UNKNOWN].all()
    for segment in result.segments:
        mask = ids == segment.id
        assert set(np.unique(semantic[mask])) == {segment.category_id}
        assert segment.isthing == (segment.category_id != SKY)
        assert segment.area == mask.sum()
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        size = columns.max() - left + 1, rows.max() - top + 1
        assert segment.bbox == (left, top, *size)
    stuff = [segment.category_id for segment in result.segments if not segment.isthing]
    assert len(stuff) == len(set(stuff))
    assert (ids[semantic == SKY] > 0).all()


class TestProperties:
    @given(images(), st.sampled_from(["join", "void", "keep"]), st.sampled_from([0.0, 9000.0]))
    @settings(deadline=None, max_examples=80)
    def test_partition(self, image, tiny_pieces, tiny_area):
        semantic, edges = image
        for cut in ("basins", "components"):
            options = {"cut": cut, "tiny_pieces": tiny_pieces, "tiny_area": tiny_area}
            result = label(semantic, edges, **options)
            check_partition(semantic, result, void_allowed=tiny_pieces == "void")
            again = label(semantic.copy(), edges, **options)
            assert np.array_equal(result.segment_ids, again.segment_ids)
            assert result.segments == again.segments

    @given(images())
    @settings(deadline=None, max_examples=40)
    def test_without_edges_segments_are_connected_components(self, image):
        semantic, _ = image
        plain = sum(ndimage.label(semantic == category)[1] for category in (CAT, DOG))
        for edges in (None, np.zeros(semantic.shape, np.float32), np.ones(semantic.shape)):
            result = label(semantic, edges, tiny_pieces="keep")
            assert sum(segment.isthing for segment in result.segments) == plain
            for segment in result.segments:
                if segment.isthing:
                    assert ndimage.label(result.segment_ids == segment.id)[1] == 1


# Given, and measured on the image alone.
CALIBRATIONS = pytest.mark.parametrize(
    "calibration", [EdgeCalibration.assumed(), None], ids=["assumed", "measured"]
)


class TestCuts:
    @CALIBRATIONS
    def test_whole_edge_parts_two_objects(self, calibration):
        for cut in ("basins", "components"):
            result = label(*two_touching_rectangles(), cut=cut, calibration=calibration)
            areas = thing_areas(result)
            # 50 columns each; the pixels of the edge itself may fall to either.
            assert len(areas) == 2, cut
            assert all(abs(area - 3000) <= 60 for area in areas), cut

    @CALIBRATIONS
    @pytest.mark.parametrize("gap", [1, 5, 12])
    def test_gap_leaks_through_components_only(self, gap, calibration):
        semantic, edges = two_touching_rectangles()
        edges[45 : 45 + gap, 80] = 0
        assert thing_areas(label(semantic, edges, cut="components")) == [6000]
        areas = thing_areas(label(semantic, edges, calibration=calibration))
        assert len(areas) == 2
        assert all(abs(area - 3000) <= 100 for area in areas)

    @CALIBRATIONS
    @pytest.mark.parametrize("length", [8, 16])
    def test_short_spurious_edge_does_not_part_an_object(self, length, calibration):
        semantic, edges = two_touching_rectangles()
        edges[20 + length : 80, 80] = 0
        assert thing_areas(label(semantic, edges, calibration=calibration)) == [6000]

    @pytest.mark.parametrize("level", [0.0, 0.1, 0.15])
    def test_texture_does_not_part_an_object_but_a_blurred_edge_does(self, level):
        semantic, parting = two_touching_rectangles()
        calibration = calibration_of(data_set(level))
        for seed in (10, 11):
            edges = blurred_and_textured(parting, level, seed)
            areas = thing_areas(label(semantic, edges, calibration=calibration))
            assert len(areas) == 2
            assert all(abs(area - 3000) < 100 for area in areas)
            whole = np.where(np.arange(160) == 80, 0, parting)
            edges = blurred_and_textured(whole, level, seed)
            assert thing_areas(label(semantic, edges, calibration=calibration)) == [6000]

    @pytest.mark.parametrize("level", [0.05, 0.15, 0.3])
    def test_texture_alone_parts_nothing_whatever_its_strength(self, level):
        semantic, edges = two_touching_rectangles()
        everywhere = np.clip(texture(edges.shape, level, 0), 0, 1).astype(np.float32)
        assert thing_areas(label(semantic, everywhere)) == [6000]

    @CALIBRATIONS
    def test_mirrored_image_gives_the_same_segments(self, calibration):
        semantic, edges = two_touching_rectangles()
        edges[45:50, 80] = 0
        result = label(semantic[:, ::-1], edges[:, ::-1], calibration=calibration)
        assert len(thing_areas(result)) == 2

    def test_an_edge_where_outlines_have_none_is_not_believed(self):
        semantic, edges = two_touching_rectangles()
        edges[semantic == SKY] = 0
        assert thing_areas(label(semantic, edges)) == [6000]
        assert len(thing_areas(label(semantic, edges, cut="components"))) == 2

    @pytest.mark.parametrize("transform", [np.square, np.sqrt, lambda edges: 0.4 * edges])
    def test_strengths_of_another_scale_give_the_same_label(self, transform):
        images = data_set(0.1)
        calibration = calibration_of(images)
        changed = calibration_of([(mask, transform(edges)) for mask, edges in images])
        assert changed.trust == pytest.approx(calibration.trust, abs=0.1)
        for number, (semantic, edges) in enumerate(images):
            expected = label(semantic, edges, calibration=calibration)
            found = label(semantic, transform(edges), calibration=changed)
            things = 1 if number % 4 else 2
            assert len(thing_areas(expected)) == len(thing_areas(found)) == things
            # The border wanders by a pixel, as strengths fall into other bins.
            assert (found.segment_ids != expected.segment_ids).sum() <= 60


class TestFalsePieces:
    """What edges cut off stuff, were it things."""

    def test_edges_through_the_sky_are_counted(self):
        semantic = np.full((100, 160), CAT, np.uint8)
        semantic[20:80, 30:130] = SKY
        _, edges = two_touching_rectangles()
        for calibration in (EdgeCalibration.assumed(), None):
            labeler = PanopticLabeler(CATEGORIES, calibration=calibration)
            assert labeler.cut_stuff(semantic, np.zeros_like(edges)) == (1, 0)
            assert labeler.cut_stuff(semantic, None) == (1, 0)
        assert PanopticLabeler(CATEGORIES, calibration=EdgeCalibration.assumed()).cut_stuff(
            semantic, edges
        ) == (1, 1)
        assert PanopticLabeler(CATEGORIES, LabelSettings(cut="components")).cut_stuff(
            semantic, edges
        ) == (1, 1)

    def test_a_large_mask_takes_some_21_bytes_a_pixel(self):
        semantic = np.full((1500, 1600), SKY, np.uint8)
        edges = np.zeros(semantic.shape, np.float32)
        edges[:, ::100] = edges[::100] = 1
        labeler = PanopticLabeler(CATEGORIES, calibration=EdgeCalibration.assumed())
        tracemalloc.start()
        assert labeler.cut_stuff(semantic, edges) == (1, 239)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 23 * semantic.size  # without semantic and edges; the flood's copies are most

    def test_things_are_not_stuff(self):
        semantic = np.full((50, 80), CAT, np.uint8)
        assert PanopticLabeler(CATEGORIES).cut_stuff(semantic, np.zeros((50, 80))) == (0, 0)


def count_things(labeler: PanopticLabeler, semantic: np.ndarray) -> int:
    return sum(segment.isthing for segment in labeler(semantic).segments)


def test_without_edges_things_that_touch_are_one():
    semantic, _ = two_touching_rectangles()
    assert count_things(PanopticLabeler(CATEGORIES), semantic) == 1
    semantic[85:95, 10:20] = semantic[0:2, 0:2] = DOG  # the tiny one joins the other
    assert count_things(PanopticLabeler(CATEGORIES), semantic) == 2
    keeping = PanopticLabeler(CATEGORIES, LabelSettings(tiny_pieces="keep"))
    assert count_things(keeping, semantic) == 3


class TestTinyPieces:
    @pytest.fixture
    def semantic(self) -> np.ndarray:
        semantic = np.full((480, 640), SKY, np.uint8)
        semantic[10:110, 10:110] = CAT
        semantic[300:400, 300:400] = CAT
        semantic[300:305, 405:410] = CAT  # 25 pixels, beside the second cat
        semantic[0:2, 630:632] = DOG  # all there is of this class
        return semantic

    def test_join_goes_to_the_nearest(self, semantic):
        result = label(semantic)
        assert [s.area for s in result.segments if s.category_id == CAT] == [10000, 10025]
        assert result.segment_ids[302, 407] == result.segment_ids[350, 350]
        assert [s.area for s in result.segments if s.category_id == DOG] == [4]

    def test_void_and_keep(self, semantic):
        void = label(semantic, tiny_pieces="void")
        assert [s.area for s in void.segments if s.category_id == CAT] == [10000, 10000]
        assert not void.segment_ids[300:305, 405:410].any()
        keep = label(semantic, tiny_pieces="keep")
        assert sorted(s.area for s in keep.segments if s.category_id == CAT) == [25, 10000, 10000]

    def test_void_keeps_what_touches_the_object(self):
        # An edge cuts a corner of 4 x 4 pixels off the cat.
        semantic = np.full((480, 640), SKY, np.uint8)
        semantic[10:110, 10:110] = CAT
        edges = np.zeros(semantic.shape, np.float32)
        edges[10:15, 14] = edges[14, 10:15] = 1
        result = label(semantic, edges, cut="components", tiny_pieces="void")
        assert [s.area for s in result.segments if s.isthing] == [10000]

    def test_tiny_area_follows_the_image_size(self, semantic):
        large = np.kron(semantic, np.ones((2, 2), np.uint8))
        assert len(label(large).segments) == len(label(semantic).segments)


class TestBadInput:
    def test_all_unknown(self):
        result = label(np.full((5, 4), UNKNOWN, np.uint8), np.zeros((5, 4), np.float32))
        assert result.segments == []
        assert not result.segment_ids.any()

    @pytest.mark.parametrize("category", [SKY, CAT])
    @pytest.mark.parametrize("edge", [None, 0.0, 1.0])
    def test_one_pixel(self, category, edge):
        edges = None if edge is None else np.full((1, 1), edge, np.float32)
        result = label(np.full((1, 1), category, np.uint8), edges)
        assert result.segment_ids.tolist() == [[1]]
        assert result.segments[0].bbox == (0, 0, 1, 1)

    @pytest.mark.parametrize("cut", ["basins", "components"])
    @pytest.mark.parametrize("value", [0.3, 1.0])
    def test_constant_edges_cut_nothing(self, cut, value):
        semantic, edges = two_touching_rectangles()
        edges[:] = value
        result = label(semantic, edges, cut=cut)
        assert sum(segment.isthing for segment in result.segments) == 1

    @pytest.mark.parametrize(
        ("value", "message"), [(np.nan, "NaN"), (np.inf, "NaN"), (255.0, "0..1"), (-0.5, "0..1")]
    )
    def test_bad_edges(self, value, message):
        semantic, edges = two_touching_rectangles()
        edges[3, 3] = value
        with pytest.raises(ValueError, match=message):
            label(semantic, edges)

    def test_shapes_differ(self):
        semantic, edges = two_touching_rectangles()
        with pytest.raises(ValueError, match=r"\(160, 100\).*\(100, 160\)"):
            label(semantic, edges.T)

    def test_class_that_the_categories_lack(self):
        with pytest.raises(ValueError, match=r"\[9\]"):
            label(np.full((3, 3), 9, np.uint8))

    @pytest.mark.parametrize(
        "semantic", [np.zeros((3, 3), np.int64), np.zeros((3, 3, 3), np.uint8), np.zeros((0, 3))]
    )
    def test_bad_masks(self, semantic):
        with pytest.raises(ValueError, match="uint8"):
            label(semantic)

    @pytest.mark.parametrize("option", [{"cut": "knife"}, {"tiny_pieces": "eat"}])
    def test_bad_options(self, option):
        with pytest.raises(ValueError, match="must be one of"):
            label(np.zeros((3, 3), np.uint8), **option)


def test_config_and_keywords_have_the_same_defaults():
    from_config = PanopticLabeler.from_config(get_trace_cfg(), CATEGORIES)
    assert vars(from_config) == vars(PanopticLabeler(CATEGORIES))
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.LABELS.CUT = "components"
    assert PanopticLabeler.from_config(cfg, CATEGORIES).settings.cut == "components"
