"""What is known to be wrong with SAM's files before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from trace_d2.config import get_trace_cfg
from trace_d2.masks.sam_files import check_sam, sam_print


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def config_of(*pairs: object):
    cfg = get_trace_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([f"MODEL.TRACE.SAM.{part}" if n % 2 == 0 else part
                         for n, part in enumerate(pairs)])  # fmt: skip
    return cfg


def folder_of(path: Path, model_type: str = "sam", weights: bytes | None = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if weights is not None:
        (path / "model.safetensors").write_bytes(weights)
    return path


def with_config(path: Path, **parts: object) -> Path:
    folder = folder_of(path, weights=EMPTY)
    (folder / "config.json").write_text(json.dumps({"model_type": "sam", **parts}))
    return folder


EMPTY = (8).to_bytes(8, "little") + b"{}      "  # a whole file without tensors


def test_without_sam_nothing_is_looked_at() -> None:
    check_sam(config_of())


def test_a_sound_folder_passes(tmp_path: Path) -> None:
    check_sam(config_of("WEIGHTS", str(folder_of(tmp_path / "sam", weights=EMPTY))))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "none", r"no model folder at .*none"),
        (lambda p: folder_of(p / "sam"), "holds no complete weights"),
        (lambda p: folder_of(p / "sam", weights=b"cut"), "no whole safetensors file"),
        (
            lambda p: folder_of(p / "sam", "sam3", EMPTY),
            r"MODEL.TRACE.SAM.WEIGHTS: .* is of the kind sam3 \(did you mean sam",
        ),
        (
            lambda p: folder_of(p / "vit", "vit", EMPTY),
            "is of the kind vit; it must be one of sam, sam_hq, sam2, sam2_video",
        ),
        (lambda p: (p / "x").mkdir() or p / "x", "has no config.json"),
        (lambda p: p / "sam.pth", r"sam.pth is a single file: name the folder"),
    ],
)
def test_what_is_wrong_with_a_folder(make, said: str, tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(b"x")
    with pytest.raises((ValueError, OSError), match=said):
        check_sam(config_of("WEIGHTS", str(make(tmp_path))))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"vision": {"image_size": 64}, "prompt_encoder": {"image_size": 128}},
            "prompt_encoder_config.image_size must be that of vision_config, 64, not 128",
        ),
        (
            {
                "vision": {"backbone_config": {"image_size": [64, 64]}},
                "prompt_encoder": {"image_size": 32},
            },
            "must be that of vision_config, 64, not 32",
        ),
        ({"vision": {"num_attention_heads": 0}}, "vision_config.num_attention_heads must be"),
    ],
)
def test_sizes_that_no_sam_has(parts: dict, said: str, tmp_path: Path) -> None:
    named = {f"{part}_config": content for part, content in parts.items()}
    folder = with_config(tmp_path / "sam", **named)
    with pytest.raises(ValueError, match=rf"config\.json: .*{said}"):
        check_sam(config_of("WEIGHTS", str(folder)))


def test_a_hub_model_that_is_not_there_offline(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        check_sam(config_of("WEIGHTS", "facebook/sam2.1-hiera-tiny"))
    assert "hf download facebook/sam2.1-hiera-tiny" in str(caught.value)
    assert "MODEL.TRACE.SAM.WEIGHTS" in str(caught.value)
    assert "BACKBONE" not in str(caught.value)


def test_a_revision_of_a_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sam", weights=EMPTY)
    with pytest.raises(ValueError, match=r"MODEL.TRACE.SAM.REVISION 'v1' goes with a hub id"):
        check_sam(config_of("WEIGHTS", str(folder), "REVISION", "v1"))


def test_all_is_said_at_once(tmp_path: Path) -> None:
    cfg = config_of("WEIGHTS", str(tmp_path / "none"))
    cfg.MODEL.DEVICE = "cuda:x"
    with pytest.raises(ValueError, match=r"(?s)several things.*cuda:x.*no model folder"):
        check_sam(cfg)
    with pytest.raises(ValueError, match=r"MODEL.TRACE.SAM.MIN_AGREEMENT must be in 0.5..1"):
        check_sam(config_of("MIN_AGREEMENT", 0.3))


def test_the_print_of_a_folder_is_that_of_its_content(tmp_path: Path) -> None:
    one, same = (folder_of(tmp_path / name, weights=EMPTY) for name in ("one", "same"))
    other = folder_of(tmp_path / "other", "sam2", EMPTY)
    prints = [sam_print(config_of("WEIGHTS", str(path))) for path in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert sam_print(config_of("WEIGHTS", "facebook/sam-vit-base")) == ""


def test_checks_do_without_torch() -> None:
    code = (
        "import sys; import trace_d2.masks.sam_files, trace_d2.jobs.kinds.redrawing_job; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
