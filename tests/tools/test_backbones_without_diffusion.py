"""The tools on folders of models without diffusion, from the command line to files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trace_d2.config import get_trace_cfg
from trace_d2.edges.sources import build_edge_source
from trace_d2.io.edge_maps import read_edges
from trace_d2.io.images import read_image


def _keys(folder, resolution=64):
    return [
        *("MODEL.DEVICE", "cpu", "MODEL.TRACE.BACKBONE.NAME", str(folder)),
        *("MODEL.TRACE.BACKBONE.RESOLUTION", str(resolution)),
    ]


def test_labels(label_job, tiny_vit_folder):
    label_job.add("a", "b", "c")
    (label_job.root / "images" / "broken.png").write_bytes(b"x")
    keys = _keys(tiny_vit_folder("vit"))
    assert label_job.run(*keys, edges=()) == 0  # of the broken one there is no mask
    journal = label_job.journal()
    assert [journal[stem]["status"] for stem in "abc"] == ["done"] * 3
    assert "timestep" not in journal["a"]
    assert len(label_job.coco("panoptic.json")["annotations"]) == 3
    before = label_job.contents()
    assert label_job.run(*keys, edges=()) == 0  # nothing is left to do
    assert label_job.contents() == before
    assert all(label_job.journal()[stem] == journal[stem] for stem in "abc")
    assert "backbone" in (label_job.output / "report.html").read_text()
    settings = json.loads((label_job.output / "settings.json").read_text())
    assert str(tiny_vit_folder("vit")) in json.dumps(settings)


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "llava", "qwen2_5_vl"])
def test_edges_are_those_of_the_source(
    kind, label_job, tiny_vit_folder, tiny_multimodal_folder, load_tool
):
    label_job.add("a", "b")
    make, resolution = (tiny_vit_folder, 64) if "dino" in kind else (tiny_multimodal_folder, 168)
    keys = _keys(make(kind), resolution)
    images, output = label_job.root / "images", label_job.root / "found"
    options = ["--images", str(images), "--output", str(output), "--quiet"]
    assert load_tool("make_pseudo_edges").main([*options, *keys]) == 0
    cfg = get_trace_cfg()
    cfg.merge_from_list(keys)
    source = build_edge_source(cfg)
    for stem in "ab":
        expected = source(read_image(images / f"{stem}.png").pixels, stem).edges
        found = read_edges(output / "edges" / f"{stem}.png")
        assert expected.std() > 0.01
        np.testing.assert_allclose(found, expected, atol=1 / 255)


def test_all_that_is_wrong_is_said_before_pytorch_is_imported(label_job, run_apart, tmp_path):
    label_job.add("a")
    (tmp_path / "vit").mkdir()
    config = {"model_type": "vit", "patch_size": 8, "image_size": 32}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    keys = [*_keys(tmp_path / "vit"), "MODEL.TRACE.BACKBONE.OFFLOAD", "group"]
    out, err = run_apart("make_pseudo_panoptic.py", *label_job.arguments(*keys, edges=()))
    assert out == "status 2 []\n"
    for said in (
        "vit holds no complete weights",
        "vit has no preprocessor_config.json, which tells how the pixels are normalised",
        "MODEL.TRACE.BACKBONE.OFFLOAD group: these keys are of diffusion models",
    ):
        assert said in err, said
    assert not label_job.output.exists()


def test_no_student_is_trained_on_it(tiny_vit_folder, load_tool, tmp_path, capsys):
    config = "configs/edges/trace_tiny_distill.yaml"
    keys = ["MODEL.TRACE.BACKBONE.NAME", str(tiny_vit_folder("vit")), "OUTPUT_DIR", str(tmp_path)]
    assert load_tool("train_net").main(["--config-file", config, *keys]) == 2
    assert "is no diffusion model, and reconstructs no image" in capsys.readouterr().err


def test_there_is_no_trajectory_to_show(run_apart, label_job):
    label_job.add("a")
    keys = ["MODEL.TRACE.BACKBONE.NAME", "eva02-e", "MODEL.DEVICE", "cpu"]
    out, err = run_apart("show_trajectory.py", label_job.root / "images" / "a.png", *keys)
    assert out == "status 2 []\n"
    assert "eva02-e is no diffusion model and has no trajectory" in err
