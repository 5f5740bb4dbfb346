"""A job whose command is wrong is refused with all that is wrong, before anything is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
SETTINGS = [
    *("MODEL.DEVICE", "cudaa", "MODEL.TRACE.SED", "1", "MODEL.TRACE.BACKBONE.NAME", "trace-tny"),
    *("MODEL.TRACE.EDGES.BATCH", "-1", "MODEL.TRACE.ATTENTION.KERNELS", "tritn"),
]
SAID = (
    "MODEL.TRACE.SED (did you mean MODEL.TRACE.SEED?)",
    "(did you mean cuda?)",
    "MODEL.TRACE.EDGES.BATCH must be 0 or more, not -1",
    "MODEL.TRACE.ATTENTION.KERNELS must be one of auto, triton, plain, not 'tritn' (did you mean",
    "'trace-tny' is neither a registered name",
    "(did you mean trace-tiny?)",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images with masks of the classes 0 and 90."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(6):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:] = 90
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"images/{number}.png")
    return tmp_path


def test_labels(data, run_apart):
    options = ["--images", data / "image", "--semantic", data / "mask", "--categories", "voc1"]
    options += ["--output", data / "images", "--shard", "3/2", *SETTINGS]
    out, err = run_apart("make_pseudo_panoptic.py", *map(str, options))
    assert out == "status 2 []\n"
    for line in (
        *SAID,
        "--shard is I/N",
        f"no folder of images at {data}/image (did you mean {data}/images?)",
        f"no folder at {data}/mask (did you mean {data}/masks?): correct --semantic",
        "no categories file at voc1",
        "images is not empty and holds no labels of this tool",
    ):
        assert line in err, line


def test_categories_of_other_masks_are_refused_and_nothing_is_written(data, run_apart):
    options = ["--images", data / "images", "--semantic", data / "masks", "--categories", "voc"]
    options += ["--output", data / "out"]
    out, err = run_apart("make_pseudo_panoptic.py", *map(str, options), "--no-edges")
    assert out == "status 2 []\n"
    assert err.startswith("error: 6 of 6 semantic masks looked at are of other categories")
    out, err = run_apart("make_pseudo_panoptic.py", *map(str, options), *SETTINGS)
    assert out == "status 2 []\n"
    assert all(line in err for line in SAID)
    assert "6 of 6 semantic masks looked at are of other categories" in err
    assert "has class values [90] that the categories (voc) lack" in err
    assert not (data / "out").exists()


@pytest.mark.parametrize("tool", ["make_pseudo_edges.py", "predict_edges.py"])
def test_edges(tool, data, run_apart):
    options = ["--images", data / "image", "--output", data / "masks", *SETTINGS]
    out, err = run_apart(tool, *map(str, options))
    assert out == "status 2 []\n"
    for line in (*SAID, f"no folder of images at {data}/image", "is not empty and holds no"):
        assert line in err, line


def test_refined_masks(data, run_apart):
    (data / "a.json").write_text("{")
    options = ["--images", data / "image", "--masks", data / "a.json", "--output", data / "images"]
    out, err = run_apart("refine_masks.py", *map(str, options), *SETTINGS)
    assert out == "status 2 []\n"
    for line in (*SAID, "a.json is not valid JSON", "images is a folder: choose a file"):
        assert line in err, line


def test_the_trajectory(data, run_apart):
    options = [data / "images/7.png", "--truth", data / "t.png", *SETTINGS]
    out, err = run_apart(
        "show_trajectory.py", *map(str, options), "MODEL.TRACE.EMERGENCE.STRIDE", "0"
    )
    assert out == "status 2 []\n"
    for line in (*SAID, "EMERGENCE.STRIDE must be in 1..999, not 0", "no image at", "7.png"):
        assert line in err, line


def test_a_student_of_another_backbone(data, run_apart):
    student = data / "student"
    (student / "lora").mkdir(parents=True)
    description = {
        **{"format": 1, "backbone": {"name": "sdxl", "denoiser": "UNet2DConditionModel"}},
        **{"decoder": {"name": "cnn", "settings": {}}, "grid": [4, 4], "blocks": []},
        "resolution": 64,
    }
    (student / "student.json").write_text(json.dumps(description))
    (student / "decoder.safetensors").write_bytes(b"x" * 20)
    (student / "lora/pytorch_lora_weights.safetensors").write_bytes(b"")
    options = ["--images", data / "images", "--output", data / "out", "--weights", student]
    keys = ["MODEL.TRACE.BACKBONE.NAME", "trace-tiny", "MODEL.DEVICE", "cpu"]
    out, err = run_apart("predict_edges.py", *map(str, options), *keys)
    assert out == "status 2 []\n"
    assert "was trained on sdxl, and MODEL.TRACE.BACKBONE.NAME is trace-tiny" in err
    assert "decoder.safetensors is no whole safetensors file" in err
    assert "pytorch_lora_weights.safetensors is empty" in err
    assert not (data / "out").exists()


def test_hed_without_weights(data, run_apart):
    options = ["--images", data / "images", "--output", data / "out", "MODEL.DEVICE", "cudaa"]
    keys = ["MODEL.TRACE.EDGES.SOURCE", "hed", "MODEL.TRACE.EDGES.HED_WEIGHTS", data / "hed.h5"]
    out, err = run_apart("predict_edges.py", *map(str, [*options, *keys]))
    assert out == "status 2 []\n"
    assert "(did you mean cuda?)" in err
    assert f"no weights of HED at {data}/hed.h5: correct MODEL.TRACE.EDGES.HED_WEIGHTS" in err
    assert not (data / "out").exists()


def test_masks_of_bare_images(data, run_apart):
    options = ["--images", data / "image", "--method", "ncut", "--output", data / "images"]
    keys = ["MODEL.TRACE.DISCOVERY.MIN_IOU", "2.0", "MODEL.TRACE.DISCOVERY.FEATURES", "kyes"]
    out, err = run_apart("discover_masks.py", *map(str, options), *SETTINGS, *keys)
    assert out == "status 2 []\n"
    for line in (
        *SAID,
        "MODEL.TRACE.DISCOVERY.MIN_IOU must be in 0..1, not 2.0",
        "MODEL.TRACE.DISCOVERY.FEATURES must be one of auto, keys, attention, not 'kyes' (did you",
        f"no folder of images at {data}/image",
        "images is a folder: choose a file",
    ):
        assert line in err, line
