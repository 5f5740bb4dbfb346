from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from transformers import SwinConfig, SwinForImageClassification

from trace_d2 import add_trace_config

KEY = "MODEL.TRACE.SWIN"


def tiny_swin(**changes):
    cfg = get_cfg()
    add_trace_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    node = cfg.MODEL.TRACE.SWIN
    node.EMBED_DIM, node.DEPTHS, node.NUM_HEADS, node.WINDOW_SIZE = 8, [1, 1, 2, 1], [1, 2, 2, 4], 4
    for key, value in changes.items():
        node[key] = value
    torch.manual_seed(0)
    return build_backbone(cfg)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier of the same network, and the folder of its weights."""
    torch.manual_seed(1)
    config = SwinConfig(
        embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4, image_size=128
    )
    model = SwinForImageClassification(config).eval()
    folder = tmp_path_factory.mktemp("swin")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("size", [(64, 64), (37, 101)])
def test_shapes_are_those_announced(size):
    backbone = tiny_swin().eval()
    features = backbone(torch.rand(2, 3, *size))
    shapes = backbone.output_shape()
    assert list(features) == list(shapes) == ["res2", "res3", "res4", "res5"]
    for name, stride, channels in zip(shapes, (4, 8, 16, 32), (8, 16, 32, 64), strict=True):
        assert (shapes[name].stride, shapes[name].channels) == (stride, channels)
        height, width = (-(-side // stride) for side in size)
        assert features[name].shape == (2, channels, height, width)
    assert backbone.size_divisibility == 32


def test_what_can_be_trained_gets_a_gradient():
    backbone = tiny_swin(DROP_PATH=0.0)
    sum(value.square().sum() for value in backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_weights_of_a_classifier(classifier):
    model, folder = classifier
    backbone = tiny_swin(WEIGHTS=str(folder)).eval()
    images = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        expected = model.swin(images).last_hidden_state
        coarsest = backbone(images)["res5"]
    # The feature is the last hidden state with a norm of the backbone's own.
    expected = expected.transpose(1, 2).reshape(1, 64, 4, 4)
    torch.testing.assert_close(coarsest, expected, rtol=1e-3, atol=1e-3)


def test_weights_of_another_network(classifier):
    with pytest.raises(ValueError, match=r"SWIN\.DEPTHS is \[1, 1, 1, 1\], but .* \[1, 1, 2, 1\]"):
        tiny_swin(WEIGHTS=str(classifier[1]), DEPTHS=[1, 1, 1, 1])


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(OSError, match=r"MODEL\.TRACE\.SWIN\.WEIGHTS .* cannot be loaded"):
        tiny_swin(WEIGHTS=str(tmp_path))


def test_weights_with_gaps(classifier, tmp_path):
    model = classifier[0]
    state = {key: value for key, value in model.state_dict().items() if "layers.2" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"SWIN\.WEIGHTS .* lacks .*layers\.2"):
        tiny_swin(WEIGHTS=str(tmp_path))


def test_weights_with_further_layers(classifier, tmp_path):
    model = classifier[0]
    state = dict(model.state_dict())
    name = next(key for key in state if "layers.0.blocks.0" in key)
    state[name.replace("blocks.0", "blocks.9")] = state[name].clone()
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"SWIN\.WEIGHTS .* the network has not: .*blocks\.9"):
        tiny_swin(WEIGHTS=str(tmp_path))


def test_weights_that_are_truncated(classifier, tmp_path):
    classifier[0].save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"SWIN\.WEIGHTS .* cannot be loaded: .*download it again"):
        tiny_swin(WEIGHTS=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DEPTHS": [1, 1, 1]}, r"SWIN\.DEPTHS is \[1, 1, 1\]"),
        ({"NUM_HEADS": [1, 0, 1, 1]}, r"SWIN\.NUM_HEADS must be 1 or more, not 0"),
        ({"NUM_HEADS": [1, 2, 3, 4]}, r"NUM_HEADS .* stage 3 is 32 wide .* no multiple of 3"),
    ],
)
def test_networks_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_swin(**changes)
