"""Models of the hub: what is downloaded, and what goes wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trace_d2.backbones import build_backbone
from trace_d2.config import get_trace_cfg


def _build(**options):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DEVICE = options.pop("DEVICE", "cpu")
    for key, value in options.items():
        cfg.MODEL.TRACE.BACKBONE[key] = value
    return build_backbone(cfg)


class FakeHub:
    """A hub whose one model is a local folder; downloads land in a snapshot folder."""

    def __init__(self, repository: Path, snapshot: Path):
        self.repository, self.snapshot = repository, snapshot
        self.downloaded, self.asked = [], []

    def hf_hub_download(self, repo_id, name, revision=None):
        self.asked.append(revision)
        return str(self._copy(name))

    def list_repo_files(self, repo_id, revision):
        assert revision == "abc123"
        files = (path for path in self.repository.rglob("*") if path.is_file())
        return [path.relative_to(self.repository).as_posix() for path in files]

    def snapshot_download(self, repo_id, revision, allow_patterns):
        for name in allow_patterns:
            self._copy(name)

    def _copy(self, name):
        self.downloaded.append(name)
        (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.repository / name, self.snapshot / name))


@pytest.fixture
def hub(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "repository"
    tiny_pipeline("flux")[0].save_pretrained(repository)
    tiny_pipeline("flux")[0].save_pretrained(repository, variant="fp16")
    (repository / "text_encoder" / "flax_model.msgpack").write_bytes(b"x")
    hub = FakeHub(repository, tmp_path / "snapshots" / "abc123")
    for name in ("hf_hub_download", "list_repo_files", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", getattr(hub, name))
    return hub


def test_a_hub_model_downloads_only_what_it_needs(hub):
    zeros = {"NAME": "flux1-dev", "WEIGHTS": "someone/flux", "NULL_PROMPT": "zeros"}
    _build(**zeros)
    assert sorted(hub.downloaded) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    hub.downloaded.clear()
    _build(**zeros)
    assert hub.downloaded == ["model_index.json"]


def test_a_denoiser_of_ones_own_leaves_the_hubs_where_it_is(hub, tiny_folder):
    file = str(tiny_folder("flux") / "transformer/diffusion_pytorch_model.safetensors")
    _build(NAME="flux1-dev", WEIGHTS="someone/flux", DENOISER=file)
    fetched = [name for name in hub.downloaded if name.startswith("transformer/")]
    assert fetched == ["transformer/config.json"]


def test_a_variant_is_what_is_downloaded(hub, monkeypatch):
    for path in [*hub.repository.glob("vae/*.fp16.*"), *hub.repository.glob("tr*/*l.safetensors")]:
        path.unlink()
    options = {"NAME": "flux1-dev", "WEIGHTS": "someone/flux", "NULL_PROMPT": "zeros"}
    _build(**options, VARIANT="fp16")
    weights = [name for name in hub.downloaded if name.endswith(".safetensors")]
    assert sorted(set(weights)) == [
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",  # the only one there is
    ]

    def offline(*_, **__):
        raise HTTPError("no route to host")

    monkeypatch.setattr("huggingface_hub.list_repo_files", offline)
    _build(**options, VARIANT="fp16")
    with pytest.raises(FileNotFoundError, match=r"no weights of the variant bf16.* variants: fp16"):
        _build(**options, VARIANT="bf16")


def test_a_hub_model_encodes_its_null_prompt_once(hub, build_tiny):
    options = {"NAME": "flux1-dev", "WEIGHTS": "someone/flux"}
    first = _build(**options).null_prompt_tensor("prompt_embeds", 1)
    assert torch.equal(first, build_tiny("flux").null_prompt_tensor("prompt_embeds", 1))
    assert not any("fp16" in name or "msgpack" in name for name in hub.downloaded)
    # The cache knows the model by its revision, so the text encoders may be deleted.
    for folder in hub.snapshot.glob("text_encoder*"):
        shutil.rmtree(folder)
    assert torch.equal(_build(**options).null_prompt_tensor("prompt_embeds", 1), first)


def _response_error(error_class):
    return error_class("403 Client Error", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_response_error(GatedRepoError), r"large is gated: accept its licence.*hf auth login"),
        (_response_error(RepositoryNotFoundError), r"the hub has no .*check the id.*hf auth login"),
        (LocalEntryNotFoundError("not cached"), r"cannot be reached.*hf download stabilityai/"),
        (HTTPError("no route to host"), r"cannot be reached.*hf download stabilityai/"),
        (OfflineModeIsEnabled("offline"), r"cannot be reached.*HF_HUB_OFFLINE unset"),
        (OSError("No space left on device"), r"No space left on device; try again"),
    ],
)
def test_hub_errors_name_the_remedy(error, message, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(FileNotFoundError, match=message) as caught:
        _build(NAME="sd35-large")
    assert "pass its folder as MODEL.TRACE.BACKBONE.WEIGHTS" in str(caught.value)
    assert caught.value.__cause__ is error


def test_an_offline_machine_without_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"hf download black-forest-labs/FLUX.1-dev"):
        _build(NAME="flux1-dev")


def test_a_revision_is_asked_for_and_the_commit_is_told(hub):
    options = {"NAME": "flux1-dev", "WEIGHTS": "someone/flux", "NULL_PROMPT": "zeros"}
    assert _build(**options).commit == "abc123"
    assert _build(**options, REVISION="v1").commit == "abc123"
    assert set(hub.asked) == {None, "v1"}


def test_a_revision_goes_with_a_hub_id(tiny_folder):
    with pytest.raises(ValueError, match=r"BACKBONE\.REVISION 'v1' goes with a hub id, and .*flux"):
        _build(NAME=str(tiny_folder("flux")), REVISION="v1")
    assert _build(NAME=str(tiny_folder("flux"))).commit is None


def test_an_unknown_revision_is_named(monkeypatch):
    def fail(*_, **__):
        raise _response_error(RevisionNotFoundError)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(
        FileNotFoundError, match=r"no such revision .*correct MODEL\.TRACE\.BACKBONE"
    ):
        _build(NAME="sd35-large", REVISION="v9")
