"""Vision transformers, loaded from a folder as a user's, against their real classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.backbones import REGISTERED_MODELS, TransformersBackbone, build_backbone
from trace_d2.backbones.preflight import check_backbone
from trace_d2.config import get_trace_cfg
from trace_d2.edges.detector import EdgeDetector

KINDS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
PREFIX = {"vit": 1, "dinov2": 1, "dinov2_with_registers": 4, "dinov3_vit": 5}
WIDE = {"ASPECT": "keep", "RESOLUTION": 68}  # 48 x 96 pixels are left as they are


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)


def read(backbone, *images, blocks=()):
    """Maps (B, N, N) of images in one pass."""
    seen = [backbone.read(picture, (0, "a")) for picture in images]
    layout = backbone.layout(tuple(seen[0].pixels.shape[:2]))
    with torch.no_grad(), SelfAttentionReader(layout, blocks=blocks) as reader:
        backbone.run(backbone.prepare(*backbone.place(seen)), ())
    return reader.attention()


def explicit(folder: Path, image: np.ndarray, tiny_vits, prefix: int) -> torch.Tensor:
    """The map (N, N) by eager attention: image tokens alone, renormalised, mean of all."""
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    options = {"add_pooling_layer": False} if kind == "ViTModel" else {}
    model = getattr(transformers, kind).from_pretrained(
        folder, attn_implementation="eager", **options
    )
    pixels = (image / 255.0 - tiny_vits.MEAN) / tiny_vits.STD
    pixels = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
    more = {"interpolate_pos_encoding": True} if kind == "ViTModel" else {}
    with torch.no_grad():
        attentions = model.eval()(pixels, output_attentions=True, **more).attentions
    assert len(attentions) == tiny_vits.BLOCKS
    maps = torch.stack(attentions)[:, 0, :, prefix:, prefix:]
    return (maps / maps.sum(-1, keepdim=True)).mean((0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_that_of_the_class(kind, tiny_vit_folder, tiny_vits, build_tiny, image):
    folder = tiny_vit_folder(kind)
    backbone = build_tiny(folder, **WIDE)
    assert type(backbone) is TransformersBackbone
    prefix = PREFIX[kind]
    assert backbone.layout((48, 96)) == AttentionLayout(
        ((6, 12),), prefix, start=prefix, calls=tiny_vits.BLOCKS
    )
    expected = explicit(folder, image, tiny_vits, prefix)
    assert expected.max() > 4 / 72  # uneven
    torch.testing.assert_close(read(backbone, image)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_patches_row_by_row(kind, tiny_vit_folder, build_tiny, image):
    """Of the first block, one patch changes its own row, and one column of all others.

    What that column wins or loses in a row, all others together lose or win.
    """
    backbone = build_tiny(tiny_vit_folder(kind), **WIDE)
    changed = image.copy()
    changed[24:32, 72:80] = 255 - changed[24:32, 72:80]
    before, after = read(backbone, image, changed, blocks=(0,))
    token = 3 * 12 + 9
    moved = (after - before).abs()
    assert int(moved.sum(1).argmax()) == token
    others = torch.arange(72) != token
    assert int(moved[others].sum(0).argmax()) == token


@pytest.mark.parametrize("kind", KINDS)
def test_images_share_a_pass(kind, tiny_vit_folder, build_tiny, image):
    backbone = build_tiny(tiny_vit_folder(kind))
    together = read(backbone, image, image[::-1])
    for picture, attention in zip((image, image[::-1]), together, strict=True):
        torch.testing.assert_close(attention, read(backbone, picture)[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together.sum(-1), torch.ones(2, 16))


def test_edges_are_boundary_divergence_of_one_pass(tiny_vit_folder, build_tiny, image):
    backbone = build_tiny(tiny_vit_folder("vit"), **WIDE)
    detector = EdgeDetector(backbone, batch=2)
    first, second = detector.detect([detector.ready(x, "a") for x in (image, image[:, ::-1])])
    assert detector.batch == 2
    assert (first.timestep, first.curve) == (None, {})
    assert first.edges.shape == (48, 96)
    assert first.abdiv.shape == (6, 12)
    np.testing.assert_allclose(first.abdiv, detector(image, "b").abdiv, atol=1e-5)
    assert not np.allclose(first.abdiv, second.abdiv)


def test_a_registered_name_is_read_at_its_own_resolution(tiny_vit_folder, build_tiny, image):
    cfg = _cfg(NAME="dino-vitb8", WEIGHTS=str(tiny_vit_folder("vit")))
    backbone = build_backbone(cfg)
    assert (backbone.name, backbone.resolution, backbone.commit) == ("dino-vitb8", 480, None)
    assert backbone.to_pixels(image).shape == (1, 3, 480, 480)
    assert build_tiny(tiny_vit_folder("vit")).resolution == 32
    names = [n for n, m in REGISTERED_MODELS.items() if m.family == "TransformersBackbone"]
    assert {n: REGISTERED_MODELS[n].native_resolution for n in names} == {
        **dict.fromkeys(("dino-vits8", "dino-vits16", "dino-vitb8", "dino-vitb16"), 480),
        **dict.fromkeys(("dinov2-giant", "dinov2-giant-registers"), 518),
        "dinov3-7b": 512,
    }


def test_bfloat16(tiny_vit_folder, build_tiny, image):
    for kind in KINDS:
        backbone = build_tiny(tiny_vit_folder(kind), DTYPE="bfloat16", **WIDE)
        assert backbone.dtype == torch.bfloat16
        assert backbone.prepare(backbone.to_pixels(image)).dtype == torch.bfloat16
        exact = read(build_tiny(tiny_vit_folder(kind), **WIDE), image)
        rounded = read(backbone, image)
        assert torch.nn.functional.cosine_similarity(rounded, exact, dim=-1).min() > 0.9


def test_pixels_by_the_image_processor(tiny_vits, tiny_vit_folder, tmp_path, build_tiny):
    folder = shutil.copytree(tiny_vit_folder("dinov2"), tmp_path / "vit")
    white = np.full((32, 32, 3), 255, np.uint8)

    def channels() -> list[float]:
        backbone = build_tiny(folder)
        return backbone.prepare(backbone.to_pixels(white))[0, :, 3, 5].tolist()

    expected = [(1 - m) / s for m, s in zip(tiny_vits.MEAN, tiny_vits.STD, strict=True)]
    assert channels() == pytest.approx(expected)
    tiny_vits.save_preprocessor(folder, do_normalize=False)
    assert channels() == pytest.approx([1, 1, 1])
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json, which tells"):
        build_tiny(folder)
    backbone = build_backbone(_cfg(NAME="dinov2-giant", WEIGHTS=str(folder)))
    assert backbone.pixel_mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale_factor": 1 / 127.5}, "scales pixels by .* instead of 1/255"),
        ({"do_rescale": False}, "scales pixels"),
        ({"image_mean": [0.5]}, r"mean of pixels must be three numbers, not \[0\.5\]"),
        ({"image_std": None}, "standard deviation of pixels must be three numbers, not None"),
        ({"image_std": [0.2, 0.0, 0.2]}, "standard deviations are above 0"),
        ({"image_processor": 3}, r"preprocessor_config\.json: image_processor is no conf.* but 3"),
    ],
)
def test_image_processors_that_cannot_be_followed(
    changes, message, tiny_vits, tiny_vit_folder, tmp_path, build_tiny
):
    folder = shutil.copytree(tiny_vit_folder("vit"), tmp_path / "vit")
    tiny_vits.save_preprocessor(folder, **changes)
    for load in (lambda: build_tiny(folder), lambda: check_backbone(_cfg(NAME=str(folder)))):
        with pytest.raises(ValueError, match=message):
            load()


def test_heads_are_left_out(tiny_vit_folder, tmp_path, build_tiny, image):
    """Checkpoints of whole classifiers hold a pooler or a classifier that is not run."""
    folder = shutil.copytree(tiny_vit_folder("vit"), tmp_path / "vit")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head = {"pooler.dense.weight": torch.ones(16, 16), "classifier.weight": torch.ones(5, 16)}
    save_file({**tensors, **head}, path, {"format": "pt"})
    expected = read(build_tiny(tiny_vit_folder("vit")), image)
    assert torch.equal(read(build_tiny(folder), image), expected)
    prefixed = {f"vit.{name}": tensor for name, tensor in tensors.items()}
    save_file({**prefixed, "classifier.weight": torch.ones(5, 16)}, path, {"format": "pt"})
    assert torch.equal(read(build_tiny(folder), image), expected)


# ---- what goes wrong ---------------------------------------------------------------------------


def _cfg(**options):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DEVICE = "cpu"
    for key, value in options.items():
        cfg.MODEL.TRACE.BACKBONE[key] = value
    return cfg


@pytest.fixture
def vit_copy(tiny_vit_folder, tmp_path):
    return shutil.copytree(tiny_vit_folder("vit"), tmp_path / "vit")


def _refused(error, message, **options):
    """Both preflight and building say so."""
    for act in (check_backbone, build_backbone):
        with pytest.raises(error, match=message):
            act(_cfg(**options))


@pytest.mark.parametrize("change", ["lack", "hold", "shape"])
def test_weights_of_another_model(change, vit_copy):
    path = vit_copy / "model.safetensors"
    tensors = load_file(path)
    if change == "lack":
        del tensors["layernorm.weight"]
    elif change == "hold":
        tensors["further.weight"] = torch.ones(2)
    else:
        tensors["layernorm.weight"] = torch.ones(3)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights in .*vit .*(layernorm|further)\.weight"):
        build_backbone(_cfg(NAME=str(vit_copy)))


def test_weights_that_are_not_whole(vit_copy):
    path = vit_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    _refused(ValueError, "is no whole safetensors file", NAME=str(vit_copy))
    path.unlink()
    _refused(FileNotFoundError, "holds no complete weights", NAME=str(vit_copy))


def test_model_types(vit_copy, tiny_folder):
    path = vit_copy / "config.json"
    config = json.loads(path.read_text())
    for content, message in (
        (
            {"model_type": "vitt"},
            r"holds a vitt, .*did you mean vit\?.*model types: .*dinov2",
        ),
        ({"model_type": None}, "names neither a model_type nor an architecture"),
        ({"patch_size": [8, 16]}, "patch_size must be the side of a square"),
        ({"quantization_config": {"load_in_8bit": True}}, "is quantised by bitsandbytes"),
    ):
        path.write_text(json.dumps({**config, **content}))
        with pytest.raises(ValueError, match=message):
            build_backbone(_cfg(NAME=str(vit_copy)))
    path.write_text("[")
    _refused(ValueError, "is no JSON", NAME=str(vit_copy))
    flux = str(tiny_folder("flux"))
    _refused(FileNotFoundError, "no config.json; pass the folder", NAME="dino-vits8", WEIGHTS=flux)
    shutil.copy(Path(flux) / "text_encoder" / "config.json", path)
    _refused(
        ValueError,
        "needs a folder of dinov3_vit; .* holds a clip_",
        NAME="dinov3-7b",
        WEIGHTS=str(vit_copy),
    )


def test_what_a_folder_of_transformers_is_no_backbone_for(vit_copy):
    _refused(FileNotFoundError, "no model_index.json", NAME="sd15", WEIGHTS=str(vit_copy))
    _refused(ValueError, "goes with a hub id", NAME=str(vit_copy), REVISION="v1")


def test_keys_of_diffusion_models(vit_copy, tmp_path):
    _refused(
        ValueError,
        r"BACKBONE\.OFFLOAD group: these keys are of diffusion models",
        NAME=str(vit_copy),
        OFFLOAD="group",
    )
    with pytest.raises(ValueError, match=r"QUANTIZE nf4.*these keys are of diffusion"):
        build_backbone(_cfg(NAME=str(vit_copy), QUANTIZE="nf4"))
    with pytest.raises(ValueError, match=r"vit has no scheduler: .*uniform"):
        build_backbone(_cfg(NAME=str(vit_copy))).scheduled_timesteps(10, (32, 32))


def test_all_that_is_wrong_is_said_at_once(vit_copy):
    (vit_copy / "preprocessor_config.json").unlink()
    (vit_copy / "model.safetensors").unlink()
    with pytest.raises((ValueError, OSError)) as caught:
        check_backbone(_cfg(NAME=str(vit_copy), CPU_OFFLOAD=True))
    for part in ("complete weights", "preprocessor_config.json", "OFFLOAD model"):
        assert part in str(caught.value)


def test_the_hub_offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    _refused(FileNotFoundError, "hf download facebook/dino-vits8", NAME="dino-vits8")


def test_a_hub_model_is_config_processor_and_weights(vit_copy, tmp_path, monkeypatch):
    (vit_copy / "tf_model.h5").write_bytes(b"x")
    (vit_copy / "onnx").mkdir()
    (vit_copy / "onnx" / "model.safetensors").write_bytes(b"x")
    snapshot, fetched, asked = tmp_path / "snapshots" / "abc123", [], []

    def copy(name):
        fetched.append(name)
        snapshot.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(vit_copy / name, snapshot / name))

    def download(repo_id, name, revision=None):
        asked.append((repo_id, revision))
        return str(copy(name))

    def listed(repo_id, revision):
        return [p.relative_to(vit_copy).as_posix() for p in vit_copy.rglob("*") if p.is_file()]

    def snapshot_download(repo_id, revision, allow_patterns):
        assert revision == "abc123"
        for name in allow_patterns:
            copy(name)

    for function, name in (
        (download, "hf_hub_download"),
        (listed, "list_repo_files"),
        (snapshot_download, "snapshot_download"),
    ):
        monkeypatch.setattr(f"huggingface_hub.{name}", function)
    backbone = build_backbone(_cfg(NAME="dino-vitb16", REVISION="v1"))
    assert backbone.commit == "abc123"
    assert asked == [("facebook/dino-vitb16", "v1")]
    assert sorted(set(fetched)) == ["config.json", "model.safetensors", "preprocessor_config.json"]
