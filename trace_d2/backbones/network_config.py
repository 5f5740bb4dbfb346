"""What the ``config.json`` of a network without diffusion says of its sizes, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trace_d2.io.json_files import quoted

from .model_files import CONFIG, ModelSource
from .settings import BackboneSettings

BLOCKS = "MODEL.TRACE.ATTENTION.BLOCKS"

_COUNTS = ("hidden_size", "embed_dim", "intermediate_size", "num_hidden_layers", "depth")
_HEADS = ("num_attention_heads", "num_heads")
_CHANNELS = ("num_channels", "in_channels", "in_chans")
# Where the networks that a family loads are described; "" is the whole file.
_NODES = {
    "TransformersBackbone": ("",),
    "TimmBackbone": ("model_args",),
    "LlavaBackbone": ("vision_config", "text_config"),
    "LlavaTowerBackbone": ("vision_config",),
    "QwenVisionBackbone": ("vision_config",),
}


def check_network(
    source: ModelSource, family: str, settings: BackboneSettings, blocks: Iterable[Any] = ()
) -> None:
    """Raise a ValueError for sizes that no network has, and for keys that do not go with them.

    What the file leaves out is not known here, and found when the network is built.

    Args:
        source: whose ``config.json`` it is.
        family: the name of one of our own families without diffusion.
        settings: RESOLUTION is checked.
        blocks: of the self-attention, that are to be read.
    """
    path = source.folder / CONFIG
    for name in _NODES[family]:
        check_sizes(_node(source.index, name), path, name)
    tower = _node(source.index, _NODES[family][0])
    count: Any = _node(source.index, _NODES[family][-1]).get("num_hidden_layers")
    if family == "QwenVisionBackbone":
        count = _full_blocks(tower, path)
    elif family == "TimmBackbone":
        count = tower.get("depth")
    absent = [block for block in blocks if type(block) is int and count and block >= count]
    if absent:
        raise no_such_blocks(BLOCKS, absent, settings.name, count)
    patch = tower.get("patch_size")
    if settings.resolution and type(patch) is int and patch > 0:
        if family == "QwenVisionBackbone":
            _check_windows(settings, tower, patch)
        else:
            check_resolution(settings.resolution, patch, settings.name)


def check_sizes(node: Mapping[str, Any], path: Path, name: str = "") -> None:
    """Raise a ValueError unless heads, widths and layers that ``node`` of ``path`` has can be."""
    dot = f"{name}." if name else ""
    for key in (*_COUNTS, *_HEADS):
        value = node.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise _wrong(path, f"{dot}{key} must be a whole number of at least 1", value)
    for key in _CHANNELS:
        if node.get(key, 3) != 3:
            raise _wrong(path, f"{dot}{key} must be 3, as images are RGB", node[key])
    registers = node.get("num_register_tokens", 0)
    if type(registers) is not int or registers < 0:
        raise _wrong(path, f"{dot}num_register_tokens must be a whole number from 0", registers)
    width = next((key for key in ("hidden_size", "embed_dim") if node.get(key)), None)
    heads = next((key for key in _HEADS if node.get(key)), None)
    if width and heads and node.get("head_dim") is None and node[width] % node[heads]:
        raise _wrong(path, f"{dot}{heads} must divide {width} {node[width]}", node[heads])


def check_resolution(resolution: int, patch: int, name: str) -> None:
    """Raise a ValueError unless a square of so many pixels a side has 2 x 2 patches or more."""
    if math.floor(resolution / patch + 0.5) < 2:  # as sides are rounded
        raise ValueError(
            f"MODEL.TRACE.BACKBONE.RESOLUTION {resolution} leaves a single token of an image:"
            f" patches of {name} are {patch} pixels wide; raise it to {2 * patch} or more"
        )


def no_such_blocks(key: str, absent: Iterable[int], name: str, count: int) -> ValueError:
    """What to raise where ``key`` names blocks that the model ``name`` does not have."""
    return ValueError(
        f"{key} names blocks that do not exist: {sorted(set(absent))}. {name} has {count} "
        f"self-attention blocks, 0 to {count - 1}"
    )


def one_window(size: tuple[int, int], name: str, window: int) -> ValueError:
    """What to raise for images of ``size`` (h, w) within one window, ``window`` pixels wide."""
    return ValueError(
        f"images of {size[0]} x {size[1]} pixels are one window of {name}, so that blocks of"
        " windows and of full attention cannot be told apart: raise"
        f" MODEL.TRACE.BACKBONE.RESOLUTION above {window}"
    )


def _full_blocks(tower: Mapping[str, Any], path: Path) -> int | None:
    """How many blocks of Qwen2.5-VL's tower have full attention."""
    key = "fullatt_block_indexes"
    if key not in tower:
        return None
    found, depth = tower[key], tower.get("depth")
    most = math.inf if depth is None else depth - 1
    good = isinstance(found, list) and all(type(b) is int and 0 <= b <= most for b in found)
    if not good or not found:
        below = "" if depth is None else f" below its depth of {depth}"
        what = f"vision_config.{key} must list blocks{below}, one at least"
        raise _wrong(path, what, found)
    return len(set(found))


def _check_windows(settings: BackboneSettings, tower: Mapping[str, Any], patch: int) -> None:
    merge, width = tower.get("spatial_merge_size", 2), tower.get("window_size", 112)
    if type(merge) is int and type(width) is int and merge > 0:
        multiple = patch * merge
        side = max(1, math.floor(settings.resolution / multiple + 0.5)) * multiple
        window = width // multiple * multiple
        if side <= window:
            raise one_window((side, side), settings.name, window)


def _node(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    node = config.get(name, {}) if name else config
    return node if isinstance(node, Mapping) else {}


def _wrong(path: Path, what: str, value: Any) -> ValueError:
    return ValueError(f"{path}: {what}, not {quoted(value)}: copy or download the model again")
