"""What the folder of a multimodal model holds, without PyTorch: where its vision tower lies.

The language model is up to a hundred times as large as the tower, and lies in other shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from trace_d2.io.json_files import read_json
from trace_d2.io.weight_files import tensor_shapes

from .model_files import ModelSource

VISION_TOWERS: dict[str, tuple[str, ...]] = {
    "LlavaTowerBackbone": ("vision_tower.", "model.vision_tower."),
    "QwenVisionBackbone": ("visual.", "model.visual."),
}
"""What the names of the tower's tensors begin with, by the families that read nothing else."""

CONVERSATION = "USER: <image>\nDescribe this image ASSISTANT:"
"""What LLaVA-1.5 is told, in the form that it was trained with; the paper's question."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_AGAIN = "copy or download the model again"


def check_tokenizer(folder: Path) -> None:
    """Raise a FileNotFoundError unless ``folder`` holds a tokenizer."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise FileNotFoundError(f"{folder} has no tokenizer ({' or '.join(_TOKENIZERS)}): {_AGAIN}")


def part_files(source: ModelSource, prefixes: Sequence[str]) -> dict[Path, list[str]]:
    """Names of a part's tensors by the files that hold them, downloaded first where they must be.

    Args:
        source: a folder whose weights are safetensors, in one file or with an index of shards.
        prefixes: what the names of the part's tensors begin with.

    Raises:
        FileNotFoundError: there are no such weights, or a shard that holds some is missing.
        ValueError: no tensor belongs to the part, or a file is not whole.
    """
    table = _table(source)
    found: dict[Path, list[str]] = {}
    for name, file in sorted(table.items()):
        if name.startswith(tuple(prefixes)):
            found.setdefault(source.folder / file, []).append(name)
    if not found:
        raise ValueError(
            f"the weights of {source} hold no tensor of {' or '.join(prefixes)}: {_AGAIN}"
        )
    for path, names in found.items():
        if not source.file(path.name).is_file():
            raise FileNotFoundError(f"{source} lacks {path.name}, which holds {names[0]}: {_AGAIN}")
        absent = sorted(set(names).difference(tensor_shapes(path) or ()))
        if absent:
            raise ValueError(f"{path} lacks {absent[0]}, which the index says it holds: {_AGAIN}")
    return found


def without_prefix(names: Iterable[str], prefixes: Sequence[str]) -> dict[str, str]:
    """``names`` by what they are called inside the part."""
    return {
        name.removeprefix(next(p for p in prefixes if name.startswith(p))): name for name in names
    }


def _table(source: ModelSource) -> dict[str, str]:
    """The file of each tensor of a model."""
    dot = f".{source.variant}" if source.variant else ""
    single, index = f"model{dot}.safetensors", f"model.safetensors.index{dot}.json"
    if not (source.folder / single).is_file() and _has(source, index):
        path = source.folder / index
        content = read_json(path, "index of weights", _AGAIN)
        table = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(table, dict) or not all(
            isinstance(file, str) and file == Path(file).name for file in table.values()
        ):
            raise ValueError(f"{path} is no index of weights (weight_map): {_AGAIN}")
        return table
    if not _has(source, single):
        raise FileNotFoundError(
            f"{source} holds neither {index} nor {single}: of a multimodal model the weights must"
            f" be safetensors; {_AGAIN}"
        )
    return dict.fromkeys(tensor_shapes(source.folder / single) or (), single)


def _has(source: ModelSource, name: str) -> bool:
    """Whether there is such a file, which is downloaded first where it must be."""
    try:
        return source.file(name).is_file()
    except FileNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
            return False
        raise
