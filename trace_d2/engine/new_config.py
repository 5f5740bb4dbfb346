"""A training config for labels of one's own: from what the labels are, and the machine.

Recipes are those of ``configs/``; what is derived here is what depends on the data (classes, sizes,
queries, iterations) and on the machine (batch, learning rate, a small model on a CPU).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from trace_d2.io.categories import describe_categories
from trace_d2.io.json_files import shown
from trace_d2.io.listing import some

from .config_labels import Labels

MASK2FORMER, MASK_RCNN = "mask2former", "mask_rcnn"

_IMAGENET = (
    "MODEL.PIXEL_MEAN",
    [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD",
    [58.395, 57.12, 57.375],
)
_EPOCHS = 50  # of Mask2Former's recipe for COCO
_LONGEST = {MASK2FORMER: 368750, MASK_RCNN: 160000}  # iterations of the recipes
_RECIPE_BATCH = 16
_GIB_OF_IMAGE = {MASK2FORMER: 8.0, MASK_RCNN: 4.0}  # of GPU memory, at 1024 x 1024
_CPU_SIDE, _GPU_SIDE = 192, 1024
_WIDTH = 100  # of a line
_CPU_BATCH, _CPU_ITERATIONS = 4, (600, 3000)


@dataclass(frozen=True)
class Machine:
    """What a training will run on.

    Attributes:
        gpus: 0: a CPU.
        memory: GiB of a GPU's memory.
    """

    gpus: int
    memory: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A line of the config: a dotted key, its value, and what there is to say of it."""

    key: str
    value: Any
    remark: str = ""


def config_entries(
    labels: Labels,
    model: str,
    machine: Machine,
    weights: tuple[str, str],
    name: str,
    configs: Path,
    truth: Labels | None = None,
) -> Iterator[Entry]:
    """The lines of a config.

    Args:
        labels: to train on.
        model: ``MASK2FORMER`` or ``MASK_RCNN``.
        weights: to start from (empty: random), and a remark on them.
        name: of the training: its data sets and its output are called after it.
        configs: the folder of the recipes.
        truth: to evaluate on.
    """
    small = machine.gpus == 0
    base = {
        (MASK2FORMER, True): "panoptic/Base-Mask2Former-R18.yaml",
        (MASK2FORMER, False): "panoptic/Base-Mask2Former-R50.yaml",
        (MASK_RCNN, True): "instance/Base-RCNN-R18-FPN.yaml",
        (MASK_RCNN, False): "instance/Base-RCNN-R50-FPN.yaml",
    }[model, small]
    what = "a small model, for a CPU" if small else "a ResNet-50 and the published recipe"
    yield Entry("_BASE_", str(configs / base), what)
    yield Entry("MODEL.WEIGHTS", *weights)
    if small and weights[0]:
        yield Entry(*_IMAGENET[:2], "of the images that the weights were trained on")
        yield Entry(*_IMAGENET[2:])
    yield from _norms(model, small, bool(weights[0]))
    yield from _classes(labels, model)
    side = _side(labels.size, small)
    yield from _datasets(labels, truth, name)
    yield from _sizes(labels, model, side, small)
    yield from _schedule(labels, model, machine, side, truth is not None)
    yield Entry("OUTPUT_DIR", f"output/{name}", "below the folder that train_net.py runs in")


def _norms(model: str, small: bool, pretrained: bool) -> Iterator[Entry]:
    if pretrained:
        yield Entry("MODEL.RESNETS.NORM", "FrozenBN", "batches are too small for statistics")
    elif not small and model == MASK2FORMER:
        yield Entry("MODEL.RESNETS.NORM", "SyncBN", "random weights have no statistics to freeze")
    if not small and model == MASK_RCNN:
        yield Entry("MODEL.FPN.NORM", "GN")
        yield Entry("TEST.PRECISE_BN.ENABLED", False)


def _classes(labels: Labels, model: str) -> Iterator[Entry]:
    number = len(labels.categories) or 1
    remark = f"object, as is all of {some(labels.merged)}" if labels.merged else "object"
    if labels.categories:
        remark = describe_categories(labels.categories)
    if model == MASK_RCNN:
        yield Entry("MODEL.ROI_HEADS.NUM_CLASSES", number, remark)
        if labels.categories:
            yield Entry("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
        sparing = "labels may miss objects: what overlaps none is no error"
        sure = "every object of a class is labelled: what overlaps none is an error"
        yield Entry(
            "MODEL.TRACE.ROI_HEADS.DROP_LOSS",
            labels.corrected,
            sparing if labels.corrected else sure,
        )
        return
    yield Entry("MODEL.SEM_SEG_HEAD.NUM_CLASSES", number, remark)
    queries = min(max(20, -(-2 * labels.most // 10) * 10), 200)
    yield Entry(
        "MODEL.TRACE.MASK2FORMER.NUM_QUERIES",
        max(queries, 100) if labels.count > 1000 else queries,
        f"masks an image at most; the labels have up to {labels.most}",
    )
    if not labels.categories:
        yield Entry("MODEL.MASK_ON", True, "masks are read")
        for key, on in (("SEMANTIC_ON", False), ("PANOPTIC_ON", False), ("INSTANCE_ON", True)):
            yield Entry(f"MODEL.TRACE.MASK2FORMER.TEST.{key}", on)


def _datasets(labels: Labels, truth: Labels | None, name: str) -> Iterator[Entry]:
    node = "PANOPTIC" if labels.categories else "INSTANCES"
    rows = [[f"{name}_train", str(labels.path), str(labels.images)]]
    if truth is not None:
        rows.append([f"{name}_val", str(truth.path), str(truth.images)])
    yield Entry("DATASETS.TRAIN", (rows[0][0],), f"{labels.count} images")
    remark = f"{truth.count} images" if truth else "nothing is evaluated: --val gives a data set"
    yield Entry("DATASETS.TEST", tuple(row[0] for row in rows[1:]), remark)
    yield Entry(f"DATASETS.TRACE.{node}", rows, "name, labels, images")


def _side(size: tuple[int, int], small: bool) -> int:
    """The longer side that images are trained at, a multiple of 32."""
    most = _CPU_SIDE if small else _GPU_SIDE
    return min(max(128, -(-max(size) // 32) * 32), most)


def _sizes(labels: Labels, model: str, side: int, small: bool) -> Iterator[Entry]:
    height, width = labels.size
    short = max(32, round(min(labels.size) * side / max(labels.size)))
    images = f"the images have {width} x {height} pixels"
    if labels.categories and model == MASK2FORMER:
        yield Entry("INPUT.TRACE.AUGMENTATION", "lsj", "scaled and cropped to a square at random")
        yield Entry("INPUT.TRACE.IMAGE_SIZE", side, images)
        if small:
            yield Entry("INPUT.TRACE.MIN_SCALE", 0.6)
            yield Entry("INPUT.TRACE.MAX_SCALE", 1.6)
        yield Entry("INPUT.TRACE.COLOR_JITTER", True)
    else:
        yield Entry("INPUT.TRACE.MAPPER", "trace" if labels.categories else "detectron2")
        yield Entry("INPUT.MASK_FORMAT", "bitmask")
        if labels.categories:
            yield Entry("INPUT.TRACE.FORMAT", "bitmask", "things alone, as Mask R-CNN takes them")
            yield Entry("INPUT.TRACE.SEMANTIC", "none")
            yield Entry("INPUT.TRACE.AUGMENTATION", "resize")
        scales = tuple(round(short * factor) for factor in (0.75, 1.0, 1.25))
        yield Entry("INPUT.MIN_SIZE_TRAIN", scales, f"the shorter side; {images}")
        yield Entry("INPUT.MAX_SIZE_TRAIN", 2 * side)
    yield Entry("INPUT.MIN_SIZE_TEST", short)
    yield Entry("INPUT.MAX_SIZE_TEST", 2 * side)
    if model == MASK_RCNN:
        anchors = [[max(8, round(side * share))] for share in (1 / 12, 1 / 6, 1 / 3, 2 / 3, 1)]
        yield Entry("MODEL.ANCHOR_GENERATOR.SIZES", anchors, "pixels, of levels p2 to p6")


def _schedule(
    labels: Labels, model: str, machine: Machine, side: int, evaluated: bool
) -> Iterator[Entry]:
    small = machine.gpus == 0
    batch = _CPU_BATCH if small else _gpu_batch(model, machine, side)
    passes = round(_EPOCHS * labels.count / batch)
    least, longest = _CPU_ITERATIONS if small else (2000, _LONGEST[model])
    iterations = min(max(passes, least), longest)
    epochs = iterations * batch / labels.count
    yield Entry("SOLVER.IMS_PER_BATCH", batch, "images an iteration, on all GPUs together")
    rates = {(MASK2FORMER, True): 0.001, (MASK_RCNN, True): 0.05}
    rate = rates.get((model, small), {MASK2FORMER: 0.0001, MASK_RCNN: 0.01}[model])
    full = 8 if small else _RECIPE_BATCH
    yield Entry("SOLVER.BASE_LR", rate * batch / full, f"the recipe's {rate:g} at {full} images")
    remark = f"each image is seen {epochs:.0f} times"
    if passes > longest:
        remark += f", of {_EPOCHS} in the recipe: a CPU would take too long" if small else ""
    yield Entry("SOLVER.MAX_ITER", iterations, remark)
    if not small:
        steps = tuple(round(iterations * share) for share in (0.889, 0.963))
        yield Entry("SOLVER.STEPS", steps, "where the learning rate falls to a tenth")
        yield Entry("SOLVER.WARMUP_ITERS", min(1000, iterations // 20))
    period = max(50, iterations // 10)
    yield Entry("SOLVER.CHECKPOINT_PERIOD", period, "an interrupted training goes on from there")
    yield Entry("TEST.EVAL_PERIOD", max(50, iterations // 4) if evaluated else 0)
    yield Entry("MODEL.TRACE.SOLVER.SAMPLES_PERIOD", max(50, iterations // 5), "sheets to look at")


def _gpu_batch(model: str, machine: Machine, side: int) -> int:
    """Images of an iteration: as many as fit, at most as in the recipe."""
    each = _GIB_OF_IMAGE[model] * (side / 1024) ** 2
    fit = max(1, int(machine.memory * 0.8 / each))
    return machine.gpus * max(1, min(fit, _RECIPE_BATCH // machine.gpus))


def config_text(title: str, entries: Sequence[Entry]) -> str:
    """``entries`` as YAML, each with its remark; ``title`` becomes comments at its head."""
    lines = [f"# {line}".rstrip() for line in title.splitlines()]
    tree: dict[str, Any] = {}
    for entry in entries:
        *nodes, last = entry.key.split(".")
        node = tree
        for part in nodes:
            node = node.setdefault(part, {})
        node[last] = entry
    return "\n".join([*lines, *_lines(tree, "")]) + "\n"


def _lines(tree: dict[str, Any], indent: str) -> Iterator[str]:
    for key, node in tree.items():
        if isinstance(node, dict):
            yield f"{indent}{key}:"
            yield from _lines(node, indent + "  ")
            continue
        rows = node.value if _is_table(node.value) else []
        line = f"{indent}{key}:" if rows else f"{indent}{key}: {_plain(node.value)}"
        remark = shown(node.remark)
        if len(line) + len(remark) + 4 > _WIDTH:  # above it, then
            yield from (f"{indent}# {part}" for part in wrap(remark, _WIDTH - len(indent) - 2))
            remark = ""
        yield f"{line}  # {remark}" if remark else line
        yield from (f"{indent}  - {json.dumps(row)}" for row in rows)


def _is_table(value: Any) -> bool:
    """Whether it has rows of texts, as DATASETS.TRACE has."""
    rows = value if isinstance(value, list) else []
    return any(isinstance(row, list) and isinstance(row[0], str) for row in rows)


def _plain(value: Any) -> str:
    """``value`` as configs write it."""
    if isinstance(value, float):  # YAML takes 1e-05 for a text
        return f"{value:.8f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.1f}"
    if isinstance(value, tuple):
        return f"({''.join(f'{json.dumps(part)}, ' for part in value)[:-1]})"
    if isinstance(value, bool):
        return str(value)
    return json.dumps(value)


def plain_name(text: str) -> str:
    """``text`` as the name of a data set and of a folder."""
    return re.sub(r"\W+", "_", text).strip("_") or "own"
