"""Every config is built, trained for two iterations at small size, and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from trace_d2.config import ConfigError, add_trace_config, load_trace_cfg

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[1] / "configs"
TRAINED = sorted(
    path
    for room in ("panoptic", "instance")
    for path in (CONFIGS / room).glob("*.yaml")
    if not path.name.startswith("Base-")
)
EDGES = sorted((CONFIGS / "edges").glob("*.yaml"))
DISTILLED = [path for path in EDGES if path.stem.endswith("_distill")]
DERIVED = [path for path in (*TRAINED, *EDGES) if "_BASE_" in path.read_text()]


@pytest.mark.parametrize("config", TRAINED, ids=lambda path: path.stem)
def test_config_trains_and_evaluates(config, small_options, tmp_path, load_tool):
    command = ["--config-file", str(config), *small_options(config, tmp_path)]

    assert load_tool("train_net").main(command) == 0

    weights = tmp_path / "model_final.pth"
    assert weights.is_file()
    if config.stem == "scenes_backbone":  # evaluated by what starts from it
        return
    results = json.loads((tmp_path / "results.json").read_text())
    figures = results.get("panoptic_seg") or results["segm"]
    assert all(value is None or 0 <= value <= 100 for value in figures.values())
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
    again = tmp_path / "again"
    command += ["OUTPUT_DIR", str(again), "MODEL.WEIGHTS", str(weights)]
    assert load_tool("train_net").main(["--eval-only", *command]) == 0
    assert json.loads((again / "results.json").read_text()) == results


@pytest.fixture(scope="module")
def pseudo_edges(small_scenes, tmp_path_factory) -> Path:
    """Pseudo edges of the small scenes: a cross, and nothing known in a corner."""
    from trace_d2.io.edge_maps import write_ternary

    folder = tmp_path_factory.mktemp("pseudo_edges")
    labels = np.zeros((64, 64), np.int8)
    labels[30:34] = labels[:, 30:34] = 1
    labels[:10, :10] = -1
    for path in (small_scenes / "images").iterdir():
        write_ternary(folder / f"{path.stem}.png", labels)
    return folder


# Nothing but sizes, the machine, the data, and weights that can be had.
SMALL = """
MODEL.DEVICE cpu SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 DATALOADER.NUM_WORKERS 0
MODEL.TRACE.SOLVER.SAMPLES_PERIOD 1 MODEL.TRACE.STUDENT.LORA.RANK 2
"""


@pytest.mark.parametrize("config", DISTILLED, ids=lambda path: path.stem)
def test_config_distills_and_its_student_is_used(
    config, small_scenes, pseudo_edges, tiny_folder, tmp_path, load_tool
):
    from trace_d2.edges.sources import build_edge_source

    name = load_trace_cfg(config).MODEL.TRACE.BACKBONE.NAME
    family = {"trace-tiny": "trace-tiny", "sd35-large": "sd3"}[name]
    keys = SMALL.split()
    keys += ["MODEL.TRACE.BACKBONE.RESOLUTION", "64" if family == name else "32"]
    keys += ["MODEL.TRACE.BACKBONE.NAME", name if family == name else str(tiny_folder(family))]
    entry = [["pseudo_edges", str(small_scenes / "images"), str(pseudo_edges)]]
    keys += ["DATASETS.TRACE.EDGES", str(entry), "OUTPUT_DIR", str(tmp_path)]

    assert load_tool("train_net").main(["--config-file", str(config), *keys]) == 0

    assert (tmp_path / "model_final.pth").is_file()
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
    # The same file serves where edges are predicted, without Detectron2's own keys.
    keys = [
        part for k, v in zip(keys[::2], keys[1::2], strict=True) if "TRACE." in k for part in (k, v)
    ]
    keys += ["MODEL.TRACE.STUDENT.WEIGHTS", str(tmp_path / "student"), "MODEL.TRACE.DEVICE", "cpu"]
    image = np.zeros((48, 64, 3), np.uint8)
    edges = build_edge_source(load_trace_cfg(config, keys))(image, "black").edges
    assert edges.shape == (48, 64)


@pytest.mark.parametrize("config", DERIVED, ids=lambda path: path.stem)
def test_config_states_only_what_differs_from_its_base(config):
    own = yaml.safe_load(config.read_text())
    base = get_cfg()
    add_trace_config(base)
    base.merge_from_file(str(config.parent / own.pop("_BASE_")))
    for key, value in _leaves(own):
        if key == "MODEL.TRACE.BACKBONE.NAME":  # said in any case, as its file's name does
            continue
        node = base
        for part in key.split("."):
            node = node[part]
        same = list(node) == list(value) if isinstance(node, tuple) else node == value
        assert not same, f"{config.name}: {key} is {value!r} already"


@pytest.mark.parametrize("config", EDGES, ids=lambda path: path.stem)
def test_edge_configs_load_alone_and_in_detectron2(config):
    full = get_cfg()
    add_trace_config(full)
    full.merge_from_file(str(config))

    assert full.MODEL.TRACE.BACKBONE.NAME == load_trace_cfg(config).MODEL.TRACE.BACKBONE.NAME


def test_of_a_training_config_the_trace_keys_are_read(tmp_path):
    cfg = load_trace_cfg(CONFIGS / "edges" / "trace_tiny_distill.yaml", ["MODEL.TRACE.SEED", "3"])

    assert cfg.MODEL.TRACE.STUDENT.LORA.RANK == 16
    assert cfg.MODEL.TRACE.STUDENT.TRAIN  # from its base
    assert cfg.INPUT.TRACE.PSEUDO_EDGES.CROP == 64
    assert cfg.MODEL.TRACE.SEED == 3
    assert "SOLVER" not in cfg
    assert set(cfg.MODEL) == {"TRACE", "DEVICE"}
    assert cfg.MODEL.DEVICE == "cpu"  # the file says so
    assert cfg.is_frozen()


@pytest.mark.parametrize("node", ["MODEL", "INPUT", "DATASETS"])
def test_unknown_trace_keys_of_a_training_config_are_errors(node, tmp_path):
    content = {"MODEL": {"META_ARCHITECTURE": "TraceEdgePredictor"}, "SOLVER": {"MAX_ITER": 1}}
    content.setdefault(node, {})["TRACE"] = {"NO_SUCH": 1}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="NO_SUCH"):
        load_trace_cfg(path)


def test_without_a_meta_architecture_every_key_must_be_known(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("SOLVER:\n  MAX_ITER: 1\n")
    with pytest.raises(ConfigError, match="SOLVER"):
        load_trace_cfg(path)
    with pytest.raises(FileNotFoundError, match="no config file at"):
        load_trace_cfg(tmp_path / "none.yaml")


def _leaves(node: dict, prefix: str = ""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
