"""What the folder of a vision transformer says of it, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trace_d2.io.json_files import quoted, read_json
from trace_d2.io.weight_files import tensor_shapes

from .model_files import CONFIG, weights_in
from .packages import need, stored_method

_AGAIN = "copy or download the model again"
PREPROCESSOR = "preprocessor_config.json"


class PixelStatistics(NamedTuple):
    """What a network was trained to see: pixels (0..1) minus ``mean``, over ``std``, by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = PixelStatistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def check_whole(folder: Path, variant: str = "") -> None:
    """Raise unless ``folder`` holds a configuration, and whole weights in full precision."""
    check_precision(folder)
    for name in weights_in(folder, variant, must=True).names:
        tensor_shapes(folder / name)


def check_precision(folder: Path) -> None:
    """Raise unless ``folder`` holds a configuration, of weights in full precision."""
    read_json(folder / CONFIG, "configuration", _AGAIN)
    if method := stored_method(folder):
        raise ValueError(
            f"{folder} is quantised by {method}, and only diffusion models are read so: pass the"
            " model in full precision"
        )


def pixel_statistics(folder: Path, known: PixelStatistics | None = None) -> PixelStatistics:
    """How the model in ``folder`` wants its pixels, by its ``preprocessor_config.json``.

    Args:
        folder: of transformers.
        known: those of the model, where there is no such file; None: they are not known.

    Raises:
        FileNotFoundError: there is no such file, and they are not known.
        ValueError: the file says something else.
    """
    path = folder / PREPROCESSOR
    if not path.is_file():
        if known is None:
            raise FileNotFoundError(
                f"{folder} has no {PREPROCESSOR}, which tells how the pixels are normalised: copy"
                " it from where the model came from, or set MODEL.TRACE.BACKBONE.NAME to the"
                " registered name of the model and WEIGHTS to the folder"
            )
        return known
    found = read_json(path, "configuration of an image processor", _AGAIN)
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} is no configuration of an image processor: {_AGAIN}")
    # Multimodal models nest it by now.
    found = found.get("image_processor", found)
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{path}: image_processor is no configuration of an image processor, but"
            f" {quoted(found)}: {_AGAIN}"
        )
    factor = found.get("rescale_factor", 1 / 255)
    plain = isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-3)
    if not plain or found.get("do_rescale") is False:
        raise ValueError(
            f"{path} scales pixels by {quoted(factor)} instead of 1/255, which cannot be followed"
            " here"
        )
    if found.get("do_normalize") is False:
        return PixelStatistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return statistics_from(found.get("image_mean"), found.get("image_std"), path)


def check_timm(folder: Path) -> PixelStatistics:
    """How the model of timm in ``folder`` wants its pixels; a ValueError if it is none."""
    need_timm(str(folder))
    path = folder / CONFIG
    config = read_json(path, "configuration", _AGAIN)
    if not isinstance(config, Mapping) or not isinstance(config.get("architecture"), str):
        raise ValueError(f"{path} names no architecture of timm: {_AGAIN}")
    known = config.get("pretrained_cfg", config)
    if not isinstance(known, Mapping):
        raise ValueError(f"{path}: pretrained_cfg is no configuration: {_AGAIN}")
    return statistics_from(known.get("mean"), known.get("std"), path)


def need_timm(what: str) -> None:
    """Raise a ValueError unless timm is installed, which ``what`` needs."""
    need(
        "timm",
        f"{what}, a model of timm,",
        "take a model of transformers (dino-vitb8, dinov2-giant, ...)",
    )


def statistics_from(mean: Any, std: Any, path: Path) -> PixelStatistics:
    """``mean`` and ``std`` that ``path`` names; a ValueError unless they are three numbers each."""
    for name, values in (("mean", mean), ("standard deviation", std)):
        good = isinstance(values, (list, tuple)) and len(values) == 3
        if not good or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
            raise ValueError(
                f"{path}: the {name} of pixels must be three numbers, not {quoted(values)}:"
                f" {_AGAIN}"
            )
    if min(std) <= 0:
        raise ValueError(f"{path}: standard deviations are above 0, not {quoted(std)}: {_AGAIN}")
    return PixelStatistics(tuple(mean), tuple(std))


def square_side(config: Mapping[str, Any], key: str, path: Path) -> int:
    """A side in pixels that ``config`` gives as a number or as (height, width), which are equal."""
    value = config.get(key)
    sides: list[Any] = value if isinstance(value, list) and value else [value]
    if any(type(side) is not int or side < 1 or side != sides[0] for side in sides):
        raise ValueError(
            f"{path}: {key} must be the side of a square in pixels, not {quoted(value)}"
        )
    return int(sides[0])
