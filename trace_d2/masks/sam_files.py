"""What is known of SAM's files before PyTorch is imported or the hub is asked."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from fvcore.common.config import CfgNode
from huggingface_hub import constants

from trace_d2.backbones.model_files import (
    CONFIG,
    ModelSource,
    cached_model,
    is_complete,
    is_path,
    open_model,
    weights_in,
)
from trace_d2.backbones.network_config import check_sizes
from trace_d2.backbones.versions import check_versions
from trace_d2.backbones.vision_model_files import (
    IMAGENET,
    PixelStatistics,
    check_whole,
    pixel_statistics,
)
from trace_d2.complaints import Complaints
from trace_d2.devices import backbone_device, check_device
from trace_d2.io.hints import did_you_mean

from .settings import SamSettings

MODEL_TYPES = ("sam", "sam_hq", "sam2", "sam2_video")
"""Of folders of transformers that can be asked; hub models of SAM 2 are stored as for videos."""

_PARTS = ("vision", "prompt_encoder", "mask_decoder")  # as config.json describes them
_SAMPLE = 1 << 20  # bytes at either end of a file that stand for all of it


def check_sam(cfg: CfgNode) -> None:
    """Raise what ``build_sam`` would, as far as it can be known; all of it at once.

    Nothing is loaded or downloaded, and nothing is checked where no SAM is asked.
    """
    wrong = Complaints()
    settings = wrong.of(SamSettings.from_config, cfg)
    if settings is not None and settings.weights:
        wrong.of(check_versions)
        name, key = backbone_device(cfg)
        if name != "auto":
            wrong.of(check_device, name, key)
        wrong.of(_check_files, settings)
    wrong.end()


def _check_files(settings: SamSettings) -> None:
    with own_keys():
        if not is_path(settings.weights) and not constants.HF_HUB_OFFLINE:
            return
        source = open_sam(settings)
        if source.hub_id and not is_complete(source.folder, "", True):
            raise FileNotFoundError(
                f"{source} is not in the local cache, and HF_HUB_OFFLINE is set: run `hf download "
                f"{source}` with network access and HF_HUB_OFFLINE unset"
            )
        wrong = Complaints()
        wrong.of(check_sam_sizes, source)
        wrong.of(check_whole, source.folder)
        wrong.of(sam_statistics, source.folder)
        wrong.end()


def open_sam(settings: SamSettings) -> ModelSource:
    """The folder or hub model that ``WEIGHTS`` names.

    Raises:
        FileNotFoundError: there is none, or it cannot be had.
        ValueError: it is no SAM.
    """
    weights, revision = settings.weights, settings.revision
    if Path(weights).expanduser().is_file():
        raise ValueError(
            f"MODEL.TRACE.SAM.WEIGHTS {weights} is a single file: name the folder of a model of "
            "transformers, with its config.json, or a hub id, as facebook/sam2.1-hiera-tiny"
        )
    offline = constants.HF_HUB_OFFLINE and not is_path(weights)
    source = (cached_model if offline else open_model)(weights, revision, index=CONFIG)
    if source.model_type not in MODEL_TYPES:
        raise ValueError(
            f"MODEL.TRACE.SAM.WEIGHTS: {source} is of the kind {source.kind}"
            f"{did_you_mean(source.kind, MODEL_TYPES)}; it must be one of "
            f"{', '.join(MODEL_TYPES)}, as facebook/sam2.1-hiera-tiny is"
        )
    return source


def check_sam_sizes(source: ModelSource) -> None:
    """Raise a ValueError for sizes in ``config.json`` that no network has."""
    path = source.folder / CONFIG
    parts = {name: source.index.get(f"{name}_config") for name in _PARTS}
    nodes = {name: node if isinstance(node, Mapping) else {} for name, node in parts.items()}
    for name, node in nodes.items():
        check_sizes(node, path, f"{name}_config")
    vision = nodes["vision"].get("backbone_config", nodes["vision"])
    sides = [
        side[0] if isinstance(side, list) and side else side
        for side in (node.get("image_size") for node in (vision, nodes["prompt_encoder"]) if node)
    ]
    if len({side for side in sides if side is not None}) > 1:
        raise ValueError(
            f"{path}: prompt_encoder_config.image_size must be that of vision_config, {sides[0]},"
            f" not {sides[1]}: copy or download the model again"
        )


def sam_statistics(folder: Path) -> PixelStatistics:
    """How the model in ``folder`` wants its pixels: as it says, else as all SAMs do."""
    return pixel_statistics(folder, IMAGENET)


def sam_print(cfg: CfgNode) -> str:
    """A short text that is equal for equal files of a folder; empty for a hub id."""
    weights = cfg.MODEL.TRACE.SAM.WEIGHTS
    if not is_path(weights):
        return ""
    folder = Path(weights).expanduser()
    digest = hashlib.sha256()
    for name in (CONFIG, *weights_in(folder).names):
        path = folder / name
        size = path.stat().st_size
        digest.update(f"{name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def own_keys() -> Iterator[None]:
    """Errors of opening a backbone name SAM's keys instead, which mean the same."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        kinds = (FileNotFoundError, OSError, ImportError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(str(error).replace("MODEL.TRACE.BACKBONE.", "MODEL.TRACE.SAM.")) from error
