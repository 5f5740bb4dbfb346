"""Every config is built, trained for two iterations at small size, and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from trace_d2.config import add_trace_config, load_trace_cfg

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[1] / "configs"
TRAINED = sorted(
    path
    for room in ("panoptic", "instance")
    for path in (CONFIGS / room).glob("*.yaml")
    if not path.name.startswith("Base-")
)
DERIVED = [path for path in TRAINED if "_BASE_" in path.read_text()]


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
