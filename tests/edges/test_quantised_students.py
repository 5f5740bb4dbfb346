"""Students on quantised backbones: trained (QLoRA), saved, and read onto backbones of each kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from trace_d2.backbones import build_backbone
from trace_d2.edges.detector import StudentDetector
from trace_d2.edges.student import EdgeStudent
from trace_d2.edges.student_files import JSON_NAME
from trace_d2.edges.student_loading import load_student, save_student

pytest.importorskip("bitsandbytes")
NF4 = {"BACKBONE__QUANTIZE": "nf4"}


def _pixels():
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _logits(student):
    with torch.no_grad():
        return student(_pixels(), (0, "a"), reconstruct=False).logits


@pytest.fixture(scope="module")
def saved(make_student, tmp_path_factory):
    """A student of SD3 in NF4, and its folder."""
    student = make_student("sd3", **NF4)
    folder = tmp_path_factory.mktemp("student") / "student"
    save_student(student, folder)
    return student.eval(), folder


@pytest.mark.parametrize("family", ["sd15", "sd3", "flux"])
def test_adapters_are_trained_on_four_bits(family, student_cfg):
    torch.manual_seed(0)
    student = EdgeStudent.from_config(student_cfg(family, **NF4)).train()
    assert student.backbone.quantization == "nf4"
    trainable = student.trainable()
    assert all(parameter.dtype == torch.float32 for parameter in trainable.values())
    assert all("lora_" in name or name.startswith("decoder.") for name in trainable)
    before = {name: tensor.clone() for name, tensor in student.backbone.state_dict().items()}
    optimizer = torch.optim.Adam(trainable.values(), lr=3e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        output = student(_pixels(), (0, "a"))
        loss = output.logits.sigmoid().mean()
        loss = loss + (output.reconstruction - output.latent).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    after = student.backbone.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed
    assert all("lora_" in name for name in changed)


def test_the_state_dict_holds_what_is_trained(make_student):
    trained = make_student("sd3", **NF4)
    state = trained.state_dict()
    assert set(state) == set(trained.trainable())
    assert not trained.load_state_dict(state, strict=False).missing_keys


def test_a_student_goes_back_onto_its_backbone(saved, student_cfg, caplog):
    student, folder = saved
    described = json.loads((folder / JSON_NAME).read_text())["backbone"]
    assert (described["quantization"], described["dtype"]) == ("nf4", "float32")
    backbone = build_backbone(student_cfg("sd3", **NF4))
    with caplog.at_level("INFO"):
        again = load_student(folder, backbone, merge_lora=True)
    assert torch.equal(_logits(again), _logits(student))
    assert "adapters stay apart: nf4 weights would round them" in caplog.text
    assert "precision" not in caplog.text
    assert any("lora_" in name for name, _ in again.named_parameters())


def test_backbones_of_another_precision_are_noted(
    saved, make_student, student_cfg, tmp_path, caplog
):
    _, folder = saved
    load_student(folder, build_backbone(student_cfg("sd3")), merge_lora=True)
    assert "trained on weights in nf4 precision, and these are in full" in caplog.text
    save_student(make_student("sd3"), tmp_path / "student")
    assert "quantization" not in (tmp_path / "student" / JSON_NAME).read_text()
    load_student(tmp_path / "student", build_backbone(student_cfg("sd3", **NF4)))
    assert "trained on weights in full precision, and these are in nf4" in caplog.text


def test_other_conditions_than_in_training_are_noted(make_student, student_cfg, tmp_path, caplog):
    save_student(make_student("flux"), tmp_path / "student")
    load_student(tmp_path / "student", build_backbone(student_cfg("flux")))
    assert "was trained with" not in caplog.text
    load_student(tmp_path / "student", build_backbone(student_cfg("flux", BACKBONE__GUIDANCE=3.5)))
    assert "trained with MODEL.TRACE.BACKBONE.GUIDANCE 1.0, and this is 3.5" in caplog.text


def test_prompts_of_a_training_are_noted_both_ways(
    make_student, student_cfg, tmp_path, caplog, monkeypatch
):
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.json").write_text('{"a": "a red cup", "b": ""}')
    told = {"BACKBONE__PROMPTS": str(tmp_path / "texts.json")}
    save_student(make_student("flux"), tmp_path / "plain")
    save_student(make_student("flux", **told), tmp_path / "told")
    message = "trained with MODEL.TRACE.BACKBONE.PROMPTS"
    student = load_student(tmp_path / "told", build_backbone(student_cfg("flux", **told)))
    load_student(tmp_path / "plain", build_backbone(student_cfg("flux")))
    assert message not in caplog.text
    load_student(tmp_path / "told", build_backbone(student_cfg("flux")))
    assert f"{message} texts, and this is none" in caplog.text
    load_student(tmp_path / "plain", build_backbone(student_cfg("flux", **told)))
    assert f"{message} none, and this is texts" in caplog.text
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    detector = StudentDetector(student)
    assert not np.array_equal(detector(image, "a").edges, detector(image, "b").edges)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sd3", "flux"])
def test_students_rest_in_main_memory_by_groups(family, merge, make_student, student_cfg, tmp_path):
    save_student(make_student(family), tmp_path / "student")
    backbone = build_backbone(student_cfg(family, BACKBONE__OFFLOAD="group"))
    offloaded = load_student(tmp_path / "student", backbone, merge_lora=merge)
    plain = build_backbone(student_cfg(family))
    expected = load_student(tmp_path / "student", plain, merge_lora=merge)
    assert torch.equal(_logits(offloaded), _logits(expected))


def test_no_student_is_trained_on_offloaded_weights(student_cfg):
    with pytest.raises(ValueError, match=r"BACKBONE\.OFFLOAD is for inference: set it to \"none\""):
        EdgeStudent.from_config(student_cfg("sd3", BACKBONE__OFFLOAD="group"))
