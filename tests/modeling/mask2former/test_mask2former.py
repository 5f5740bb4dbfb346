from __future__ import annotations

import pickle
import uuid

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from transformers import Mask2FormerForUniversalSegmentation

from trace_d2.modeling.mask2former import head as head_module


def transformers_twin(model):
    """``transformers``' own model, backbone included, with the weights of ``model``."""
    config = model.sem_seg_head.config
    config.backbone_config = model.backbone.net.config
    twin = Mask2FormerForUniversalSegmentation(config)
    pixel_level = twin.model.pixel_level_module
    pixel_level.encoder.load_state_dict(model.backbone.net.state_dict())
    pixel_level.decoder.load_state_dict(model.sem_seg_head.pixel_decoder.state_dict())
    twin.model.transformer_module.load_state_dict(model.sem_seg_head.transformer.state_dict())
    twin.class_predictor.load_state_dict(model.sem_seg_head.class_predictor.state_dict())
    return twin.train(model.training)


def normalized(model, records):
    return torch.stack([(r["image"] - model.pixel_mean) / model.pixel_std for r in records])


@pytest.mark.parametrize("kind", ["tensor", "bitmask"])
def test_losses_and_gradients_are_those_of_transformers(m2f, dataset, kind):
    model = m2f.model(dataset)
    twin = transformers_twin(model)
    records = [m2f.scene_record(i, kind=kind) for i in range(2)]
    masks = [m2f.scene_record(i)["instances"].gt_masks.float() for i in range(2)]
    classes = [record["instances"].gt_classes for record in records]

    torch.manual_seed(5)
    losses = model(records)
    torch.manual_seed(5)
    output = twin(normalized(model, records), mask_labels=masks, class_labels=classes)

    assert sum(losses.values()).item() == pytest.approx(output.loss.item(), rel=1e-5)
    kinds = ("loss_ce", "loss_mask", "loss_dice")
    names = {name + suffix for name in kinds for suffix in ("", "_0", "_1", "_2")}
    assert set(losses) == names
    sum(losses.values()).backward()
    output.loss.backward()
    patches = "swin.embeddings.patch_embeddings.projection.weight"
    ours = model.backbone.net.get_parameter(patches).grad
    theirs = twin.model.pixel_level_module.encoder.get_parameter(patches).grad
    assert ours.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_logits_are_those_of_transformers(m2f, dataset):
    model = m2f.model(dataset).eval()
    records = [m2f.scene_record(i) for i in range(2)]
    with torch.no_grad():
        images = model.preprocess_images(records).tensor
        features = model.backbone(images)
        classes, masks = model.sem_seg_head([features[name] for name in model.in_features])
        output = transformers_twin(model)(normalized(model, records))
    torch.testing.assert_close(classes[-1], output.class_queries_logits)
    torch.testing.assert_close(masks[-1], output.masks_queries_logits)


def test_without_deep_supervision_only_the_last_layer_counts(m2f, dataset):
    deep, last = (
        m2f.model(dataset, {f"{m2f.KEY}.DEEP_SUPERVISION": value}) for value in (True, False)
    )
    losses = []
    for model in (deep, last):
        torch.manual_seed(5)
        losses.append(model([m2f.scene_record(0)]))
    assert set(losses[1]) == {"loss_ce", "loss_mask", "loss_dice"}
    for name, value in losses[1].items():
        assert value.item() == pytest.approx(losses[0][name].item(), rel=1e-6)


def test_number_of_masks_is_the_mean_over_processes(m2f, dataset, monkeypatch):
    loss = m2f.model(dataset).criterion.loss
    classes = [torch.zeros(3), torch.zeros(0)]
    device = torch.device("cpu")
    assert loss.get_num_masks(classes, device) == 3
    assert loss.get_num_masks([torch.zeros(0)], device) == 1
    monkeypatch.setattr(head_module.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda number: number.add_(6))
    assert loss.get_num_masks(classes, device) == 4.5


def test_images_without_segments_give_finite_losses_and_every_parameter_a_gradient(m2f, dataset):
    model = m2f.model(dataset)
    for records in (
        [m2f.empty_record(), m2f.empty_record()],
        [m2f.scene_record(0), m2f.empty_record()],
    ):
        model.zero_grad()
        losses = model(records)
        assert all(torch.isfinite(value) for value in losses.values())
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name
    without_field = m2f.empty_record()
    without_field["instances"].remove("gt_masks")
    assert torch.isfinite(sum(model([without_field]).values()))


def test_degenerate_masks_and_more_segments_than_queries(m2f, dataset):
    instances = Instances((64, 64))
    instances.gt_classes = torch.arange(20) % 6
    instances.gt_masks = torch.zeros(20, 64, 64, dtype=torch.bool)
    instances.gt_masks[1] = True
    instances.gt_masks[2, 5, 5] = True
    losses = m2f.model(dataset)([m2f.empty_record() | {"instances": instances}])
    assert all(torch.isfinite(value) for value in losses.values())


def test_half_precision(m2f, dataset):
    model = m2f.model(dataset)
    records = [m2f.scene_record(0)]
    torch.manual_seed(5)
    exact = sum(model(records).values())
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(records)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert sum(losses.values()).item() == pytest.approx(exact.item(), rel=0.05)
    sum(losses.values()).backward()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(model(records)[0]["sem_seg"]).all()


def test_a_scene_is_learned(m2f, dataset):
    model = m2f.model(dataset)
    record = m2f.scene_record(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = []
    for _ in range(30):
        loss = sum(model([record]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert np.mean(totals[-5:]) < 0.5 * np.mean(totals[:2])


def test_results_have_the_size_that_each_input_asks_for(m2f, dataset):
    model = m2f.model(dataset, {f"{m2f.KEY}.TEST.OBJECT_MASK_THRESHOLD": 0.0}).eval()
    small = {"image": torch.randint(0, 255, (3, 40, 56)), "height": 80, "width": 112}
    large = {"image": torch.randint(0, 255, (3, 64, 50))}
    with torch.no_grad():
        first, second = model([small, large])
    assert first["sem_seg"].shape == (6, 80, 112)
    assert second["sem_seg"].shape == (6, 64, 50)
    ids, segments = first["panoptic_seg"]
    assert (ids.shape, ids.dtype) == ((80, 112), torch.int32)
    assert {s["id"] for s in segments} == set(ids.unique().tolist()) - {0}
    assert all(set(s) == {"id", "isthing", "category_id"} for s in segments)
    assert all(s["isthing"] == (s["category_id"] < 4) for s in segments)
    assert second["instances"].image_size == (64, 50)
    assert second["instances"].pred_masks.shape[1:] == (64, 50)
    assert set(second["instances"].pred_classes.tolist()) <= {0, 1, 2, 3}


def test_padding_is_cut_off_before_resizing(m2f, dataset):
    model = m2f.model(dataset).eval()
    record = {"image": torch.randint(0, 255, (3, 40, 56)), "height": 20, "width": 112}
    with torch.no_grad():
        images = model.preprocess_images([record])
        assert images.tensor.shape[-2:] == (64, 64)
        assert (images.tensor[..., 40:, :] == 0).all()
        features = model.backbone(images.tensor)
        classes, masks = model.sem_seg_head([features[name] for name in model.in_features])
        masks = F.interpolate(masks[-1], (64, 64), mode="bilinear")[:, :, :40, :56]
        masks = F.interpolate(masks, (20, 112), mode="bilinear")[0]
        expected = model.results_of(classes[-1][0], masks)
        result = model([record])[0]
    torch.testing.assert_close(result["sem_seg"], expected["sem_seg"])
    torch.testing.assert_close(result["instances"].scores, expected["instances"].scores)


def test_only_the_results_that_are_switched_on(m2f, dataset):
    model = m2f.model(
        dataset, {f"{m2f.KEY}.TEST.SEMANTIC_ON": False, f"{m2f.KEY}.TEST.PANOPTIC_ON": False}
    )
    with torch.no_grad():
        assert set(model.eval()([m2f.scene_record(0)])[0]) == {"instances"}


def test_class_agnostic_use_needs_no_class_list(m2f, dataset):
    changes = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 1, f"{m2f.KEY}.TEST.PANOPTIC_ON": False}
    name = f"objects_{uuid.uuid4()}"
    MetadataCatalog.get(name).set(thing_classes=["object"])
    for source in (name, ""):
        model = m2f.model(source, changes).eval()
        assert model.thing_ids == {0}
    MetadataCatalog.remove(name)
    with torch.no_grad():
        instances = model([m2f.scene_record(0)])[0]["instances"]
    assert len(instances) == 12
    assert set(instances.pred_classes.tolist()) == {0}


def test_backbone_weights_load_by_their_names(m2f, dataset, tmp_path):
    source = m2f.model(dataset, m2f.NARROW_RESNET, seed=1)
    weights = {name: value.numpy() for name, value in source.backbone.state_dict().items()}
    assert "stem.conv1.weight" in weights
    content = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(content))
    model = m2f.model(dataset, m2f.NARROW_RESNET, seed=2)
    head = {name: value.clone() for name, value in model.sem_seg_head.state_dict().items()}
    DetectionCheckpointer(model).load(str(path))
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, source.state_dict()[name]), name
    for name, value in head.items():
        assert torch.equal(model.sem_seg_head.state_dict()[name], value), name


def test_checkpoint_round_trip(m2f, dataset, tmp_path):
    source, model = (m2f.model(dataset, seed=seed).eval() for seed in (1, 2))
    DetectionCheckpointer(source, str(tmp_path)).save("model")
    DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))
    records = [m2f.scene_record(0)]
    with torch.no_grad():
        expected, result = source(records)[0], model(records)[0]
    assert torch.equal(result["sem_seg"], expected["sem_seg"])
