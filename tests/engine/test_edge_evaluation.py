"""Models of edges are evaluated on the borders between panoptic segments."""

from __future__ import annotations

import json

import torch
from detectron2.data import DatasetCatalog
from torch import nn

from trace_d2.data.registration import register_trace_panoptic
from trace_d2.engine.trainer import TraceTrainer
from trace_d2.io.coco_panoptic import read_panoptic_png


class TrueBorders(nn.Module):
    """Edges where the segment to the right or below is another."""

    def __init__(self, truth: dict[str, str]) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, batched_inputs):
        results = []
        for record in batched_inputs:
            ids = torch.from_numpy(read_panoptic_png(self.truth[record["file_name"]]).astype(int))
            edges = torch.zeros(ids.shape)
            edges[:, :-1][ids[:, 1:] != ids[:, :-1]] = 1
            edges[:-1][ids[1:] != ids[:-1]] = 1
            results.append({"edges": edges})
        return results


def test_results_have_the_scores_of_edges(small_scenes, tmp_path, make_cfg):
    name = "edge_evaluation_scenes"
    register_trace_panoptic(name, small_scenes, small_scenes / "images")
    cfg = make_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "TraceEdgePredictor"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.TEST = (name,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.OUTPUT_DIR = str(tmp_path)
    truth = {r["file_name"]: r["pan_seg_file_name"] for r in DatasetCatalog.get(name)}

    results = TraceTrainer.test(cfg, TrueBorders(truth))

    assert results["edges"]["ODS"] > 95
    assert results["edges"]["clDice"] > 90
    written = json.loads((tmp_path / "results.json").read_text())["edges"]
    assert set(written) == {"ODS", "OIS", "AP", "clDice"}
    assert written["ODS"] == results["edges"]["ODS"]
