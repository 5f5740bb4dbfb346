"""Where a model's files are: a diffusers folder, or a hub model that is brought into the cache.

Only the components that are asked for are downloaded, in one weight format: safetensors before
pickles, full precision before the fp16 variant.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

INDEX = "model_index.json"
_WEIGHT_FILE = re.compile(
    r"^(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<before>\w+))?(?P<shard>-\d+-of-(?P<shards>\d+))?(?:\.(?P<after>\w+))?"
    r"\.(?P<format>safetensors|bin)$"
)
_SMALL_FILES = (".json", ".txt", ".model")
# Bytes at either end of a weight file that stand for all of it in a fingerprint.
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class WeightFiles:
    """One complete set of weights among the files of a component."""

    names: tuple[str, ...]
    variant: str | None
    safetensors: bool


@dataclass(frozen=True)
class ModelSource:
    """A diffusers folder, or the snapshot folder of a hub model (filled as components are used)."""

    folder: Path
    index: dict[str, Any]
    hub_id: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return self.hub_id or str(self.folder)

    @property
    def pipeline_name(self) -> str:
        """The pipeline class that the folder belongs to."""
        return self.index["_class_name"]

    def class_name(self, component: str) -> str | None:
        """The class of a component by ``model_index.json``; None where the model has none."""
        entry = self.index.get(component)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def component(self, name: str) -> Path:
        """The folder of a component, downloaded first where it must be."""
        path = self.folder / name
        if self.hub_id and not _is_complete(path):
            _download_component(self.hub_id, self.revision, name)
        if self.class_name(name) is None or not path.is_dir():
            raise FileNotFoundError(
                f"{self} has no {name}: {INDEX} must name its class and the folder {path} must"
                " hold its files; copy or download the model again"
            )
        return path

    def identity(self, components: Iterable[str]) -> str:
        """A hex digest of which model this is: where it comes from and what it holds.

        A hub model is known by its revision, a folder by the content of ``components``: by size,
        time of change and both ends of each file, so that a fine-tuned copy differs.
        """
        digest = hashlib.sha256()
        if self.hub_id:
            digest.update(f"{self.hub_id}@{self.revision}".encode())
            return digest.hexdigest()
        digest.update(str(self.folder.resolve()).encode())
        digest.update(json.dumps(self.index, sort_keys=True).encode())
        for component in components:
            for path in sorted(p for p in (self.folder / component).rglob("*") if p.is_file()):
                status = path.stat()
                name = path.relative_to(self.folder).as_posix()
                digest.update(f"{name}:{status.st_size}:{status.st_mtime_ns}".encode())
                with path.open("rb") as file:
                    digest.update(file.read(_SAMPLE))
                    file.seek(max(0, status.st_size - _SAMPLE))
                    digest.update(file.read())
        return digest.hexdigest()


def open_model(weights: str, revision: str = "") -> ModelSource:
    """The model in a diffusers folder, or of a hub id ``owner/name``.

    Args:
        weights: the folder or the id.
        revision: of the id, a commit, tag or branch; empty: the newest.
    """
    folder = Path(weights).expanduser()
    if folder.is_file():
        package = "; GGUF needs the package gguf as well" if folder.suffix == ".gguf" else ""
        raise FileNotFoundError(
            f"{folder} is a single file, which is not read here{package}: pass the top folder of a"
            f" diffusers model, the one that holds {INDEX}"
        )
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise FileNotFoundError(
                f"{folder} has no {INDEX}; pass the top folder of a diffusers model, the one that"
                " holds its transformer or unet, vae and scheduler folders"
            )
        if revision:
            raise ValueError(
                f"MODEL.TRACE.BACKBONE.REVISION {revision!r} goes with a hub id, and {folder} is a"
                " folder: leave it empty"
            )
        return ModelSource(folder, _read_index(folder / INDEX))
    if weights.count("/") != 1 or weights.startswith((".", "~", "/")):
        raise FileNotFoundError(f"no model folder at {weights}; pass a diffusers folder or hub id")
    try:
        index = Path(huggingface_hub.hf_hub_download(weights, INDEX, revision=revision or None))
    except (OSError, HTTPError, HFValidationError, EntryNotFoundError) as error:
        raise FileNotFoundError(_hub_remedy(weights, error)) from error
    return ModelSource(index.parent, _read_index(index), weights, index.parent.name)


def choose_weights(names: Iterable[str]) -> WeightFiles | None:
    """The best complete set of weights among file names; None where there is none.

    Full-precision safetensors come first, then their fp16 variant, then pickles likewise. A
    sharded set is complete when every shard is there.
    """
    groups: dict[tuple[str, str | None], dict[str, int]] = {}
    for name in names:
        match = _WEIGHT_FILE.match(Path(name).name)
        if match:
            variant = match["before"] or match["after"]
            shards = int(match["shards"] or 1)
            groups.setdefault((match["format"], variant), {})[name] = shards
    for key in (("safetensors", None), ("safetensors", "fp16"), ("bin", None), ("bin", "fp16")):
        files = groups.get(key, {})
        single = [name for name, shards in files.items() if shards == 1]
        if single or (files and len(files) == max(files.values())):
            chosen = single[:1] or sorted(files)
            return WeightFiles(tuple(chosen), key[1], key[0] == "safetensors")
    return None


def weights_in(folder: Path) -> WeightFiles:
    """The weights of a component's folder."""
    names = [path.name for path in folder.glob("*")]
    found = choose_weights(names)
    if found is None and any(name.endswith(".gguf") for name in names):
        raise FileNotFoundError(
            f"{folder} holds GGUF weights, which are read by the package gguf (`pip install gguf`)"
            " and not here: pass the model as safetensors or bin"
        )
    if found is None:
        raise FileNotFoundError(
            f"{folder} holds no complete weights (safetensors or bin, every shard); copy or"
            " download the model again"
        )
    return found


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot's component is on disk: its configuration, and weights if it has any."""
    names = [path.name for path in folder.glob("*")]
    if "config.json" in names:
        return choose_weights(names) is not None
    return any(name.endswith("_config.json") for name in names)


def _download_component(hub_id: str, revision: str | None, component: str) -> None:
    try:
        listed = huggingface_hub.list_repo_files(hub_id, revision=revision)
        inside = [name for name in listed if name.startswith(f"{component}/")]
        weights = choose_weights(inside)
        wanted = [name for name in inside if name.endswith(_SMALL_FILES)]
        if weights:
            if len(weights.names) == 1:
                # The index of a sharded copy would send the loader to shards that are not fetched.
                wanted = [name for name in wanted if ".index." not in name]
            wanted += weights.names
        huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=wanted)
    except (OSError, HTTPError, EntryNotFoundError) as error:
        raise FileNotFoundError(_hub_remedy(f"{hub_id} ({component})", error)) from error


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}); copy or download the model again"
        ) from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError(
            f"{path} names no pipeline class (_class_name); is this a diffusers model?"
        )
    return index


def _hub_remedy(model: str, error: Exception) -> str:
    """What went wrong with the hub, and what the user can do about it."""
    hub_id = model.split()[0]
    folder = "or download it elsewhere and pass its folder as MODEL.TRACE.BACKBONE.WEIGHTS"
    if isinstance(error, GatedRepoError):
        cause = f"accept its licence at https://huggingface.co/{hub_id}, run `hf auth login`"
        return (
            f"{model} is gated: {cause} (huggingface-cli login in old versions), {folder} ({error})"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no {model}, or it is private: check the id, run `hf auth login`, {folder}"
            f" ({error})"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"the hub has no such revision of {model}: correct MODEL.TRACE.BACKBONE.REVISION"
            f" ({error})"
        )
    no_answer = isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)
    if no_answer or isinstance(error, (LocalEntryNotFoundError, ConnectionError)):
        return (
            f"{model} is not in the local cache and the hub cannot be reached: run"
            f" `hf download {hub_id}` (huggingface-cli download) with network access and"
            f" HF_HUB_OFFLINE unset, {folder} ({error})"
        )
    return f"{model} could not be downloaded: {error}; try again, {folder}"
