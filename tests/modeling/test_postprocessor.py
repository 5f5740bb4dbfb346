from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

import trace_d2
from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.edge_maps import write_edges
from trace_d2.modeling.postprocessor import PostProcessor, has_postprocessor, with_postprocessor


class Fixed(nn.Module):
    """A model that predicts what it was given, whatever the image."""

    def __init__(self, predict) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.predict = predict

    def forward(self, batched_inputs):
        if self.training:
            return {"loss": self.weight.sum()}
        return [self.predict(record) for record in batched_inputs]


def instances(size: tuple[int, int], score: float = 0.8) -> Instances:
    """One mask over all but the border of the image."""
    made = Instances(size)
    made.pred_masks = torch.zeros(1, *size, dtype=torch.bool)
    made.pred_masks[0, 2:-2, 2:-2] = True
    made.pred_boxes = Boxes(torch.zeros(1, 4))
    made.scores = torch.tensor([score])
    made.pred_classes = torch.tensor([3])
    return made


def predict_instances(record) -> dict:
    size = (record["height"], record["width"])
    return {"instances": instances(size), "sem_seg": torch.ones(2, *size)}


def config(**keys):
    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    for key, value in keys.items():
        cfg.MODEL.TRACE.POSTPROCESSOR[key] = value
    return cfg


def framed(size: tuple[int, int]) -> np.ndarray:
    """Edges around the mask of ``instances``."""
    edges = np.zeros(size, np.float32)
    edges[1:-1, [1, -2]] = edges[[1, -2], 1:-1] = 1
    return edges


class Wall:
    """Edges around the mask and down the middle, and what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, image: np.ndarray, stem: str) -> EdgeOutput:
        self.calls.append((image.copy(), stem))
        edges = framed(image.shape[:2])
        middle = image.shape[1] // 2
        edges[:, middle - 1 : middle + 1] = 1
        return EdgeOutput(edges)


def record(height=24, width=40, **more) -> dict:
    return {"image": torch.zeros(3, 12, 20), "height": height, "width": width, **more}


def test_a_batch_of_different_sizes_is_cut_in_eval_mode_only():
    source = Wall()
    model = Fixed(predict_instances)
    weights = list(model.state_dict())
    assert with_postprocessor(model, config(), edge_source=source) is model
    assert type(model) is Fixed
    assert list(model.state_dict()) == weights
    assert set(model([record()])) == {"loss"}
    assert source.calls == []
    first, second = model.eval()([record(), record(30, 32, file_name="x/dog.jpg")])
    for one, size in ((first, (24, 40)), (second, (30, 32))):
        assert one["instances"].image_size == size
        assert one["instances"].pred_masks.shape == (2, *size)
        assert one["instances"].pred_classes.tolist() == [3, 3]
        assert one["sem_seg"].shape == (2, *size)
    # Edges are found at the size of the output, keyed by the stem or else by the pixels.
    assert [image.shape for image, _ in source.calls] == [(24, 40, 3), (30, 32, 3)]
    assert source.calls[1][1] == "dog"
    assert len(source.calls[0][1]) == 64
    assert len(model(batched_inputs=[record()])) == 1


def test_the_source_sees_rgb():
    source = Wall()
    model = with_postprocessor(Fixed(predict_instances), config(), edge_source=source).eval()
    blue_first = torch.tensor([200.4, 100.0, 0.0]).view(3, 1, 1).expand(3, 24, 40)
    model([{**record(), "image": blue_first}])
    assert source.calls[0][0].dtype == np.uint8
    assert source.calls[0][0][5, 5].tolist() == [0, 100, 200]


def test_empty_and_doubtful_predictions_ask_for_no_edges():
    source = Wall()
    empty = instances((24, 40))[torch.zeros(1, dtype=torch.bool)]
    for made in (empty, instances((24, 40), score=0.01)):
        model = Fixed(lambda _, made=made: {"instances": made})
        with_postprocessor(model, config(), edge_source=source).eval()
        assert len(model([record()])[0]["instances"]) == 0
    assert source.calls == []
    assert model.eval()([]) == []


def test_switches_choose_the_outputs():
    ids = torch.zeros(24, 40, dtype=torch.int32)
    ids[2:-2, 2:-2] = 1
    infos = [{"id": 1, "isthing": True, "category_id": 0}]

    def predict(record) -> dict:
        return {**predict_instances(record), "panoptic_seg": (ids, infos)}

    counts = {}
    for key in ("INSTANCES", "PANOPTIC"):
        model = with_postprocessor(Fixed(predict), config(**{key: False}), edge_source=Wall())
        out = model.eval()([record()])[0]
        counts[key] = (len(out["instances"]), len(out["panoptic_seg"][1]))
    assert counts == {"INSTANCES": (1, 2), "PANOPTIC": (2, 1)}
    assert len(infos) == 1


def test_panoptic_that_codes_classes_needs_metadata():
    ids = torch.full((24, 40), -1)
    ids[2:-2, 2:-2] = 2001
    model = Fixed(lambda _: {"panoptic_seg": (ids, None)})
    cfg = config()
    with_postprocessor(model, cfg, edge_source=Wall()).eval()
    with pytest.raises(ValueError, match=r"DATASETS.TEST\[0\]"):
        model([record()])
    metadata = MetadataCatalog.get("postprocessor_coded")
    metadata.set(label_divisor=1000, thing_dataset_id_to_contiguous_id={7: 2})
    cfg.DATASETS.TEST = ("postprocessor_coded",)
    model = with_postprocessor(Fixed(model.predict), cfg, edge_source=Wall()).eval()
    cut, infos = model([record()])[0]["panoptic_seg"]
    assert infos is None
    assert cut.unique().tolist() == [-1, 2001, 2002]


def test_a_model_without_masks_is_named():
    boxes = Instances((24, 40), pred_boxes=Boxes(torch.zeros(1, 4)), scores=torch.ones(1))
    for out in ({"instances": boxes}, {"sem_seg": torch.ones(2, 24, 40)}):
        model = with_postprocessor(Fixed(lambda _, out=out: out), config(), edge_source=Wall())
        with pytest.raises(ValueError, match="Fixed predicts no masks"):
            model.eval()([record()])


def test_twice_is_an_error_and_copies_share_the_source():
    source = Wall()
    model = with_postprocessor(Fixed(predict_instances), config(), edge_source=source)
    with pytest.raises(ValueError, match="already"):
        with_postprocessor(model, config())
    twin = copy.deepcopy(model).eval()
    assert has_postprocessor(twin)
    twin([record()])
    assert len(source.calls) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"INSTANCES": False, "PANOPTIC": False}, "both False"),
        ({"MIN_SCORE": 2.0}, "POSTPROCESSOR.MIN_SCORE"),
        ({"MAX_INSTANCES": 0}, "POSTPROCESSOR.MAX_INSTANCES"),
        ({"SHARE_POWER": -1.0}, "POSTPROCESSOR.SHARE_POWER"),
    ],
)
def test_wrong_keys_are_named(keys, message):
    with pytest.raises(ValueError, match=message):
        PostProcessor(config(**keys))


def test_wrong_edge_keys_fail_before_the_first_image():
    cfg = config()
    cfg.MODEL.TRACE.EDGES.SOURCE = "cany"
    with pytest.raises(ValueError, match=r"MODEL.TRACE.EDGES.SOURCE"):
        with_postprocessor(Fixed(predict_instances), cfg)


def test_edges_from_files_by_name(tmp_path):
    edges = framed((24, 40))
    edges[:, 10:12] = 1
    write_edges(tmp_path / "dog.png", edges)
    cfg = config()
    cfg.MODEL.TRACE.EDGES.SOURCE = "files"
    cfg.MODEL.TRACE.EDGES.DIR = str(tmp_path)
    model = with_postprocessor(Fixed(predict_instances), cfg).eval()
    found = model([record(file_name="any/dog.jpg")])[0]["instances"]
    assert len(found) == 2
    assert 9 <= found.pred_boxes.tensor[1, 2] <= 12
    with pytest.raises(ValueError, match="file_name"):
        model([record()])
    with pytest.raises(ValueError, match=r"dog.png is 24 x 40"):
        model([record(30, 40, file_name="dog.jpg")])


def test_the_teacher_is_built_at_the_first_image_on_the_device_of_the_model():
    cfg = config()
    cfg.MODEL.DEVICE = "nowhere"
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    cfg.MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP = 300
    model = with_postprocessor(Fixed(predict_instances), cfg).eval()
    (hook,) = model._forward_hooks.values()
    assert hook.edge_source is None
    found = model([record()])[0]["instances"]
    assert hook.edge_source.backbone.device.type == "cpu"
    assert found.pred_masks.any(0).sum() == 20 * 36
