"""Every config is built, trained for two iterations at small size, and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from trace_d2.config import add_trace_config, load_trace_cfg
from trace_d2.data.scene_dataset import SceneSettings, write_scenes

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[1] / "configs"
TRAINED = sorted(
    path
    for room in ("panoptic", "instance")
    for path in (CONFIGS / room).glob("*.yaml")
    if not path.name.startswith("Base-")
)
DERIVED = [path for path in TRAINED if "_BASE_" in path.read_text()]
# Nothing but sizes, the machine, and the data.
SMALL = """
MODEL.DEVICE cpu  MODEL.WEIGHTS ''  SOLVER.AMP.ENABLED False  SOLVER.MAX_ITER 2  SOLVER.STEPS ()
SOLVER.IMS_PER_BATCH 2  DATALOADER.NUM_WORKERS 0  TEST.PRECISE_BN.NUM_ITER 1
INPUT.TRACE.IMAGE_SIZE 64  INPUT.MIN_SIZE_TRAIN (64,)  INPUT.MIN_SIZE_TEST 64
MODEL.RESNETS.STEM_OUT_CHANNELS 8  MODEL.RESNETS.RES2_OUT_CHANNELS 32
MODEL.RESNETS.WIDTH_PER_GROUP 8  MODEL.FPN.OUT_CHANNELS 16
MODEL.RPN.POST_NMS_TOPK_TRAIN 50  MODEL.RPN.POST_NMS_TOPK_TEST 20
MODEL.ROI_BOX_HEAD.FC_DIM 16  MODEL.ROI_MASK_HEAD.CONV_DIM 16
MODEL.TRACE.MASK2FORMER.HIDDEN_DIM 32  MODEL.TRACE.MASK2FORMER.NHEADS 2
MODEL.TRACE.MASK2FORMER.NUM_QUERIES 8  MODEL.TRACE.MASK2FORMER.DIM_FEEDFORWARD 32
MODEL.TRACE.MASK2FORMER.ENC_DIM_FEEDFORWARD 32  MODEL.TRACE.MASK2FORMER.TRAIN_NUM_POINTS 64
MODEL.TRACE.SWIN.EMBED_DIM 12  MODEL.TRACE.SWIN.DEPTHS (1,1,1,1)
MODEL.TRACE.SWIN.NUM_HEADS (1,2,2,4)  MODEL.TRACE.SWIN.WINDOW_SIZE 4  MODEL.TRACE.SWIN.WEIGHTS ''
MODEL.TRACE.SOLVER.SAMPLES_PERIOD 1
""".replace("''", "").split("  ")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """Two scenes of 64 x 64 with truth."""
    folder = tmp_path_factory.mktemp("config_scenes")
    write_scenes(folder, 2, SceneSettings(size=(64, 64)), progress=False)
    return folder


def small_options(scenes: Path, config: Path, output: Path) -> list[str]:
    pairs = [pair.split(maxsplit=1) for line in SMALL for pair in line.split("\n") if pair.strip()]
    options = [part for pair in pairs for part in (*pair, "")[:2]]
    images = str(scenes / "images")
    if config.parent.name == "panoptic":
        sets = ["DATASETS.TRACE.PANOPTIC", str([["small_panoptic", str(scenes), images]])]
        sets += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "6"]
        name = "small_panoptic"
    else:
        truth = str(scenes / "instances.json")
        sets = ["DATASETS.TRACE.INSTANCES", str([["small_instances", truth, images]])]
        name = "small_instances"
    sets += ["DATASETS.TRAIN", str((name,)), "DATASETS.TEST", str((name,))]
    return [*options, *sets, "OUTPUT_DIR", str(output)]


@pytest.mark.parametrize("config", TRAINED, ids=lambda path: path.stem)
def test_config_trains_and_evaluates(config, scenes, tmp_path, load_tool):
    options = small_options(scenes, config, tmp_path)
    command = ["--config-file", str(config), *options]

    assert load_tool("train_net").main(command) == 0

    results = json.loads((tmp_path / "results.json").read_text())
    figures = results.get("panoptic_seg") or results["segm"]
    assert all(value is None or 0 <= value <= 100 for value in figures.values())
    weights = tmp_path / "model_final.pth"
    assert weights.is_file()
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
    again = tmp_path / "again"
    command += ["OUTPUT_DIR", str(again), "MODEL.WEIGHTS", str(weights)]
    assert load_tool("train_net").main(["--eval-only", *command]) == 0
    assert json.loads((again / "results.json").read_text()) == results


@pytest.mark.parametrize("config", DERIVED, ids=lambda path: path.stem)
def test_config_states_only_what_differs_from_its_base(config):
    own = yaml.safe_load(config.read_text())
    base = get_cfg()
    add_trace_config(base)
    base.merge_from_file(str(config.parent / own.pop("_BASE_")))
    for key, value in _leaves(own):
        node = base
        for part in key.split("."):
            node = node[part]
        same = list(node) == list(value) if isinstance(node, tuple) else node == value
        assert not same, f"{config.name}: {key} is {value!r} already"


@pytest.mark.parametrize("config", sorted((CONFIGS / "edges").glob("*.yaml")), ids=lambda p: p.stem)
def test_edge_configs_load_alone_and_in_detectron2(config):
    full = get_cfg()
    add_trace_config(full)
    full.merge_from_file(str(config))

    assert full.MODEL.TRACE.BACKBONE.NAME == load_trace_cfg(config).MODEL.TRACE.BACKBONE.NAME


def _leaves(node: dict, prefix: str = ""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
