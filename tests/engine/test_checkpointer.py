"""Checkpoints: torchvision's ResNets load exactly, and those of other models are refused."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, resnet50

from trace_d2.engine.checkpointer import TraceCheckpointer, UnfitCheckpointError


def build_model(depth: int) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    model = nn.Module()
    model.backbone = build_backbone(cfg)
    return model.eval()


@pytest.mark.parametrize(("depth", "build"), [(18, resnet18), (50, resnet50)])
def test_torchvision_weights_give_torchvision_features(tmp_path, depth, build):
    torch.manual_seed(0)
    theirs = build(weights=None).eval()
    for buffer in theirs.buffers():  # statistics that matter
        if buffer.dtype.is_floating_point:
            buffer.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = build_model(depth)

    TraceCheckpointer(ours).load(str(tmp_path / "resnet.pth"))

    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(image)
        torch.testing.assert_close(ours.backbone(image)["res5"], expected)


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path):
    torch.save({"model": build_model(18).state_dict()}, tmp_path / "r18.pth")

    with pytest.raises(UnfitCheckpointError, match=r"r18\.pth fits .*MODEL\.WEIGHTS"):
        TraceCheckpointer(build_model(50)).load(str(tmp_path / "r18.pth"))


def test_a_checkpoint_without_heads_is_welcome(tmp_path):
    source = build_model(18)
    torch.save({"model": source.state_dict()}, tmp_path / "r18.pth")
    model = build_model(18)
    model.head = nn.Linear(100, 100)

    TraceCheckpointer(model).load(str(tmp_path / "r18.pth"))

    name = "backbone.res4.0.conv1.weight"
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_evaluation_wants_the_heads_as_well(tmp_path):
    torch.save({"model": build_model(18).state_dict()}, tmp_path / "r18.pth")
    model = build_model(18)
    model.head = nn.Linear(100, 100)

    with pytest.raises(UnfitCheckpointError, match=r"0 of the 2 tensors of the heads"):
        TraceCheckpointer(model, whole=True).load(str(tmp_path / "r18.pth"))


class _Code:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def small() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Linear(3, 2)
    model.head = nn.Linear(2, 4)
    return model


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth", "evil.pyth", "evil.pt", "evil"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_weights_is_not_run(tmp_path, name, how):
    trace = tmp_path / "trace"
    content = {"model": small().state_dict(), "more": _Code(trace)}
    if how == "pickle":
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text(name)
    with pytest.raises(UnfitCheckpointError, match="evil"):
        TraceCheckpointer(small()).load(str(tmp_path / name))
    with pytest.raises(UnfitCheckpointError, match="evil"):
        TraceCheckpointer(small(), str(tmp_path)).resume_or_load("", resume=True)
    assert not trace.exists()


def test_code_in_weights_that_are_fetched_is_not_run(tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {}, "more": _Code(trace)}))
    checkpointer = TraceCheckpointer(small())
    monkeypatch.setattr(
        checkpointer.path_manager, "get_local_path", lambda *_, **__: str(tmp_path / "evil.pkl")
    )
    for address in ("https://example.org/evil.pkl", "detectron2://a/evil.pkl"):
        with pytest.raises(UnfitCheckpointError, match=r"evil\.pkl is no file of weights alone"):
            checkpointer.load(address)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["zoo", "tensors", "safetensors", "pth", "bare"])
def test_weights_of_every_format_are_read(tmp_path, kind):
    torch.manual_seed(0)
    source, model = small(), small()
    arrays = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pkl")
    if kind == "zoo":
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "us"}))
    elif kind == "tensors":
        content = {"model": source.state_dict(), "__author__": "us", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, 2))
    elif kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        path = tmp_path / "w.pth"
        state = source.state_dict()
        torch.save(state if kind == "bare" else {"model": state}, path)

    TraceCheckpointer(model, whole=True).load(str(path))

    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_weights_of_caffe2_are_read(tmp_path):
    model = build_model(50)
    weights = {"conv1_w": np.full((64, 3, 7, 7), 2.0, np.float32), "res2_0_branch2a_w_momentum": 3}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": weights}, 2))
    checkpointer = TraceCheckpointer(model)
    assert list(checkpointer._load_file(str(tmp_path / "R-50.pkl"))["model"]) == ["conv1_w"]
    with pytest.raises(UnfitCheckpointError, match="fits 1 of"):
        checkpointer.load(str(tmp_path / "R-50.pkl"))


@pytest.mark.parametrize("data", [b"", b"{}", b"PK\x03\x04 no archive", b"\x80\x04N."])
@pytest.mark.parametrize("ending", ["pkl", "pth", "safetensors"])
def test_what_holds_no_weights_is_named(tmp_path, data, ending):
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(data)
    with pytest.raises(UnfitCheckpointError, match=rf"weights\.{ending}"):
        TraceCheckpointer(small()).load(str(path))


def test_evaluation_wants_the_same_classes(tmp_path):
    model = small()
    model.head = nn.Linear(2, 5)
    torch.save({"model": model.state_dict()}, tmp_path / "five.pth")
    TraceCheckpointer(small()).load(str(tmp_path / "five.pth"))  # training may start from it
    with pytest.raises(UnfitCheckpointError, match=r"heads \(not head\.weight, head\.bias\)"):
        TraceCheckpointer(small(), whole=True).load(str(tmp_path / "five.pth"))


def test_tied_weights_may_be_stored_once(tmp_path):
    model, other = small(), small()
    for one in (model, other):
        one.tied = nn.Linear(2, 4)
        one.tied.weight = one.head.weight
    state = model.state_dict()
    del state["tied.weight"]
    torch.save({"model": state}, tmp_path / "tied.pth")
    TraceCheckpointer(other, whole=True).load(str(tmp_path / "tied.pth"))
    assert torch.equal(other.tied.weight, model.head.weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the file name is ''"),
        ("../model.pth", "leads out of its folder"),
        ("/etc/passwd", "leads out of its folder"),
        ("absent.pth", "absent.pth is absent"),
    ],
)
def test_last_checkpoint_names_a_file_of_its_folder(tmp_path, name, message):
    torch.save({"model": small().state_dict()}, tmp_path / "model.pth")
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "last_checkpoint").write_text(name)
    with pytest.raises(UnfitCheckpointError, match=rf"{message}.*--fresh"):
        TraceCheckpointer(small(), str(folder)).resume_or_load("", resume=True)


def test_weights_alone_are_nothing_to_go_on_from(tmp_path):
    torch.save({"model": small().state_dict()}, tmp_path / "model_averaged.pth")
    (tmp_path / "last_checkpoint").write_text("model_averaged.pth")
    optimizer = torch.optim.SGD(small().parameters(), 0.1)
    checkpointer = TraceCheckpointer(small(), str(tmp_path), optimizer=optimizer)
    with pytest.raises(UnfitCheckpointError, match="no state of optimizer to go on from"):
        checkpointer.resume_or_load("", resume=True)


def test_an_interrupted_save_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    checkpointer = TraceCheckpointer(small(), str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def die(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_final.pth",
    ]


def test_a_compressed_archive_is_not_read(tmp_path):
    torch.save({"model": {"w": torch.zeros(10**6)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(UnfitCheckpointError, match=r"bomb\.pth has compressed parts"):
        TraceCheckpointer(small()).load(str(tmp_path / "bomb.pth"))
