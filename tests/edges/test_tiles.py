"""Large images that are read in tiles."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.config import get_trace_cfg
from trace_d2.edges import EdgeDetector, StudentDetector
from trace_d2.edges.abdiv import normalise_edges, upsample_edges
from trace_d2.edges.detector import EmergenceSettings
from trace_d2.edges.preflight import check_edges
from trace_d2.edges.settings import TileSettings
from trace_d2.edges.sources import EdgeOutput, build_edge_source
from trace_d2.edges.tiles import Axis, TiledEdges, TiledImage
from trace_d2.jobs.kinds.edge_job import deciding_keys

ALWAYS = TileSettings("always")


class Tile(np.ndarray):
    """What of a tile is ready, which can be counted."""


@dataclass
class Filter:
    """A source that reads 32 x 32 pixels, of 16 cells, and tells ``find`` of what it sees."""

    find: Callable[[np.ndarray], np.ndarray]
    batch: int = 3
    square: tuple[int, int] = (32, 16)
    keys: list[str] = field(default_factory=list)
    alive: Any = field(default_factory=weakref.WeakValueDictionary)
    most: int = 0

    def ready(self, image: np.ndarray, key: str, tile: str = "") -> np.ndarray:
        seen = image.copy().view(Tile)
        self.keys.append(key + tile)
        self.alive[len(self.keys)] = seen
        self.most = max(self.most, len(self.alive))
        return seen

    def detect(self, images: Sequence[np.ndarray]) -> list[EdgeOutput | Exception]:
        return [self._attempt(np.asarray(image)) for image in images]

    def _attempt(self, image: np.ndarray) -> EdgeOutput | Exception:
        try:
            return EdgeOutput(self.find(image))
        except Exception as error:
            return error


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def blurred(image: np.ndarray) -> np.ndarray:
    """A local filter, of 3 x 3 pixels."""
    return cv2.blur(image[..., 0].astype(np.float32) / 255, (3, 3))


def outlined(image: np.ndarray) -> np.ndarray:
    """What networks do: edges along the border of what they see."""
    edges = np.ones(image.shape[:2], np.float32)
    edges[1:-1, 1:-1] = 0
    return edges


sizes = st.integers(1, 200)


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(0, 40), st.integers(1, 16), st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]))
def test_tiles_cover_every_pixel_once(pixels: int, more: int, tile: int, overlap: float) -> None:
    axis = Axis.of(pixels, tile + more, tile, overlap)  # from a pixel a cell on
    for points, weights, span in (
        (axis.pixels, axis.weights, axis.span),
        (axis.cells, axis.cell_weights, axis.span_of_cells),
    ):
        total = np.zeros(points)
        for start, own in weights.items():
            assert own.min() >= 0
            total[span(start)] += own
        np.testing.assert_allclose(total, 1, atol=1e-6)
    shared = [a + tile - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
    assert min(shared, default=axis.overlap) >= axis.overlap


def test_weights_by_hand() -> None:
    """Six cells, tiles of four, of which neighbours share two: the outer quarters are left out."""
    axis = Axis.of(60, 40, 4, 0.5)
    assert (axis.cells, axis.starts, axis.overlap, axis.side) == (6, (0, 2), 2, 40)
    np.testing.assert_allclose(axis.cell_weights[0], [1, 1, 1, 0])
    np.testing.assert_allclose(axis.cell_weights[2], [0, 1, 1, 1])
    # From 1 to 0 between a quarter and three quarters of the 20 pixels that both have.
    expected = np.clip((35 - np.arange(40) - 0.5) / 10, 0, 1)
    np.testing.assert_allclose(axis.weights[0], expected, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("size", [(64, 96), (34, 200), (70, 58)])
def test_a_local_filter_has_no_seams(size: tuple[int, int], overlap: float) -> None:
    image = picture(*size)
    source = TiledEdges(Filter(blurred), TileSettings("always", overlap=overlap))
    found = source(image, "a")
    assert found.tiles > 3
    np.testing.assert_allclose(found.edges, blurred(image), atol=1e-6)


@pytest.mark.parametrize("size", [(33, 33), (97, 41), (5, 70), (1, 200), (101, 7)])
def test_a_tiles_border_is_no_edge_and_the_images_own_is(size: tuple[int, int]) -> None:
    found = TiledEdges(Filter(outlined), ALWAYS)(picture(*size), "a").edges
    assert found.shape == size
    inner = found[3:-3, 3:-3]
    assert not inner.any()
    assert found[0, 0] == 1


def test_tiles_of_another_size_are_shrunk_or_magnified() -> None:
    """A step of grey at 128 of 256 pixels, read at 32: it is where it was."""
    image = np.zeros((90, 256, 3), np.uint8)
    image[:, 128:] = 255
    for size in (64, 20):
        source = TiledEdges(Filter(blurred), TileSettings("always", size))
        found = source(image, "a").edges
        assert found.shape == (90, 256)
        assert found[:, :118].max() < 0.05
        assert found[:, 138:].min() > 0.95
        np.testing.assert_allclose(found[:, 126:130].mean(), 0.5, atol=0.02)


def test_a_tile_has_a_pixel_for_each_cell() -> None:
    image = picture(30, 45)
    found = TiledEdges(Filter(blurred), TileSettings("always", 16))(image, "a").edges
    assert np.isfinite(found).all()
    wrong = (
        r"EDGES.TILES.SIZE is 15, and the backbone has 16 tokens .* set it to 16 or more, or to 0"
    )
    with pytest.raises(ValueError, match=wrong):
        TiledEdges(Filter(blurred), TileSettings("always", 15))


def test_what_fits_into_a_tile_is_read_as_a_whole() -> None:
    source = TiledEdges(Filter(blurred), ALWAYS)
    assert not isinstance(source.ready(picture(32, 20), "a"), TiledImage)
    assert isinstance(source.ready(picture(33, 20), "a"), TiledImage)
    assert source(picture(32, 20), "a").tiles == 0
    auto = TiledEdges(Filter(blurred), TileSettings("auto", ratio=3))
    assert auto(picture(96, 96), "a").tiles == 0
    assert auto(picture(97, 20), "a").tiles == 4
    assert not TileSettings().tiles(10**9, 1)


def test_no_more_tiles_live_than_share_a_pass() -> None:
    source = Filter(blurred, batch=3)
    tiled = TiledEdges(source, ALWAYS)
    ready = tiled.ready(picture(400, 300), "a")
    assert source.keys == []
    (found,) = tiled.detect([ready])
    assert found.tiles == len(source.keys) > 150
    assert source.most <= 2 * 3  # a pass, and the next one while it is made ready


def test_noise_is_fixed_by_key_and_place() -> None:
    one, other = Filter(blurred, batch=1), Filter(blurred, batch=4)
    for source in (one, other):
        TiledEdges(source, ALWAYS)(picture(60, 60), "a")
    assert one.keys == other.keys == [f"a {y} {x}" for y in (0, 7, 14) for x in (0, 7, 14)]


def test_what_fails_in_a_tile_fails_its_image_alone() -> None:
    def find(image: np.ndarray) -> np.ndarray:
        if (image == 7).all():
            raise FloatingPointError("attention is not finite")
        return blurred(image)

    source = TiledEdges(Filter(find), ALWAYS)
    bad = picture(64, 120)
    bad[20:, 70:] = 7
    images = [picture(64, 64), bad, picture(20, 20), picture(64, 64, 1)]
    found = source.detect([source.ready(image, "a") for image in images])
    assert isinstance(found[1], FloatingPointError)
    where = r"tile of rows 32 to 64 and columns 88 to 120: attention is not finite"
    with pytest.raises(FloatingPointError, match=where):
        source(bad, "a")
    for rank in (0, 2, 3):
        np.testing.assert_allclose(found[rank].edges, blurred(images[rank]), atol=1e-6)


def teacher(build_tiny: Callable[..., Any], **options: Any) -> EdgeDetector:
    return EdgeDetector(build_tiny("flux"), **options)


def test_the_teachers_divergence_is_joined_before_it_is_normalised(
    build_tiny: Callable[..., Any],
) -> None:
    plain = teacher(build_tiny, emergence=EmergenceSettings(fixed_timestep=300))
    native, cells = plain.square
    image = picture(native, 2 * native)
    found = TiledEdges(plain, TileSettings("always", overlap=0))(image, "a")
    parts = [
        plain(image[:, native * rank : native * (rank + 1)], f"a 0 {cells * rank}").abdiv
        for rank in range(2)
    ]
    np.testing.assert_allclose(found.abdiv, np.hstack(parts), atol=1e-6)
    edges = upsample_edges(normalise_edges(torch.from_numpy(found.abdiv)), image.shape[:2])
    np.testing.assert_allclose(found.edges, edges, atol=1e-6)
    assert (found.timestep, found.tiles, found.curve) == (300, 2, {})


def test_all_tiles_are_read_at_one_step(build_tiny: Callable[..., Any]) -> None:
    plain = teacher(build_tiny, emergence=EmergenceSettings(stride=250))
    native, cells = plain.square
    image = picture(native, 2 * native)
    found = TiledEdges(plain, TileSettings("always", overlap=0))(image, "a")
    places = [(native * rank, f"a 0 {cells * rank}") for rank in range(2)]
    curves = [plain(image[:, at : at + native], key).curve for at, key in places]
    mean = {t: (curves[0][t] + curves[1][t]) / 2 for t in (250, 500, 750)}
    assert found.curve == pytest.approx(mean)
    assert found.timestep == max(mean, key=mean.get)
    read = plain.at(found.timestep)
    parts = [read(image[:, at : at + native], key).abdiv for at, key in places]
    np.testing.assert_allclose(found.abdiv, np.hstack(parts), atol=1e-6)
    assert plain.searches
    assert not read.searches


def test_the_teacher_finds_the_same_in_passes_of_any_size(build_tiny: Callable[..., Any]) -> None:
    backbone = build_tiny("flux", ASPECT="keep")
    emergence = EmergenceSettings(stride=500)
    image = picture(60, 45)
    one, several = (
        TiledEdges(EdgeDetector(backbone, emergence, batch=batch), ALWAYS)(image, "a")
        for batch in (1, 4)
    )
    assert one.edges.shape == (60, 45)
    assert one.tiles == several.tiles > 3
    np.testing.assert_allclose(one.abdiv, several.abdiv, rtol=1e-3, atol=1e-6)
    assert one.timestep == several.timestep


@pytest.mark.parametrize("decoder", ["relative", "cnn"])
def test_students_of_one_grid_take_tiles(decoder: str, make_student: Callable[..., Any]) -> None:
    source = StudentDetector(make_student("sd3", STUDENT__DECODER__NAME=decoder), batch=2)
    image = picture(40, 90)
    found = TiledEdges(source, ALWAYS)(image, "a")
    assert found.edges.shape == (40, 90)
    assert 0 <= found.edges.min() < found.edges.max() <= 1
    assert (found.timestep, found.abdiv) == (0, None)


def test_a_pass_that_does_not_fit_is_made_smaller(make_student: Callable[..., Any]) -> None:
    source = StudentDetector(make_student("sd3"), batch=3)
    tiled, image = TiledEdges(source, ALWAYS), picture(40, 90)
    expected = tiled(image, "a").edges
    plain, passes = source.find, []

    def find(images: Sequence[Any]) -> list[EdgeOutput]:
        passes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("too much")
        return plain(images)

    source.find = find
    found = tiled(image, "a")
    np.testing.assert_allclose(found.edges, expected, atol=1e-4)
    assert passes == [3] + [1] * found.tiles
    assert source.batch == 1


def config(source: str, *keys: Any) -> Any:
    cfg = get_trace_cfg()
    trace = {"DEVICE": "cpu", "BACKBONE.NAME": "trace-tiny", "BACKBONE.RESOLUTION": 64}
    pairs = {**trace, "EDGES.SOURCE": source}
    cfg.merge_from_list([part for k, v in pairs.items() for part in (f"MODEL.TRACE.{k}", v)])
    cfg.merge_from_list(list(keys))
    return cfg


@pytest.mark.parametrize("source", ["teacher", "student"])
def test_keys_choose_tiles(source: str) -> None:
    keys = ["MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP", 0]
    whole = build_edge_source(config(source, *keys))
    assert not isinstance(whole, TiledEdges)
    auto = build_edge_source(config(source, *keys, "MODEL.TRACE.EDGES.TILES.MODE", "auto"))
    assert isinstance(auto, TiledEdges)
    assert auto.backbone.name == "trace-tiny"  # whose commit jobs note
    small = picture(60, 128)
    np.testing.assert_array_equal(auto(small, "a").edges, whole(small, "a").edges)
    assert auto(picture(30, 129), "a").tiles == 3


def test_wrong_keys_are_told_before_anything_is_loaded() -> None:
    tiles = "MODEL.TRACE.EDGES.TILES"
    cfg = config("student", f"{tiles}.MODE", "sometimes", f"{tiles}.OVERLAP", 0.95)
    for check in (check_edges, build_edge_source):
        with pytest.raises(ValueError, match=r"TILES.MODE must be one of never, auto, always"):
            check(cfg)
    with pytest.raises(ValueError, match=r"TILES.OVERLAP must be in 0..0.9"):
        check_edges(cfg)


@pytest.mark.parametrize("kind", [EdgeDetector, StudentDetector])
def test_detectors_of_their_own_refuse_tiles(kind: type[EdgeDetector | StudentDetector]) -> None:
    tiles = "MODEL.TRACE.EDGES.TILES"
    remedy = rf"MODE is 'auto', but {kind.__name__} reads .* trace_d2.build_edge_source\(cfg\)"
    with pytest.raises(ValueError, match=remedy):
        kind.from_config(config("teacher", f"{tiles}.MODE", "auto"))
    for key, value in (("MODE", "Always"), ("OVERLAP", 1.0), ("SIZE", -3)):
        with pytest.raises(ValueError, match=rf"TILES.{key} must be"):
            kind.from_config(config("teacher", f"{tiles}.{key}", value))


def test_keys_that_change_nothing_do_not_decide() -> None:
    tiles = "MODEL.TRACE.EDGES.TILES"

    def deciding(mode: str) -> list[str]:
        keys = [f"{tiles}.MODE", mode, f"{tiles}.RATIO", 3.0, f"{tiles}.SIZE", 50]
        decided = deciding_keys(config("student", *keys), ("EDGES.TILES",))
        return [key.removeprefix(f"{tiles}.") for key in decided]

    assert deciding("never") == []
    assert deciding("always") == ["MODE", "SIZE"]
    assert deciding("auto") == ["MODE", "SIZE", "RATIO"]


def test_files_need_no_tiles(tmp_path: Any) -> None:
    keys = ["MODEL.TRACE.EDGES.DIR", str(tmp_path), "MODEL.TRACE.EDGES.TILES.MODE", "always"]
    assert not isinstance(build_edge_source(config("files", *keys)), TiledEdges)
