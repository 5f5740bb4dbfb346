"""Checkpoints that are noticed when they do not fit, and of which nothing is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys
from safetensors.torch import load_file
from torch import Tensor

from trace_d2.config import ConfigError
from trace_d2.data.categories import KEY, check_agreement
from trace_d2.engine.last_checkpoint import UnfitCheckpointError, last_checkpoint
from trace_d2.io.atomic import atomic_file, write_text
from trace_d2.io.categories import Category, category_entries, parse_categories
from trace_d2.io.json_files import shown
from trace_d2.io.safe_pickle import UnfitPickleError, read_pickle

_TORCHVISION_NAMES = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer(\d)\."), lambda match: f"res{int(match[1]) + 1}."),
    (re.compile(r"\.bn(\d)\."), r".conv\1.norm."),
    (re.compile(r"\.downsample\.0\."), ".shortcut."),
    (re.compile(r"\.downsample\.1\."), ".shortcut.norm."),
)
_CATEGORIES = "trace_categories"  # in a checkpoint: as MODEL.TRACE.CATEGORIES
_LEAST_SHARE = 0.5  # of a backbone's tensors that its checkpoint must fill
_SHOWN = 5  # names of tensors in a message


class TraceCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which also reads torchvision's ResNets and refuses misfits.

    Detectron2 only warns where names or shapes disagree, and then goes on with random weights.
    This one raises an UnfitCheckpointError: if a checkpoint to train from leaves more than half of
    the backbone's tensors (or of all tensors, for a model without a ``backbone``) as they were; if
    one to evaluate, or to go on from, leaves a single tensor of the model.

    Files are ``.pth``, ``.pyth``, ``.pkl`` and ``.safetensors``. Nothing that they name is run, and
    they are written whole or not at all.

    Args:
        model, save_dir, options: as Detectron2's.
        whole: the checkpoint is to fill the whole model: for evaluation.
        categories: what the classes of the model are, which checkpoints then tell; one that fills
            the whole model and tells others is refused. Empty: not known.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        whole: bool = False,
        categories: Sequence[Category] = (),
        **options: Any,
    ) -> None:
        super().__init__(model, save_dir, **options)
        self.whole = whole
        self.categories = tuple(categories)
        self._goes_on = False

    def save(self, name: str, **kwargs: Any) -> None:
        """As Detectron2's, but an interruption leaves a former file of the name as it was."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(path, self.model, self.categories, **states, **kwargs)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """The file that ``last_checkpoint`` names, of the same folder."""
        return str(last_checkpoint(self.save_dir))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; what training goes on from must hold all of its state."""
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])  # type: ignore[no-any-return]
        self.whole = self._goes_on = True
        return self.load(self.get_checkpoint_file())  # type: ignore[no-any-return]

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = read_checkpoint(filename)
        absent = self.checkpointables.keys() - loaded.keys()
        if self._goes_on and absent:
            raise UnfitCheckpointError(
                f"{shown(filename)} holds weights alone, no state of {', '.join(sorted(absent))}"
                " to go on from: write the name of another checkpoint into last_checkpoint, or name"
                " this one in MODEL.WEIGHTS and start over with --fresh"
            )
        if {"conv1.weight", "layer1.0.conv1.weight"} <= loaded["model"].keys():
            loaded["model"] = _rename_torchvision_resnet(loaded["model"])
            loaded["matching_heuristics"] = True
        own = _categories_in(loaded, filename)
        if self.whole:
            _check_categories(self.categories, own, filename)
        self._path = filename
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        missing = _filter_reused_missing_keys(self.model, incompatible.missing_keys)
        unfilled = {*missing, *(key for key, *_ in incompatible.incorrect_shapes)}
        _check_fit(self.model, unfilled, self._path, whole=self.whole)
        return incompatible


def write_checkpoint(
    path: Path, model: torch.nn.Module, categories: Sequence[Category], **more: Any
) -> None:
    """Write the weights of ``model`` and what its classes are, whole or not at all."""
    told = {_CATEGORIES: category_entries(tuple(categories))} if categories else {}
    with atomic_file(path) as file:
        torch.save({"model": model.state_dict(), **told, **more}, file)


def agreed_categories(given: Sequence[Category], path: str) -> tuple[Category, ...]:
    """What the classes of the model of a checkpoint are: ``given`` by the config, or told by it.

    Empty where neither tells. The weights are not read, but mapped into memory.

    Raises:
        UnfitCheckpointError: they contradict each other, or it cannot be read.
        OSError: it cannot be read.
    """
    told: tuple[Category, ...] = ()
    if zipfile.is_zipfile(path):  # .pkl and .safetensors have weights alone
        told = _categories_in(read_checkpoint(path, mmap=True), path)
    _check_categories(given, told, path)
    return tuple(given) or told


def _check_categories(given: Sequence[Category], told: Sequence[Category], path: str) -> None:
    """Raise an UnfitCheckpointError if the config gives others than the checkpoint tells."""
    both = {f"the config ({KEY})": given, shown(path): told}
    try:
        check_agreement(both, "take the config that belongs to the weights")
    except ConfigError as error:
        raise UnfitCheckpointError(str(error)) from error


def _categories_in(loaded: dict[str, Any], path: str) -> tuple[Category, ...]:
    """What the content of a checkpoint tells of its classes, which is taken out of it."""
    entries = loaded.pop(_CATEGORIES, None)
    try:
        return parse_categories(entries, shown(path), max_id=None) if entries else ()
    except ValueError as error:
        raise UnfitCheckpointError(f"{error}: copy the checkpoint again") from error


def read_checkpoint(path: str, mmap: bool = False) -> dict[str, Any]:
    """The content of a file of weights: ``"model"`` holds tensors or arrays by name.

    ``mmap`` leaves the tensors of PyTorch's own format in the file until they are used.

    Raises:
        UnfitCheckpointError: it names code to run, is damaged, or holds no weights.
        OSError: it cannot be read.
    """
    kind, where = Path(path).suffix, shown(path)
    try:
        if kind == ".pkl":
            return _with_model(_of_model_zoo(read_pickle(path)), where)
        if kind == ".safetensors":
            return _with_model(load_file(path), where)
        _check_stored(path, where)
        return _with_model(
            torch.load(path, map_location="cpu", weights_only=True, mmap=mmap), where
        )
    except UnfitPickleError as error:
        raise UnfitCheckpointError(str(error)) from error
    except pickle.UnpicklingError as error:
        # PyTorch's own advice is to read it unsafely.
        named = re.search(r"GLOBAL ([\w.]+)|class `?([\w.]+)", str(error))
        cause = f"{named[1] or named[2]} beside weights" if named else "more than weights"
        raise UnfitCheckpointError(
            f"{where} holds {cause}, or is damaged. Such a file can run any code, so it was not"
            " read: save its weights alone, by torch.save({'model': model.state_dict()}, FILE)"
        ) from error
    except (OSError, UnfitCheckpointError):
        raise
    except Exception as error:  # damaged files end in any kind of error
        raise UnfitCheckpointError(
            f"{where} is no whole checkpoint ({shown(str(error))}): copy or download it again"
        ) from error


def _check_stored(path: str, where: str) -> None:
    """Raise if the parts of an archive are compressed, as PyTorch never writes them."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise UnfitCheckpointError(
                f"{where} has compressed parts, which may be of any size: it was not read. Save it "
                "again by torch.save"
            )


def _of_model_zoo(content: Any) -> Any:
    """Of a pickle in the formats of Detectron2's, Detectron's or Caffe2's model zoo."""
    if not isinstance(content, dict) or {"model", "__author__"} <= content.keys():
        return content
    blobs = content.get("blobs", content)
    if isinstance(blobs, dict):
        blobs = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _with_model(loaded: Any, where: str) -> dict[str, Any]:
    if isinstance(loaded, dict) and "model_state" in loaded:  # of pycls
        state = loaded["model_state"]
        loaded = {"model": state, "__author__": "pycls", "matching_heuristics": True}
    elif isinstance(loaded, dict) and "model" not in loaded:
        loaded = {"model": loaded}
    state = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UnfitCheckpointError(f"{where} holds no weights by name: correct MODEL.WEIGHTS")
    return loaded


def _check_fit(model: torch.nn.Module, unfilled: set[str], path: str, *, whole: bool) -> None:
    """Raise if ``unfilled``, missing or of another shape, is too much of what is to be filled."""
    names = [
        name
        for name in model.state_dict()
        if not name.startswith("pixel_") and not name.endswith("num_batches_tracked")
    ]
    backbone = [name for name in names if name.startswith("backbone.")] or names
    rest = [name for name in names if name not in set(backbone)]
    for part, wanted, least in (
        ("backbone", backbone, 1.0 if whole else _LEAST_SHARE),
        ("heads", rest, 1.0 if whole else 0.0),
    ):
        left = [name for name in wanted if name in unfilled]
        if len(left) > (1 - least) * len(wanted):
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            raise UnfitCheckpointError(
                f"{shown(path)} fits {len(wanted) - len(left)} of the {len(wanted)} tensors of the"
                f" {part} (not {', '.join(left[:_SHOWN])}{more}): it belongs to another model, or"
                " to other classes. Correct MODEL.WEIGHTS, or MODEL.BACKBONE and the keys of its"
                " kind (MODEL.RESNETS.DEPTH, ...) or the number of classes"
            )


def _rename_torchvision_resnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet's tensors by Detectron2's names, without the classifier.

    Such weights want RGB input, MODEL.RESNETS.STRIDE_IN_1X1 False, and torchvision's mean and
    standard deviation times 255.
    """
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _TORCHVISION_NAMES:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed
