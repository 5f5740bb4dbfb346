"""Where a model's files are: a folder, or a hub model that is brought into the cache.

A folder of diffusers has components, each in a folder of its own; one of transformers or timm is
one model.

Only the components that are asked for are downloaded, in one weight format: safetensors before
pickles, the variant that is asked for before full precision, and that before the fp16 variant.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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

from trace_d2.io.hints import nearest_path

INDEX = "model_index.json"
CONFIG = "config.json"
TIMM = "timm"
NULL_PROMPT = "null_prompt.safetensors"
"""The file of a model's folder that spares its text encoders."""
DENOISERS = ("unet", "transformer")
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
    """A model's folder, or the snapshot folder of a hub model (filled as components are used).

    Attributes:
        folder: of the files.
        index: of ``model_index.json``, or the ``config.json`` of a model without components.
        hub_id, revision: of a hub model.
        variant: of the weights that are taken first.
        bare: the denoiser's weights come from elsewhere.
    """

    folder: Path
    index: dict[str, Any]
    hub_id: str | None = None
    revision: str | None = None
    variant: str = ""
    bare: bool = False

    def __str__(self) -> str:
        return self.hub_id or str(self.folder)

    @property
    def pipeline_name(self) -> str:
        """The pipeline class that the folder belongs to."""
        return self.index["_class_name"]

    @property
    def model_type(self) -> str | None:
        """Of a model without components: by transformers' name, or "timm"; else None."""
        return _model_type(self.index)

    @property
    def kind(self) -> str:
        """The pipeline class or model type, for messages."""
        return self.model_type or self.pipeline_name

    def class_name(self, component: str) -> str | None:
        """The class of a component by ``model_index.json``; None where the model has none."""
        entry = self.index.get(component)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def component(self, name: str) -> Path:
        """The folder of a component, downloaded first where it must be."""
        path = self._fetched(name)
        if self.class_name(name) is None or not path.is_dir():
            raise FileNotFoundError(
                f"{self} has no {name}: {INDEX} must name its class and the folder {path} must"
                " hold its files; copy or download the model again"
            )
        return path

    def whole(self) -> Path:
        """The folder of a model without components, downloaded first where it must be."""
        return self._fetched("")

    def file(self, name: str) -> Path:
        """The path of one file of the folder, downloaded first where it must be."""
        path = self.folder / name
        if self.hub_id and not path.is_file():
            try:
                huggingface_hub.hf_hub_download(self.hub_id, name, revision=self.revision)
            except (OSError, HTTPError, EntryNotFoundError) as error:
                raise FileNotFoundError(_hub_remedy(f"{self.hub_id} ({name})", error)) from error
        return path

    def _fetched(self, name: str) -> Path:
        path = self.folder / name
        weights = not (self.bare and name in DENOISERS)
        if self.hub_id and not is_complete(path, self.variant, weights):
            try:
                _download_component(self.hub_id, self.revision, name, self.variant, weights)
            except FileNotFoundError:
                # Few parts have the variant, and the hub alone could tell whether this one does.
                if not (self.variant and is_complete(path, "", weights)):
                    raise
        return path

    def identity(self, components: Iterable[str]) -> str:
        """A hex digest of which model this is: where it comes from and what it holds.

        A hub model is known by its revision, a folder by the content of ``components``: by size,
        time of change and both ends of each file, so that a fine-tuned copy differs.
        """
        digest = hashlib.sha256()
        if self.hub_id:
            variant = f"#{self.variant}" if self.variant else ""
            digest.update(f"{self.hub_id}@{self.revision}{variant}".encode())
            return digest.hexdigest()
        digest.update(str(self.folder.resolve()).encode())
        digest.update(self.variant.encode())
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


def is_path(weights: str) -> bool:
    """Whether ``weights`` is meant as a path, rather than as a hub id."""
    exists = Path(weights).expanduser().exists()
    return exists or weights.count("/") != 1 or weights.startswith((".", "~", "/"))


def open_model(
    weights: str, revision: str = "", variant: str = "", bare: bool = False, index: str = ""
) -> ModelSource:
    """The model in a folder, or of a hub id ``owner/name``.

    Args:
        weights: the folder or the id.
        revision: of the id, a commit, tag or branch; empty: the newest.
        variant: of the weights, where there are several.
        bare: without the denoiser's weights.
        index: ``INDEX`` or ``CONFIG``, which tells what the model is; empty: of a folder the one
            that it holds.
    """
    folder = Path(weights).expanduser()
    if folder.is_file():
        raise FileNotFoundError(
            f"{folder} is a single file, which holds no scheduler and no empty prompt: set"
            " MODEL.TRACE.BACKBONE.DENOISER to it, and NAME (or WEIGHTS, of a registered name) to a"
            f" diffusers folder of the same model, the one that holds {INDEX}"
        )
    if folder.is_dir():
        file = folder / (index or index_in(folder))
        if not file.is_file():
            other = "" if index or (folder / CONFIG).is_file() else f", and no {CONFIG}"
            either = other and f"; or the folder of a model of transformers or timm, with {CONFIG}"
            raise FileNotFoundError(
                f"{folder} has no {file.name}{other}; pass the top folder of a diffusers model, the"
                f" one that holds its transformer or unet, vae and scheduler folders{either}"
                if file.name == INDEX
                else f"{folder} has no {file.name}; pass the folder of a model of transformers or"
                " timm, the one that holds its weights"
            )
        if revision:
            raise ValueError(
                f"MODEL.TRACE.BACKBONE.REVISION {revision!r} goes with a hub id, and {folder} is a"
                " folder: leave it empty"
            )
        return ModelSource(folder, _read_index(file), variant=variant, bare=bare)
    if is_path(weights):
        raise FileNotFoundError(
            f"no model folder at {weights}{nearest_path(weights)}; pass a model's folder or hub id"
        )
    name = index or INDEX
    try:
        file = Path(huggingface_hub.hf_hub_download(weights, name, revision=revision or None))
    except (OSError, HTTPError, HFValidationError, EntryNotFoundError) as error:
        raise FileNotFoundError(_hub_remedy(weights, error)) from error
    found = _read_index(file)
    return ModelSource(file.parent, found, weights, file.parent.name, variant, bare)


def cached_model(
    hub_id: str, revision: str = "", variant: str = "", bare: bool = False, index: str = ""
) -> ModelSource:
    """As ``open_model``, of a hub model as far as it is in the local cache; nobody is asked."""
    name = index or INDEX
    file = huggingface_hub.try_to_load_from_cache(hub_id, name, revision=revision or None)
    if not isinstance(file, str):
        raise FileNotFoundError(
            f"{hub_id} is not in the local cache, and HF_HUB_OFFLINE is set: run"
            f" `hf download {hub_id}` with network access and HF_HUB_OFFLINE unset, or download it"
            " elsewhere and pass its folder as MODEL.TRACE.BACKBONE.WEIGHTS"
        )
    path = Path(file)
    found = _read_index(path)
    return ModelSource(path.parent, found, hub_id, path.parent.name, variant, bare)


def choose_weights(names: Iterable[str], variant: str = "") -> WeightFiles | None:
    """The best complete set of weights among file names; None where there is none.

    The ``variant`` comes first, if it is not empty; then full precision as safetensors, then its
    fp16 variant, then pickles likewise. A sharded set is complete when every shard is there.
    """
    groups = _groups(names)
    for wanted in (*((variant,) if variant else ()), None):
        for key in _order(wanted):
            files = groups.get(key, {})
            single = [name for name, shards in files.items() if shards == 1]
            if single or (files and len(files) == max(files.values())):
                chosen = single[:1] or sorted(files)
                return WeightFiles(tuple(chosen), key[1], key[0] == "safetensors")
    return None


def weight_files(folder: Path) -> list[str]:
    """Names of the files of weights in a folder, whole or not."""
    return [path.name for path in folder.glob("*") if _WEIGHT_FILE.match(path.name)]


def _order(variant: str | None) -> list[tuple[str, str | None]]:
    variants = (variant,) if variant else (None, "fp16")
    return [(kind, name) for kind in ("safetensors", "bin") for name in variants]


def _groups(names: Iterable[str]) -> dict[tuple[str, str | None], dict[str, int]]:
    """Shards of each set of weights by the names of its files; sets go by format and variant."""
    groups: dict[tuple[str, str | None], dict[str, int]] = {}
    for name in names:
        match = _WEIGHT_FILE.match(Path(name).name)
        if match:
            key = match["format"], match["before"] or match["after"]
            groups.setdefault(key, {})[name] = int(match["shards"] or 1)
    return groups


def weights_in(folder: Path, variant: str = "", must: bool = False) -> WeightFiles:
    """The weights of a component's folder, in the ``variant`` if they are there so, or ``must``."""
    names = [path.name for path in folder.glob("*")]
    found = choose_weights(names, variant)
    others = sorted({other for _, other in _groups(names) if other})
    hint = f"; those there are variants: {', '.join(others)}" if others else ""
    if found is None:
        hint += ", which MODEL.TRACE.BACKBONE.VARIANT chooses from" if others else ""
        raise FileNotFoundError(
            f"{folder} holds no complete weights (safetensors or bin, every shard){hint}; copy or"
            " download the model again"
        )
    if must and variant and found.variant != variant:
        raise FileNotFoundError(
            f"{folder} holds no weights of the variant {variant}{hint}; correct"
            " MODEL.TRACE.BACKBONE.VARIANT, or leave it empty"
        )
    return found


def null_prompt_cache() -> Path:
    """Where null prompts are kept: in ``$TRACE_D2_CACHE``, else ``~/.cache/trace_d2``."""
    folder = Path(os.environ.get("TRACE_D2_CACHE") or Path("~/.cache/trace_d2").expanduser())
    return folder / "null_prompts"


def prompt_cache() -> Path:
    """Where other prompts are kept, beside ``null_prompt_cache``."""
    return null_prompt_cache().with_name("prompts")


def is_complete(folder: Path, variant: str, weights: bool) -> bool:
    """Whether a snapshot's component is on disk: its configuration, and weights if it has any."""
    names = [path.name for path in folder.glob("*")]
    if "config.json" in names:
        found = choose_weights(names, variant)
        return not weights or (found is not None and (not variant or found.variant == variant))
    return any(name.endswith("_config.json") for name in names)


def _download_component(
    hub_id: str, revision: str | None, component: str, variant: str, with_weights: bool
) -> None:
    try:
        listed = huggingface_hub.list_repo_files(hub_id, revision=revision)
        inside = [name for name in listed if name.rpartition("/")[0] == component]
        weights = choose_weights(inside, variant) if with_weights else None
        wanted = [name for name in inside if name.endswith(_SMALL_FILES)]
        if weights:
            if len(weights.names) == 1:
                # The index of a sharded copy would send the loader to shards that are not fetched.
                wanted = [name for name in wanted if ".index." not in name]
            wanted += weights.names
        huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=wanted)
    except (OSError, HTTPError, EntryNotFoundError) as error:
        what = f"{hub_id} ({component})" if component else hub_id
        raise FileNotFoundError(_hub_remedy(what, error)) from error


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}); copy or download the model again"
        ) from error
    if path.name == INDEX and not (
        isinstance(index, dict) and isinstance(index.get("_class_name"), str)
    ):
        raise ValueError(
            f"{path} names no pipeline class (_class_name); is this a diffusers model?"
        )
    if path.name == CONFIG and _model_type(index) is None:
        raise ValueError(
            f"{path} names neither a model_type nor an architecture: is this a model of"
            " transformers or timm?"
        )
    return index


def index_in(folder: Path) -> str:
    """Which file tells what the model in ``folder`` is."""
    if (folder / INDEX).is_file() or not (folder / CONFIG).is_file():
        return INDEX
    with contextlib.suppress(ValueError):
        if "_class_name" in json.loads((folder / CONFIG).read_text(encoding="utf-8")):
            return INDEX  # it is a part of a diffusers model
    return CONFIG


def _model_type(config: Any) -> str | None:
    if not isinstance(config, dict):
        return None
    found = config.get("model_type", TIMM if "architecture" in config else None)
    return found if isinstance(found, str) else None


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
