"""SAM, SAM 2 and SAM-HQ at tiny size: coordinates, orders, resizing, and what is believed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from miniature.models.sam import SIDE, tiny_sam
from transformers import (
    Sam2ImageProcessor,
    Sam2Processor,
    SamHQProcessor,
    SamImageProcessor,
    SamProcessor,
)

from trace_d2.backbones.vision_model_files import IMAGENET
from trace_d2.config import get_trace_cfg
from trace_d2.masks.patches import Patch, patch_of
from trace_d2.masks.sam import Sam, build_sam
from trace_d2.masks.seeds import make_seeds
from trace_d2.masks.settings import SamSettings

KINDS = ("sam", "sam_hq", "sam2")
SHAPES = ((40, 56), (75, 33))
ANY = SamSettings(min_score=0.0, min_agreement=0.5, min_area=1.0)


def build(kind: str, settings: SamSettings = ANY) -> Sam:
    return Sam(tiny_sam(kind), *IMAGENET, settings)


@pytest.fixture(scope="module", params=KINDS)
def sam(request: pytest.FixtureRequest) -> Sam:
    return build(request.param)


def smooth(shape: tuple[int, int]) -> np.ndarray:
    """An image whose colours change slowly, so that its resizing leaves no room."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    waves = (np.sin(rows / 7), np.cos(columns / 5), np.sin((rows + columns) / 9))
    return np.stack([np.rint(127 * (1 + wave)) for wave in waves], -1).astype(np.uint8)


def boxes_in(shape: tuple[int, int], count: int = 3) -> list[Patch]:
    found = []
    for rank in range(count):
        mask = np.zeros(shape, bool)
        top, left = 3 + rank * shape[0] // 5, 2 + rank * shape[1] // 5
        mask[top : top + shape[0] // 3, left : left + shape[1] // 3] = True
        found.append(patch_of(mask))
    return found


def processor_of(kind: str) -> Any:
    if kind == "sam2":
        size = {"height": SIDE, "width": SIDE}
        return Sam2Processor(Sam2ImageProcessor(size=size), target_size=SIDE)
    pad = {"height": SIDE, "width": SIDE}
    own = SamImageProcessor(size={"longest_edge": SIDE}, pad_size=pad)
    return (SamProcessor if kind == "sam" else SamHQProcessor)(own)


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_are_those_of_the_processor_of_transformers(sam: Sam, shape) -> None:
    """The whole way, from pixels and points to masks of the image's size, by both."""
    kind, image, masks = sam.model.config.model_type, smooth(shape), boxes_in(shape)
    seeds = [seed for seed in make_seeds(masks, shape, 1, 0)]
    logits, scores = sam.ask(sam.embed(image), seeds, shape)
    ours = np.stack([sam.to_image(own, shape) for own in logits])

    height, width = sam.frame(shape)
    scale = np.array([width / shape[1], height / shape[0]])
    # It scales coordinates that count from the corner of the first pixel as if from its centre.
    shift = (0.5 * scale - 0.5) / scale
    processor = processor_of(kind)
    given = processor(
        images=image,
        input_points=[[(seed.points + shift).tolist() for seed in seeds]],
        input_labels=[[[1]] * len(seeds)],
        input_boxes=[[(seed.box.reshape(2, 2) + shift).reshape(4).tolist() for seed in seeds]],
        return_tensors="pt",
    )
    sizes = [given.pop("original_sizes")]
    if kind != "sam2":
        sizes.append(given.pop("reshaped_input_sizes"))
    given = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    with torch.no_grad():
        output = sam.model(**given, multimask_output=True)
    theirs = processor.post_process_masks(output.pred_masks, *sizes)[0].numpy()
    assert ours.shape == theirs.shape == (3, 3, *shape)
    assert torch.allclose(scores, output.iou_scores[0], atol=1e-2)
    assert torch.allclose(logits, output.pred_masks[0], atol=0.05 * float(logits.std()))
    assert (ours == theirs).mean() > 0.98


def test_masks_of_one_call_are_those_of_a_call_each(sam: Sam) -> None:
    shape = SHAPES[0]
    seeds = make_seeds(boxes_in(shape), shape, 2, 0)
    embeddings = sam.embed(smooth(shape))
    together, scores = sam.ask(embeddings, seeds, shape)
    for rank, seed in enumerate(seeds):
        alone, score = sam.ask(embeddings, [seed], shape)
        assert torch.allclose(alone[0], together[rank], atol=1e-5)
        assert torch.allclose(score[0], scores[rank], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_points_inside_and_outside_are_told_apart(sam: Sam) -> None:
    shape = SHAPES[0]
    seed = make_seeds(boxes_in(shape)[:1], shape, 2, 0)[0]
    embeddings = sam.embed(smooth(shape))
    outside = SimpleNamespace(**{**vars(seed), "inside": ~seed.inside})
    first, second = (sam.ask(embeddings, [one], shape)[0] for one in (seed, outside))
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 200), (300, 7), (64, 64)])
def test_what_is_drawn_in_the_square_comes_back_to_its_pixels(sam: Sam, shape) -> None:
    """Planes that are 0 between two pixels of the image: their masks end there, on both axes."""
    frame = sam.frame(shape)
    grid = SIDE // 4
    middle = (np.arange(grid) + 0.5) * 4  # of its pixels, in the square
    for axis, size in enumerate(shape):
        for edge in {size // 3, size // 2, size - 1}:
            # Beyond the outermost middles of the grid nothing is told apart.
            place = edge * frame[axis] / size
            if not 4 < place < frame[axis] - 4:
                continue
            plane = torch.from_numpy(middle - place).float()
            logits = plane[:, None] if axis == 0 else plane[None]
            mask = sam.to_image(logits.expand(1, grid, grid).contiguous(), shape)[0]
            inside = np.arange(size) >= edge
            lines = mask.any(1) if axis == 0 else mask.any(0)
            assert np.array_equal(lines, inside), (axis, edge)


def test_coordinates_go_to_the_middle_of_what_their_pixel_becomes(sam: Sam) -> None:
    shape = (40, 56)
    corners = np.array([[[0, 0], [55, 39]]], np.float32)
    placed = sam._placed(corners, shape, sam.frame(shape)).numpy()[0]
    scale = np.array(sam.frame(shape)[::-1]) / (56, 40)
    assert placed[0] == pytest.approx(0.5 * scale - 0.5)
    assert placed[1] == pytest.approx(np.array(sam.frame(shape)[::-1]) - 0.5 * scale - 0.5)


def scripted(sam: Sam, answers: list[tuple[np.ndarray, list[float]]]) -> list[int]:
    """Let ``sam`` give these masks (M, H, W) and scores; returns the sizes of its calls."""
    left, calls = iter(answers), []

    def ask(embeddings: Any, seeds: list, shape: tuple[int, int]) -> tuple:
        calls.append(len(seeds))
        own = [next(left) for _ in seeds]
        return [torch.from_numpy(masks) for masks, _ in own], [torch.tensor(s) for _, s in own]

    sam.ask = ask
    sam.to_image = lambda logits, shape: logits.numpy()
    return calls


SQUARE, SHIFTED, HALF, WHOLE = (np.zeros((30, 40), bool) for _ in range(4))
SQUARE[5:15, 5:15] = True
SHIFTED[5:15, 6:16] = True  # 90 of 110 pixels in common
HALF[5:15, 5:10] = True
WHOLE[:] = True


@pytest.mark.parametrize(
    ("masks", "scores", "expected"),
    [
        (
            (SHIFTED, HALF, WHOLE),
            (0.9, 0.99, 0.95),
            SHIFTED,
        ),  # the best that agrees, not the surest
        ((SHIFTED, HALF, WHOLE), (0.7, 0.99, 0.95), None),  # half has an IoU of 0.5
        ((SHIFTED, SQUARE), (0.9, 0.8), SQUARE),
        ((~WHOLE, ~WHOLE), (0.9, 0.9), None),
    ],
)
def test_what_is_believed(masks, scores, expected) -> None:
    sam = build("sam", SamSettings())
    scripted(sam, [(np.stack(masks), list(scores))])
    (found,) = sam(smooth((30, 40)), [patch_of(SQUARE)])
    if expected is None:
        assert found is None
        return
    whole = slice(0, 30), slice(0, 40)
    assert np.array_equal(found.patch.cut_out(whole), expected)
    assert found.agreement == pytest.approx((expected & SQUARE).sum() / (expected | SQUARE).sum())
    assert found.score >= 0.8


def test_answers_keep_the_order_of_the_masks_whatever_their_calls() -> None:
    masks = []
    for rank in range(7):
        mask = np.zeros((30, 60), bool)
        mask[2 : 10 + rank % 2 * 18, 8 * rank + 1 : 8 * rank + 7] = True
        masks.append(mask)
    patches = list(map(patch_of, masks))
    sam = build("sam", SamSettings(batch=2, negatives=0, min_area=1))
    seeds = make_seeds(patches, (30, 60), 3, 0)
    lengths = [len(seed.points) for seed in seeds]
    assert len(set(lengths)) == 2
    order = [
        rank for length in dict.fromkeys(lengths) for rank in range(7) if lengths[rank] == length
    ]
    calls = scripted(sam, [(masks[rank][None], [0.95]) for rank in order])
    found = sam(smooth((30, 60)), patches)
    assert calls == [2, 2, 2, 1]
    assert all(np.array_equal(f.patch.mask, p.mask) for f, p in zip(found, patches, strict=True))


def test_small_masks_are_not_asked_for() -> None:
    small = np.zeros((30, 40), bool)
    small[20:27, 20:29] = True  # 63 pixels
    sam = build("sam", SamSettings(min_score=0.0))
    calls = scripted(sam, [(SQUARE[None], [0.95])])
    found = sam(smooth((30, 40)), [patch_of(small), patch_of(SQUARE)])
    assert calls == [1]
    assert found[0] is None
    assert found[1].agreement == 1
    assert sam(smooth((30, 40)), []) == []


def test_images_that_are_read_only(recwarn: pytest.WarningsRecorder) -> None:
    sam, image = build("sam"), smooth((30, 40))
    expected = sam.embed(image)["image_embeddings"]
    image.setflags(write=False)
    recwarn.clear()
    with torch.no_grad():
        found = sam.embed(image)["image_embeddings"]
    assert torch.equal(found, expected)
    assert not [one for one in recwarn if "not writable" in str(one.message)]


def test_scores_that_are_no_numbers_are_told() -> None:
    sam = build("sam")
    with torch.no_grad():
        sam.model.mask_decoder.iou_token.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="scores that are no numbers: its weights may be damaged"):
        sam(smooth((30, 40)), [patch_of(SQUARE)])


def config_of(folder: Path | str, *pairs: object) -> Any:
    cfg = get_trace_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(["MODEL.TRACE.SAM.WEIGHTS", str(folder), *pairs])
    return cfg


@pytest.mark.parametrize("kind", [*KINDS, "sam2_video"])
def test_folders_are_loaded_whole(kind: str, tmp_path: Path) -> None:
    model = tiny_sam(kind)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    sam = build_sam(config_of(tmp_path))
    assert sam.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    stored = model.state_dict()
    loaded = sam.model.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.items())
    sam(smooth((30, 40)), [patch_of(SQUARE)])


def test_weights_of_other_shapes_are_named(tmp_path: Path) -> None:
    tiny_sam("sam").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["mask_decoder_config"]["mlp_dim"] = 48
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"of another shape than the model's \(mask_decoder\.tr"):
        build_sam(config_of(tmp_path))


def test_weights_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    tiny_sam("sam").save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("mask_decoder.iou_token.weight")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 of the model's tensors .*iou_token"):
        build_sam(config_of(tmp_path))
