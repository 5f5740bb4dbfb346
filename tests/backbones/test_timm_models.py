"""Models of timm, loaded from a folder as a user's, against their real classes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.backbones import REGISTERED_MODELS, TimmBackbone, build_backbone
from trace_d2.backbones.preflight import check_backbone
from trace_d2.config import get_trace_cfg

PREFIX = {"eva02-e": 1, "dinov3-7b": 5}
WIDE = {"ASPECT": "keep", "RESOLUTION": 68}  # 48 x 96 pixels are left as they are

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def timm_models(tiny_vits, tmp_path_factory):
    """``timm_models(kind)``: the model and its folder."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = tiny_vits.save_tiny_timm(kind, folder), folder
        return made[kind]

    return make


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)


@pytest.fixture
def eva_copy(timm_models, tmp_path):
    return shutil.copytree(timm_models("eva02-e")[1], tmp_path / "eva")


def _cfg(**options):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DEVICE = "cpu"
    for key, value in options.items():
        cfg.MODEL.TRACE.BACKBONE[key] = value
    return cfg


def _read(backbone, *images, blocks=()):
    seen = [backbone.read(picture, (0, "a")) for picture in images]
    layout = backbone.layout(tuple(seen[0].pixels.shape[:2]))
    with torch.no_grad(), SelfAttentionReader(layout, blocks=blocks) as reader:
        backbone.run(backbone.prepare(*backbone.place(seen)), ())
    return reader.attention()


def _explicit(folder, image, tiny_vits, prefix):
    """The map (N, N) by timm's own explicit attention: image tokens alone, renormalised."""
    size = image.shape[:2]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, dynamic_img_size=True).eval()
    seen = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call: seen.append(call[-1]))
    pixels = torch.tensor((image / 255.0 - tiny_vits.MEAN) / tiny_vits.STD, dtype=torch.float32)
    with torch.no_grad():
        model.forward_features(pixels.permute(2, 0, 1)[None])
    maps = torch.stack(seen)[:, 0, :, prefix:, prefix:]
    assert maps.shape[-1] == size[0] * size[1] // 64
    return (maps / maps.sum(-1, keepdim=True)).mean((0, 1))


@pytest.mark.parametrize("kind", PREFIX)
def test_attention_is_that_of_the_class(
    kind, timm_models, tiny_vits, build_tiny, image, monkeypatch
):
    folder, prefix = timm_models(kind)[1], PREFIX[kind]
    monkeypatch.setattr("timm.layers.config._USE_FUSED_ATTN", 0)
    backbone = build_tiny(folder, **WIDE)
    assert type(backbone) is TimmBackbone
    assert backbone.layout((48, 96)) == AttentionLayout(((6, 12),), prefix, start=prefix, calls=2)
    assert build_tiny(folder).resolution == 32
    expected = _explicit(folder, image, tiny_vits, prefix)
    assert expected.max() > 1.5 / 72  # uneven
    torch.testing.assert_close(_read(backbone, image)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PREFIX)
def test_tokens_are_patches_row_by_row(kind, timm_models, build_tiny, image):
    backbone = build_tiny(timm_models(kind)[1], **WIDE)
    changed = image.copy()
    changed[24:32, 72:80] = 255 - changed[24:32, 72:80]
    before, after = _read(backbone, image, changed, blocks=(0,))
    token, moved = 3 * 12 + 9, (after - before).abs()
    assert int(moved.sum(1).argmax()) == token
    others = torch.arange(72) != token
    assert int(moved[others].sum(0).argmax()) == token


def test_pixels_and_weights_are_the_folders(timm_models, tiny_vits, build_tiny, image):
    model, folder = timm_models("eva02-e")
    backbone = build_tiny(folder)
    assert backbone.pixel_mean.flatten().tolist() == pytest.approx(tiny_vits.MEAN)
    own = backbone.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(p.is_meta for p in [*backbone.parameters(), *backbone.buffers()])


@pytest.mark.parametrize("kind", PREFIX)
def test_bfloat16(kind, timm_models, build_tiny, image):
    folder = timm_models(kind)[1]
    rounded = build_tiny(folder, DTYPE="bfloat16", **WIDE)
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    found, exact = _read(rounded, image), _read(build_tiny(folder, **WIDE), image)
    assert torch.nn.functional.cosine_similarity(found, exact, dim=-1).min() > 0.99


def test_what_the_makers_wrote_is_read(eva_copy, build_tiny, image):
    """Checkpoints of OpenCLIP have the tower's tensors under a prefix, beside those of the text."""
    path = eva_copy / "model.safetensors"
    expected, tensors = _read(build_tiny(eva_copy), image), load_file(path)
    prefixed = {f"visual.trunk.{name}": tensor for name, tensor in tensors.items()}
    save_file({**prefixed, "text.x": torch.ones(2)}, path)
    assert torch.equal(_read(build_tiny(eva_copy), image), expected)
    path.unlink()
    torch.save(tensors, eva_copy / "pytorch_model.bin")
    assert torch.equal(_read(build_tiny(eva_copy), image), expected)


def test_registered_names(eva_copy):
    backbone = build_backbone(_cfg(NAME="eva02-e", WEIGHTS=str(eva_copy), RESOLUTION=32))
    assert (backbone.name, backbone.resolution) == ("eva02-e", 32)
    names = [n for n, m in REGISTERED_MODELS.items() if m.family == "TimmBackbone"]
    assert {n: REGISTERED_MODELS[n].native_resolution for n in names} == {
        "dinov3-7b-timm": 512,
        "eva02-e": 224,
    }
    for name in names:  # timm knows what the hub's repositories are called
        assert timm.is_model(REGISTERED_MODELS[name].weights.removeprefix("timm/"))


@pytest.mark.parametrize("change", ["lack", "hold", "shape"])
def test_weights_of_another_model(change, eva_copy):
    path = eva_copy / "model.safetensors"
    tensors = load_file(path)
    if change == "lack":
        del tensors["blocks.1.mlp.fc1.bias"]
    elif change == "hold":
        tensors["further.weight"] = torch.ones(2)
    else:
        tensors["blocks.1.mlp.fc1.bias"] = torch.ones(3)
    save_file(tensors, path)
    what = {"lack": "lack 1 of", "hold": "hold 1 tensors", "shape": "have 1 tensors of another"}
    with pytest.raises(ValueError, match=rf"{what[change]}.*(further|fc1)\."):
        build_backbone(_cfg(NAME=str(eva_copy)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "eva03_tiny"}, r"timm .* cannot build what .*config\.json names"),
        ({"architecture": "resnet18", "model_args": {}}, r"cannot build what .*config\.json names"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "mean of pixels must be three numbers"),
    ],
)
def test_configurations_that_cannot_be_read(changes, message, eva_copy):
    path = eva_copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        build_backbone(_cfg(NAME=str(eva_copy)))


def test_timm_is_asked_for_where_it_is_needed(eva_copy, tiny_vit_folder, without_packages):
    without_packages("timm")
    for options in ({"NAME": str(eva_copy)}, {"NAME": "eva02-e", "WEIGHTS": str(eva_copy)}):
        for act in (check_backbone, build_backbone):
            with pytest.raises(ValueError, match=r"timm.*run `pip install timm`, or take a model"):
                act(_cfg(**options))
    check_backbone(_cfg(NAME=str(tiny_vit_folder("vit"))))


def test_gated_models_without_a_login(monkeypatch, tmp_path):
    """What the hub would refuse is said before anything is loaded, with the way around it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("trace_d2.backbones.preflight.get_token", lambda: None)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with pytest.raises(FileNotFoundError, match=r"is gated.*`hf auth login`.*NAME to dinov3-7b-t"):
        check_backbone(_cfg(NAME="dinov3-7b"))
    with pytest.raises(FileNotFoundError, match=r"FLUX\.1-dev is gated.*BACKBONE\.WEIGHTS$"):
        check_backbone(_cfg(NAME="flux1-dev"))
    check_backbone(_cfg(NAME="dino-vitb8"))
    monkeypatch.setattr("trace_d2.backbones.preflight.get_token", lambda: "hf_x")
    check_backbone(_cfg(NAME="dinov3-7b"))


def test_the_hub_refuses_a_gated_model():
    with pytest.raises(FileNotFoundError, match=r"hf download .*or set .*NAME to dinov3-7b-timm"):
        build_backbone(_cfg(NAME="dinov3-7b"))
